"""DCAP verification of recorded real quotes, each accepted or refused at the right stage."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.vectors import accepted_flips, vectors

from garrison.appraisal import sgx, tdx
from garrison.appraisal.result import AppraisalRejected, AttestationResult
from garrison.errors import GarrisonError, Malformed, Unverified
from garrison.formats.dcap_collateral import DcapCollateral, Signed, TcbInfo
from garrison.formats.dcap_quote import Quote
from garrison.formats.sgx_certificate import load_chain
from garrison.formats.sgx_report import SgxReport
from garrison.formats.snp_certificate import load_crl
from garrison.formats.strict_toml import Table
from garrison.verification.cose import der_signature
from garrison.verification.dcap import SgxClaims, TdxClaims, verify, verify_quote_chain
from garrison.verification.dcap_chain import (
    check_crl,
    check_der_signature,
    check_not_revoked,
    check_tcb_signer,
)
from garrison.verification.dcap_tcb import platform_level
from garrison.verification.roots import Roots

if TYPE_CHECKING:
    from garrison.verification.verified import Verified

pytestmark = pytest.mark.vectors

# The default policy of the vectors.
PLATFORM = """
tcb_statuses = [
    "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded",
]
advisories = "any"
minimum_tcb_evaluation = "any"
"""
SGX_POLICY = f"""
measurements = "any"
signers = "any"
config_ids = "any"
{PLATFORM}
"""
TDX_POLICY = f"""
mr_td = "any"
mr_seam = "any"
mr_config_id = "any"
mr_owner = "any"
mr_owner_config = "any"
mr_service_td = "any"
{PLATFORM}
[rtmrs]
others = "any"
"""

ACCEPTED = [
    "sgx/automata-v3-swhardening",
    "sgx/phala-v3-config-and-swhardening",
    "tdx/phala-near-v4-uptodate",
    "tdx/phala-v4-uptodate",
]
# The checks that refuse it.
REJECTED = {
    "sgx/automata-v3-debug-enclave": ["attributes: debugging by the host"],
    "sgx/trustee-occlum-v3-debug-outofdate": ["attributes: debugging by the host", "TCB status"],
    "tdx/automata-v4-outofdate": ["TCB status"],
    "tdx/trustee-az-v4-no-sept-ve-disable": ["TD attributes: SEPT_VE_DISABLE", "TCB status"],
    "tdx/trustee-v4-debug-td": ["TD attributes: DEBUG"],
    "tdx/trustee-v4-debug-td-2026-collateral": ["TD attributes: DEBUG", "TCB status"],
}
# Why, as the error says it.
UNVERIFIED = {
    "tdx/automata-v4-perfmon": "platform TCB: no TCB level matches",
    "tdx/google-v4-e4-expired-now-2053": "PCK chain: intermediate: expired",
    "tdx/google-v4-e4-no-tcb-level": "platform TCB: no TCB level matches",
    "tdx/phala-v4-early": "PCK revocation list: not current",
    "tdx/phala-v4-expired-collateral": "PCK revocation list: not current",
    "tdx/phala-v4-flip-ak": "QE report: REPORTDATA: bound to another attestation key",
    "tdx/phala-v4-flip-body-mrtd": "quote: the signature is wrong",
    "tdx/phala-v4-flip-body-reportdata": "quote: the signature is wrong",
    "tdx/phala-v4-flip-qereport": "QE report: the signature is wrong",
    "tdx/phala-v4-flip-qesig": "QE report: the signature is wrong",
    "tdx/phala-v4-flip-sig": "quote: the signature is wrong",
    "tdx/phala-v4-reformatted-qeidentity": "QE identity: the signature is wrong",
    "tdx/phala-v4-tampered-tcbinfo": "TCB info: the signature is wrong",
    "tdx/phala-v4-tappd-no-tcb-level": "platform TCB: no TCB level matches",
    "tdx/phala-v4-tcbinfo-wrong-signer-chain": "TCB info: signer: not one certificate of that name",
    "tdx/phala-v4-wrong-ca-crl": "PCK revocation list: issued by another",
    "tdx/phala-v5-no-tcb-level": "platform TCB: no TCB level matches",
    "tdx/trustee-v5-no-tcb-level": "platform TCB: no TCB level matches",
}
MALFORMED = {
    "tdx/phala-v4-tdx-tee-type-flipped": "SGX report: reserved 1: reserved byte is not zero",
    "tdx/phala-v4-truncated": "signature data: ends too early",
}
# Without collateral; with it, but without a QE identity.
CHAIN_ONLY = "tdx/google-v4-e4-chain-only"
WITHOUT_QE_IDENTITY = "sgx/steward-enarx-csr-xeon"
# The quote of the TD under Azure's vTPM. Whether the vTPM is bound to it is not looked at here.
AZURE = ["az-tdx/trustee-tdx-v1", "az-tdx/trustee-tdx-v1-vardata-changed"]


def served(member: str, collateral: dict[str, str], key: str) -> bytes:
    signature = collateral[f"{key}_signature"]
    return f'{{"{member}":{collateral[key]},"signature":"{signature}"}}'.encode()


class Vector:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.about: dict[str, Any] = json.loads((directory / "vector.json").read_text())
        self.now = datetime.fromtimestamp(self.about["verify_time"], UTC)
        name = "td_quote.bin" if directory.parent.name == "az-tdx" else "quote.bin"
        self.quote = (directory / name).read_bytes()

    @property
    def collateral(self) -> DcapCollateral:
        found = json.loads((self.directory / "collateral.json").read_text())
        return DcapCollateral(
            root_crl=bytes.fromhex(found["root_ca_crl"]),
            pck_crl=bytes.fromhex(found["pck_crl"]),
            tcb_info=served("tcbInfo", found, "tcb_info"),
            tcb_info_chain=found["tcb_info_issuer_chain"].encode(),
            qe_identity=served("enclaveIdentity", found, "qe_identity"),
            qe_identity_chain=found["qe_identity_issuer_chain"].encode(),
        )

    def verify(self, **changes: Any) -> Verified[SgxClaims] | Verified[TdxClaims]:
        arguments: dict[str, Any] = {
            "quote": self.quote,
            "collateral": self.collateral,
            "roots": Roots.load(),
            "now": self.now,
        }
        return verify(**(arguments | changes))

    def appraise(self, **changes: Any) -> AttestationResult:
        verified: Any = self.verify()
        data = verified.value.report.report_data
        if isinstance(verified.value, SgxClaims):
            sgx_policy = sgx.SgxPolicy.from_table(Table.parse(SGX_POLICY, source="policy"), Path())
            return sgx.appraise(verified, replace(sgx_policy, **changes), data, self.now)
        tdx_policy = tdx.TdxPolicy.from_table(Table.parse(TDX_POLICY, source="policy"), Path())
        return tdx.appraise(verified, replace(tdx_policy, **changes), data, self.now)


@cache
def vector(name: str) -> Vector:
    kind, _, directory = name.partition("/")
    return Vector(vectors(kind) / directory)


def test_no_vector_is_left_out() -> None:
    found = {
        f"{kind}/{path.name}"
        for kind in ("sgx", "tdx", "az-tdx")
        for path in vectors(kind).iterdir()
        if path.is_dir()
    }
    accepted = {*ACCEPTED, CHAIN_ONLY}
    kinds = {
        "policy": {*REJECTED, WITHOUT_QE_IDENTITY},
        "parse": {*MALFORMED},
    }
    assert {*accepted, *REJECTED, WITHOUT_QE_IDENTITY, *UNVERIFIED, *MALFORMED, *AZURE} == found
    for name in found - {*AZURE}:
        about = vector(name).about
        assert about["expect"] == ("accept" if name in accepted else "reject")
        for kind, names in kinds.items():
            assert (about["reject_kind"] == kind) == (name in names)


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    found = vector(name)
    facts = found.about["facts"]
    assert Quote.from_bytes(found.quote).to_bytes() == found.quote
    claims = found.verify().value
    report, platform = claims.report, claims.platform
    assert report.report_data.hex() == facts["body"]["report_data"]
    if isinstance(report, SgxReport):
        assert report.mr_enclave.hex() == facts["body"]["mrenclave"]
        assert report.mr_signer.hex() == facts["body"]["mrsigner"]
        assert report.isv_svn == facts["body"]["isvsvn"]
    else:
        assert report.mr_td.hex() == facts["body"]["mrtd"]
        for index, rtmr in enumerate(report.rtmrs):
            assert rtmr.hex() == facts["body"][f"rtmr{index}"]
        assert platform.tcb.module == facts["module_status"]
    assert platform.tcb.platform == facts["tcb_level_status"]
    assert platform.tcb.qe == facts["qe_status"]
    assert list(platform.tcb.advisories) == facts["advisories"]
    assert platform.evaluation == facts["tcbEval"]
    assert platform.anchor.name == "Intel SGX Root CA"
    result = found.appraise()
    result.require()
    assert not result.simulated
    assert result.tcb_status == facts["tcb_level_status"]


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_earliest_end_governs(name: str) -> None:
    found = vector(name)
    end = found.verify().value.platform.valid_until
    found.verify(now=end)
    with pytest.raises(Unverified, match=r"not current|expired"):
        found.verify(now=end + timedelta(seconds=1))


@pytest.mark.parametrize("name", REJECTED)
def test_rejected(name: str) -> None:
    found = vector(name)
    facts = found.about["facts"]
    assert list(found.verify().value.platform.tcb.advisories) == facts["advisories"]
    with pytest.raises(AppraisalRejected) as caught:
        found.appraise().require()
    assert [check["check"] for check in caught.value.checks] == REJECTED[name]


@pytest.mark.parametrize("name", UNVERIFIED)
def test_unverified(name: str) -> None:
    with pytest.raises(Unverified, match=UNVERIFIED[name]):
        vector(name).verify()


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str) -> None:
    with pytest.raises(Malformed, match=MALFORMED[name]):
        vector(name).verify()


def test_chain_only() -> None:
    found = vector(CHAIN_ONLY)
    chain = verify_quote_chain(found.quote, Roots.load(), found.now).value
    assert chain.pck.fmspc.hex() == "50806f000000"
    assert chain.quote.signature.kind == found.about["facts"]["cert_data_type"]


def test_a_bundle_without_the_qe_identity() -> None:
    found = vector(WITHOUT_QE_IDENTITY)
    facts = found.about["facts"]
    chain = verify_quote_chain(found.quote, Roots.load(), found.now).value
    files = {path.name: path.read_bytes() for path in found.directory.iterdir()}
    signed = Signed.from_bytes(files["tcb_info.json"], "tcbInfo")
    signers = load_chain(files["tcb_signing_chain.pem"], "TCB info")
    signer = check_tcb_signer(signers, chain.root, "TCB info")
    check_der_signature(signer, der_signature(signed.signature), signed.data, "TCB info")
    level = platform_level(TcbInfo.from_json(signed.data), chain.pck, None)
    assert level.status == facts["tcb_level_status"] == "OutOfDate"
    assert sorted(level.advisories) == facts["advisories"]
    crl = load_crl(files["crl_2.der"], "list")
    check_crl(crl, chain.issuer, "list")
    check_not_revoked(chain.pck.certificate, crl, "PCK")
    # In full: nothing says which quoting enclave of Intel's it is, and a policy must admit that.
    collateral = DcapCollateral(
        root_crl=files["crl_0.der"],
        pck_crl=files["crl_2.der"],
        tcb_info=files["tcb_info.json"],
        tcb_info_chain=files["tcb_signing_chain.pem"],
        qe_identity=None,
        qe_identity_chain=b"",
    )
    claims = verify(found.quote, collateral, Roots.load(), found.now).value
    tcb = claims.platform.tcb
    assert (tcb.qe, tcb.status) == (None, "OutOfDate")
    with pytest.raises(Malformed, match="enclaveIdentity: not signed collateral"):
        verify(found.quote, replace(collateral, qe_identity=b""), Roots.load(), found.now)


@pytest.mark.parametrize("name", AZURE)
def test_td_quotes_of_azure(name: str) -> None:
    found = vector(name)
    facts = found.about["facts"]["td"]
    tcb = found.verify().value.platform.tcb
    assert (tcb.status, tcb.qe, tcb.module) == (
        facts["tcb_level_status"],
        facts["qe_status"],
        facts["module_status"],
    )
    assert list(tcb.advisories) == facts["advisories"]
    result = found.appraise(sept_ve_disable=False)
    with pytest.raises(AppraisalRejected) as caught:
        result.require()
    assert [check["check"] for check in caught.value.checks] == ["TCB status"]


def flips(name: str, step: int) -> list[int]:
    """The offsets that were accepted with one bit flipped, before the buffer's padding."""
    found, roots = vector(name), Roots.load()
    collateral = found.collateral
    end = len(found.quote) - len(Quote.from_bytes(found.quote).trailing)
    return accepted_flips(
        found.quote,
        range(0, end, step),
        lambda quote: verify(quote, collateral, roots, found.now),
    )


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_flipped_bit_here_and_there(name: str) -> None:
    assert flips(name, 37) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_flipped_bit_in_every_byte(name: str) -> None:
    assert flips(name, 1) == []


@pytest.mark.parametrize("name", ACCEPTED)
def test_truncated_and_extended(name: str) -> None:
    found = vector(name)
    end = len(found.quote) - len(Quote.from_bytes(found.quote).trailing)
    for size in (*range(0, end, 61), end - 1):
        with pytest.raises(Malformed):
            found.verify(quote=found.quote[:size])
    # What follows the signature data is the buffer's, and no part of the quote.
    assert found.verify(quote=found.quote[:end]).value == found.verify().value
    with pytest.raises(Malformed, match="too long"):
        found.verify(quote=found.quote + bytes(32 * 1024))


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("other", ACCEPTED)
def test_swapped_collateral(name: str, other: str) -> None:
    if vector(name).collateral == vector(other).collateral or name == other:
        return
    with pytest.raises(GarrisonError):
        vector(name).verify(collateral=vector(other).collateral)


@pytest.mark.parametrize(
    "field", ["root_crl", "pck_crl", "tcb_info", "tcb_info_chain", "qe_identity_chain"]
)
def test_collateral_of_another_platform_piece_by_piece(field: str) -> None:
    found = vector("tdx/phala-v4-uptodate")
    other = vector("sgx/phala-v3-config-and-swhardening").collateral
    value = getattr(other, field)
    if value == getattr(found.collateral, field) or field.endswith("chain"):
        # Intel has one chain for all that it signs.
        found.verify(collateral=replace(found.collateral, **{field: value}))
        return
    with pytest.raises(Unverified):
        found.verify(collateral=replace(found.collateral, **{field: value}))

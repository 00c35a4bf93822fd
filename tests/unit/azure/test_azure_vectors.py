"""Recorded evidence of Azure's VMs: each accepted or refused as its description says."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from tests.vectors import vectors

from garrison.appraisal import snp as snp_appraisal
from garrison.appraisal.azure import AzurePolicy, appraise
from garrison.appraisal.result import AppraisalRejected
from garrison.appraisal.snp import SnpPolicy
from garrison.errors import Malformed, Unverified
from garrison.formats.azure import AzureEvidence, HclReport, RuntimeData
from garrison.formats.dcap_collateral import DcapCollateral
from garrison.formats.snp_evidence import SnpEndorsements
from garrison.formats.strict_toml import Table
from garrison.formats.tpm import Quote
from garrison.verification.azure import AzureClaims, verify_snp, verify_tdx
from garrison.verification.roots import Roots

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.appraisal.result import AttestationResult
    from garrison.verification.snp import SnpClaims
    from garrison.verification.verified import Verified

pytestmark = pytest.mark.vectors

ACCEPTED = ["trustee-milan-v0", "trustee-milan-v1", "trustee-milan-v2-userdata"]
UNVERIFIED = {
    "trustee-milan-v1-pcr0-changed": "TPM quote: pcrDigest: the quote is over other registers",
    "trustee-milan-v1-tpm-sig-flipped": "TPM quote: the signature is wrong",
    "trustee-milan-v1-vardata-changed": "the hardware vouches for other runtime data",
}
WRONG_NONCE = "trustee-milan-v1-wrong-nonce"
# A blob without a quote, and with the certificate of another chip.
FOREIGN = "kinvolk-milan-hcl-foreign-vcek"
TDX = "trustee-tdx-v1"
TDX_CHANGED = "trustee-tdx-v1-vardata-changed"

SNP_POLICY = """
measurements = "any"
products = "any"
minimum_tcb = "any"
id_key_digests = "any"
author_key_digests = "any"
host_data = "any"
chip_ids = "any"
abi_minimum = "any"
smt = true
single_socket = false
crl = "optional"
endorsements = []
"""


@dataclass(frozen=True)
class Vector:
    directory: Path
    about: dict[str, Any]

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.about["verify_time"], UTC)

    @property
    def evidence(self) -> AzureEvidence:
        return AzureEvidence.from_bytes(self.read("evidence.json"))

    @property
    def endorsements(self) -> SnpEndorsements:
        leaf, issuer, root = (self.read(f"{name}.der") for name in ("vek", "ask", "ark"))
        return SnpEndorsements(leaf, issuer, root, None)

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def verify(self, **changes: Any) -> Verified[AzureClaims[SnpClaims]]:
        evidence = replace(self.evidence, **changes)
        return verify_snp(evidence, self.endorsements, Roots.load(), self.now)

    def appraise(
        self, nonce: bytes, text: str = 'console = "any"\n[pcrs]\nothers = "any"'
    ) -> AttestationResult:
        policy = AzurePolicy.from_table(Table.parse(text, source="policy"))
        snp_policy = SnpPolicy.from_table(Table.parse(SNP_POLICY, source="policy"), self.directory)

        def hardware(verified: Verified[SnpClaims], report_data: bytes) -> AttestationResult:
            return snp_appraisal.appraise(verified, snp_policy, report_data, self.now)

        return appraise(self.verify(), policy, nonce, hardware, self.now)


@cache
def vector(name: str, kind: str = "az-snp") -> Vector:
    directory = vectors(kind) / name
    return Vector(directory, json.loads((directory / "vector.json").read_text()))


def collateral(found: Vector) -> DcapCollateral:
    recorded = json.loads(found.read("collateral.json"))

    def signed(member: str, name: str) -> bytes:
        text = f'{{"{member}":{recorded[name]},"signature":"{recorded[name + "_signature"]}"}}'
        return text.encode()

    return DcapCollateral(
        root_crl=bytes.fromhex(recorded["root_ca_crl"]),
        pck_crl=bytes.fromhex(recorded["pck_crl"]),
        tcb_info=signed("tcbInfo", "tcb_info"),
        tcb_info_chain=recorded["tcb_info_issuer_chain"].encode(),
        qe_identity=signed("enclaveIdentity", "qe_identity"),
        qe_identity_chain=recorded["qe_identity_issuer_chain"].encode(),
    )


def test_no_vector_is_left_out() -> None:
    found = {path.name for path in vectors("az-snp").iterdir()}
    assert {*ACCEPTED, *UNVERIFIED, WRONG_NONCE, FOREIGN} == found
    for name in found:
        assert vector(name).about["expect"] == ("accept" if name in ACCEPTED else "reject")
    assert {path.name for path in vectors("az-tdx").iterdir()} == {TDX, TDX_CHANGED}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    found = vector(name)
    facts = found.about["facts"]
    evidence = found.evidence
    assert HclReport.from_bytes(evidence.report).to_bytes() == found.read("hcl_report.bin")
    assert Quote.from_bytes(evidence.message).to_bytes() == found.read("tpm_quote.msg")
    assert AzureEvidence.from_bytes(evidence.to_bytes()) == evidence
    assert evidence.vcek == found.read("vek.der")
    claims = found.verify().value
    assert claims.hardware.value.report.measurement.hex() == facts["snp"]["measurement"]
    assert claims.quote.extra_data.hex() == facts["tpm_extra_data"]
    assert claims.pcrs[0].hex() == facts["pcr0"]
    assert claims.runtime.user_data == bytes.fromhex(facts["user_data"])
    assert claims.runtime.vm_id == facts["vm_configuration"]["vmUniqueId"]
    result = found.appraise(claims.quote.extra_data)
    result.require()
    assert result.measurement == claims.hardware.value.report.measurement
    assert not result.simulated


@pytest.mark.parametrize("name", UNVERIFIED)
def test_unverified(name: str) -> None:
    with pytest.raises(Unverified, match=UNVERIFIED[name]):
        vector(name).verify()


def test_wrong_nonce() -> None:
    found = vector(WRONG_NONCE)
    with pytest.raises(AppraisalRejected) as caught:
        found.appraise(bytes.fromhex(found.about["facts"]["expected_report_data"])).require()
    assert [check["check"] for check in caught.value.checks] == ["TPM quote's nonce"]


def test_strictest_policy() -> None:
    found = vector(ACCEPTED[1])
    result = found.appraise(b"challenge", '[pcrs]\n4 = "zero"\nothers = "any"')
    with pytest.raises(AppraisalRejected) as caught:
        result.require()
    assert [check["check"] for check in caught.value.checks] == ["console of the host", "PCR4"]


def test_a_foreign_certificate() -> None:
    found = vector(FOREIGN)
    blob = found.read("hcl_report.bin")
    assert HclReport.from_bytes(blob).to_bytes() == blob
    evidence = replace(vector(ACCEPTED[1]).evidence, report=blob)
    with pytest.raises(Unverified, match="SNP report: the signature is wrong"):
        verify_snp(evidence, found.endorsements, Roots.load(), found.now)


def test_the_blob_of_another_vm() -> None:
    other = vector("trustee-milan-v2-userdata")
    mixed = replace(vector("trustee-milan-v1").evidence, report=other.evidence.report)
    with pytest.raises(Unverified, match="TPM quote: the signature is wrong"):
        verify_snp(mixed, other.endorsements, Roots.load(), other.now)


def test_tdx() -> None:
    found = vector(TDX, "az-tdx")
    verified = verify_tdx(found.evidence, collateral(found), Roots.load(), found.now)
    claims = verified.value
    report = claims.hardware.value.report
    assert claims.report_data == report.report_data
    assert claims.quote.extra_data.hex() == found.about["facts"]["tpm_extra_data"]
    # The platform is out of date, which is for the policy of TDX to judge.
    assert claims.hardware.value.platform.tcb.status == "OutOfDate"


def test_tdx_with_other_runtime_data() -> None:
    found = vector(TDX_CHANGED, "az-tdx")
    with pytest.raises(Unverified, match="the hardware vouches for other runtime data"):
        verify_tdx(found.evidence, collateral(found), Roots.load(), found.now)


def test_one_hardware_is_not_the_other() -> None:
    tdx, snp = vector(TDX, "az-tdx"), vector(ACCEPTED[1])
    with pytest.raises(Unverified, match="report type: another kind of hardware; found TDX"):
        verify_snp(tdx.evidence, snp.endorsements, Roots.load(), snp.now)
    with pytest.raises(Unverified, match="report type: another kind of hardware; found SNP"):
        verify_tdx(snp.evidence, collateral(tdx), Roots.load(), tdx.now)
    without = replace(tdx.evidence, td_quote=None)
    with pytest.raises(Malformed, match="td_quote: missing"):
        verify_tdx(without, collateral(tdx), Roots.load(), tdx.now)


def flips(field: str, step: int) -> list[int]:
    """The offsets of a field that were accepted with one bit flipped."""
    found = vector(ACCEPTED[1])
    data: bytes = getattr(found.evidence, field)
    accepted = []
    for offset in range(0, len(data), step):
        flipped = bytearray(data)
        flipped[offset] ^= 1 << offset % 8
        try:
            found.verify(**{field: bytes(flipped)})
        except (Malformed, Unverified):
            continue
        accepted.append(offset)
    return accepted


@pytest.mark.parametrize("field", ["report", "message", "signature"])
def test_a_flipped_bit_here_and_there(field: str) -> None:
    assert flips(field, 41) == []


@pytest.mark.slow
@pytest.mark.parametrize("field", ["report", "message", "signature"])
def test_a_flipped_bit_in_every_byte(field: str) -> None:
    assert flips(field, 1) == []


@pytest.mark.parametrize("field", ["report", "message", "signature"])
def test_truncated_and_extended(field: str) -> None:
    found = vector(ACCEPTED[1])
    data: bytes = getattr(found.evidence, field)
    if field == "report":
        # The NV index is padded with zeros, however many.
        length = len(data) - HclReport.from_bytes(data).padding
        wrongs = [data[:size] for size in range(0, length, 61)] + [data + b"\1"]
    else:
        wrongs = [data[:size] for size in range(0, len(data), 7)] + [data + b"\0"]
    for wrong in wrongs:
        with pytest.raises((Malformed, Unverified)):
            found.verify(**{field: wrong})


def test_runtime_data_of_an_older_paravisor() -> None:
    blob = HclReport.from_bytes(vector(FOREIGN).read("hcl_report.bin"))
    assert RuntimeData.from_bytes(blob.runtime).user_data is None

"""SNP verification of recorded real evidence, each accepted or refused at the right stage."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.vectors import accepted_flips, vectors

from garrison.appraisal.result import AppraisalRejected
from garrison.appraisal.snp import SnpPolicy, appraise
from garrison.errors import GarrisonError, Malformed, Unverified
from garrison.formats.snp import REPORT_SIZE, SIGNED_SIZE, Report
from garrison.formats.snp_certificate import load_certificate
from garrison.formats.snp_evidence import SnpEndorsements
from garrison.formats.strict_toml import Table
from garrison.verification.roots import Roots
from garrison.verification.snp import SnpClaims, verify, verify_chain

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.verification.verified import Verified

pytestmark = pytest.mark.vectors

ACCEPTED = [
    "microsoft-genoa-v3-vcek",
    "microsoft-milan-v3-vcek",
    "openanolis-turin-v5-vcek",
    "steward-milan-csr-enarx",
    "trustee-milan-v2-vcek",
    "trustee-milan-v3-vlek-aws",
    "virtee-milan-v2-vcek",
]
# Why, as the error says it.
UNVERIFIED = {
    "microsoft-milan-report-genoa-endorsements": "SNP report: the signature is wrong",
    "trustee-milan-v2-asvk-instead-of-ask": "VEK certificate: issued by another",
    "trustee-milan-v2-report-byte42": "SNP report: the signature is wrong",
    "trustee-milan-v2-reported-tcb-changed": "SNP report: the signature is wrong",
    "trustee-milan-v3-vlek-reported-tcb-changed": "SNP report: the signature is wrong",
    "trustee-milan-vcek-invalid-legacy": "VEK certificate: the signature is wrong",
    "virtee-milan-v2-report-byte21-flipped": "SNP report: the signature is wrong",
    "virtee-milan-v2-vcek-byte40-flipped": "VEK certificate: the signature is wrong",
}
REJECTED = {"google-milan-v2-debug-policy": "guest policy: debugging by the host"}
CHAIN_ONLY = "virtee-turin-vcek-chain-only"
# The SNP report in an Azure HCL blob; its TPM part is not looked at here.
AZURE_ACCEPTED = ["trustee-milan-v0", "trustee-milan-v1", "trustee-milan-v2-userdata"]
AZURE_UNVERIFIED = "kinvolk-milan-hcl-foreign-vcek"
_HCL_HEADER = 0x20

POLICY = """
measurements = "any"
products = "any"
minimum_tcb = "any"
id_key_digests = "any"
author_key_digests = "any"
host_data = "any"
chip_ids = "any"
vmpl = "any"
abi_minimum = "any"
smt = true
single_socket = false
crl = "optional"
endorsements = []
"""


class Vector:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.about: dict[str, Any] = json.loads((directory / "vector.json").read_text())
        self.now = datetime.fromtimestamp(self.about["verify_time"], UTC)
        blob = directory / "hcl_report.bin"
        self.report = (
            blob.read_bytes()[_HCL_HEADER : _HCL_HEADER + REPORT_SIZE]
            if blob.exists()
            else self.read("report.bin") or b""
        )
        self.endorsements = SnpEndorsements(
            leaf=self.read("vek.der") or b"",
            issuer=self.read("ask.der") or b"",
            root=self.read("ark.der") or b"",
            crl=self.read("crl.der"),
        )

    def read(self, name: str) -> bytes | None:
        path = self.directory / name
        return path.read_bytes() if path.exists() else None

    def verify(self, **changes: Any) -> Verified[SnpClaims]:
        arguments: dict[str, Any] = {
            "report": self.report,
            "endorsements": self.endorsements,
            "roots": Roots.load(),
            "now": self.now,
        }
        return verify(**(arguments | changes))


@cache
def vector(name: str, kind: str = "snp") -> Vector:
    return Vector(vectors(kind) / name)


def test_no_vector_is_left_out() -> None:
    expected = {path.name for path in vectors("snp").iterdir() if path.is_dir()}
    assert {*ACCEPTED, *UNVERIFIED, *REJECTED, CHAIN_ONLY} == expected
    for name in expected:
        accepted = name in ACCEPTED or name == CHAIN_ONLY
        assert vector(name).about["expect"] == ("accept" if accepted else "reject")
    assert all(vector(name).about["reject_kind"] == "crypto" for name in UNVERIFIED)
    assert all(vector(name).about["reject_kind"] == "policy" for name in REJECTED)


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    found = vector(name)
    facts = found.about["facts"]
    verified = found.verify()
    claims = verified.value
    assert Report.from_bytes(found.report).to_bytes() == found.report
    assert claims.report.measurement.hex() == facts["measurement"]
    assert claims.report.signing_key.name == facts["signing_key"]
    assert claims.report.host_data.hex() == facts["host_data"]
    assert claims.report.id_key_digest.hex() == facts["id_key_digest"]
    version = claims.report.current_version
    assert f"{version.major}.{version.minor}.{version.build}" == facts["current_fw"]
    for part, svn in facts["reported_tcb"].items():
        assert getattr(claims.tcb, part) == svn
    assert claims.product == facts["product"].partition("-")[0]
    assert claims.csp_id == facts["vlek_csp_id"]
    assert not claims.anchor.simulated
    assert claims.crl_checked == (found.endorsements.crl is not None)
    policy = SnpPolicy.from_table(Table.parse(POLICY, source="policy"), found.directory)
    result = appraise(verified, policy, claims.report.report_data, found.now)
    result.require()
    assert not result.simulated


@pytest.mark.parametrize("name", UNVERIFIED)
def test_unverified(name: str) -> None:
    with pytest.raises(Unverified, match=UNVERIFIED[name]):
        vector(name).verify()


@pytest.mark.parametrize("name", REJECTED)
def test_rejected(name: str) -> None:
    found = vector(name)
    verified = found.verify()
    policy = SnpPolicy.from_table(Table.parse(POLICY, source="policy"), found.directory)
    result = appraise(verified, policy, verified.value.report.report_data, found.now)
    with pytest.raises(AppraisalRejected) as caught:
        result.require()
    assert [check["check"] for check in caught.value.checks] == [REJECTED[name]]
    admitting = replace(policy, debug=True)
    appraise(verified, admitting, verified.value.report.report_data, found.now).require()


def test_chain_only() -> None:
    found = vector(CHAIN_ONLY)
    chain = verify_chain(found.endorsements, Roots.load(), found.now)
    assert chain.vek.hwid == bytes.fromhex(found.about["facts"]["exts"]["4"])
    assert (chain.vek.tcb.fmc, chain.vek.tcb.ucode) == (0, 9)
    assert chain.anchor.name == "AMD ARK-Turin"


@pytest.mark.parametrize("name", AZURE_ACCEPTED)
def test_reports_of_azure(name: str) -> None:
    assert vector(name, "az-snp").verify().value.product == "Milan"


def test_report_of_azure_with_a_foreign_certificate() -> None:
    with pytest.raises(Unverified, match="SNP report: the signature is wrong"):
        vector(AZURE_UNVERIFIED, "az-snp").verify()


def test_hwid_of_the_invalid_certificate_is_read() -> None:
    chain = vector("trustee-milan-vcek-invalid-legacy").endorsements
    assert bytes(range(64)) in chain.leaf


def flips(name: str, step: int) -> list[int]:
    """The offsets that were accepted with one bit flipped."""
    found = vector(name)
    offsets = (*range(0, SIGNED_SIZE, step), *range(SIGNED_SIZE, REPORT_SIZE, step))
    return accepted_flips(found.report, offsets, lambda report: found.verify(report=report))


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_flipped_bit_here_and_there(name: str) -> None:
    assert flips(name, 53) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_flipped_bit_in_every_byte(name: str) -> None:
    assert flips(name, 1) == []


@pytest.mark.parametrize("name", ACCEPTED)
def test_truncated_and_extended(name: str) -> None:
    found = vector(name)
    for report in (*(found.report[:size] for size in range(0, 1184, 61)), found.report + b"\0"):
        with pytest.raises(Malformed):
            found.verify(report=report)


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("other", ACCEPTED)
def test_swapped_chains(name: str, other: str) -> None:
    if vector(name).endorsements.leaf == vector(other).endorsements.leaf:
        return
    with pytest.raises(GarrisonError):
        vector(name).verify(endorsements=vector(other).endorsements)


@pytest.mark.parametrize("name", ACCEPTED)
def test_out_of_its_time(name: str) -> None:
    found = vector(name)
    for days in (-50 * 365, 50 * 365):
        with pytest.raises(Unverified, match=r"expired|not yet valid"):
            found.verify(now=found.now + timedelta(days=days))


def test_revocation_lists() -> None:
    found = vector("steward-milan-csr-enarx")
    foreign = replace(found.endorsements, crl=found.read("crl_genoa.der"))
    with pytest.raises(Unverified, match="ARK revocation list: issued by another"):
        found.verify(endorsements=foreign)
    with pytest.raises(Unverified, match="ARK revocation list: not current"):
        found.verify(now=found.now + timedelta(days=2 * 365))


def test_pins_are_the_published_roots() -> None:
    directory = vectors("roots")
    certificates = {}
    for name in (
        "amd_ark_milan",
        "amd_ark_genoa",
        "amd_ark_turin",
        "intel_sgx_root_ca",
        "aws_nitro_root",
    ):
        der = (directory / f"{name}.der").read_bytes()
        spki = (
            load_certificate(der, name)
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
        certificates[hashlib.sha256(der).hexdigest()] = hashlib.sha256(spki).hexdigest()
    pins = Roots.load().pins
    assert {pin.certificates_sha256[0]: pin.key_sha256 for pin in pins} == certificates


@pytest.mark.parametrize("product", ["milan", "genoa", "turin"])
def test_only_the_root_is_a_root(product: str) -> None:
    directory = vectors("roots")
    roots = Roots.load()
    ark = load_certificate((directory / f"amd_ark_{product}.der").read_bytes(), "ARK")
    assert roots.anchor(ark, "amd", "ARK").name == f"AMD ARK-{product.title()}"
    # A root of another vendor, or an intermediate, is none.
    with pytest.raises(Unverified, match="not a trusted root"):
        roots.anchor(ark, "intel", "ARK")
    ask = load_certificate((directory / f"amd_sev_{product}.der").read_bytes(), "ASK")
    with pytest.raises(Unverified, match="not a trusted root"):
        roots.anchor(ask, "amd", "ARK")

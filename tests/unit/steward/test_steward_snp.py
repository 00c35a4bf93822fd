"""Issuance on SNP evidence, by the true verifier: simulated, and recorded from a real machine."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from tests.unit.steward.conftest import DIGEST, MEASUREMENT, NOW, SLUG, Keep
from tests.vectors import vectors

from garrison.appraisal.result import AppraisalRejected
from garrison.appraisal.snp import SnpPolicy
from garrison.attesters.simulated_snp_insecure import SimulatedSnpInsecure, create_insecure
from garrison.endorsements.source import EndorsementSource, Settings
from garrison.errors import Malformed, Rejected, Unverified
from garrison.formats.csr import Request
from garrison.formats.evidence import SNP_MEDIA_TYPE, Evidence, Tee, bound_report_data
from garrison.formats.identity import CertifiedIdentity, WorkloadIdentity
from garrison.formats.strict_toml import Table
from garrison.steward.appraisers import SnpAppraiser
from garrison.steward.authority import Authority
from garrison.steward.challenge import Challenges
from garrison.steward.init import create
from garrison.steward.issuance import Examined, Steward, examine, issue

if TYPE_CHECKING:
    from pathlib import Path

ANY = """
products = "any"
minimum_tcb = "any"
id_key_digests = "any"
author_key_digests = "any"
host_data = "any"
chip_ids = "any"
"""


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("vendor") / "simulator"
    create_insecure(directory, name="demo", now=NOW)
    return directory


def appraiser(text: str, base: Path) -> SnpAppraiser:
    policy = SnpPolicy.from_table(Table.parse(text, source="policy"), base)
    return SnpAppraiser(policy, EndorsementSource(Settings(), policy.endorsements))


def trusting(simulator: Path, measurements: str = f'["{MEASUREMENT.hex()}"]') -> SnpAppraiser:
    key = json.loads((simulator / "simulator.json").read_text())["key_sha256"]
    text = f"""measurements = {measurements}{ANY}endorsements = []
[insecure_simulated_roots.demo]
key_sha256 = "{key}"
endorsements = "{simulator}"
"""
    return appraiser(text, simulator)


@pytest.fixture
def snp_steward(steward: Steward, simulator: Path) -> Steward:
    return replace(steward, appraisers={Tee.SNP: trusting(simulator)})


def attested(
    steward: Steward,
    simulator: Path,
    keep: Keep,
    *,
    measurement: bytes = MEASUREMENT,
    spki: bytes | None = None,
) -> Examined:
    """What the steward makes of a simulated keep's request."""
    challenge = steward.challenges.issue(NOW).challenge
    attester = SimulatedSnpInsecure.open(simulator, measurement=measurement)
    evidence = attester.attest(bound_report_data(spki or keep.spki, challenge))
    workload = WorkloadIdentity(SLUG, DIGEST)
    data = keep.request(steward, workload, evidence=evidence, challenge=challenge)
    return examine(data, steward, NOW)


def test_simulated_keep_gets_a_certificate_that_says_so(
    snp_steward: Steward, simulator: Path, keep: Keep
) -> None:
    examined = attested(snp_steward, simulator, keep)
    identity = CertifiedIdentity.from_certificate(issue(examined, snp_steward, DIGEST, NOW))
    assert identity is not None
    assert identity.workload == WorkloadIdentity(
        SLUG,
        DIGEST,
        "snp",
        MEASUREMENT,
        "InsecureSimulated",
        platform=snp_steward.platform(examined.result.claims["chip_id"]),
    )


def test_other_measurement_is_refused_by_the_appraisal(
    snp_steward: Steward, simulator: Path, keep: Keep
) -> None:
    with pytest.raises(AppraisalRejected) as caught:
        attested(snp_steward, simulator, keep, measurement=b"x" * 48)
    (check,) = caught.value.checks
    assert check["check"] == "launch measurement"
    assert (check["found"], check["expected"]) == ((b"x" * 48).hex(), MEASUREMENT.hex())


def test_evidence_of_another_key_is_refused_by_the_appraisal(
    snp_steward: Steward, simulator: Path, keep: Keep
) -> None:
    with pytest.raises(AppraisalRejected) as caught:
        attested(snp_steward, simulator, keep, spki=Keep().spki)
    assert [check["check"] for check in caught.value.checks] == ["report data"]


def test_simulator_that_the_policy_does_not_name_is_unverified(
    steward: Steward, simulator: Path, keep: Keep
) -> None:
    text = f'measurements = "any"{ANY}endorsements = ["{simulator}"]'
    strict = replace(steward, appraisers={Tee.SNP: appraiser(text, simulator)})
    with pytest.raises(Unverified) as caught:
        attested(strict, simulator, keep)
    assert "not a trusted root" in str(caught.value)


@pytest.mark.parametrize("payload", [b"", b"\xa0", bytes(2000)])
def test_broken_evidence_is_malformed(snp_steward: Steward, keep: Keep, payload: bytes) -> None:
    data = keep.request(snp_steward, evidence=Evidence(SNP_MEDIA_TYPE, payload))
    with pytest.raises(Malformed):
        examine(data, snp_steward, NOW)


@pytest.mark.parametrize("value", [b"", b"\x30\x00", bytes(2000)])
def test_broken_original_evidence_is_malformed(
    snp_steward: Steward, keep: Keep, value: bytes
) -> None:
    lenient = replace(snp_steward, policy=replace(snp_steward.policy, challenge_required=False))
    oid = x509.ObjectIdentifier("1.3.6.1.4.1.58270.1.3")
    data = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        .sign(keep.key, hashes.SHA384())
        .public_bytes(Encoding.DER)
    )
    with pytest.raises(Malformed):
        examine(data, lenient, NOW)


@pytest.fixture(scope="module")
def recorded() -> Path:
    return vectors("snp") / "steward-milan-csr-enarx"


@pytest.fixture
def enarx_steward(recorded: Path, tmp_path: Path, steward: Steward) -> tuple[Steward, datetime]:
    """A steward at the time of the recording, whose policy is that of the recording's own."""
    facts = json.loads((recorded / "vector.json").read_text())
    then = datetime.fromtimestamp(facts["verify_time"], UTC)
    own = facts["steward_policy"]
    text = f"""
measurements = ["{own["hash"]}"]
products = ["Milan"]
minimum_tcb = "any"
id_key_digests = ["{own["id_key_digest"]}"]
author_key_digests = ["{own["signer"]}"]
host_data = "any"
chip_ids = "any"
smt = true
single_socket = false
endorsements = ["{recorded}"]
"""
    create(tmp_path / "steward", trust_domain="example.test", hosts=["localhost"], now=then)
    authority = Authority.load(tmp_path / "steward")
    changed = Steward(
        authority,
        replace(steward.policy, challenge_required=False),
        Challenges(authority.challenge_key),
        {Tee.SNP: appraiser(text, tmp_path)},
    )
    return changed, then


@pytest.mark.vectors
def test_request_of_an_original_keep_on_real_hardware(
    recorded: Path, enarx_steward: tuple[Steward, datetime]
) -> None:
    steward, then = enarx_steward
    examined = examine((recorded / "request.csr.der").read_bytes(), steward, then)
    identity = CertifiedIdentity.from_certificate(issue(examined, steward, None, then))
    assert identity is not None
    assert identity.spiffe_id == "spiffe://example.test/keep/snp"
    assert identity.workload.tcb_status == "Unchecked"
    assert not examined.result.simulated


@pytest.mark.vectors
def test_request_of_an_original_keep_is_refused_where_freshness_is_required(
    recorded: Path, enarx_steward: tuple[Steward, datetime]
) -> None:
    steward, then = enarx_steward
    strict = replace(steward, policy=replace(steward.policy, challenge_required=True))
    with pytest.raises(Rejected) as caught:
        examine((recorded / "request.csr.der").read_bytes(), strict, then)
    assert "no challenge" in str(caught.value)


@pytest.mark.vectors
def test_request_of_an_original_keep_is_refused_when_its_revocation_list_is_old(
    recorded: Path, enarx_steward: tuple[Steward, datetime]
) -> None:
    steward, then = enarx_steward
    with pytest.raises(Unverified) as caught:
        examine((recorded / "request.csr.der").read_bytes(), steward, then + timedelta(days=300))
    assert "revocation list" in str(caught.value)


@pytest.mark.vectors
@pytest.mark.parametrize("position", [100, 1000, 2000, 4000, 4700])
def test_changed_request_of_an_original_keep_is_refused(recorded: Path, position: int) -> None:
    data = bytearray((recorded / "request.csr.der").read_bytes())
    data[position] ^= 1
    with pytest.raises((Malformed, Unverified)):
        Request.from_der(bytes(data))


@pytest.mark.vectors
def test_sgx_request_of_an_original_keep_is_read() -> None:
    """SGX evidence is carried; whether a steward has a verifier for it is its own affair."""
    data = (vectors("sgx") / "steward-enarx-csr-xeon" / "request.csr.der").read_bytes()
    evidence = Request.from_der(data).evidence
    assert not isinstance(evidence, Evidence | None)
    assert evidence.tee is Tee.SGX

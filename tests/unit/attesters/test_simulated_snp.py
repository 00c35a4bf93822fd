"""The simulated SNP, from its directory through the true verifier to the policy."""

from __future__ import annotations

import hashlib
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

import garrison
from garrison.appraisal.result import AppraisalRejected, AttestationResult
from garrison.appraisal.snp import SnpPolicy, appraise
from garrison.attesters.select import select
from garrison.attesters.simulated_snp_insecure import SimulatedSnpInsecure, create_insecure
from garrison.attesters.simulator_directory_insecure import process_measurement
from garrison.endorsements.store import SnpEndorsementStore
from garrison.errors import Malformed, Misuse, Unverified
from garrison.formats.evidence import SNP_MEDIA_TYPE, Tee
from garrison.formats.snp_certificate import load_certificate
from garrison.formats.snp_evidence import SnpEvidence
from garrison.formats.strict_toml import Table
from garrison.verification.roots import Roots
from garrison.verification.snp import verify

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BOUND = hashlib.sha512(b"key and challenge").digest()


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulator") / "snp"
    create_insecure(path, name="unit", now=NOW)
    return path


def policy(simulator: Path, measurement: bytes | None = None) -> SnpPolicy:
    about = json.loads((simulator / "simulator.json").read_text())
    text = f"""
measurements = ["{(measurement or process_measurement()).hex()}"]
products = ["{about["product"]}"]
minimum_tcb = "any"
id_key_digests = "any"
author_key_digests = "any"
host_data = "any"
chip_ids = "any"
endorsements = []
[insecure_simulated_roots.unit]
key_sha256 = "{about["key_sha256"]}"
endorsements = "{simulator}"
"""
    return SnpPolicy.from_table(Table.parse(text, source="policy.toml"), Path("/"))


def attestation(simulator: Path, attester: SimulatedSnpInsecure) -> AttestationResult:
    rules = policy(simulator)
    evidence = SnpEvidence.from_bytes(attester.attest(BOUND).payload)
    store = SnpEndorsementStore.load(rules.endorsements)
    verified = verify(evidence.report, store.for_evidence(evidence), rules.roots(), NOW)
    return appraise(verified, rules, BOUND, NOW)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_it_passes_the_true_verifier_and_a_strict_policy(simulator: Path, version: int) -> None:
    result = attestation(simulator, SimulatedSnpInsecure.open(simulator, version=version))
    result.require()
    assert result.simulated
    assert result.measurement == process_measurement()


@pytest.mark.parametrize("product", ["Genoa", "Turin"])
def test_other_products(tmp_path: Path, product: str) -> None:
    path = tmp_path / "snp"
    create_insecure(path, name="unit", product=product, now=NOW)
    result = attestation(path, SimulatedSnpInsecure.open(path, version=5))
    result.require()
    assert result.claims["product"] == product


def test_evidence_is_fresh_each_time(simulator: Path) -> None:
    attester = SimulatedSnpInsecure.open(simulator)
    first, second = attester.attest(BOUND), attester.attest(BOUND)
    assert first.media_type == SNP_MEDIA_TYPE
    assert first.payload != second.payload


def test_another_measurement_is_refused(simulator: Path) -> None:
    attester = SimulatedSnpInsecure.open(simulator, measurement=bytes(48))
    with pytest.raises(AppraisalRejected, match="launch measurement"):
        attestation(simulator, attester).require()


def test_nobody_believes_it_without_naming_its_root(simulator: Path) -> None:
    evidence = SnpEvidence.from_bytes(SimulatedSnpInsecure.open(simulator).attest(BOUND).payload)
    chain = SnpEndorsementStore.load([simulator]).for_evidence(evidence)
    with pytest.raises(Unverified, match="not a trusted root; found CN=ARK-Milan"):
        verify(evidence.report, chain, Roots.load(), NOW)


def test_the_name_says_that_it_is_insecure(simulator: Path) -> None:
    for name in ("ark", "ask", "vcek"):
        certificate = load_certificate((simulator / f"{name}.der").read_bytes(), name)
        assert "O=Garrison INSECURE simulator unit" in certificate.subject.rfc4514_string()
    assert "INSECURE" in json.loads((simulator / "simulator.json").read_text())["warning"]


def test_key_fingerprint_is_that_of_the_root(simulator: Path) -> None:
    ark = load_certificate((simulator / "ark.der").read_bytes(), "ARK")
    spki = ark.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    about = json.loads((simulator / "simulator.json").read_text())
    assert about["key_sha256"] == hashlib.sha256(spki).hexdigest()


def test_files_and_their_modes(simulator: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in simulator.iterdir()}
    assert modes.keys() == {
        "ark.der", "ask.der", "crl.der", "vcek.der", "vcek.key", "simulator.json",
    }  # fmt: skip
    assert modes["vcek.key"] == 0o600
    assert list(simulator.parent.iterdir()) == [simulator]


def test_it_warns(simulator: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="garrison"):
        select({"kind": "simulated-snp-insecure", "directory": str(simulator)})
    (record,) = caplog.records
    assert record.name == "garrison"
    assert record.getMessage().startswith("INSECURE: ")


def test_the_key_is_not_shown(simulator: Path) -> None:
    assert "key" not in repr(SimulatedSnpInsecure.open(simulator)).partition("certificates")[0]


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_exists_is_not_overwritten(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "snp"
    if kind == "directory":
        path.mkdir()
    else:
        path.write_text("mine")
    with pytest.raises(Misuse, match="exists already") as caught:
        create_insecure(path, name="unit")
    assert caught.value.field == str(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "product", "match"),
    [("x", "Rome", "unknown product"), ("", "Milan", "wrong name"), ("\n", "Milan", "wrong name")],
)
def test_arguments_that_cannot_be(tmp_path: Path, name: str, product: str, match: str) -> None:
    with pytest.raises(Misuse, match=match):
        create_insecure(tmp_path / "snp", name=name, product=product)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Misuse, match="cannot be made: "):
        create_insecure(tmp_path / "file" / "snp", name="unit")


def test_options_that_cannot_be(simulator: Path, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="measurement: wrong length; found 47 bytes"):
        SimulatedSnpInsecure.open(simulator, measurement=bytes(47))
    with pytest.raises(Misuse, match="no such version of reports; found 6"):
        SimulatedSnpInsecure.open(simulator, version=6)
    with pytest.raises(Misuse, match="report data: wrong length; found 63 bytes"):
        SimulatedSnpInsecure.open(simulator).attest(bytes(63))
    with pytest.raises(Misuse, match="cannot be read") as caught:
        SimulatedSnpInsecure.open(tmp_path / "nowhere")
    assert "garrison platform insecure-simulator" in str(caught.value.hint)


def copied(simulator: Path, tmp_path: Path, name: str, data: bytes) -> Path:
    for path in simulator.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("vcek.key", b"", "vcek.key: not a private key"),
        ("vcek.key", bytes(5000), "too long"),
        ("vcek.der", b"", "not an X.509 certificate"),
    ],
)
def test_a_broken_directory(
    simulator: Path, tmp_path: Path, name: str, data: bytes, match: str
) -> None:
    with pytest.raises(Malformed, match=match):
        SimulatedSnpInsecure.open(copied(simulator, tmp_path, name, data))


@pytest.mark.parametrize(
    ("curve", "match"),
    [
        (ec.SECP256R1(), "wrong kind of key; expected P-384"),
        (ec.SECP384R1(), "not the certificate of vcek.key"),
    ],
)
def test_another_key(simulator: Path, tmp_path: Path, curve: ec.EllipticCurve, match: str) -> None:
    pem = ec.generate_private_key(curve).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    with pytest.raises(Malformed, match=match):
        SimulatedSnpInsecure.open(copied(simulator, tmp_path, "vcek.key", pem))


def test_measurement_is_of_every_python_file() -> None:
    assert len(process_measurement()) == 48
    assert process_measurement() == process_measurement()
    package = Path(garrison.__file__).parent
    digest = hashlib.sha384()
    for path in sorted(package.rglob("*.py"), key=lambda path: str(path.relative_to(package))):
        name, content = str(path.relative_to(package)).encode(), path.read_bytes()
        digest.update(len(name).to_bytes(8, "little") + name)
        digest.update(len(content).to_bytes(8, "little") + content)
    assert process_measurement() == digest.digest()


def test_certificates_last(simulator: Path) -> None:
    certificate = load_certificate((simulator / "vcek.der").read_bytes(), "VCEK")
    assert certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc > NOW + timedelta(days=3000)


def test_select(simulator: Path) -> None:
    nil = select({"kind": "nil"})
    assert (nil.tee, nil.curve, nil.attest(BOUND)) == (Tee.NONE, "P-256", None)
    simulated = select({"kind": "simulated-snp-insecure", "directory": str(simulator)})
    assert (simulated.tee, simulated.curve) == (Tee.SNP, "P-384")
    assert simulated.attest(BOUND) is not None


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"kind": "snp"},
        {"kind": "nil", "directory": "x"},
        {"kind": "simulated-snp-insecure"},
        {"kind": "simulated-snp-insecure", "directory": "x", "more": "y"},
        {"directory": "x"},
    ],
)
def test_anything_else_is_misuse(spec: dict[str, str]) -> None:
    with pytest.raises(Misuse, match="unknown attester"):
        select(spec)

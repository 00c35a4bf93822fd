"""Endorsements from directories and from evidence: chosen by name, judged by the verifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.endorsements.store import SnpEndorsementStore
from garrison.errors import Malformed, Misuse, Unavailable, Unverified
from garrison.formats.snp import SigningKey
from garrison.formats.snp_evidence import SnpEndorsements, SnpEvidence
from garrison.testing.snp import NOW, FakePlatform
from garrison.verification.snp import verify

if TYPE_CHECKING:
    from pathlib import Path

PLATFORM = FakePlatform()
CHAIN = PLATFORM.endorsements()
ALONE = SnpEvidence(PLATFORM.report(), (CHAIN.leaf,))


def directory(path: Path, platform: FakePlatform = PLATFORM) -> Path:
    path.mkdir()
    vendor = platform.vendor
    (path / "ark.der").write_bytes(vendor.ark().public_bytes(Encoding.DER))
    (path / "ask.pem").write_bytes(vendor.ask().public_bytes(Encoding.PEM))
    (path / "asvk.der").write_bytes(vendor.ask(SigningKey.VLEK).public_bytes(Encoding.DER))
    (path / "crl.der").write_bytes(vendor.crl().public_bytes(Encoding.DER))
    return path


def read(path: Path, issuer: str = "ask") -> dict[str, bytes]:
    """What the store should choose, but for the leaf."""
    pem = (path / "ask.pem").read_bytes()
    ask = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    return {
        "issuer": ask if issuer == "ask" else (path / "asvk.der").read_bytes(),
        "root": (path / "ark.der").read_bytes(),
        "crl": (path / "crl.der").read_bytes(),
    }


def test_from_a_directory(tmp_path: Path) -> None:
    path = directory(tmp_path / "milan")
    chain = SnpEndorsementStore.load([path]).for_evidence(ALONE)
    assert chain == SnpEndorsements(leaf=CHAIN.leaf, **read(path))
    verify(ALONE.report, chain, PLATFORM.roots(), NOW)


def test_the_intermediate_is_chosen_by_the_leaf(tmp_path: Path) -> None:
    milan = directory(tmp_path / "milan")
    turin = directory(tmp_path / "turin", FakePlatform.turin())
    store = SnpEndorsementStore.load([milan, turin])
    for platform, path, issuer in (
        (PLATFORM, milan, "ask"),
        (FakePlatform(kind=SigningKey.VLEK), milan, "asvk"),
        (FakePlatform.turin(), turin, "ask"),
        (FakePlatform.turin(SigningKey.VLEK), turin, "asvk"),
    ):
        leaf = platform.endorsements().leaf
        chain = store.for_evidence(SnpEvidence(platform.report(), (leaf,)))
        assert chain == SnpEndorsements(leaf=leaf, **read(path, issuer))


def test_two_vendors_of_one_name(tmp_path: Path) -> None:
    other = FakePlatform(ark=2, ask=3)
    store = SnpEndorsementStore.load(
        [directory(tmp_path / "other", other), directory(tmp_path / "milan")]
    )
    chain = store.for_evidence(ALONE)
    verify(ALONE.report, chain, PLATFORM.roots(), NOW)


def test_from_the_evidence() -> None:
    evidence = PLATFORM.evidence()
    chain = SnpEndorsementStore.load([]).for_evidence(evidence)
    assert (chain.leaf, chain.issuer, chain.root) == evidence.certificates
    assert chain.crl is None
    assert CHAIN.crl is not None
    foreign = FakePlatform(ark=2).endorsements().crl
    assert foreign is not None
    store = SnpEndorsementStore.load([])
    assert store.for_evidence(evidence, [foreign]).crl is None
    assert store.for_evidence(evidence, [foreign, CHAIN.crl]).crl == CHAIN.crl


def test_a_file_is_preferred_to_what_came_along(tmp_path: Path) -> None:
    path = directory(tmp_path / "milan")
    older = PLATFORM.vendor.crl([99]).public_bytes(Encoding.DER)
    chain = SnpEndorsementStore.load([path]).for_evidence(PLATFORM.evidence(), [older])
    assert chain.crl == (path / "crl.der").read_bytes()


def test_a_foreign_chain_in_the_evidence_does_not_pass() -> None:
    foreign = FakePlatform(ark=2, ask=3)
    chain = SnpEndorsementStore.load([]).for_evidence(foreign.evidence())
    with pytest.raises(Unverified, match="not a trusted root"):
        verify(foreign.report(), chain, PLATFORM.roots(), NOW)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    store = SnpEndorsementStore.load([])
    with pytest.raises(Unavailable, match="certificate of the key that signed") as caught:
        store.for_evidence(SnpEvidence(ALONE.report, ()))
    assert "kdsintf.amd.com" in str(caught.value.hint)
    with pytest.raises(Unavailable, match=r"the ASK certificate is not there; .*SEV-Milan"):
        store.for_evidence(ALONE)
    with pytest.raises(Unavailable, match=r"the ARK certificate is not there; .*ARK-Milan"):
        store.for_evidence(SnpEvidence(ALONE.report, (CHAIN.leaf, CHAIN.issuer)))


def test_evidence_that_cannot_be_read() -> None:
    store = SnpEndorsementStore.load([])
    with pytest.raises(Malformed, match="not an X"):
        store.for_evidence(SnpEvidence(ALONE.report, (b"\x30\x00",)))
    with pytest.raises(Malformed, match="not a revocation list"):
        store.for_evidence(PLATFORM.evidence(), [b"\x30\x00"])


@pytest.mark.parametrize("missing", [["ark.der"], ["ask.pem", "asvk.der"]])
def test_an_incomplete_directory(tmp_path: Path, missing: list[str]) -> None:
    path = directory(tmp_path / "milan")
    for name in missing:
        (path / name).unlink()
    with pytest.raises(Misuse, match="not a directory of endorsements") as caught:
        SnpEndorsementStore.load([path])
    assert caught.value.field == str(path)


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="not a directory of endorsements"):
        SnpEndorsementStore.load([tmp_path / "nowhere"])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Misuse, match="cannot be read: Not a directory"):
        SnpEndorsementStore.load([tmp_path / "file"])


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("ark.der", b"", "not an X.509 certificate"),
        ("ark.der", bytes(8193), "too long"),
        ("ask.pem", b"", "not PEM of a certificate"),
        ("ask.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not"),
        ("crl.der", b"\x30\x00", "not a revocation list"),
        ("crl.der", bytes(65537), "too long"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, name: str, data: bytes, match: str) -> None:
    path = directory(tmp_path / "milan")
    (path / name).write_bytes(data)
    with pytest.raises(Malformed, match=match) as caught:
        SnpEndorsementStore.load([path])
    assert caught.value.field == str(path / name)


def test_two_certificates_in_one_file(tmp_path: Path) -> None:
    path = directory(tmp_path / "milan")
    pem = (path / "ask.pem").read_bytes()
    (path / "ask.pem").write_bytes(pem + pem)
    assert len(x509.load_pem_x509_certificates(pem + pem)) == 2
    with pytest.raises(Malformed, match="not one certificate; found 2; expected 1"):
        SnpEndorsementStore.load([path])

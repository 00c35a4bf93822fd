"""The steward's directory: whole or not at all, and never overwritten."""

from __future__ import annotations

import shutil
import stat
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from tests.unit.steward.conftest import DIGEST, NOW, SLUG

from garrison.errors import GarrisonError, Malformed, Misuse
from garrison.formats.csr import encode_pki_path
from garrison.steward.authority import Authority
from garrison.steward.certificates import issue_certificate, issue_client_certificate
from garrison.steward.init import create
from garrison.steward.keys import load_certificate

if TYPE_CHECKING:
    from pathlib import Path

from garrison.formats.identity import CertifiedIdentity, WorkloadIdentity
from garrison.formats.leaf import spki_of


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    shutil.copytree(directory, tmp_path / "copy")
    return tmp_path / "copy"


def refused(directory: Path, kind: type[GarrisonError], reason: str) -> None:
    with pytest.raises(GarrisonError) as caught:
        Authority.load(directory)
    assert caught.type is kind
    assert reason in str(caught.value)


def test_root_has_the_profile_of_a_root(directory: Path) -> None:
    root = load_certificate(directory / "root.pem")
    extensions = root.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.public_bytes().hex() == "03020106"
    identifier = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert identifier == x509.SubjectKeyIdentifier.from_public_key(root.public_key())
    assert root.not_valid_after_utc == NOW + timedelta(days=365)
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://example.test"]


def test_keys_are_private(directory: Path) -> None:
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in ("root.key", "result.key", "server.key", "challenge.key"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600


def test_it_loads_what_it_made_and_shows_no_key(directory: Path) -> None:
    authority = Authority.load(directory)
    assert authority.trust_domain == "example.test"
    assert authority.challenge_key.hex() not in repr(authority)


def test_server_certificate_is_for_the_server_alone(directory: Path) -> None:
    root, leaf = (load_certificate(directory / name) for name in ("root.pem", "server.pem"))
    builder = PolicyBuilder().store(Store([root])).time(NOW)
    assert builder.build_server_verifier(x509.DNSName("localhost")).verify(leaf, [])
    with pytest.raises(VerificationError):
        builder.build_client_verifier().verify(leaf, [])
    assert CertifiedIdentity.from_certificate(leaf) is None


def test_stewards_own_client_certificate_is_for_clients_alone(directory: Path) -> None:
    authority = Authority.load(directory)
    chain, key = issue_client_certificate(authority, NOW)
    certificate = x509.load_pem_x509_certificate(chain)
    builder = PolicyBuilder().store(Store([authority.certificate])).time(NOW)
    (subject,) = builder.build_client_verifier().verify(certificate, []).subjects or []
    assert subject.value == "spiffe://example.test/steward"
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.not_valid_after_utc == NOW + timedelta(minutes=10)
    assert b"PRIVATE KEY" in key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_a_leaf(directory: Path, tmp_path: Path) -> None:
    authority = Authority.load(directory)
    key = ec.generate_private_key(ec.SECP384R1())
    leaf = issue_certificate(
        authority,
        spki_of(key.public_key()),
        WorkloadIdentity(SLUG, DIGEST, "snp", b"m" * 48, "UpToDate"),
        dns_names=["chat.example.test"],
        lifetime=timedelta(minutes=5),
        now=NOW,
    )
    path = tmp_path / "leaf.pem"
    path.write_bytes(leaf.public_bytes(Encoding.PEM))
    moment = str(int(NOW.timestamp()))
    for purpose in ("sslserver", "sslclient"):
        options = ["-x509_strict", "-purpose", purpose, "-attime", moment]
        done = subprocess.run(
            ["openssl", "verify", *options, "-CAfile", str(directory / "root.pem"), str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == f"{path}: OK", done.stderr
    parsed = subprocess.run(
        ["openssl", "asn1parse", "-inform", "DER"],
        input=encode_pki_path([authority.certificate, leaf]),
        capture_output=True,
        check=True,
    )
    assert parsed.stdout.count(b":X509v3 Basic Constraints") == 2


def test_existing_directory_is_never_overwritten(directory: Path) -> None:
    before = (directory / "root.key").read_bytes()
    with pytest.raises(Misuse) as caught:
        create(directory, trust_domain="other.test", hosts=["localhost"], now=NOW)
    assert "exists already" in str(caught.value)
    assert (directory / "root.key").read_bytes() == before


@pytest.mark.parametrize(
    ("trust_domain", "host"), [("Not A Domain", "localhost"), ("example.test", "ünïcode")]
)
def test_wrong_names_leave_nothing_behind(tmp_path: Path, trust_domain: str, host: str) -> None:
    with pytest.raises(Malformed):
        create(tmp_path / "new", trust_domain=trust_domain, hosts=[host], now=NOW)
    assert list(tmp_path.iterdir()) == []


def test_missing_parent_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(Misuse) as caught:
        create(tmp_path / "a" / "b", trust_domain="example.test", hosts=["localhost"], now=NOW)
    assert "cannot be made: No such file" in str(caught.value)


def test_addresses_are_addresses(tmp_path: Path) -> None:
    create(tmp_path / "new", trust_domain="a.test", hosts=["steward.test", "::1"], now=NOW)
    leaf = load_certificate(tmp_path / "new" / "server.pem")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["::1"]
    assert names.get_values_for_type(x509.DNSName) == ["steward.test"]


@pytest.mark.parametrize("name", ["root.pem", "root.key", "result.key", "challenge.key"])
def test_missing_file_is_misuse(copy: Path, name: str) -> None:
    (copy / name).unlink()
    refused(copy, Misuse, f"{copy / name}: cannot be read")


@pytest.mark.parametrize("name", ["root.key", "result.key", "challenge.key"])
def test_key_that_others_can_read_is_misuse(copy: Path, name: str) -> None:
    (copy / name).chmod(0o640)
    refused(copy, Misuse, "a key that others can read; found mode 0640; expected mode 0600")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("root.pem", "not certificates in PEM"),
        ("root.key", "not a private key in PEM"),
        ("result.key", "not a private key in PEM"),
        ("challenge.key", "not hex"),
    ],
)
def test_other_content_is_malformed(copy: Path, name: str, reason: str) -> None:
    (copy / name).write_text("something else")
    refused(copy, Malformed, reason)


def test_key_of_another_root_is_malformed(copy: Path) -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (copy / "root.key").write_bytes(pem)
    refused(copy, Malformed, "not the key of root.pem")


def test_two_certificates_are_malformed(copy: Path) -> None:
    root = (copy / "root.pem").read_bytes()
    (copy / "root.pem").write_bytes(root + root)
    refused(copy, Malformed, "a certificate is given twice")


def test_server_certificate_is_no_root(copy: Path) -> None:
    shutil.copy(copy / "server.pem", copy / "root.pem")
    shutil.copy(copy / "server.key", copy / "root.key")
    refused(copy, Malformed, "not the root of one trust domain")


def test_p256_root_signs_with_sha256(copy: Path) -> None:
    """A root that was made elsewhere may have either curve."""
    authority = Authority.load(copy)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder().serial_number(1)
    builder = builder.subject_name(authority.certificate.subject)
    builder = builder.issuer_name(authority.certificate.subject).public_key(key.public_key())
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    for extension in authority.certificate.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    root = builder.sign(key, hashes.SHA256())
    (copy / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (copy / "root.key").write_bytes(pem)
    chain, _ = issue_client_certificate(Authority.load(copy), NOW)
    certificate = x509.load_pem_x509_certificate(chain)
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    certificate.verify_directly_issued_by(root)

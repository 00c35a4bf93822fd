"""A certificate authority for the services under test, made once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from garrison.steward import authority, init

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Pki:
    """A steward's directory, and client certificates under its root and under none."""

    directory: Path
    clients: list[Path]
    stranger: Path

    @property
    def root(self) -> Path:
        return self.directory / authority.ROOT_PEM

    @property
    def certificate(self) -> Path:
        return self.directory / authority.SERVER_PEM

    @property
    def key(self) -> Path:
        return self.directory / authority.SERVER_KEY


def _client(
    name: str, root: x509.Certificate | None, root_key: ec.EllipticCurvePrivateKey | None
) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(root.subject if root else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if root is not None:
        builder = builder.add_extension(authority.authority_key_identifier(root), critical=False)
    certificate = builder.sign(root_key or key, hashes.SHA256())
    return certificate.public_bytes(Encoding.PEM) + key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    base = tmp_path_factory.mktemp("pki")
    directory = base / "steward"
    hosts = ("localhost", "127.0.0.1")
    init.create(directory, trust_domain="example.test", hosts=hosts, now=datetime.now(UTC))
    root = authority.Authority.load(directory)
    clients = []
    for name in ("one", "two"):
        clients.append(base / f"{name}.pem")
        clients[-1].write_bytes(_client(name, root.certificate, root.key))
    stranger = base / "stranger.pem"
    stranger.write_bytes(_client("stranger", None, None))
    return Pki(directory, clients, stranger)

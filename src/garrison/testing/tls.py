"""A steward's certificate authority for tests: it certifies whatever it is told.

Its certificates have the profile of the real ones: TLS client and server use, one SPIFFE ID,
and the `WorkloadIdentity` extension. Everything that a test of an attack needs to get wrong is
a parameter.
"""

from __future__ import annotations

import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from garrison.formats.identity import WORKLOAD_IDENTITY_OID, WorkloadIdentity
from garrison.formats.key_usage import key_usage
from garrison.formats.slug import Slug

TRUST_DOMAIN = "steward.test"
_DAY = timedelta(days=1)


def workload(
    slug: str | None = "drawbridge.test/jane/chat:1.2.3", *, digest: bytes = b"\x11" * 32
) -> WorkloadIdentity:
    """An identity as a steward writes it: of the workload `slug`, or a local one for None."""
    name = None if slug is None else Slug.parse(slug)
    return WorkloadIdentity(name, digest, "snp", b"\x22" * 48, "UpToDate")


def keep() -> WorkloadIdentity:
    """An identity of a keep that is certified for no workload."""
    return WorkloadIdentity(None, None, "snp", b"\x22" * 48, "UpToDate")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate chain, leaf first, and the leaf's key."""

    chain: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey

    def chain_pem(self) -> bytes:
        """The chain as PEM."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.chain)

    def key_pem(self) -> bytes:
        """The key as PEM, not encrypted."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def server_context(self) -> ssl.SSLContext:
        """The context of a server that shows it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # The library reads keys from files alone.
        with tempfile.NamedTemporaryFile() as file:
            file.write(self.key_pem() + self.chain_pem())
            file.flush()
            context.load_cert_chain(file.name)
        return context


class Authority:
    """A root and an intermediate certificate authority, both P-256."""

    def __init__(self, name: str = "Test Steward") -> None:
        root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.root = _ca(f"{name} Root", root_key, None, root_key)
        self.intermediate = _ca(f"{name} Issuer", self._key, self.root, root_key)

    @property
    def root_pem(self) -> str:
        """The root as PEM text."""
        return self.root.public_bytes(Encoding.PEM).decode()

    def issue(
        self,
        identity: WorkloadIdentity | None = None,
        *,
        hosts: tuple[str, ...] = (),
        valid: tuple[timedelta, timedelta] = (-_DAY, _DAY),
        usages: tuple[x509.ObjectIdentifier, ...] = (
            ExtendedKeyUsageOID.SERVER_AUTH,
            ExtendedKeyUsageOID.CLIENT_AUTH,
        ),
        spiffe_id: str | None = None,
        extension: bytes | None = None,
        public_key: ec.EllipticCurvePublicKey | None = None,
    ) -> Leaf:
        """Issue a certificate with a new key.

        Args:
            identity: what the certificate says of a workload; nothing for None.
            hosts: the host names and addresses that it is for.
            valid: from when to when, from now.
            usages: what the key may be used for.
            spiffe_id: a SPIFFE ID other than the one of `identity`.
            extension: a value other than that of `identity` for the extension.
            public_key: another's key to certify; the leaf's own key is then of no use.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        name = (identity.common_name() if identity is not None else None) or "keep"
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.intermediate.subject)
            .public_key(public_key or key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + valid[0])
            .not_valid_after(now + valid[1])
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        names: list[x509.GeneralName] = [_general_name(host) for host in hosts]
        if identity is not None:
            uri = spiffe_id or identity.spiffe_id(TRUST_DOMAIN)
            names.append(x509.UniformResourceIdentifier(uri))
            value = identity.to_der() if extension is None else extension
            builder = builder.add_extension(
                x509.UnrecognizedExtension(WORKLOAD_IDENTITY_OID, value), critical=False
            )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        leaf = builder.sign(self._key, hashes.SHA256())
        return Leaf((leaf, self.intermediate), key)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _ca(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(name) if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 365 * _DAY)
        .not_valid_after(now + 365 * _DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            key_usage(digital_signature=True, key_cert_sign=True, crl_sign=True), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        # OpenSSL's strict rules, which Python's contexts have from 3.13 on, want one below a root.
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )

"""The steward's keys: made once by `garrison steward init`, read at each start.

A directory, readable by the steward alone:

=================  ====================================================================
`root.pem`         the root certificate: what keeps, peers and drawbridges trust
`root.key`         its private key, PKCS#8 PEM (P-256 or P-384)
`server.pem`       the certificate of the steward's own HTTPS service, under the root
`server.key`       its private key
`challenge.key`    what challenges are authenticated with, 32 bytes in hex; replicas share it
=================  ====================================================================

The directory appears whole or not at all, and is never overwritten.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from garrison.errors import Malformed, Misuse
from garrison.formats.identity import check_trust_domain
from garrison.steward.challenge import KEY_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT_PEM = "root.pem"
ROOT_KEY = "root.key"
SERVER_PEM = "server.pem"
SERVER_KEY = "server.key"
CHALLENGE_KEY = "challenge.key"

_ROOT_LIFETIME = timedelta(days=365)
# A clock a little behind ours must not take a new certificate for one of the future.
BACKDATE = timedelta(minutes=1)
# X.520's upper bound for a common name.
_MAX_COMMON_NAME = 64
# A bundle of the web's roots is the largest file that is read here.
_MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority: what it signs with, and what it is known by."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    challenge_key: bytes = field(repr=False)
    trust_domain: str

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """Read the directory that `create` made.

        Raises:
            Misuse: a file is missing, or a key can be read by others.
            Malformed: a file does not hold what it should, or key and certificate differ.
        """
        certificate = load_certificate(directory / ROOT_PEM)
        key = _load_key(directory / ROOT_KEY)
        if key.public_key() != certificate.public_key():
            raise Malformed("not the key of root.pem", field=str(directory / ROOT_KEY))
        try:
            challenge_key = bytes.fromhex(_read_secret(directory / CHALLENGE_KEY).decode().strip())
        except ValueError as error:
            raise Malformed("not hex", field=str(directory / CHALLENGE_KEY)) from error
        return cls(certificate, key, challenge_key, _trust_domain(certificate))

    @property
    def hash_algorithm(self) -> hashes.SHA256 | hashes.SHA384:
        """The hash that goes with the key's curve."""
        return hashes.SHA384() if isinstance(self.key.curve, ec.SECP384R1) else hashes.SHA256()


def create(directory: Path, *, trust_domain: str, hosts: Sequence[str], now: datetime) -> None:
    """Make an authority in `directory`, which must not exist yet.

    Args:
        directory: where the files are to stand.
        trust_domain: the SPIFFE trust domain that it certifies.
        hosts: DNS names and IP addresses of the steward's service.
        now: the time.

    Raises:
        Misuse: `directory` exists, or cannot be made.
        Malformed: `trust_domain` or a host is not one.
    """
    check_trust_domain(trust_domain)
    if directory.exists():
        raise Misuse(
            "exists already",
            field=str(directory),
            hint="a new root would be a new identity for every keep: remove the old one yourself",
        )
    key, root = _make_root(trust_domain, now)
    server_key, server = _make_server(key, root, hosts, now)
    files = {
        ROOT_PEM: root.public_bytes(Encoding.PEM),
        ROOT_KEY: _private_pem(key),
        SERVER_PEM: server.public_bytes(Encoding.PEM),
        SERVER_KEY: _private_pem(server_key),
        CHALLENGE_KEY: os.urandom(KEY_SIZE).hex().encode() + b"\n",
    }
    try:
        # mkdtemp makes it readable by this user alone.
        draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            for name, content in files.items():
                _write(draft / name, content, 0o644 if name.endswith(".pem") else 0o600)
            draft.rename(directory)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as error:
        raise Misuse(f"cannot be made: {error.strerror}", field=str(directory)) from error


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Read the certificates, at least one, in the PEM file `path`.

    Raises:
        Misuse: it cannot be read.
        Malformed: it holds anything else.
    """
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError as error:
        raise Malformed("not certificates in PEM", field=str(path)) from error


def load_certificate(path: Path) -> x509.Certificate:
    """Read the one certificate in the PEM file `path`.

    Raises:
        Misuse: it cannot be read.
        Malformed: it holds anything else.
    """
    certificates = load_certificates(path)
    if len(certificates) != 1:
        raise Malformed(
            "wrong number of certificates", field=str(path), found=len(certificates), expected=1
        )
    return certificates[0]


def _make_root(
    trust_domain: str, now: datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    # P-384, so that no leaf's key is stronger than the one that vouches for it.
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name(f"steward of {trust_domain}")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + _ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        # X.509-SVID, 3.1: a signing certificate should name its trust domain, without a path.
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA384())
    )
    return key, certificate


def _make_server(
    root_key: ec.EllipticCurvePrivateKey,
    root: x509.Certificate,
    hosts: Sequence[str],
    now: datetime,
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """The certificate of the HTTPS service: for servers alone, so it opens no door as a client."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(hosts[0]))
        .issuer_name(root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(root.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority_key_identifier(root), critical=False)
        .sign(root_key, hashes.SHA384())
    )
    return key, certificate


def key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    """The key usage extension with these bits and no others."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The authority key identifier of what `issuer` signs."""
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_MAX_COMMON_NAME])])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise Malformed("not a DNS name or an IP address", field="host", found=host) from error


def _trust_domain(certificate: x509.Certificate) -> str:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise Malformed("not a root that `garrison steward init` makes", field=ROOT_PEM) from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if not constraints.ca or len(uris) != 1 or not uris[0].startswith("spiffe://"):
        raise Malformed("not the root of one trust domain", field=ROOT_PEM)
    return check_trust_domain(uris[0].removeprefix("spiffe://"))


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(_read_secret(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Malformed("not a private key in PEM, unencrypted", field=str(path)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(
        key.curve, ec.SECP256R1 | ec.SECP384R1
    ):
        raise Malformed("unsupported key", field=str(path), expected="P-256 or P-384")
    return key


def _write(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read_secret(path: Path) -> bytes:
    content = _read(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise Misuse(
            "a key that others can read",
            field=str(path),
            found=f"mode {mode:04o}",
            expected="mode 0600",
            hint=f"chmod 600 {path}",
        )
    return content


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE)
    except OSError as error:
        raise Misuse(f"cannot be read: {error.strerror}", field=str(path)) from error

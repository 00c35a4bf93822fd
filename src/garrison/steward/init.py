"""Making a steward's directory: what `garrison steward init` does, and rollovers do again.

The root is in the directory itself, or, better, in another that is kept off the network: then
the steward has an intermediate under it, and a new one can be made without anybody's trusting a
new root. The issuing key is in a file, encrypted if a passphrase is given, or in a token.

A directory appears whole or not at all, and is never overwritten.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from garrison.disk import flush, write_new
from garrison.errors import Malformed, Misuse
from garrison.formats.identity import check_trust_domain
from garrison.formats.key_usage import key_usage
from garrison.steward.authority import (
    BACKDATE,
    CHALLENGE_KEY,
    ISSUER_KEY,
    ISSUER_PEM,
    ISSUER_TOKEN,
    RESULT_KEY,
    ROOT_KEY,
    ROOT_PEM,
    SERVER_KEY,
    SERVER_PEM,
    authority_key_identifier,
    hash_for,
    trust_domain_of,
)
from garrison.steward.challenge import KEY_SIZE
from garrison.steward.keys import load_certificate, load_key, private_pem
from garrison.steward.token import generate_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from garrison.steward.token import TokenReference

_ISSUER_LIFETIME = timedelta(days=365)
# Whoever keeps a root in a safe does not want to open it each year.
_OFFLINE_ROOT_LIFETIME = timedelta(days=3650)
# X.520's upper bound for a common name.
_MAX_COMMON_NAME = 64


@dataclass(frozen=True, slots=True)
class Custody:
    """Where the keys of a new steward are to be.

    Attributes:
        offline_root: the directory of the root, made if it is not there; None: the steward's own.
        token: where the issuing key is to be; None: in a file.
        secret: encrypts the keys of root, issuer and results; or, with a token, its PIN.
    """

    offline_root: Path | None = None
    token: TokenReference | None = None
    secret: bytes | None = None

    @property
    def passphrase(self) -> bytes | None:
        """What encrypts keys in files: a PIN, which is short, does not."""
        return None if self.token is not None else self.secret


def create(
    directory: Path,
    *,
    trust_domain: str,
    hosts: Sequence[str],
    now: datetime,
    custody: Custody | None = None,
) -> None:
    """Make an authority in `directory`, which must not exist yet.

    Args:
        directory: where the files are to stand.
        trust_domain: the SPIFFE trust domain that it certifies.
        hosts: DNS names and IP addresses of the steward's service.
        now: the time.
        custody: where the keys are to be; all in `directory`, unencrypted, if not told.

    Raises:
        Misuse: `directory` exists, or cannot be made, or a token or the root cannot be used.
        Malformed: `trust_domain` or a host is not one, or the root is of another trust domain.
        Unavailable: the token fails.
    """
    check_trust_domain(trust_domain)
    if directory.exists():
        raise Misuse(
            "exists already",
            field=str(directory),
            hint="a new root would be a new identity for every keep: remove the old one yourself",
        )
    files = issuer_files(trust_domain, hosts, now, custody or Custody())
    files[CHALLENGE_KEY] = os.urandom(KEY_SIZE).hex().encode() + b"\n"
    make_directory(directory, files)


def make_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    """Make `directory` with `files`, whole or not at all; a file's name may have a directory.

    Raises:
        Misuse: it cannot be made.
    """
    try:
        # mkdtemp makes it readable by this user alone.
        draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            for name, content in files.items():
                (draft / name).parent.mkdir(mode=0o700, exist_ok=True)
                write_new(draft / name, content, 0o644 if name.endswith(".pem") else 0o600)
            for folder in {(draft / name).parent for name in files} | {draft}:
                flush(folder)
            draft.rename(directory)
            draft = directory
            flush(directory.parent)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as error:
        raise Misuse(f"cannot be made: {error.strerror}", field=str(directory)) from error


def issuer_files(
    trust_domain: str, hosts: Sequence[str], now: datetime, custody: Custody
) -> dict[str, bytes]:
    """Make keys and certificates: the files of `garrison.steward.authority`, but `challenge.key`.

    Raises:
        Misuse: a token or the root cannot be used.
        Malformed: a host is not one, or the root is of another trust domain.
        Unavailable: the token fails.
    """
    names = [_general_name(host) for host in hosts]
    offline = None
    if custody.offline_root is not None:
        offline = _offline_root(custody.offline_root, trust_domain, now, custody.passphrase)
    key: ec.EllipticCurvePrivateKey
    # P-384, so that no leaf's key is stronger than the one that vouches for it.
    if custody.token is None:
        key = ec.generate_private_key(ec.SECP384R1())
        stored = private_pem(key, custody.secret)
    else:
        key = generate_key(custody.token, custody.secret)
        stored = custody.token.to_bytes()
    if offline is None:
        root = certificate = _make_ca(trust_domain, key, now, _ISSUER_LIFETIME)
        files = {ROOT_KEY: stored}
    else:
        root_key, root = offline
        certificate = _make_ca(trust_domain, key, now, _ISSUER_LIFETIME, (root_key, root))
        files = {ISSUER_PEM: certificate.public_bytes(Encoding.PEM), ISSUER_KEY: stored}
    if custody.token is not None:
        files[ISSUER_TOKEN] = files.pop(ROOT_KEY if offline is None else ISSUER_KEY)
    server_key, server = _make_server(key, certificate, hosts[0], names, now)
    chain = [server] if certificate == root else [server, certificate]
    return files | {
        ROOT_PEM: root.public_bytes(Encoding.PEM),
        RESULT_KEY: private_pem(ec.generate_private_key(ec.SECP384R1()), custody.passphrase),
        SERVER_PEM: b"".join(item.public_bytes(Encoding.PEM) for item in chain),
        SERVER_KEY: private_pem(server_key),
    }


def _offline_root(
    directory: Path, trust_domain: str, now: datetime, secret: bytes | None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Read the root in `directory`; make it there if the directory is not there."""
    if not directory.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        root = _make_ca(trust_domain, key, now, _OFFLINE_ROOT_LIFETIME, path_length=1)
        pem = root.public_bytes(Encoding.PEM)
        make_directory(directory, {ROOT_PEM: pem, ROOT_KEY: private_pem(key, secret)})
        return key, root
    root = load_certificate(directory / ROOT_PEM)
    key = load_key(directory / ROOT_KEY, secret)
    if key.public_key() != root.public_key():
        raise Malformed("not the key of root.pem", field=str(directory / ROOT_KEY))
    found = trust_domain_of(root)
    if found != trust_domain:
        raise Malformed(
            "the root of another trust domain",
            field=str(directory),
            found=found,
            expected=trust_domain,
        )
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    if constraints.path_length == 0:
        raise Malformed(
            "a root that may not have an intermediate",
            field=str(directory),
            hint="name a directory that is not there yet, and a root is made in it",
        )
    return key, root


def _make_ca(
    trust_domain: str,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    lifetime: timedelta,
    above: tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None = None,
    path_length: int = 0,
) -> x509.Certificate:
    """A root; or, with one `above`, an intermediate under it."""
    name = _name(f"steward of {trust_domain}" if above is None else f"issuer of {trust_domain}")
    end = now + lifetime
    if above is not None:
        end = min(end, above[1].not_valid_after_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if above is None else above[1].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        # X.509-SVID, 3.1: a signing certificate should name its trust domain, without a path.
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]
            ),
            critical=False,
        )
    )
    if above is None:
        return builder.sign(key, hashes.SHA384())
    signer, root = above
    return builder.add_extension(authority_key_identifier(root), critical=False).sign(
        signer, hash_for(signer)
    )


def _make_server(
    issuer_key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate,
    host: str,
    names: Sequence[x509.GeneralName],
    now: datetime,
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """The certificate of the HTTPS service: for servers alone, so it opens no door as a client."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(host))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(issuer.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority_key_identifier(issuer), critical=False)
        .sign(issuer_key, hashes.SHA384())
    )
    return key, certificate


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

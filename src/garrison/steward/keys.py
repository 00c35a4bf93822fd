"""Keys and certificates in files: how the steward reads them, and how it writes them.

A private key that anybody but its owner can read is refused, whatever else holds: the mode is
that of the open file, so nothing can change between the look and the read. A key may be encrypted
(PKCS#8); what opens it comes from a file of the same kind, or from a descriptor that the
environment names, and never from the command line, which others can see.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from garrison.errors import Malformed, Misuse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# The environment's name for a descriptor from which a passphrase or a PIN is read.
SECRET_DESCRIPTOR = "GARRISON_STEWARD_SECRET_FD"  # noqa: S105 - a name, not a secret
# A bundle of the web's roots is the largest file that is read here.
_MAX_FILE = 1 << 20
# PKCS #11 tokens take less; nobody types more.
_MAX_SECRET = 1024
# No process has more descriptors than that.
_MAX_DIGITS = 7


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Read the certificates, at least one, in the PEM file `path`.

    Raises:
        Misuse: it cannot be read.
        Malformed: it holds anything else.
    """
    try:
        return x509.load_pem_x509_certificates(read_file(path))
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


def load_key(path: Path, secret: bytes | None) -> ec.EllipticCurvePrivateKey:
    """Read the private key in `path`, which may be encrypted.

    Args:
        path: PEM, PKCS#8 or SEC 1.
        secret: the passphrase; not looked at where the key is not encrypted.

    Raises:
        Misuse: it cannot be read, others can read it, or the passphrase is missing or wrong.
        Malformed: it holds anything else.
    """
    data = read_secret_file(path)
    encrypted = b"ENCRYPTED" in data
    if encrypted and secret is None:
        raise Misuse(
            "the key is encrypted, and there is no passphrase",
            field=str(path),
            hint=f"name a file with --secret-file, or a descriptor in {SECRET_DESCRIPTOR}",
        )
    try:
        key = load_pem_private_key(data, password=secret if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise Misuse("cannot be opened with this passphrase", field=str(path)) from error
        raise Malformed("not a private key in PEM", field=str(path)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(
        key.curve, ec.SECP256R1 | ec.SECP384R1
    ):
        raise Malformed("unsupported key", field=str(path), expected="P-256 or P-384")
    return key


def private_pem(key: ec.EllipticCurvePrivateKey, secret: bytes | None = None) -> bytes:
    """`key` as PKCS#8 PEM, encrypted with `secret` if there is one."""
    encryption: KeySerializationEncryption = NoEncryption()
    if secret is not None:
        encryption = BestAvailableEncryption(secret)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def read_secret(path: Path | None, environment: Mapping[str, str]) -> bytes | None:
    """The passphrase or PIN: one line of a file, or of a descriptor; None if neither is named.

    Args:
        path: the file; it goes first.
        environment: may name a descriptor under `SECRET_DESCRIPTOR`. It is read once, and closed.

    Raises:
        Misuse: the file can be read by others, or what is named cannot be read.
        Malformed: it is empty or too long.
    """
    if path is not None:
        return _one_line(read_secret_file(path), str(path))
    number = environment.get(SECRET_DESCRIPTOR)
    if number is None:
        return None
    if not number.isascii() or not number.isdecimal() or len(number) > _MAX_DIGITS:
        raise Misuse("not a descriptor", field=SECRET_DESCRIPTOR, expected="its number")
    try:
        with os.fdopen(int(number), "rb") as file:
            return _one_line(file.read(_MAX_SECRET + 2), SECRET_DESCRIPTOR)
    except OSError as error:
        raise Misuse("not a descriptor that can be read", field=SECRET_DESCRIPTOR) from error


def _one_line(data: bytes, field: str) -> bytes:
    line, _, rest = data.partition(b"\n")
    if rest or not 0 < len(line) <= _MAX_SECRET:
        raise Malformed("not one line", field=field, expected=f"1 to {_MAX_SECRET} bytes")
    return line


def read_secret_file(path: Path) -> bytes:
    """The content of a file that nobody but its owner can read.

    Raises:
        Misuse: it cannot be read, or others can read it.
    """
    return read_file(path, private=True)


def read_file(path: Path, *, private: bool = False) -> bytes:
    """The content of `path`, of at most a megabyte.

    Args:
        path: the file.
        private: refuse one that others than its owner can read or write.

    Raises:
        Misuse: it cannot be read, or others can read it.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MAX_FILE)
    except OSError as error:
        raise Misuse(f"cannot be read: {error.strerror}", field=str(path)) from error
    if private and mode & 0o077:
        raise Misuse(
            "a key that others can read",
            field=str(path),
            found=f"mode {mode:04o}",
            expected="mode 0600",
            hint=f"chmod 600 {path}",
        )
    return content

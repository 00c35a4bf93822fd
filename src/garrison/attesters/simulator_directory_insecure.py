"""The directory of a simulator: how it is made, and read.

It appears only when it is whole. Its keys are its owner's to read, which protects nobody: what
they sign proves nothing. `simulator.json` says so, for people and policies.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

import garrison
from garrison.errors import Malformed, Misuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from garrison.formats.evidence import Tee

log = logging.getLogger("garrison")

SIMULATOR_JSON = "simulator.json"
#: How long what a simulated vendor signs is good: a simulator is made once.
LIFETIME = timedelta(days=3650)
# Clocks of a steward and a simulator may differ.
_BACKDATE = timedelta(hours=1)
_MAX_NAME = 32
_MAX_KEY = 4096


def process_measurement() -> bytes:
    """The measurement (48 bytes) that a simulator reports: of Garrison's own code.

    It is the SHA-384 over path and content of every Python file of the installed package, in the
    order of their paths, each with its length before it: a stand-in for the image that real
    hardware would measure.
    """
    package = Path(garrison.__file__).parent
    digest = hashlib.sha384()
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    for name in sorted(files):
        for part in (name.encode(), files[name].read_bytes()):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.digest()


def registers(measured: Mapping[str, bytes], names: tuple[str, ...], size: int) -> dict[str, bytes]:
    """All registers of `names`: those that were measured, and zeros.

    Raises:
        Misuse: a name or a size is another.
    """
    for name, value in measured.items():
        if name not in names or len(value) != size:
            raise Misuse(
                "no such register",
                field="measurement",
                found=f"{name} of {len(value)} bytes",
                expected=f"{', '.join(names)} of {size} bytes",
            )
    return {name: bytes(size) for name in names} | dict(measured)


def warn(directory: Path) -> None:
    """Say what evidence under the keys in `directory` is worth."""
    log.warning(
        "INSECURE: evidence is simulated, and proves nothing; its keys are in %s", directory
    )


def begin(directory: Path, name: str, now: datetime | None) -> tuple[str, datetime]:
    """What the certificates of a vendor that is about to be made have in common.

    Args:
        directory: where the vendor is going to be.
        name: what it is called.
        now: when it is made; None: by the clock.

    Returns:
        The organisation that they are of, and when they become valid.

    Raises:
        Misuse: `directory` is there already, or the vendor cannot be called that.
    """
    if directory.exists():
        raise Misuse(
            "exists already", field=str(directory), hint="choose another, or remove it first"
        )
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        raise Misuse("wrong name", field="name", expected=f"1 to {_MAX_NAME} printable characters")
    start = (now or datetime.now(UTC)).replace(microsecond=0) - _BACKDATE
    return f"Garrison INSECURE simulator {name}", start


def key_sha256(key: ec.EllipticCurvePublicKey | RSAPublicKey) -> str:
    """SHA-256 of a root's key, as policies name it."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def make(
    directory: Path,
    files: Mapping[str, bytes],
    *,
    tee: Tee,
    name: str,
    root_key: ec.EllipticCurvePublicKey | RSAPublicKey,
    **more: str,
) -> None:
    """Make a directory of these files; those called `.key` are for its owner.

    Args:
        directory: which must not be there.
        files: by name.
        tee: what is simulated.
        name: of the vendor.
        root_key: of its root.
        more: what else `simulator.json` says.

    Raises:
        Misuse: it cannot be made.
    """
    said = {
        "warning": "INSECURE: evidence under these keys proves nothing",
        "tee": tee.value,
        "name": name,
        "key_sha256": key_sha256(root_key),
        **more,
    }
    document = {SIMULATOR_JSON: json.dumps(said, indent=2).encode() + b"\n"}
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        whole = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            for file, data in {**files, **document}.items():
                _write(whole / file, data, 0o600 if file.endswith(".key") else 0o644)
            whole.rename(directory)
        except OSError:
            shutil.rmtree(whole)
            raise
    except OSError as error:
        raise Misuse(f"cannot be made: {error.strerror}", field=str(directory)) from error


def read(path: Path, limit: int) -> bytes:
    """Read a file of a simulator's directory.

    Raises:
        Misuse: it cannot be read.
        Malformed: it is larger than `limit`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Misuse(
            f"cannot be read: {error.strerror}",
            field=str(path),
            hint="make a simulator with garrison platform insecure-simulator",
        ) from error
    if len(data) > limit:
        raise Malformed("too long", field=str(path), expected=f"at most {limit} bytes")
    return data


def write_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key as a simulator's directory holds it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(path: Path, curve: type[ec.EllipticCurve]) -> ec.EllipticCurvePrivateKey:
    """Read a key of `curve`.

    Raises:
        Misuse: it cannot be read.
        Malformed: it is none.
    """
    try:
        key = load_pem_private_key(read(path, _MAX_KEY), password=None)
    except (ValueError, TypeError) as error:
        raise Malformed("not a private key", field=path.name) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, curve):
        raise Malformed("wrong kind of key", field=path.name, expected=f"P-{curve().key_size}")
    return key


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)

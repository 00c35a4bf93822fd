"""The identity block of an SNP guest, and what authenticates it: bytes to values and back.

AMD document 56860, "SEV Secure Nested Paging Firmware ABI Specification", revision 1.58: chapter
"SNP_LAUNCH_FINISH", tables "Structure of the ID Block" and "Structure of the ID Authentication
Information"; chapters "Signature Formats" and "Public Key Formats" for what stands in them.

The owner of a guest signs the launch digest that it must have. Firmware refuses to launch another,
and reports the digests of the keys. It refuses reserved bytes that are not zero, another algorithm
than ECDSA P-384 with SHA-384, and any other length. It says nothing of whether a signature is good.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from garrison.errors import Malformed
from garrison.formats._cursor import Cursor
from garrison.formats.snp import MEASUREMENT_SIZE

ID_BLOCK_SIZE = 96
ID_AUTH_SIZE = 4096
SIGNATURE_SIZE = 512
PUBLIC_KEY_SIZE = 1028
ID_BLOCK_VERSION = 1
# The algorithm: ECDSA P-384 with SHA-384. The curve: P-384. No other is defined.
_ALGORITHM = 1
_CURVE = 2
# Little-endian in 72 bytes, of which P-384 fills 48.
_SCALAR_FIELD = 72
_SCALAR = 48
_SIGNATURE_RESERVED = SIGNATURE_SIZE - 2 * _SCALAR_FIELD
_KEY_RESERVED = PUBLIC_KEY_SIZE - 4 - 2 * _SCALAR_FIELD
_ID_LENGTH = 16


@dataclass(frozen=True, slots=True)
class IdBlock:
    """What the owner of a guest says of it.

    Attributes:
        launch_digest: what the guest's launch must measure, 48 bytes.
        family_id: the owner's word for a family of guests, 16 bytes.
        image_id: the owner's word for the image, 16 bytes.
        guest_svn: its security version.
        policy: the guest policy that it must be launched with.
    """

    launch_digest: bytes
    family_id: bytes
    image_id: bytes
    guest_svn: int
    policy: int

    @classmethod
    def from_bytes(cls, data: bytes) -> IdBlock:
        """Read the 96 bytes.

        Raises:
            Malformed: it is another length or version.
        """
        cursor = Cursor(data, "SNP ID block")
        digest = cursor.take(MEASUREMENT_SIZE, "LD")
        family, image = cursor.take(_ID_LENGTH, "FAMILY_ID"), cursor.take(_ID_LENGTH, "IMAGE_ID")
        _exactly(cursor.integer(4, "VERSION"), ID_BLOCK_VERSION, "SNP ID block: VERSION")
        block = cls(
            digest, family, image, cursor.integer(4, "GUEST_SVN"), cursor.integer(8, "POLICY")
        )
        cursor.end()
        return block

    def to_bytes(self) -> bytes:
        """Write the 96 bytes.

        Raises:
            Malformed: a value does not fit its field.
        """
        for name, value, size in (
            ("LD", self.launch_digest, MEASUREMENT_SIZE),
            ("FAMILY_ID", self.family_id, _ID_LENGTH),
            ("IMAGE_ID", self.image_id, _ID_LENGTH),
        ):
            if len(value) != size:
                raise Malformed(
                    "wrong length",
                    field=f"SNP ID block: {name}",
                    found=f"{len(value)} bytes",
                    expected=f"{size} bytes",
                )
        return (
            self.launch_digest
            + self.family_id
            + self.image_id
            + ID_BLOCK_VERSION.to_bytes(4, "little")
            + _integer(self.guest_svn, 4, "GUEST_SVN")
            + _integer(self.policy, 8, "POLICY")
        )


@dataclass(frozen=True, slots=True)
class SnpSignature:
    """An ECDSA P-384 signature."""

    r: int
    s: int

    @classmethod
    def from_bytes(cls, data: bytes, what: str = "SNP signature") -> SnpSignature:
        """Read the 512 bytes.

        Raises:
            Malformed: it is another length, or not of P-384.
        """
        cursor = Cursor(data, what)
        r, s = _scalar(cursor, "R"), _scalar(cursor, "S")
        cursor.zeros(_SIGNATURE_RESERVED, "reserved")
        cursor.end()
        return cls(r, s)

    def to_bytes(self) -> bytes:
        """Write the 512 bytes."""
        return _two(self.r, self.s) + bytes(_SIGNATURE_RESERVED)


@dataclass(frozen=True, slots=True)
class SnpPublicKey:
    """A point of P-384."""

    x: int
    y: int

    @classmethod
    def from_bytes(cls, data: bytes, what: str = "SNP public key") -> SnpPublicKey:
        """Read the 1028 bytes.

        Raises:
            Malformed: it is another length, or of another curve.
        """
        cursor = Cursor(data, what)
        _exactly(cursor.integer(4, "CURVE"), _CURVE, f"{what}: CURVE")
        x, y = _scalar(cursor, "QX"), _scalar(cursor, "QY")
        cursor.zeros(_KEY_RESERVED, "reserved")
        cursor.end()
        return cls(x, y)

    def to_bytes(self) -> bytes:
        """Write the 1028 bytes."""
        return _CURVE.to_bytes(4, "little") + _two(self.x, self.y) + bytes(_KEY_RESERVED)

    def digest(self) -> bytes:
        """What an attestation report holds of it (ID_KEY_DIGEST, AUTHOR_KEY_DIGEST), 48 bytes."""
        return hashlib.sha384(self.to_bytes()).digest()


@dataclass(frozen=True, slots=True)
class IdKeySignature:
    """The author's signature over the ID key, and the author's key.

    The original's file of `key sev sign`: the two, one after the other.
    """

    id_key_signature: SnpSignature
    author_key: SnpPublicKey

    @classmethod
    def from_bytes(cls, data: bytes) -> IdKeySignature:
        """Read the 1540 bytes.

        Raises:
            Malformed: they are anything else.
        """
        cursor = Cursor(data, "ID key signature")
        signature = cursor.take(SIGNATURE_SIZE, "ID_KEY_SIG")
        key = cursor.take(PUBLIC_KEY_SIZE, "AUTHOR_KEY")
        cursor.end()
        return cls(
            SnpSignature.from_bytes(signature, "ID_KEY_SIG"),
            SnpPublicKey.from_bytes(key, "AUTHOR_KEY"),
        )

    def to_bytes(self) -> bytes:
        """Write the 1540 bytes."""
        return self.id_key_signature.to_bytes() + self.author_key.to_bytes()


@dataclass(frozen=True, slots=True)
class IdAuth:
    """What authenticates an ID block: the ID key's signature, and the author's over that key."""

    id_block_signature: SnpSignature
    id_key: SnpPublicKey
    author: IdKeySignature

    @classmethod
    def from_bytes(cls, data: bytes) -> IdAuth:
        """Read the 4096 bytes.

        Raises:
            Malformed: they are anything else.
        """
        cursor = Cursor(data, "SNP ID authentication")
        for name in ("ID_KEY_ALGO", "AUTH_KEY_ALGO"):
            _exactly(cursor.integer(4, name), _ALGORITHM, f"SNP ID authentication: {name}")
        cursor.zeros(0x38, "reserved")
        block_signature = cursor.take(SIGNATURE_SIZE, "ID_BLOCK_SIG")
        id_key = cursor.take(PUBLIC_KEY_SIZE, "ID_KEY")
        cursor.zeros(0x3C, "reserved")
        author = cursor.take(SIGNATURE_SIZE + PUBLIC_KEY_SIZE, "ID_KEY_SIG and AUTHOR_KEY")
        cursor.zeros(0x37C, "reserved")
        cursor.end()
        return cls(
            SnpSignature.from_bytes(block_signature, "ID_BLOCK_SIG"),
            SnpPublicKey.from_bytes(id_key, "ID_KEY"),
            IdKeySignature.from_bytes(author),
        )

    def to_bytes(self) -> bytes:
        """Write the 4096 bytes."""
        return b"".join(
            (
                _ALGORITHM.to_bytes(4, "little") * 2,
                bytes(0x38),
                self.id_block_signature.to_bytes(),
                self.id_key.to_bytes(),
                bytes(0x3C),
                self.author.to_bytes(),
                bytes(0x37C),
            )
        )


def _scalar(cursor: Cursor, field: str) -> int:
    value = cursor.integer(_SCALAR, field)
    cursor.zeros(_SCALAR_FIELD - _SCALAR, f"{field}, beyond P-384")
    return value


def _two(first: int, second: int) -> bytes:
    return first.to_bytes(_SCALAR_FIELD, "little") + second.to_bytes(_SCALAR_FIELD, "little")


def _exactly(found: int, expected: int, field: str) -> None:
    if found != expected:
        raise Malformed("not supported", field=field, found=found, expected=expected)


def _integer(value: int, size: int, name: str) -> bytes:
    if not 0 <= value < 1 << 8 * size:
        raise Malformed(
            "does not fit",
            field=f"SNP ID block: {name}",
            found=value,
            expected=f"0 to {(1 << 8 * size) - 1}",
        )
    return value.to_bytes(size, "little")

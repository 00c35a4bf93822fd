"""The signature over an SGX enclave, SIGSTRUCT: bytes to values and back.

Intel Software Developer's Manual, volume 3D, chapter 38, section "Enclave Signature Structure
(SIGSTRUCT)": 1808 bytes, integers little-endian. The signature covers two parts of it, `author`
(bytes 0 to 127) and `body` (bytes 900 to 1027).

It refuses another header, exponent or vendor word, reserved bytes that are not zero, and any other
length. Whether the signature is good, `garrison.measure.sgx_keys.check` says.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from garrison.errors import Malformed
from garrison.formats._cursor import Cursor

SIGSTRUCT_SIZE = 1808
BODY_SIZE = 128
# RSA-3072.
MODULUS_SIZE = 384
EXPONENT = 3

_HEADER = bytes.fromhex("06000000e10000000000010000000000")
_HEADER2 = bytes.fromhex("01010000600000006000000001000000")
_AUTHOR_RESERVED = 84
# VENDOR: 8086h where Intel signs, else 0.
_VENDORS = (0, 0x8086)


@dataclass(frozen=True, slots=True)
class SigstructBody:
    """What is signed of the enclave.

    Attributes:
        misc_select: the extended features of its state save area, 4 bytes.
        misc_mask: which bits of those are enforced, 4 bytes.
        cet: its CET attributes and their mask, 2 bytes.
        family_id: the product family, 16 bytes.
        attributes: its attributes, flags and XFRM, 16 bytes.
        attributes_mask: which bits of those are enforced, 16 bytes.
        mrenclave: its measurement, 32 bytes.
        extended_product_id: 16 bytes.
        product_id: the author's number for the product.
        security_version: the author's security version of it.
    """

    misc_select: bytes
    misc_mask: bytes
    cet: bytes
    family_id: bytes
    attributes: bytes
    attributes_mask: bytes
    mrenclave: bytes
    extended_product_id: bytes
    product_id: int
    security_version: int

    @classmethod
    def from_bytes(cls, data: bytes) -> SigstructBody:
        """Read the 128 bytes.

        Raises:
            Malformed: it is another length, or reserved bytes are not zero.
        """
        cursor = Cursor(data, "SIGSTRUCT")
        misc, misc_mask = cursor.take(4, "MISCSELECT"), cursor.take(4, "MISCMASK")
        cet = cursor.take(2, "CET_ATTRIBUTES")
        cursor.zeros(2, "reserved")
        family = cursor.take(16, "ISVFAMILYID")
        attributes, mask = cursor.take(16, "ATTRIBUTES"), cursor.take(16, "ATTRIBUTEMASK")
        mrenclave = cursor.take(32, "ENCLAVEHASH")
        cursor.zeros(16, "reserved")
        body = cls(
            misc,
            misc_mask,
            cet,
            family,
            attributes,
            mask,
            mrenclave,
            cursor.take(16, "ISVEXTPRODID"),
            cursor.integer(2, "ISVPRODID"),
            cursor.integer(2, "ISVSVN"),
        )
        cursor.end()
        return body

    def to_bytes(self) -> bytes:
        """Write the 128 bytes."""
        return b"".join(
            (
                self.misc_select,
                self.misc_mask,
                self.cet,
                bytes(2),
                self.family_id,
                self.attributes,
                self.attributes_mask,
                self.mrenclave,
                bytes(16),
                self.extended_product_id,
                self.product_id.to_bytes(2, "little"),
                self.security_version.to_bytes(2, "little"),
            )
        )


@dataclass(frozen=True, slots=True)
class Sigstruct:
    """An enclave's signature.

    Attributes:
        vendor: 8086h where Intel signs, else 0.
        date: when it was built, in binary-coded decimal (20261123h).
        software_defined: the author's own word, 4 bytes as an integer.
        modulus: the author's RSA-3072 modulus.
        signature: the signature.
        body: what it says of the enclave.
        q1: floor(signature^2 / modulus), which spares the processor a division.
        q2: floor((signature^3 - q1 * signature * modulus) / modulus).
    """

    vendor: int
    date: int
    software_defined: int
    modulus: int
    signature: int
    body: SigstructBody
    q1: int
    q2: int

    @classmethod
    def from_bytes(cls, data: bytes) -> Sigstruct:
        """Read the 1808 bytes.

        Raises:
            Malformed: they are anything else.
        """
        cursor = Cursor(data, "SIGSTRUCT")
        _exactly(cursor.take(16, "HEADER"), _HEADER, "HEADER")
        vendor = cursor.integer(4, "VENDOR")
        if vendor not in _VENDORS:
            raise Malformed(
                "not supported", field="SIGSTRUCT: VENDOR", found=vendor, expected="0 or 32902"
            )
        date = cursor.integer(4, "DATE")
        _exactly(cursor.take(16, "HEADER2"), _HEADER2, "HEADER2")
        software_defined = cursor.integer(4, "SWDEFINED")
        cursor.zeros(_AUTHOR_RESERVED, "reserved")
        modulus = cursor.integer(MODULUS_SIZE, "MODULUS")
        _exactly(cursor.take(4, "EXPONENT"), EXPONENT.to_bytes(4, "little"), "EXPONENT")
        signature = cursor.integer(MODULUS_SIZE, "SIGNATURE")
        body = SigstructBody.from_bytes(cursor.take(BODY_SIZE, "body"))
        cursor.zeros(12, "reserved")
        q1, q2 = cursor.integer(MODULUS_SIZE, "Q1"), cursor.integer(MODULUS_SIZE, "Q2")
        cursor.end()
        return cls(vendor, date, software_defined, modulus, signature, body, q1, q2)

    def author_bytes(self) -> bytes:
        """The first part that is signed, 128 bytes."""
        return b"".join(
            (
                _HEADER,
                self.vendor.to_bytes(4, "little"),
                self.date.to_bytes(4, "little"),
                _HEADER2,
                self.software_defined.to_bytes(4, "little"),
                bytes(_AUTHOR_RESERVED),
            )
        )

    def to_bytes(self) -> bytes:
        """Write the 1808 bytes."""
        return b"".join(
            (
                self.author_bytes(),
                self.modulus.to_bytes(MODULUS_SIZE, "little"),
                EXPONENT.to_bytes(4, "little"),
                self.signature.to_bytes(MODULUS_SIZE, "little"),
                self.body.to_bytes(),
                bytes(12),
                self.q1.to_bytes(MODULUS_SIZE, "little"),
                self.q2.to_bytes(MODULUS_SIZE, "little"),
            )
        )

    def mrsigner(self) -> bytes:
        """What a quote says of the author: SHA-256 of the modulus, little-endian."""
        return mrsigner(self.modulus)


def mrsigner(modulus: int) -> bytes:
    """The digest of an author's RSA-3072 modulus, 32 bytes."""
    return hashlib.sha256(modulus.to_bytes(MODULUS_SIZE, "little")).digest()


def _exactly(found: bytes, expected: bytes, name: str) -> None:
    if found != expected:
        raise Malformed(
            "not supported", field=f"SIGSTRUCT: {name}", found=found.hex(), expected=expected.hex()
        )

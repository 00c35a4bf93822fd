"""Strict DER, for the formats here: what `cryptography` reads, with our errors.

The library reads a SEQUENCE OF only as a field of a SEQUENCE: `inside` puts a value into one.
"""

from __future__ import annotations

from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1

from garrison.errors import Malformed

T = TypeVar("T")

# X.690, section 8.9.
SEQUENCE = 0x30

# What the library raises for what it cannot read; the last two for certificates and requests
# within, whose version it does not know, or whose key.
_UNREADABLE = (ValueError, OverflowError, x509.InvalidVersion, UnsupportedAlgorithm)


def decode(kind: type[T], data: bytes, field: str) -> T:
    """Read `data` as exactly one `kind`.

    Raises:
        Malformed: it is anything else; `field` says what it should have been.
    """
    try:
        return asn1.decode_der(kind, data)
    except _UNREADABLE as error:
        raise Malformed("not DER of the right form", field=field) from error


def inside(data: bytes) -> bytes:
    """`data` inside a SEQUENCE: what is read as its one field is one value, and no more."""
    return value_of(SEQUENCE, data)


def check_size(data: bytes, limit: int, field: str) -> None:
    """Refuse `data` of more than `limit` bytes.

    Raises:
        Malformed: it is longer.
    """
    if len(data) > limit:
        raise Malformed(
            "too long", field=field, found=f"{len(data)} bytes", expected=f"at most {limit}"
        )


def check_signature_octets(der: bytes, signature: bytes) -> None:
    """Refuse a signature, the last member of what is signed, that is no whole number of octets.

    A BIT STRING says in its first octet how many bits of its last are unused (X.690, 8.6.2.2).
    The library takes a signature that happens to end in zeros with any that are zero left out: one
    certificate in two could be written otherwise, and still pass.

    Raises:
        ValueError: it leaves bits out.
    """
    if der[-len(signature) - 1]:
        raise ValueError("a signature with unused bits")


def value_of(tag: int, *parts: bytes) -> bytes:
    """One value in DER: its tag, its length in the shortest form, and its content."""
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size) + content

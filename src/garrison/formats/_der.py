"""Strict DER, for the formats here: what `cryptography` reads, with our errors.

The library reads a SEQUENCE OF only as a field of a SEQUENCE. `inside` and `outside` put a
value into a SEQUENCE of one field and take it out again.
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


@asn1.sequence
class _One:
    item: asn1.TLV


def decode(kind: type[T], data: bytes, field: str) -> T:
    """Read `data` as exactly one `kind`.

    Raises:
        Malformed: it is anything else; `field` says what it should have been.
    """
    try:
        return asn1.decode_der(kind, data)
    except _UNREADABLE as error:
        raise Malformed("not DER of the right form", field=field) from error


def inside(data: bytes, field: str) -> bytes:
    """`data`, which must be one DER value, inside a SEQUENCE.

    Raises:
        Malformed: it is not one value.
    """
    return asn1.encode_der(_One(item=decode(asn1.TLV, data, field)))


def outside(data: bytes) -> bytes:
    """The one value inside the SEQUENCE `data`, which was encoded here."""
    return asn1.encode_der(asn1.decode_der(_One, data).item)


def check_size(data: bytes, limit: int, field: str) -> None:
    """Refuse `data` of more than `limit` bytes.

    Raises:
        Malformed: it is longer.
    """
    if len(data) > limit:
        raise Malformed(
            "too long", field=field, found=f"{len(data)} bytes", expected=f"at most {limit}"
        )


def value_of(tag: int, *parts: bytes) -> bytes:
    """One value in DER: its tag, its length in the shortest form, and its content."""
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size) + content

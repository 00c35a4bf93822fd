"""RATS conceptual message wrapper: evidence with its media type, in one CBOR record.

The record form of draft-ietf-rats-msg-wrap (section "CMW Record"), a CBOR array of two:

    [ type: tstr, value: bstr ]

Or the same in JSON, the value in base64url; that form is only read, from files.

Only that: no content-format numbers, no optional third element, no tags, no collections, and
the shortest (deterministic) encoding of lengths. What parses re-encodes to the same bytes.

It is read by hand: a general CBOR reader would build whatever an unauthenticated sender asks.
"""

from __future__ import annotations

import base64
import json

from garrison.errors import Malformed
from garrison.formats.evidence import Evidence

# RFC 6838, section 4.2: each half of a media type has at most 127 characters.
_MAX_MEDIA_TYPE = 255
# RFC 8949, section 3.1: the major types, shifted to where they stand in the initial byte.
_BYTES = 2 << 5
_TEXT = 3 << 5
_ARRAY_OF_TWO = (4 << 5) | 2
# RFC 8949, section 3: the additional information that announces 1, 2 or 4 bytes of length.
_WIDTHS = {24: 1, 25: 2, 26: 4}


def encode(evidence: Evidence) -> bytes:
    """Write `evidence` as a CMW record."""
    media_type = evidence.media_type.encode()
    return b"".join(
        (
            bytes([_ARRAY_OF_TWO]),
            _head(_TEXT, len(media_type)),
            media_type,
            _head(_BYTES, len(evidence.payload)),
            evidence.payload,
        )
    )


def decode(data: bytes) -> Evidence:
    """Read a CMW record.

    Raises:
        Malformed: `data` is not exactly one record in its shortest form.
    """
    if data[:1] != bytes([_ARRAY_OF_TWO]):
        raise _malformed(f"first byte {data[:1].hex() or 'missing'}", "a CBOR array of two (82)")
    media_type, rest = _string(data[1:], _TEXT, "media type")
    payload, rest = _string(rest, _BYTES, "value")
    if rest:
        raise _malformed(f"{len(rest)} bytes after the record", "none")
    try:
        text = media_type.decode("ascii")
    except UnicodeDecodeError as error:
        raise _malformed("a media type that is not ASCII", "type/subtype") from error
    if not text.isprintable() or "/" not in text or len(text) > _MAX_MEDIA_TYPE:
        raise _malformed(f"media type {text[:80]!r}", "type/subtype")
    return Evidence(text, payload)


def _head(major: int, length: int) -> bytes:
    if length < 24:
        return bytes([major | length])
    for info, width in _WIDTHS.items():
        if length < 1 << (8 * width):
            return bytes([major | info]) + length.to_bytes(width, "big")
    raise _malformed(f"{length} bytes of evidence", "less than 4 GiB")


def _string(data: bytes, major: int, what: str) -> tuple[bytes, bytes]:
    """Take one string of type `major` from the front of `data`: its content, and the rest."""
    info = data[0] - major if data else -1
    width = _WIDTHS.get(info, 0)
    if not (0 <= info < 24 or width):
        raise _malformed(f"no {what}", f"a definite-length string of major type {major >> 5}")
    length = int.from_bytes(data[1 : 1 + width], "big") if width else info
    start = 1 + width
    content = data[start : start + length]
    if len(content) != length:
        raise _malformed(f"{len(content)} bytes of {what}", f"{length}")
    if data[:start] != _head(major, length):
        raise _malformed(f"{what} with an over-long length", "the shortest encoding")
    return content, data[start + length :]


def _malformed(found: str, expected: str) -> Malformed:
    return Malformed(
        "not a CMW record", field="conceptual message wrapper", found=found, expected=expected
    )


def decode_json(data: bytes) -> Evidence:
    """Read a record in JSON: media type and base64url.

    Raises:
        Malformed: it is anything else.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON", field="CMW record") from error
    match value:
        case [str(media_type), str(text)]:
            try:
                padded = text.encode("ascii") + b"=" * (-len(text) % 4)
                payload = base64.b64decode(padded, altchars=b"-_", validate=True)
            except ValueError as error:
                raise Malformed("not base64url", field="CMW record: value") from error
            return Evidence(media_type, payload)
    raise Malformed("wrong form", field="CMW record", expected='["media type", "base64url"]')

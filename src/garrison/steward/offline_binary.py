"""Evidence out of the binary forms of those who hand it on: frames, and maps of CBOR.

    Linux, `struct snp_report_resp` (56860, table 25): u32 status 0, u32 size, 24 zeros, report
    Open Enclave, `oe_report_header_t`: u32 version 1, u32 type 2, u64 size, quote
    Open Enclave, `oe_attestation_header_t`: u32 version 1, UUID of the format, u64 size, quote
    dstack, `VersionedAttestation` in SCALE: version 0, u8 kind, compact size, evidence

all little-endian; and maps of CBOR whose keys are text, as guests of Oasis and of Veraison's
daemon send their evidence in. Those are as objects of JSON are, and are treated as such.

Nothing is verified, and nothing believed: what is in a frame must be evidence that is known, or it
is no frame.
"""

from __future__ import annotations

import json
from typing import Any

from garrison.errors import Malformed
from garrison.formats import _cbor
from garrison.formats.snp import REPORT_SIZE

# What a quote begins with: a version, and ECDSA-256 with P-256 as the kind of its key.
QUOTE = (b"\x03\0\x02\0", b"\x04\0\x02\0", b"\x05\0\x02\0")
# A report as the firmware's answer has it; a host's certificates may follow.
_RESPONSE = bytes(4) + REPORT_SIZE.to_bytes(4, "little") + bytes(24)
# Of a bundle with collateral.
_MAX_MAP = 512 * 1024
# RFC 8949, section 3.1: a map of up to 23, or of as many as one more byte says, or indefinite.
_MAPS = frozenset((*range(0xA1, 0xB9), 0xBF))
_OE_REPORT, _OE_EVIDENCE = 16, 28
_OE_REMOTE = (1).to_bytes(4, "little") + (2).to_bytes(4, "little")
_OE_VERSION = (1).to_bytes(4, "little")
# SCALE, "compact integers": the lowest two bits of the first byte tell how many bytes it has.
_TWO_BYTES, _FOUR_BYTES = 1, 2
# dstack's kinds are a TD's quote, Azure's, a Nitro document and an SNP report.
_DSTACK_KINDS = 8
_DSTACK = (*QUOTE, b"\x84", b"\xd2\x84", b"\x02\0\0\0", b"\x03\0\0\0", b"\x05\0\0\0")


def framed(data: bytes) -> tuple[str, bytes] | None:
    """What a frame is called, and what is in it; None if there is none."""
    if data.startswith(_RESPONSE):
        return "the firmware's answer", data[len(_RESPONSE) :]
    for name, offset, begins in (
        ("Open Enclave's report header", _OE_REPORT, _OE_REMOTE),
        ("Open Enclave's evidence header", _OE_EVIDENCE, _OE_VERSION),
    ):
        size = int.from_bytes(data[offset - 8 : offset], "little")
        inner = data[offset : offset + size]
        if data.startswith(begins) and len(inner) == size and inner.startswith(QUOTE):
            return name, inner
    return _dstack(data)


def map_as_json(data: bytes) -> bytes | None:
    """A map of CBOR with text for keys, as JSON that has lists of numbers for its bytes; or None.

    Tags are left out: what they say of a value is not needed to find evidence in it.
    """
    if not data or data[0] not in _MAPS:
        return None
    try:
        value = _cbor.decode(data, "evidence", _MAX_MAP, indefinite=True)
        return json.dumps(_plain(value)).encode()
    except Malformed:
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            # A token, which is evidence itself, or something else altogether.
            raise Malformed("not text", field="evidence: key of a map")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, _cbor.Tagged):
        return _plain(value.value)
    return list(value) if isinstance(value, bytes) else value


def _dstack(data: bytes) -> tuple[str, bytes] | None:
    if len(data) < 6 or data[0] != 0 or data[1] >= _DSTACK_KINDS:
        return None
    width = {_TWO_BYTES: 2, _FOUR_BYTES: 4}.get(data[2] & 3)
    if width is None:
        return None
    size = int.from_bytes(data[2 : 2 + width], "little") >> 2
    inner = data[2 + width : 2 + width + size]
    if len(inner) != size or not inner.startswith(_DSTACK):
        return None
    return "dstack's attestation", inner

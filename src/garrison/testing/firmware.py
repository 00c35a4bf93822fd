"""Firmware images for tests: OVMF's tables over bytes of one's own choice, no code at all."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
_SEV_HASHES = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
_SEV_ES_RESET = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
_SEV_METADATA = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
_TDX_METADATA = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
# As OVMF's AmdSev build has it: memory, secrets, CPUID, kernel hashes.
SEV_SECTIONS = (
    (0x800000, 0x9000, 1),
    (0x80D000, 0x1000, 2),
    (0x80E000, 0x1000, 3),
    (0x80F000, 0x1000, 0x10),
)
HASHES_ADDRESS = 0x80FC00


def fake_firmware(
    *,
    pages: int = 4,
    filler: bytes = b"\x90",
    sev: Sequence[tuple[int, int, int]] = SEV_SECTIONS,
    tdx: Sequence[tuple[int, int, int, int, int, int]] = (),
    hashes: int = HASHES_ADDRESS,
    reset: int = 0x80B004,
) -> bytes:
    """An image of `pages` pages.

    Args:
        pages: how many.
        filler: what it is full of, repeated.
        sev: sections for SEV: address, size, type.
        tdx: sections for TDX: offset, raw size, address, size, type, attributes.
        hashes: where the table of kernel hashes lies.
        reset: where application processors begin.
    """
    size = pages * 4096
    sev_metadata = _metadata(
        b"ASEV", 12, [b"".join(_le(value, 4) for value in item) for item in sev]
    )
    tdx_metadata = _metadata(
        b"TDVF",
        32,
        [
            b"".join(
                _le(value, width) for value, width in zip(item, (4, 4, 8, 8, 4, 4), strict=True)
            )
            for item in tdx
        ],
    )
    # At the front of the last page but one, where nothing else is.
    start = size - 2 * 4096
    table = b"".join(
        _entry(guid, data)
        for guid, data in (
            (_SEV_METADATA, _le(size - start, 4)),
            (_TDX_METADATA, _le(size - start - len(sev_metadata), 4)),
            (_SEV_HASHES, _le(hashes, 4) + _le(0x400, 4)),
            (_SEV_ES_RESET, _le(reset, 4)),
        )
        if guid != _TDX_METADATA or tdx
    )
    table += _le(len(table) + 18, 2) + _FOOTER.bytes_le
    image = bytearray((filler * (size // len(filler) + 1))[:size])
    metadata = sev_metadata + tdx_metadata
    image[start : start + len(metadata)] = metadata
    image[-32 - len(table) : -32] = table
    return bytes(image)


def _metadata(signature: bytes, entry: int, items: list[bytes]) -> bytes:
    head = signature + _le(16 + entry * len(items), 4) + _le(1, 4) + _le(len(items), 4)
    return head + b"".join(items)


def _entry(guid: UUID, data: bytes) -> bytes:
    return data + _le(len(data) + 18, 2) + guid.bytes_le


def _le(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")

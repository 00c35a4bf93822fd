"""A guest's firmware (OVMF): what it says of itself to those who launch and measure it.

Source: EDK II, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm (the table of GUIDs, which ends 32
bytes before the end of the image and is read backwards) and X64/OvmfSevMetadata.asm beside it; and
Intel document 344991, "TDX Virtual Firmware Design Guide", chapter "TDVF descriptor".

The image lies in the guest's memory so that it ends at 4 GiB. It refuses images that are not whole
pages, tables whose entries leave their bounds, sections of kinds that no document names, and
sections that are not whole pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from garrison.errors import Malformed
from garrison.formats._cursor import Cursor

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE_SIZE = 4096
# QEMU maps no more below 4 GiB.
MAX_FIRMWARE = 16 << 20
_END = 1 << 32

_FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
_SEV_HASHES = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
_SEV_ES_RESET = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
_SEV_METADATA = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
_TDX_METADATA = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
# What stands behind the table: the reset vector.
_BEHIND_TABLE = 32
# An entry ends with its size (2 bytes, itself and the GUID included) and its GUID.
_ENTRY_HEAD = 18
_METADATA_VERSION = 1
# More than any firmware has (6 and 5), less than would take long.
_MAX_SECTIONS = 64

K = TypeVar("K", bound=IntEnum)


class SevSection(IntEnum):
    """What a section of memory is to an SNP guest's launch."""

    MEMORY = 1
    SECRETS = 2
    CPUID = 3
    SVSM_CALLING_AREA = 4
    KERNEL_HASHES = 0x10


class TdxSection(IntEnum):
    """What a section is to a TD's launch."""

    BOOT_VOLUME = 0
    CONFIGURATION_VOLUME = 1
    HAND_OFF_BLOCKS = 2
    TEMPORARY_MEMORY = 3
    PERMANENT_MEMORY = 4
    PAYLOAD = 5
    PAYLOAD_PARAMETER = 6


@dataclass(frozen=True, slots=True)
class SevMetadata:
    """A range of the guest's memory, and what it is to its launch."""

    address: int
    size: int
    kind: SevSection


@dataclass(frozen=True, slots=True)
class TdxMetadata:
    """A section of a TD's initial memory.

    Attributes:
        data: what of the image it holds; empty if nothing.
        address: where it lies in the guest's memory.
        size: its length there.
        kind: what it is.
        measured: whether its content goes into MRTD.
        augmented: whether the guest accepts it later, so that it is no part of the launch.
    """

    data: bytes
    address: int
    size: int
    kind: TdxSection
    measured: bool
    augmented: bool


@dataclass(frozen=True, slots=True)
class Firmware:
    """An image of a guest's firmware.

    Attributes:
        image: all its bytes.
        sev: its sections for SEV; empty if it has none.
        sev_hashes_address: where the table with the kernel's hashes lies; None if nowhere.
        reset_address: where application processors of SEV guests begin; None if it does not say.
    """

    image: bytes
    sev: tuple[SevMetadata, ...]
    sev_hashes_address: int | None
    reset_address: int | None

    @property
    def address(self) -> int:
        """Where the image begins in the guest's memory."""
        return _END - len(self.image)

    @classmethod
    def from_bytes(cls, image: bytes) -> Firmware:
        """Read an image.

        Raises:
            Malformed: it is not one, or what it says of itself cannot be.
        """
        if not 0 < len(image) <= MAX_FIRMWARE or len(image) % PAGE_SIZE:
            raise Malformed(
                "not a firmware image",
                field="OVMF",
                found=f"{len(image)} bytes",
                expected=f"whole pages of {PAGE_SIZE} bytes, at most {MAX_FIRMWARE}",
            )
        table = _table(image)
        hashes = table.get(_SEV_HASHES)
        reset = table.get(_SEV_ES_RESET)
        return cls(
            image=image,
            sev=_sev(image, table[_SEV_METADATA]) if _SEV_METADATA in table else (),
            # Base and size; a firmware without the table has zeros there.
            sev_hashes_address=None
            if hashes is None
            else (Cursor(hashes, "OVMF: SEV hashes").integer(4, "base") or None),
            reset_address=None
            if reset is None
            else Cursor(reset, "OVMF: SEV-ES reset").integer(4, "address"),
        )

    def tdx(self) -> tuple[TdxMetadata, ...]:
        """Its sections for TDX; none if it is no firmware for TDs.

        Raises:
            Malformed: what it says of itself cannot be.
        """
        pointer = _table(self.image).get(_TDX_METADATA)
        return () if pointer is None else _tdx(self.image, pointer)


def _table(image: bytes) -> Mapping[UUID, bytes]:
    """The entries of the table of GUIDs, none if the image has no table."""
    end = len(image) - _BEHIND_TABLE
    size, guid = _entry_head(image, end)
    if guid != _FOOTER:
        return {}
    start = end - size
    if start < 0 or size < _ENTRY_HEAD:
        raise _bad("table", f"{size} bytes", "within the image")
    found: dict[UUID, bytes] = {}
    end -= _ENTRY_HEAD
    while end > start:
        if end - start < _ENTRY_HEAD:
            raise _bad("table", f"{end - start} bytes left", "an entry")
        size, guid = _entry_head(image, end)
        if size < _ENTRY_HEAD or end - size < start:
            raise _bad(f"table entry {guid}", f"{size} bytes", "within the table")
        if guid in found:
            raise _bad(f"table entry {guid}", "twice", "once")
        found[guid] = image[end - size : end - _ENTRY_HEAD]
        end -= size
    return found


def _entry_head(image: bytes, end: int) -> tuple[int, UUID]:
    head = image[end - _ENTRY_HEAD : end]
    return int.from_bytes(head[:2], "little"), UUID(bytes_le=head[2:])


def _sev(image: bytes, pointer: bytes) -> tuple[SevMetadata, ...]:
    cursor, count = _metadata(image, pointer, b"ASEV", "SEV metadata", head=16, entry=12)
    sections = []
    for _ in range(count):
        address, size = cursor.integer(4, "address"), cursor.integer(4, "size")
        kind = _kind(SevSection, cursor.integer(4, "type"), "SEV metadata: type")
        _check_range(address, size, "SEV metadata")
        sections.append(SevMetadata(address, size, kind))
    return tuple(sections)


def _tdx(image: bytes, pointer: bytes) -> tuple[TdxMetadata, ...]:
    cursor, count = _metadata(image, pointer, b"TDVF", "TDVF descriptor", head=16, entry=32)
    sections = []
    for _ in range(count):
        offset, length = cursor.integer(4, "data offset"), cursor.integer(4, "raw size")
        address, size = cursor.integer(8, "address"), cursor.integer(8, "size")
        kind = _kind(TdxSection, cursor.integer(4, "type"), "TDVF descriptor: type")
        attributes = cursor.integer(4, "attributes")
        # Bit 0: MR.EXTEND; bit 1: PAGE.AUG.
        if attributes >> 2:
            raise _bad("TDVF descriptor: attributes", hex(attributes), "no bits beyond 1")
        measured, augmented = bool(attributes & 1), bool(attributes & 2)
        _check_range(address, size, "TDVF descriptor")
        data = image[offset : offset + length]
        if len(data) != length or length > size or (length and length != size):
            raise _bad(
                "TDVF descriptor: raw size", f"{length} bytes", f"{size} in the image, or none"
            )
        if measured and (augmented or not length):
            raise _bad("TDVF descriptor: attributes", hex(attributes), "bytes that are measured")
        sections.append(TdxMetadata(data, address, size, kind, measured, augmented))
    return tuple(sections)


def _metadata(
    image: bytes, pointer: bytes, signature: bytes, what: str, *, head: int, entry: int
) -> tuple[Cursor, int]:
    """The cursor at the first section, and how many there are."""
    start = len(image) - Cursor(pointer, f"OVMF: {what}").integer(4, "offset")
    cursor = Cursor(image[start : start + head] if start >= 0 else b"", f"OVMF: {what}")
    found = cursor.take(4, "signature")
    if found != signature:
        raise _bad(f"{what}: signature", found.hex(), signature.hex())
    size, version = cursor.integer(4, "size"), cursor.integer(4, "version")
    count = cursor.integer(4, "number of sections")
    if version != _METADATA_VERSION:
        raise _bad(f"{what}: version", str(version), str(_METADATA_VERSION))
    if count > _MAX_SECTIONS or size < head + count * entry:
        raise _bad(f"{what}: number of sections", str(count), f"at most {_MAX_SECTIONS}, in {size}")
    start += head
    return Cursor(image[start : start + count * entry], f"OVMF: {what}"), count


def _kind(kinds: type[K], value: int, field: str) -> K:
    try:
        return kinds(value)
    except ValueError:
        raise _bad(field, str(value), ", ".join(str(int(kind)) for kind in kinds)) from None


def _check_range(address: int, size: int, what: str) -> None:
    # A section is launched page by page: none may be endless.
    if address % PAGE_SIZE or size % PAGE_SIZE or address + size > _END:
        raise _bad(f"{what}: range", f"{size:#x} bytes at {address:#x}", "whole pages below 4 GiB")


def _bad(field: str, found: str, expected: str) -> Malformed:
    return Malformed("cannot be", field=f"OVMF: {field}", found=found, expected=expected)

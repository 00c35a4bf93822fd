"""The enclave image file of AWS Nitro: bytes to values and back.

Source: aws-nitro-enclaves-image-format, src/defs/mod.rs, version 4 of the format. Big-endian: a
header of 548 bytes with the place of every section, then the sections, each with a header of 12.
The checksum, CRC-32, covers all but itself.

It refuses another magic, versions before 3 and after 4, kinds of section that no version names,
sections that are not where the header says, a wrong checksum, and bytes after the last section.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum

from garrison.errors import Malformed

_MAGIC = b".eif"
_VERSIONS = (3, 4)
_HEADER_SIZE = 548
_SECTION_HEADER_SIZE = 12
_MAX_SECTIONS = 32
_OFFSETS = 28
_SIZES = _OFFSETS + 8 * _MAX_SECTIONS
_CRC = _HEADER_SIZE - 4
_FLAG_ARM64 = 1
# What fits an enclave with room to spare.
MAX_EIF = 1 << 30


class EifSectionKind(IntEnum):
    """What a section holds."""

    KERNEL = 1
    CMDLINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


@dataclass(frozen=True, slots=True)
class EifSection:
    """A section of an image."""

    kind: EifSectionKind
    data: bytes
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Eif:
    """An enclave image.

    Attributes:
        sections: in the order of the file.
        arm64: whether it is for that architecture; else for x86-64.
        memory: the memory that an enclave gets if nobody says, in bytes.
        cpus: its processors if nobody says.
        version: of the format.
    """

    sections: tuple[EifSection, ...]
    arm64: bool = False
    memory: int = 1 << 30
    cpus: int = 2
    version: int = 4

    @classmethod
    def from_bytes(cls, data: bytes) -> Eif:
        """Read an image.

        Raises:
            Malformed: it is anything else.
        """
        if len(data) < _HEADER_SIZE or data[:4] != _MAGIC:
            raise _bad(
                "header", data[:4].hex() or "nothing", f"{_MAGIC.hex()}, {_HEADER_SIZE} bytes"
            )
        if len(data) > MAX_EIF:
            raise _bad("size", f"{len(data)} bytes", f"at most {MAX_EIF}")
        version, flags = _read(data, 4, 2), _read(data, 6, 2)
        if version not in _VERSIONS:
            raise _bad("version", str(version), "3 or 4")
        if flags & ~_FLAG_ARM64:
            raise _bad("flags", hex(flags), "0 or 1")
        count = _read(data, 26, 2)
        if count > _MAX_SECTIONS:
            raise _bad("number of sections", str(count), f"at most {_MAX_SECTIONS}")
        crc = zlib.crc32(data[_HEADER_SIZE:], zlib.crc32(data[:_CRC]))
        if crc != _read(data, _CRC, 4):
            raise _bad("checksum", f"{_read(data, _CRC, 4):#010x}", f"{crc:#010x}")
        offset = _HEADER_SIZE
        sections = []
        for index in range(count):
            head = data[offset : offset + _SECTION_HEADER_SIZE]
            size = int.from_bytes(head[4:], "big")
            placed = _read(data, _OFFSETS + 8 * index, 8), _read(data, _SIZES + 8 * index, 8)
            if placed != (offset, size):
                raise _bad(
                    f"section {index}",
                    f"{size} bytes at {offset}",
                    "{1} bytes at {0}".format(*placed),
                )
            content = data[offset + _SECTION_HEADER_SIZE : offset + _SECTION_HEADER_SIZE + size]
            if len(head) != _SECTION_HEADER_SIZE or len(content) != size:
                raise _bad(f"section {index}", "its end", f"{size} bytes")
            try:
                kind = EifSectionKind(int.from_bytes(head[:2], "big"))
            except ValueError:
                raise _bad(f"section {index}: type", head[:2].hex(), "1 to 5") from None
            sections.append(EifSection(kind, content, int.from_bytes(head[2:4], "big")))
            offset += _SECTION_HEADER_SIZE + size
        if offset != len(data):
            raise _bad("end", f"{len(data) - offset} bytes more", "none")
        return cls(
            tuple(sections),
            bool(flags & _FLAG_ARM64),
            _read(data, 8, 8),
            _read(data, 16, 8),
            version,
        )

    def to_bytes(self) -> bytes:
        """Write the image.

        Raises:
            Malformed: it has more sections than the format holds.
        """
        if len(self.sections) > _MAX_SECTIONS:
            raise _bad("number of sections", str(len(self.sections)), f"at most {_MAX_SECTIONS}")
        offset = _HEADER_SIZE
        offsets, sizes, body = b"", b"", []
        for section in self.sections:
            offsets += offset.to_bytes(8, "big")
            sizes += len(section.data).to_bytes(8, "big")
            body.append(section.kind.to_bytes(2, "big") + section.flags.to_bytes(2, "big"))
            body.append(len(section.data).to_bytes(8, "big"))
            body.append(section.data)
            offset += _SECTION_HEADER_SIZE + len(section.data)
        head = b"".join(
            (
                _MAGIC,
                self.version.to_bytes(2, "big"),
                (_FLAG_ARM64 if self.arm64 else 0).to_bytes(2, "big"),
                self.memory.to_bytes(8, "big"),
                self.cpus.to_bytes(8, "big"),
                bytes(2),
                len(self.sections).to_bytes(2, "big"),
                offsets.ljust(8 * _MAX_SECTIONS, b"\0"),
                sizes.ljust(8 * _MAX_SECTIONS, b"\0"),
                bytes(4),
            )
        )
        content = b"".join(body)
        return head + zlib.crc32(content, zlib.crc32(head)).to_bytes(4, "big") + content


def _read(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "big")


def _bad(field: str, found: str, expected: str) -> Malformed:
    return Malformed("cannot be", field=f"EIF: {field}", found=found, expected=expected)

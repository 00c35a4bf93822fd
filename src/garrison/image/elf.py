"""What of a program is loaded, without what is only there for people who debug.

Source: System V ABI, "Object Files": `Elf64_Ehdr` and `Elf64_Phdr`. A loader reads the segments and
the header that names them. Sections, among them the symbols' names, stand behind the last segment.

It refuses what is not a 64-bit little-endian program, or names segments beyond its end.
"""

from __future__ import annotations

import struct

from garrison.errors import Malformed

MAGIC = b"\x7fELF"
# e_ident: 64 bits, little-endian.
_KIND = MAGIC + b"\x02\x01"
_HEADER = 64
_PHOFF = 32
_SHOFF = 40
_PHENTSIZE = 54
_SEGMENT = struct.Struct("<IIQQQQQQ")
# e_shentsize stays: readers look at it even where there is no section.
_SHNUM = 60


def strip(program: bytes) -> bytes:
    """Leave out all that stands behind the last segment.

    Raises:
        Malformed: it is no such program.
    """
    if len(program) < _HEADER or not program.startswith(_KIND):
        raise Malformed("cannot be", field="ELF: header", found=program[:6].hex())
    (start,) = struct.unpack_from("<Q", program, _PHOFF)
    size, count = struct.unpack_from("<HH", program, _PHENTSIZE)
    end = start + size * count
    if size != _SEGMENT.size or end > len(program):
        raise Malformed("cannot be", field="ELF: program headers", found=f"{count} of {size} bytes")
    for index in range(count):
        _kind, _flags, offset, _at, _real, length, _memory, _align = _SEGMENT.unpack_from(
            program, start + index * size
        )
        end = max(end, offset + length)
    if end > len(program):
        raise Malformed("cannot be", field="ELF: segments", found=f"an end at {end}")
    header = bytearray(program[:_HEADER])
    struct.pack_into("<Q", header, _SHOFF, 0)
    struct.pack_into("<HH", header, _SHNUM, 0, 0)
    return bytes(header) + program[_HEADER:end]

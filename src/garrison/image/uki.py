"""An image as one file that UEFI starts: a unified kernel image.

Source: UAPI Group Specifications, "Unified Kernel Image"; Microsoft, "PE Format", for section
headers. The stub, systemd's, is a program that finds kernel, command line and file system as
sections of its own. Rules: sections in a fixed order, no date, so the same image gives the same
bytes.

It refuses a stub that is no 64-bit PE image, or without room for more section headers.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import garrison
from garrison.errors import Malformed, Misuse
from garrison.image.folder import STUB

if TYPE_CHECKING:
    from garrison.image.folder import Image

# Offsets in the DOS header, and from the PE signature: COFF header, then PE32+ optional header.
_LFANEW = 0x3C
_SECTIONS = 6
_OPTIONAL_SIZE = 20
_OPTIONAL = 24
_PE32_PLUS = 0x20B
_ALIGNMENTS = _OPTIONAL + 32
_SIZE_OF_IMAGE = _OPTIONAL + 56
_SIZE_OF_HEADERS = _OPTIONAL + 60
_CHECKSUM = _OPTIONAL + 64
# Name, virtual size and address, size and place in the file, relocations and lines, flags.
_SECTION = struct.Struct("<8sIIII12xI")
#: Data that is there from the start, and is read.
_FLAGS = 0x40000040
#: PE Format, FileAlignment; sections in memory are aligned to pages.
_MAX_ALIGNMENT = 1 << 16
#: Larger addresses do not fit a header.
_MAX_IMAGE = 1 << 31
_OS_RELEASE = f"""\
ID=garrison
NAME=Garrison
PRETTY_NAME="Garrison keep {garrison.__version__}"
VERSION_ID={garrison.__version__}
"""


def unified(image: Image) -> bytes:
    """Make the unified kernel image.

    Raises:
        Misuse: the image was built without a stub.
        Malformed: its stub cannot be extended.
        OSError: a part cannot be read.
    """
    try:
        stub = (image.folder / STUB).read_bytes()
    except FileNotFoundError as error:
        raise Misuse("an image without a stub", field=str(image.folder), expected=STUB) from error
    return extended(
        stub,
        {
            ".osrel": _OS_RELEASE.encode(),
            ".cmdline": image.command_line.encode(),
            ".initrd": image.initrd.read_bytes(),
            ".linux": image.kernel.read_bytes(),
        },
    )


def extended(stub: bytes, sections: dict[str, bytes]) -> bytes:
    """Add sections to a PE image, behind those that it has.

    Raises:
        Malformed: it is none, or has no room.
    """
    try:
        return _extended(stub, sections)
    except struct.error as error:
        raise _bad("ends too early", f"{len(stub)} bytes") from error


def _extended(stub: bytes, sections: dict[str, bytes]) -> bytes:
    (pe,) = struct.unpack_from("<I", stub, _LFANEW)
    if stub[:2] != b"MZ" or stub[pe : pe + 4] != b"PE\0\0":
        raise _bad("no PE signature", stub[:2].hex() or "nothing")
    (magic,) = struct.unpack_from("<H", stub, pe + _OPTIONAL)
    if magic != _PE32_PLUS:
        raise _bad("optional header", hex(magic))
    (count,) = struct.unpack_from("<H", stub, pe + _SECTIONS)
    (optional,) = struct.unpack_from("<H", stub, pe + _OPTIONAL_SIZE)
    in_memory, in_file = struct.unpack_from("<II", stub, pe + _ALIGNMENTS)
    (headers,) = struct.unpack_from("<I", stub, pe + _SIZE_OF_HEADERS)
    table = pe + _OPTIONAL + optional
    if not 0 < in_file <= _MAX_ALIGNMENT or not 0 < in_memory <= _MAX_ALIGNMENT:
        raise _bad("alignment", f"{in_memory} and {in_file}")
    if table + _SECTION.size * (count + len(sections)) > headers:
        raise _bad("room for section headers", f"{headers} bytes of headers")
    end = headers
    for index in range(count):
        _name, size, address, *_rest = _SECTION.unpack_from(stub, table + _SECTION.size * index)
        end = max(end, address + size)
    out = bytearray(stub)
    for name, content in sections.items():
        address = _aligned(end, in_memory)
        if address + len(content) > _MAX_IMAGE:
            raise _bad("size in memory", f"{address + len(content)} bytes")
        out += bytes(-len(out) % in_file)
        place = len(out)
        out += content + bytes(-len(content) % in_file)
        entry = (name.encode(), len(content), address, len(out) - place, place, _FLAGS)
        _SECTION.pack_into(out, table + _SECTION.size * count, *entry)
        count += 1
        end = address + len(content)
    struct.pack_into("<H", out, pe + _SECTIONS, count)
    struct.pack_into("<I", out, pe + _SIZE_OF_IMAGE, _aligned(end, in_memory))
    # UEFI does not look at it; zero says that there is none.
    struct.pack_into("<I", out, pe + _CHECKSUM, 0)
    return bytes(out)


def _aligned(value: int, to: int) -> int:
    return -(-value // to) * to


def _bad(what: str, found: str) -> Malformed:
    return Malformed(what, field="UKI: stub", found=found, expected="a PE32+ image with room")

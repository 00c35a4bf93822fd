"""PE images: their sections, and the Authenticode digest, which UEFI measures of what it starts.

Source: Microsoft, "Windows Authenticode Portable Executable Signature Format", section
"Calculating the PE Image Hash"; field offsets of "PE Format". The digest leaves out the checksum,
the directory entry of the certificate table, and that table.

It refuses images whose parts leave the file or overlap, which firmware would refuse to load; and
those with gaps between sections or without that entry, of which firmware hashes other bytes than
are hashed here (EDK II, OvmfPkg/Tcg/TdTcg2Dxe/MeasureBootPeCoff.c, steps 8 and 16).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from garrison.errors import Malformed

if TYPE_CHECKING:
    from hashlib import _Hash

_MAX_SECTIONS = 96
# Offsets in the DOS header, the COFF header and the optional header of PE32+.
_LFANEW = 0x3C
_COFF_SIZE = 20
_CHECKSUM = 64
_SIZE_OF_HEADERS = 60
_DIRECTORIES = {0x10B: 96, 0x20B: 112}
_CERTIFICATES = 4
_SECTION_SIZE = 40
# What sections may have in memory behind what they have in the file: variables of a program.
_MAX_ZEROS = 16 << 20


def authenticode(data: bytes, algorithm: str) -> bytes:
    """The digest of a PE image.

    Raises:
        Malformed: it is not one.
    """
    coff = _read(data, _LFANEW, 4) + 4
    if data[:2] != b"MZ" or data[coff - 4 : coff] != b"PE\0\0":
        raise _bad("no PE signature", data[:2].hex() or "nothing")
    count, optional_size = _read(data, coff + 2, 2), _read(data, coff + 16, 2)
    optional = coff + _COFF_SIZE
    magic = _read(data, optional, 2)
    if magic not in _DIRECTORIES:
        raise _bad("optional header", hex(magic))
    entry = optional + _DIRECTORIES[magic] + 8 * _CERTIFICATES
    table = optional + optional_size
    headers = _read(data, optional + _SIZE_OF_HEADERS, 4)
    # The number of directories stands before the first.
    directories = _read(data, optional + _DIRECTORIES[magic] - 4, 4)
    if directories <= _CERTIFICATES:
        raise _bad("data directories", f"{directories}, none for certificates")
    if count > _MAX_SECTIONS or not entry + 8 <= table <= headers - _SECTION_SIZE * count:
        raise _bad("headers", f"{count} sections, {headers} bytes")
    if headers > len(data):
        raise _bad("headers", f"{headers} bytes of {len(data)}")
    state: _Hash = hashlib.new(algorithm)
    state.update(data[: optional + _CHECKSUM])
    state.update(data[optional + _CHECKSUM + 4 : entry])
    state.update(data[entry + 8 : headers])
    end = headers
    sections = [
        (_read(data, start + 20, 4), _read(data, start + 16, 4))
        for start in range(table, table + _SECTION_SIZE * count, _SECTION_SIZE)
    ]
    for start, size in sorted(section for section in sections if section[1]):
        if start != end or start + size > len(data):
            raise _bad("section", f"{size} bytes at {start}")
        state.update(data[start : start + size])
        end = start + size
    certificates, certificates_size = _read(data, entry, 4), _read(data, entry + 4, 4)
    if certificates_size and certificates + certificates_size != len(data):
        raise _bad("certificate table", f"{certificates_size} bytes at {certificates}")
    if certificates_size and certificates < end:
        raise _bad("certificate table", f"at {certificates}, before {end}")
    state.update(data[end : len(data) - certificates_size])
    return state.digest()


def sections(data: bytes) -> dict[str, bytes]:
    """What each section has in memory, by its name; of two with one name, the first.

    Raises:
        Malformed: it is no PE image.
    """
    coff = _read(data, _LFANEW, 4) + 4
    if data[:2] != b"MZ" or data[coff - 4 : coff] != b"PE\0\0":
        raise _bad("no PE signature", data[:2].hex() or "nothing")
    count = _read(data, coff + 2, 2)
    if count > _MAX_SECTIONS:
        raise _bad("headers", f"{count} sections")
    table = coff + _COFF_SIZE + _read(data, coff + 16, 2)
    found: dict[str, bytes] = {}
    # Together: sections that all were the whole file would take a hundred times its size.
    left = len(data) + _MAX_ZEROS
    for start in range(table, table + _SECTION_SIZE * count, _SECTION_SIZE):
        name = data[start : start + 8].rstrip(b"\0").decode("ascii", "replace")
        size, raw, place = (_read(data, start + offset, 4) for offset in (8, 16, 20))
        left -= size
        if place + raw > len(data) or size > raw + _MAX_ZEROS or left < 0:
            raise _bad("section", f"{name}: {size} bytes, {raw} at {place}")
        content = data[place : place + min(size, raw)]
        found.setdefault(name, content + bytes(size - len(content)))
    return found


def _read(data: bytes, offset: int, size: int) -> int:
    value = data[offset : offset + size]
    if len(value) != size:
        raise _bad("ends too early", f"{len(data)} bytes")
    return int.from_bytes(value, "little")


def _bad(what: str, found: str) -> Malformed:
    return Malformed(what, field="PE image", found=found, expected="a whole PE image")

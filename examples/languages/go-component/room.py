"""Where a module of Go's has the room that it keeps for the adapter (`client.go`).

Both grow the one memory, and Go takes what is above its own for its own: it would write into what
the adapter has. So the adapter is given a variable of the program's instead.
"""

from __future__ import annotations

SIZE = 4 << 16
_MARK = b"room for adapter"
# WebAssembly core specification, 5.5.14 and 5.4.6: the data section, and how a segment begins.
_DATA, _ACTIVE, _I32_CONST, _END = 11, 0, 0x41, 0x0B


def room_of(module: bytes) -> int:
    """The address of the variable.

    Raises:
        ValueError: the module has none.
    """
    at = 8
    while at < len(module):
        kind = module[at]
        size, at = _number(module, at + 1)
        if kind == _DATA:
            return _find(module[at : at + size])
        at += size
    raise ValueError("the module has no data")


def _find(section: bytes) -> int:
    count, at = _number(section, 0)
    for _ in range(count):
        if section[at : at + 2] != bytes([_ACTIVE, _I32_CONST]):
            raise ValueError("a segment of data is not of Go's kind")
        address, at = _number(section, at + 2)
        if section[at] != _END:
            raise ValueError("a segment of data is not of Go's kind")
        size, at = _number(section, at + 1)
        within = section.find(_MARK, at, at + size)
        if within >= 0:
            return address + within - at
        at += size
    raise ValueError("the program keeps no room for the adapter")


def _number(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128, and where it ends; a signed one that is not negative reads the same."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at

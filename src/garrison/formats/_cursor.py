"""A bounded little-endian reader, for binary formats that are read in document order.

Every read names its field. A read beyond the end, a reserved byte that is not zero, and bytes
that are left over are `Malformed`; nothing else is ever raised.
"""

from __future__ import annotations

from garrison.errors import Malformed


class Cursor:
    """Reads `data`, which errors call `what`, from its start to its end."""

    __slots__ = ("_data", "_offset", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._offset = 0
        self._what = what

    def take(self, size: int, field: str) -> bytes:
        """Read `size` bytes.

        Raises:
            Malformed: there are fewer.
        """
        offset = self._offset
        value = self._data[offset : offset + size]
        if len(value) != size:
            raise Malformed(
                "ends too early",
                field=f"{self._what}: {field}",
                found=f"{len(value)} bytes at offset {offset:#x}",
                expected=f"{size} bytes",
            )
        self._offset = offset + size
        return value

    def integer(self, size: int, field: str) -> int:
        """Read an unsigned little-endian integer of `size` bytes.

        Raises:
            Malformed: there are fewer bytes.
        """
        return int.from_bytes(self.take(size, field), "little")

    def zeros(self, size: int, field: str) -> None:
        """Read `size` reserved bytes.

        Raises:
            Malformed: there are fewer, or one of them is not zero.
        """
        value = self.take(size, field)
        rest = value.lstrip(b"\0")
        if rest:
            raise Malformed(
                "reserved byte is not zero",
                field=f"{self._what}: {field}",
                found=f"{rest[0]:#04x} at offset {self._offset - len(rest):#x}",
                expected="0",
            )

    def rest(self) -> bytes:
        """What is left, which is read by that."""
        offset, self._offset = self._offset, len(self._data)
        return self._data[offset:]

    def end(self) -> None:
        """Refuse what is left.

        Raises:
            Malformed: there is something.
        """
        rest = len(self._data) - self._offset
        if rest:
            raise Malformed(
                "bytes after the end", field=self._what, found=f"{rest} bytes", expected="none"
            )

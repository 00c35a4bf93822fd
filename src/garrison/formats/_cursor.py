"""A bounded little-endian reader, for binary formats that are read in document order.

Every read names its field. A read beyond the end, a reserved byte that is not zero, and bytes
that are left over are `Malformed`; nothing else is ever raised.
"""

from __future__ import annotations

from garrison.errors import Malformed


class Cursor:
    """Reads `data`, which errors call `what`, from its start to its end."""

    # Evidence is read by some hundred calls of these: so none makes another where it need not.
    __slots__ = ("_data", "_offset", "_size", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._offset = 0
        self._size = len(data)
        self._what = what

    def take(self, size: int, field: str) -> bytes:
        """Read `size` bytes.

        Raises:
            Malformed: there are fewer.
        """
        offset = self._offset
        end = offset + size
        if end > self._size:
            raise self._short(size, field)
        self._offset = end
        return self._data[offset:end]

    def integer(self, size: int, field: str) -> int:
        """Read an unsigned little-endian integer of `size` bytes.

        Raises:
            Malformed: there are fewer bytes.
        """
        offset = self._offset
        end = offset + size
        if end > self._size:
            raise self._short(size, field)
        self._offset = end
        return int.from_bytes(self._data[offset:end], "little")

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

    def _short(self, size: int, field: str) -> Malformed:
        return Malformed(
            "ends too early",
            field=f"{self._what}: {field}",
            found=f"{self._size - self._offset} bytes at offset {self._offset:#x}",
            expected=f"{size} bytes",
        )

    @property
    def offset(self) -> int:
        """How many bytes are read."""
        return self._offset

    def rest(self) -> bytes:
        """What is left, which is read by that."""
        offset, self._offset = self._offset, self._size
        return self._data[offset:]

    def end(self) -> None:
        """Refuse what is left.

        Raises:
            Malformed: there is something.
        """
        rest = self._size - self._offset
        if rest:
            raise Malformed(
                "bytes after the end", field=self._what, found=f"{rest} bytes", expected="none"
            )

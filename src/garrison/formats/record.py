"""What a data class is, for the few that stand on the way of a machine's start.

To make a data class is to write its methods and compile them, and `dataclasses` imports a compiler,
a disassembler and more for it: an emulated machine takes a quarter of a second for that. So these
write their `__init__` themselves.
"""

from __future__ import annotations


class Record:
    """Named values, those of `__slots__`, and equal to one of its class that has the same."""

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        """Compare the values."""
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    # It can be changed, as what it holds can: nothing to find others by.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Name the class and the values."""
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({values})"

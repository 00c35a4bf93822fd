"""A guest's linear memory, as host functions see it.

Every access goes through `view`, which checks the bounds. The engine never moves the memory
(`engine.runtime`), so one view of it all is kept, and made again only when a guest points
beyond it: it may have grown.
"""

from _struct import Struct  # `struct` is no more than this, and one file more to load

from garrison.keep.engine import c
from garrison.keep.engine.runtime import memory_of
from garrison.keep.vfs.errno import FAULT, INVAL, Errno

# As on Linux (limits.h, IOV_MAX).
_MAX_VECTORS = 1024
_VECTOR = Struct("<II")

U16 = Struct("<H")
U32 = Struct("<I")
U64 = Struct("<Q")


class Memory:
    """The memory of the instance that is calling.

    Attributes:
        caller: what the engine names the caller by; set at each call, true during it.
    """

    def __init__(self) -> None:
        self.caller = 0
        self._size = 0
        self._all = memoryview(b"")

    def view(self, address: int, size: int) -> memoryview:
        """The `size` bytes at `address`. The view must not outlive the call.

        Raises:
            Errno: the memory does not reach that far.
        """
        end = address + size
        if end > self._size:
            self._refresh()
            if end > self._size:
                raise Errno(FAULT)
        return self._all[address:end]

    def vectors(self, address: int, count: int) -> list[memoryview]:
        """The buffers of an array of `iovec`: a pointer and a length each.

        Raises:
            Errno: one is outside the memory, or there are too many.
        """
        if count > _MAX_VECTORS:
            raise Errno(INVAL)
        return [
            self.view(place, size)
            for place, size in _VECTOR.iter_unpack(self.view(address, count * _VECTOR.size))
        ]

    def _refresh(self) -> None:
        address, size = memory_of(self.caller)
        self._size = size
        self._all = c.memory_at(address, size)

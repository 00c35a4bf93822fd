"""A guest's linear memory, as host functions see it.

Every access goes through `view`, which checks the bounds, or comes after `expect`, which does.
The engine never moves the memory (`engine.runtime`), so one view of it all is kept, and made
again only when a guest points beyond it: it may have grown.
"""

from _struct import Struct  # `struct` is no more than this, and one file more to load

from garrison.keep.engine import c
from garrison.keep.engine.runtime import memory_of
from garrison.keep.vfs.descriptor import Room
from garrison.keep.vfs.errno import FAULT, INVAL, Errno

# As on Linux (limits.h, IOV_MAX).
_MAX_VECTORS = 1024
_MAX_BYTES = (1 << 32) - 1
_VECTOR = Struct("<II")

U32 = Struct("<I")
U64 = Struct("<Q")
# What nearly every call needs, found without looking for it in an object.
put_u16 = Struct("<H").pack_into
put_u32 = U32.pack_into
put_u64 = U64.pack_into
get_vector = _VECTOR.unpack_from


class Memory(Room):
    """The memory of the instance that is calling.

    Attributes:
        caller: what the engine names the caller by; set at each call, true during it.
        all: the memory as far as it was last seen to reach; true during a call, as the rest is.
        last: the last place of it where a vector fits; negative if there is none.
    """

    __slots__ = ("caller", "last")

    def __init__(self) -> None:
        super().__init__(memoryview(b""))
        self.caller = 0

    def be(self, memory: memoryview) -> None:
        """Stand for `memory` from now on."""
        super().be(memory)
        self.last = self.size - _VECTOR.size

    def expect(self, address: int, size: int) -> None:
        """Make sure that `all` has the `size` bytes at `address`.

        Raises:
            Errno: the memory does not reach that far.
        """
        if address + size > self.size:
            self._refresh()
            if address + size > self.size:
                raise Errno(FAULT)

    def view(self, address: int, size: int) -> memoryview:
        """The `size` bytes at `address`. The view must not outlive the call.

        Raises:
            Errno: the memory does not reach that far.
        """
        end = address + size
        if end > self.size:
            self._refresh()
            if end > self.size:
                raise Errno(FAULT)
        return self.all[address:end]

    def vectors(self, address: int, count: int) -> list[memoryview]:
        """The buffers of an array of `iovec`: a pointer and a length each.

        Nobody looks where an empty one points: languages let it point anywhere.

        Raises:
            Errno: one is outside the memory, or there are too many, or too many bytes in all.
        """
        if count > _MAX_VECTORS:
            raise Errno(INVAL)
        found = [
            self.view(place, size) if size else self.all[:0]
            for place, size in _VECTOR.iter_unpack(self.view(address, count * _VECTOR.size))
        ]
        # They may be of the same memory, and how many bytes went is told in 32 bits.
        if sum(map(len, found)) > _MAX_BYTES:
            raise Errno(INVAL)
        return found

    def _refresh(self) -> None:
        self.be(c.memory_at(*memory_of(self.caller)))

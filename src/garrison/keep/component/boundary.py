"""Where one function of a component meets the host: its memory, its allocator, its handles.

Every access to linear memory goes through `Boundary.at`, which checks alignment and bounds.
"""

from __future__ import annotations

from garrison.keep.engine import c
from garrison.keep.engine.failures import Trap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from garrison.keep.component.handles import Handle, Handles
    from garrison.keep.engine.store import Extern, Store

    class Memory(Protocol):
        """The linear memory of a component."""

        def view(self, address: int, size: int) -> memoryview:
            """The `size` bytes at `address`, a `Trap` if it does not reach that far."""
            ...


# What the parameters of one call may take of our memory, in bytes; a parameter that is a list of
# bytes takes nothing, for it stays where it is.
MAX_PARAMETERS = 1 << 26


class Boundary:
    """One function's way between a component and the host.

    Args:
        memory: the component's; None if the function was given none.
        handles: the component's.
        realloc: the component's allocator, called with a size and an alignment; likewise.
        budget: how many bytes the parameters of one call may take.

    Attributes:
        lent: where borrowed handles of the call are noted; None where that makes no difference.
    """

    __slots__ = ("_left", "budget", "handles", "lent", "memory", "realloc")

    def __init__(
        self,
        memory: Memory | None,
        handles: Handles,
        realloc: Callable[[int, int], int] | None = None,
        budget: int = MAX_PARAMETERS,
    ) -> None:
        self.memory = memory
        self.handles = handles
        self.realloc = realloc
        self.budget = self._left = budget
        self.lent: list[Handle] | None = None

    def allocate(self, size: int, align: int) -> int:
        """Have the component's own allocator make room.

        Raises:
            Trap: it fails.
        """
        if self.realloc is None:
            raise Trap("the guest failed: a function that returns lists was given no allocator")
        return self.realloc(size, align)

    def begin(self) -> None:
        """Begin a call."""
        self._left = self.budget

    def spend(self, size: int) -> None:
        """Note that a parameter takes `size` bytes.

        Raises:
            Trap: that is too much for one call.
        """
        self._left -= size
        if self._left < 0:
            raise Trap(
                f"the guest failed: the parameters of a call take more than {self.budget} bytes"
            )

    def at(self, address: int, size: int, align: int) -> memoryview:
        """A view of linear memory.

        Raises:
            Trap: the address is not a multiple of `align`, or not of the memory.
        """
        if address % align:
            raise Trap(f"the guest failed: {address:#x} is not a multiple of {align}")
        if self.memory is None:
            raise Trap("the guest failed: a function that needs memory was given none")
        return self.memory.view(address, size)

    def room(self, size: int, align: int) -> tuple[int, memoryview]:
        """New room in the component's memory.

        Raises:
            Trap: its allocator fails, or returns what is not its own memory.
        """
        address = self.allocate(size, align)
        return address, self.at(address, size, align)


class LinearMemory:
    """The memory of a component.

    The engine never moves it, so one view of it all is kept, and made again only when a component
    points beyond it: it may have grown.
    """

    def __init__(self) -> None:
        self._store: Store | None = None
        self._memory: Extern | None = None
        self._size = 0
        self._all = memoryview(b"")

    def bind(self, store: Store | None, memory: Extern | None) -> None:
        """Be the memory of another instance, or of none."""
        self._store, self._memory = store, memory
        self._size = 0
        self._all = memoryview(b"")

    def view(self, address: int, size: int) -> memoryview:
        """The `size` bytes at `address`. The view must not outlive the call.

        Raises:
            Trap: the memory does not reach that far.
        """
        end = address + size
        if end > self._size and self._store is not None and self._memory is not None:
            start, self._size = self._store.memory(self._memory)
            self._all = c.memory_at(start, self._size)
        if end > self._size:
            raise Trap(
                f"the guest failed: {size} bytes at {address:#x} are not all in its memory,"
                f" which has {self._size:#x}"
            )
        return self._all[address:end]

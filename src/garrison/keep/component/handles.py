"""The handles of one component: what it may hold, and what each stands for.

Source: the component model repository, design/mvp/CanonicalABI.md, "Resource State". Every use
names the resource that it wants; a handle of another kind, a free one, one that is lent or not
owned where it has to be is a `Trap`, which ends the guest.
"""

from __future__ import annotations

from garrison.keep.engine.failures import Trap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.component.types import Resource

# Streams, sockets and pollables of one guest; each costs us some hundred bytes and perhaps a
# descriptor.
MAX_HANDLES = 1 << 16
# How many bytes of handles are kept to see whether the same ones come again.
_MAX_KNOWN = 1 << 14


class Handle:
    """An entry of the table.

    Attributes:
        resource: its kind.
        thing: what it stands for.
        lent: how many calls that are under way borrow it.
    """

    __slots__ = ("lent", "resource", "thing")

    def __init__(self, resource: Resource, thing: object) -> None:
        self.resource = resource
        self.thing = thing
        self.lent = 0


class Handles:
    """The table.

    All handles in it are owned: the worlds that a keep has lend nothing to a component.

    Attributes:
        entries: by number; always the same dictionary.
    """

    def __init__(self, limit: int = MAX_HANDLES) -> None:
        self._limit = limit
        self.entries: dict[int, Handle] = {}
        self._free: list[int] = []
        # What `things` said last, as long as that is still so.
        self._known: tuple[bytes, Resource, list[object]] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, resource: Resource, thing: object) -> int:
        """Make a handle. What it is for is dropped if there is no room.

        Raises:
            Trap: there are too many.
        """
        if len(self.entries) >= self._limit:
            if resource.drop is not None:
                resource.drop(thing)
            raise Trap(f"the guest failed: it has more than {self._limit} handles")
        # As in CanonicalABI.md: 0 is none, and a free number is used again.
        number = self._free.pop() if self._free else len(self.entries) + 1
        self.entries[number] = Handle(resource, thing)
        return number

    def get(self, number: int, resource: Resource) -> Handle:
        """Look at a handle.

        Raises:
            Trap: there is none of that number, or it is of another kind.
        """
        entry = self.entries.get(number)
        if entry is None:
            raise Trap(f"the guest failed: it has no handle {number}, used as {resource.name}")
        if entry.resource is not resource:
            raise Trap(
                f"the guest failed: handle {number} is {entry.resource.name}, used as"
                f" {resource.name}"
            )
        return entry

    def things(self, view: memoryview, resource: Resource) -> list[object]:
        """What several handles stand for.

        Args:
            view: their numbers, of 4 bytes each.
            resource: their kind.

        Returns:
            A list not to be changed: the same one again, as long as the same handles come and none
            of the table has been given away.

        Raises:
            Trap: as `get`.
        """
        wanted = bytes(view[:_MAX_KNOWN])
        known = self._known
        if known is not None and known[0] == wanted and known[1] is resource:
            return known[2]
        entries, found = self.entries, []
        for number in view.cast("I"):
            entry = entries.get(number)
            if entry is None or entry.resource is not resource:
                entry = self.get(number, resource)
            found.append(entry.thing)
        if len(view) < _MAX_KNOWN:
            self._known = (wanted, resource, found)
        return found

    def take(self, number: int, resource: Resource) -> object:
        """Take what a handle stands for; the handle is free then.

        Raises:
            Trap: as `get`, or it is lent.
        """
        entry = self.get(number, resource)
        if entry.lent:
            raise Trap(f"the guest failed: it gives handle {number} away while it is lent")
        self._known = None
        del self.entries[number]
        self._free.append(number)
        return entry.thing

    def close(self) -> None:
        """Drop all that is left, the last first: the guest has ended."""
        self._known = None
        self._free.clear()
        failure: BaseException | None = None
        while self.entries:
            _, entry = self.entries.popitem()
            if entry.resource.drop is None:
                continue
            try:
                entry.resource.drop(entry.thing)
            except BaseException as error:  # noqa: BLE001  (raised below)
                # A signal while something is sent to its end: no more waiting, but all is closed.
                failure = failure or error
        if failure is not None:
            raise failure

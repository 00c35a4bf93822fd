"""What a component runs on: the same descriptors, files, network and signals as any guest's."""

from __future__ import annotations

from garrison.keep.engine.failures import Trap
from garrison.keep.vfs.ceiling import Ceiling
from garrison.keep.vfs.descriptor import Room
from garrison.keep.vfs.errno import MFILE, Errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from garrison.keep.component.waiting import Behind, Waited, Watch
    from garrison.keep.vfs.descriptor import Descriptor
    from garrison.keep.vfs.network import Network
    from garrison.keep.vfs.streams import ListeningSocket

# What is read or made at once; one full record of TLS is 16 KiB.
CHUNK = 1 << 16
# What a component can have the keep hold in fields that it makes, and in names of directories that
# it lists, in bytes: there may be as many of both as there are handles.
MAX_HELD = 1 << 28


class Held:
    """Bytes that the keep holds for a component, given back when this is no longer referred to."""

    __slots__ = ("_host", "_size")

    def __init__(self, host: Host, size: int) -> None:
        self._host = host
        self._size = size

    def __del__(self) -> None:
        self._host.held -= self._size


class Host:
    """The host of one component.

    Args:
        args: the arguments, the program's name first.
        env: the environment.
        streams: standard input, output and error.
        directories: those that it has from the start, by name.
        network: what it can reach; None if nothing.
        limit: how many descriptors it may have open besides those that it starts with.
        listeners: those that it has from the start; it gets one by listening on its port.
        interrupts: what ends a wait.

    Attributes:
        listeners: those that nobody listens on yet, by port.
        names: the hosts' names that it looked up, in order, and `numbers` where each stands.
        background: what goes on while the component waits for something else.
        waited: what it waited for last.
        seed: what it is given for its hash tables, once it has asked.
        held: how many bytes are held for it (`hold`).
    """

    def __init__(
        self,
        args: Sequence[str],
        env: Mapping[str, str],
        streams: Sequence[Descriptor],
        directories: Sequence[tuple[str, Descriptor]],
        network: Network | None,
        interrupts: Watch,
        limit: int,
        listeners: Sequence[ListeningSocket] = (),
    ) -> None:
        self.args = [_text(arg) for arg in args]
        self.env = [(_text(name), _text(value)) for name, value in env.items()]
        self.streams = streams
        self.directories = directories
        self.network = network
        self.interrupts = interrupts
        self._left = limit
        self._ceiling = Ceiling("descriptors", limit)
        self.listeners = {listener.port(): listener for listener in listeners}
        self.names: list[str] = []
        self.numbers: dict[str, int] = {}
        self.background: list[Behind] = []
        self.waited: Waited | None = None
        self.seed: tuple[int, int] | None = None
        self.held = 0
        self._scratch: Room | None = None
        self._arrivals: memoryview | None = None

    @property
    def scratch(self) -> Room:
        """Room for what is on its way into the component or out of it; used within one call."""
        if self._scratch is None:
            self._scratch = Room(memoryview(bytearray(CHUNK)))
        return self._scratch

    @property
    def arrivals(self) -> memoryview:
        """Room for what comes over HTTP; used within one call."""
        if self._arrivals is None:
            self._arrivals = memoryview(bytearray(CHUNK))
        return self._arrivals

    def hold(self, size: int) -> Held:
        """Hold so many bytes more for it, as long as what is returned is referred to.

        Raises:
            Trap: that is too much.
        """
        if self.held + size > MAX_HELD:
            raise Trap(f"the guest failed: it has the keep hold more than {MAX_HELD} bytes for it")
        self.held += size
        return Held(self, size)

    def expect_room(self) -> None:
        """Make sure that one descriptor more has room, before anything is changed for it.

        Raises:
            Errno: there are too many.
        """
        if self._left <= 0:
            self._ceiling.reached()
            raise Errno(MFILE)

    def count(self) -> None:
        """Count one connection more, as a descriptor; `opened(None)` counts one less.

        Raises:
            Errno: there are too many.
        """
        self.expect_room()
        self._left -= 1

    def opened(self, descriptor: Descriptor | None) -> None:
        """Count one descriptor more, or one less if there is none.

        Raises:
            Errno: there are too many; it is closed.
        """
        if descriptor is None:
            self._left += 1
            return
        try:
            self.count()
        except Errno:
            descriptor.close()
            raise


def _text(text: str) -> str:
    # A command line may hold bytes that are not UTF-8; a string of WIT cannot.
    return text.encode(errors="surrogateescape").decode(errors="replace")

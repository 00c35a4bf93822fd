"""`/net`: connections, listeners and peers as files.

- `con/<host[:port]>`: opening it connects.
- `lis/<port>` or `lis/<addr>:<port>`: opening it listens.
- `peer/con`, `peer/lis`: each opening takes the next connected or accepted event, as JSON.
- `peer/fd/<n>`: who is at the other end of the guest's descriptor `n`, as JSON.
"""

from garrison.errors import GarrisonError, Malformed, Misuse, Rejected, Unavailable, Unverified
from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.nodes import Directory, File, Node
from garrison.keep.vfs.streams import ListeningSocket, Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Literal, Protocol, TypeVar

    from garrison.keep.vfs.descriptor import Descriptor
    from garrison.keep.vfs.streams import Listener, Stream

    class Network(Protocol):
        """What the workload can reach, and who can reach it (`garrison.keep.net`)."""

        def connect(self, target: str) -> Stream: ...  # noqa: D102
        def listen(self, target: str) -> Listener: ...  # noqa: D102
        def next_event(self, direction: Literal["con", "lis"]) -> dict[str, Any] | None: ...  # noqa: D102

    T = TypeVar("T")
    Opener = Callable[[], Descriptor]

# What the guest is told of a refusal; the reason is in the keep's log.
_REFUSALS: tuple[tuple[type[GarrisonError], int], ...] = (
    (Rejected, errno.ACCES),
    (Unverified, errno.ACCES),
    (Malformed, errno.INVAL),
    (Unavailable, errno.TIMEDOUT),
    (Misuse, errno.ACCES),
)


class _Opened(Node):
    """A node whose opening does the work."""

    def __init__(self, filetype: int, opener: "Opener") -> None:
        super().__init__(None)
        self.filetype = filetype
        self._opener = opener

    def open(self, *, read: bool, write: bool) -> "Descriptor":  # noqa: ARG002  (both always can)
        """Do it.

        Raises:
            Errno: it was refused.
            OSError: the network failed.
        """
        return self._opener()


class _Dynamic(Directory):
    """A directory in which every name can be looked up, and none is listed."""

    def __init__(self, node: "Callable[[str], Node | None]") -> None:
        super().__init__(None)
        self._node = node

    def lookup(self, name: str) -> Node | None:
        """Make what `name` stands for.

        Raises:
            Errno: it cannot be a name.
        """
        super().lookup(name)
        return self._node(name)


def network_directory(network: "Network", descriptors: "Mapping[int, Descriptor]") -> Directory:
    """Make `/net`.

    Args:
        network: what does the work.
        descriptors: those of the guest, for `peer/fd`.
    """

    def connect(name: str) -> Node:
        return _Opened(d.STREAM, lambda: Socket(told(name, lambda: network.connect(name))))

    def listen(name: str) -> Node:
        return _Opened(d.STREAM, lambda: ListeningSocket(told(name, lambda: network.listen(name))))

    def event(direction: 'Literal["con", "lis"]') -> Node:
        def take() -> "Descriptor":
            found = network.next_event(direction)
            if found is None:
                raise Errno(errno.AGAIN)
            return _json(found).open(read=True, write=False)

        return _Opened(d.REGULAR, take)

    def peer(name: str) -> Node | None:
        if not (name.isascii() and name.isdigit()):
            return None
        found = descriptors.get(int(name))
        return _json(found.stream.peer) if isinstance(found, Socket) else None

    peers = Directory(None, [("con", event("con")), ("lis", event("lis")), ("fd", _Dynamic(peer))])
    return Directory(None, [("con", _Dynamic(connect)), ("lis", _Dynamic(listen)), ("peer", peers)])


def _json(value: "dict[str, Any]") -> File:
    import json  # late: few guests ask who their peer is

    return File(None, json.dumps(value, separators=(",", ":")).encode())


def told(what: str, ask: "Callable[[], T]") -> "T":
    """Do what the guest asks for, `what`; the reason of a refusal goes to the keep's log alone.

    Raises:
        Errno: it was refused.
        OSError: the network failed.
    """
    try:
        return ask()
    except GarrisonError as error:
        import logging  # late: it costs a start 5 ms

        logging.getLogger("garrison.keep").warning("refused to the workload: %s: %s", what, error)
        number = next((n for family, n in _REFUSALS if isinstance(error, family)), errno.ACCES)
        raise Errno(number) from error

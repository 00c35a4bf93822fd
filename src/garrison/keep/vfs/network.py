"""`/net`: connections, listeners and peers as files.

- `con/<host[:port]>`: opening it connects.
- `lis/<port>` or `lis/<addr>:<port>`: opening it listens.
- `peer/con`, `peer/lis`: each opening takes the next connected or accepted event, as JSON.
- `peer/fd/<n>`: who is at the other end of the guest's descriptor `n`, as JSON.
"""

from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.dynamic import Dynamic, Opened
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.nodes import Directory, File, Node
from garrison.keep.vfs.refusals import told
from garrison.keep.vfs.streams import ListeningSocket, Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Literal, Protocol

    from garrison.formats.endpoint import Endpoint
    from garrison.keep.vfs.descriptor import Descriptor
    from garrison.keep.vfs.streams import Listener, Stream

    # `Interrupts.wait`: what to wait for (descriptor, poll(2) events), and for how many seconds.
    Wait = Callable[[list[tuple[int, int]], float | None], Mapping[int, int]]

    class Datagrams(Protocol):
        """A socket for datagrams, and the rules that hold for each of them."""

        def bind(self, address: str, port: int) -> None: ...  # noqa: D102
        def connect(self, target: Endpoint | None, wait: Wait) -> None: ...  # noqa: D102
        def send(self, data: memoryview, target: Endpoint | None, wait: Wait) -> None: ...  # noqa: D102
        def receive(self, room: memoryview) -> tuple[bytes, Endpoint] | None: ...  # noqa: D102
        def address(self) -> tuple[str, int]: ...  # noqa: D102
        def option(self, level: int, number: int, value: int) -> None: ...  # noqa: D102
        def fileno(self) -> int: ...  # noqa: D102
        def close(self) -> None: ...  # noqa: D102

    class Network(Protocol):
        """What the workload can reach, and who can reach it (`garrison.keep.net`)."""

        def connect(self, target: str, wait: Wait) -> Stream: ...  # noqa: D102
        def listen(self, target: str) -> Listener: ...  # noqa: D102
        def listen_within(self, address: str) -> Listener: ...  # noqa: D102
        def listen_all(self) -> Sequence[Listener]: ...  # noqa: D102
        def check_outgoing(self, target: str) -> None: ...  # noqa: D102
        def speaks_udp(self) -> bool: ...  # noqa: D102
        def datagrams(self, *, ipv6: bool) -> Datagrams: ...  # noqa: D102
        def next_event(self, direction: Literal["con", "lis"]) -> dict[str, Any] | None: ...  # noqa: D102


def network_directory(
    network: "Network", descriptors: "Mapping[int, Descriptor]", wait: "Wait"
) -> Directory:
    """Make `/net`.

    Args:
        network: what does the work.
        descriptors: those of the guest, for `peer/fd`.
        wait: waits for a connection.
    """

    def connect(name: str) -> Node:
        return Opened(d.STREAM, lambda: Socket(told(name, lambda: network.connect(name, wait))))

    def listen(name: str) -> Node:
        return Opened(d.STREAM, lambda: ListeningSocket(told(name, lambda: network.listen(name))))

    def event(direction: 'Literal["con", "lis"]') -> Node:
        def take() -> "Descriptor":
            found = network.next_event(direction)
            if found is None:
                raise Errno(errno.AGAIN)
            return _json(found).open(read=True, write=False)

        return Opened(d.REGULAR, take)

    def peer(name: str) -> Node | None:
        if not (name.isascii() and name.isdigit()):
            return None
        found = descriptors.get(int(name))
        return _json(found.stream.peer) if isinstance(found, Socket) else None

    peers = Directory(None, [("con", event("con")), ("lis", event("lis")), ("fd", Dynamic(peer))])
    return Directory(None, [("con", Dynamic(connect)), ("lis", Dynamic(listen)), ("peer", peers)])


def _json(value: "dict[str, Any]") -> File:
    import json  # late: few guests ask who their peer is

    return File(None, json.dumps(value, separators=(",", ":")).encode())

"""wasi:sockets/udp: datagrams, where a rule of the configuration allows them (`net.datagrams`).

Rules: a name has an address that stands for it, here as for connections, and what comes from there
is told under that address; nothing that no rule lets the component hear wakes it; a socket outlives
its streams, and has one pair of them at a time, or the component is ended, as the interface lets us
do. Binding is done, to its end, by `start-bind`; a name is resolved, for which the component waits,
by the first `send` or `stream` that means it.
"""

from __future__ import annotations

import socket
from collections import deque

from garrison.formats.endpoint import Endpoint, bracketed
from garrison.keep.component.callbacks import Failed
from garrison.keep.component.waiting import Moment
from garrison.keep.component.wasi.names import (
    Network,
    Unconnected,
    host_of,
    meant,
    told,
    told_address,
)
from garrison.keep.engine.failures import Trap
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.refusals import told as asked
from garrison.keep.vfs.streams import POLLIN, POLLOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from garrison.keep.component.host import Host
    from garrison.keep.component.waiting import Pollable
    from garrison.keep.component.wasi.names import Case
    from garrison.keep.vfs.network import Datagrams

# How many datagrams one call takes or gives, and how many wait here: a MiB of the largest.
_MAX_AT_ONCE = 16
# socket(7) and ip(7): what the options are before they are set. The buffers are Linux's
# net.core.rmem_default and wmem_default.
_DEFAULTS = {"unicast-hop-limit": 64, "receive-buffer-size": 212992, "send-buffer-size": 212992}
_BUFFERS = {
    "receive-buffer-size": (socket.SOL_SOCKET, socket.SO_RCVBUF),
    "send-buffer-size": (socket.SOL_SOCKET, socket.SO_SNDBUF),
}
_HOP_LIMITS = {
    "ipv4": (socket.IPPROTO_IP, socket.IP_TTL),
    "ipv6": (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
}
_MAX_OPTION = (1 << 31) - 1


class UdpSocket(Unconnected):
    """A socket.

    Attributes:
        datagrams: the keep's, which knows the rules.
        bound: whether it is bound.
        remote: whom alone it speaks with, as the component said it.
        streams: how many of its streams there are.
    """

    def __init__(self, host: Host, family: str, datagrams: Datagrams) -> None:
        super().__init__(family)
        self.datagrams = datagrams
        self.bound = False
        self.remote: Case | None = None
        self.streams = 0
        self.options = dict(_DEFAULTS)
        self._host = host
        self._ended = False

    def endpoint(self, remote: Case) -> Endpoint:
        """What the component means by an address.

        Raises:
            Failed: it is no address of another host's.
        """
        address, port = self.remote_address(remote)
        return Endpoint(host_of(self._host, address), port)

    def ready(self, *, write: bool) -> bool:
        """Ask the kernel."""
        from select import poll  # late: as in `vfs.streams`

        number = self.datagrams.fileno()
        if number < 0:
            return True
        poller = poll()
        poller.register(number, POLLOUT if write else POLLIN)
        return bool(poller.poll(0))

    def drop(self) -> None:
        """End it.

        Raises:
            Trap: it has streams.
        """
        if not self._ended:
            self._ended = True
            self.datagrams.close()
            self._host.opened(None)
        if self.streams:
            raise Trap("the guest failed: it drops a UDP socket before the streams of it")


class Incoming:
    """What comes by a socket: `incoming-datagram-stream`."""

    def __init__(self, sock: UdpSocket, host: Host) -> None:
        self._socket = sock
        self._host = host
        self._waiting: deque[tuple[bytes, Endpoint]] = deque()
        self._failed: OSError | None = None
        sock.streams += 1

    def take(self, most: int) -> list[tuple[bytes, Case]]:
        """Take what has come, and where each says that it is from.

        Raises:
            OSError: the host says what became of a datagram that was sent.
        """
        self._fill(most)
        if self._failed is not None and not self._waiting:
            error, self._failed = self._failed, None
            raise error
        sock = self._socket
        found = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        return [
            (data, sock.remote or meant(self._host, source.host, source.port or 0))
            for data, source in found
        ]

    def _fill(self, most: int) -> None:
        """Have so many waiting, if there are."""
        while len(self._waiting) < most and self._failed is None:
            try:
                found = self._socket.datagrams.receive(self._host.scratch.all)
            except OSError as error:
                self._failed = error
                return
            if found is None:
                return
            self._waiting.append(found)

    def ready(self) -> bool:
        """Whether there is one that it may hear, or what to tell."""
        self._fill(1)
        return bool(self._waiting) or self._failed is not None

    def events(self) -> tuple[int, int]:
        """What to wait for."""
        return self._socket.datagrams.fileno(), POLLIN

    def timeout(self) -> None:
        """Nothing happens without an event."""
        return

    def settled(self) -> bool:
        """It may be from where nothing is to be heard."""
        return self.ready()

    def drop(self) -> None:
        """End it."""
        self._socket.streams -= 1


class Outgoing:
    """What goes by a socket: `outgoing-datagram-stream`."""

    def __init__(self, sock: UdpSocket, host: Host) -> None:
        self._socket = sock
        self._host = host
        self._permitted = 0
        sock.streams += 1

    def permit(self) -> int:
        """How many can be sent now."""
        self._permitted = _MAX_AT_ONCE if self._socket.ready(write=True) else 0
        return self._permitted

    def send(self, given: list[tuple[memoryview, Case | None]]) -> int:
        """Send datagrams, not more than `permit` said, up to the first that fails.

        Returns:
            How many went.

        Raises:
            Failed: the first is for nobody that it may be for.
            Errno: a rule does not allow the first.
            OSError: the first cannot be sent.
            Trap: they are more.
        """
        if len(given) > self._permitted:
            raise Trap("the guest failed: it sends more datagrams than it may")
        self._permitted = 0
        for count, (data, remote) in enumerate(given):
            try:
                self._send(data, remote)
            except BlockingIOError:
                return count
            except (Failed, Errno, OSError):
                # The component tries the same again, and is told then.
                if count:
                    return count
                raise
        return len(given)

    def _send(self, data: memoryview, remote: Case | None) -> None:
        sock, target = self._socket, None
        if sock.remote is None:
            if remote is None:
                raise Failed("invalid-argument")
            target = sock.endpoint(remote)
        elif remote is not None and remote != sock.remote:
            raise Failed("invalid-argument")
        wait = self._host.interrupts.wait
        asked(str(target), lambda: sock.datagrams.send(data, target, wait))

    def ready(self) -> bool:
        """Whether something can be sent, as a `Pollable`."""
        return self._socket.ready(write=True)

    def events(self) -> tuple[int, int]:
        """What to wait for."""
        return self._socket.datagrams.fileno(), POLLOUT

    def timeout(self) -> None:
        """Nothing happens without an event."""
        return

    def settled(self) -> bool:
        """An event is all that it takes."""
        return True

    def drop(self) -> None:
        """End it."""
        self._socket.streams -= 1


class Waiting:
    """A stream to wait for; that it is waited for ends without it.

    Args:
        stream: the stream.
    """

    def __init__(self, stream: Incoming | Outgoing) -> None:
        self.ready = stream.ready
        self.events = stream.events
        self.timeout = stream.timeout
        self.settled = stream.settled

    def drop(self) -> None:
        """End it."""


@told
def udp_create_socket_create_udp_socket(host: Host, family: str) -> UdpSocket:
    """Make a socket, if any rule is for datagrams."""
    reach = host.network
    if reach is None or not reach.speaks_udp():
        raise Failed("not-supported")
    host.count()
    try:
        return UdpSocket(host, family, reach.datagrams(ipv6=family == "ipv6"))
    except BaseException:
        host.opened(None)
        raise


@told
def udp_socket_start_bind(_host: Host, sock: UdpSocket, _network: Network, at: Case) -> None:
    """Have an address and a port; a port that is asked for needs a rule."""
    address, port = sock.address(at)
    sock.begin("bind", allowed=not sock.bound)
    try:
        target = f"{bracketed(address.compressed)}:{port}"
        asked(target, lambda: sock.datagrams.bind(address.compressed, port))
    except BaseException:
        sock.begun = ""
        raise


def udp_socket_finish_bind(_host: Host, sock: UdpSocket) -> None:
    """Do nothing more."""
    sock.finish("bind")
    sock.bound = True


@told
def udp_socket_stream(
    host: Host, sock: UdpSocket, remote: Case | None
) -> tuple[Incoming, Outgoing]:
    """Give the two directions, to and from one host and port, or all that rules allow."""
    if sock.streams:
        raise Trap("the guest failed: it streams by a UDP socket whose streams it has not dropped")
    if not sock.bound:
        raise Failed("invalid-state")
    target = None if remote is None else sock.endpoint(remote)
    asked(str(target), lambda: sock.datagrams.connect(target, host.interrupts.wait))
    sock.remote = remote
    return Incoming(sock, host), Outgoing(sock, host)


@told
def udp_socket_local_address(_host: Host, sock: UdpSocket) -> Case:
    """Tell where it is."""
    if not sock.bound:
        raise Failed("invalid-state")
    return told_address(*sock.datagrams.address())


def udp_socket_remote_address(_host: Host, sock: UdpSocket) -> Case:
    """Tell whom alone it speaks with, as it was asked for."""
    if sock.remote is None:
        raise Failed("invalid-state")
    return sock.remote


def udp_socket_address_family(_host: Host, sock: UdpSocket) -> str:
    """Tell which addresses it has."""
    return sock.family


def _option(name: str) -> tuple[Callable[[Host, UdpSocket], int], Callable[..., None]]:
    def get(_host: Host, sock: UdpSocket) -> int:
        return sock.options[name]

    @told
    def change(_host: Host, sock: UdpSocket, value: int) -> None:
        if not value:
            raise Failed("invalid-argument")
        level, number = _BUFFERS.get(name) or _HOP_LIMITS[sock.family]
        sock.datagrams.option(level, number, min(value, _MAX_OPTION))
        sock.options[name] = value

    return get, change


udp_socket_unicast_hop_limit, udp_socket_set_unicast_hop_limit = _option("unicast-hop-limit")
udp_socket_receive_buffer_size, udp_socket_set_receive_buffer_size = _option("receive-buffer-size")
udp_socket_send_buffer_size, udp_socket_set_send_buffer_size = _option("send-buffer-size")


def udp_socket_subscribe(_host: Host, _sock: UdpSocket) -> Pollable:
    """Give what to wait for: all is done at once."""
    return Moment(0)


@told
def incoming_datagram_stream_receive(
    _host: Host, stream: Incoming, most: int
) -> list[tuple[bytes, Case]]:
    """Give what has come."""
    return stream.take(min(most, _MAX_AT_ONCE))


def incoming_datagram_stream_subscribe(_host: Host, stream: Incoming) -> Pollable:
    """Give what to wait for before receiving."""
    return Waiting(stream)


def outgoing_datagram_stream_check_send(_host: Host, stream: Outgoing) -> int:
    """Tell how many can be sent."""
    return stream.permit()


@told
def outgoing_datagram_stream_send(
    _host: Host, stream: Outgoing, given: list[tuple[Any, Case | None]]
) -> int:
    """Send."""
    return stream.send(given)


def outgoing_datagram_stream_subscribe(_host: Host, stream: Outgoing) -> Pollable:
    """Give what to wait for before sending."""
    return Waiting(stream)

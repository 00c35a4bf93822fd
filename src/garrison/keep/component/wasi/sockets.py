"""wasi:sockets: TCP and names, by the keep's one network, with its TLS, policy and peer checks.

A keep's rules are by name, and a name's meaning must not be the host's word. So looking a name up
asks nobody: it gives an address of our own that stands for the name, and connecting to that is
connecting to the name, by the name's rule. An address that never stood for a name is one itself.
Connecting and the handshake are done, to their end, by `start-connect`. Datagrams are in `udp`.
"""

from __future__ import annotations

import socket

from garrison.formats.endpoint import bracketed
from garrison.keep.component.callbacks import Failed
from garrison.keep.component.waiting import Readiness
from garrison.keep.component.wasi.ending import Ending
from garrison.keep.component.wasi.names import (
    Network,
    Unconnected,
    host_of,
    instance_network_instance_network,
    ip_name_lookup_resolve_addresses,
    network_network_error_code,
    resolve_address_stream_resolve_next_address,
    resolve_address_stream_subscribe,
    socket_address,
    told,
    told_address,
)
from garrison.keep.component.wasi.streams import InputStream, OutputStream, Shared
from garrison.keep.vfs.refusals import told as asked
from garrison.keep.vfs.streams import ListeningSocket, Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from garrison.keep.component.host import Host
    from garrison.keep.component.waiting import Pollable
    from garrison.keep.component.wasi.names import Case
    from garrison.keep.vfs.network import Network as Reach

# Functions of this package that stand in `names`.
__all__ = [
    "instance_network_instance_network",
    "ip_name_lookup_resolve_addresses",
    "network_network_error_code",
    "resolve_address_stream_resolve_next_address",
    "resolve_address_stream_subscribe",
]

WIT = """
package wasi:sockets;
interface network {
    use wasi:io/error.{error};
    resource network;
    enum error-code {
        unknown, access-denied, not-supported, invalid-argument, out-of-memory, timeout,
        concurrency-conflict, not-in-progress, would-block, invalid-state, new-socket-limit,
        address-not-bindable, address-in-use, remote-unreachable, connection-refused,
        connection-reset, connection-aborted, datagram-too-large, name-unresolvable,
        temporary-resolver-failure, permanent-resolver-failure,
    }
    network-error-code: func(err: borrow<error>) -> option<error-code>;
    enum ip-address-family { ipv4, ipv6 }
    type ipv4-address = tuple<u8, u8, u8, u8>;
    type ipv6-address = tuple<u16, u16, u16, u16, u16, u16, u16, u16>;
    variant ip-address { ipv4(ipv4-address), ipv6(ipv6-address) }
    record ipv4-socket-address { port: u16, address: ipv4-address }
    record ipv6-socket-address {
        port: u16, flow-info: u32, address: ipv6-address, scope-id: u32,
    }
    variant ip-socket-address { ipv4(ipv4-socket-address), ipv6(ipv6-socket-address) }
}
interface instance-network {
    use network.{network};
    instance-network: func() -> network;
}
interface ip-name-lookup {
    use wasi:io/poll.{pollable};
    use network.{network, error-code, ip-address};
    resource resolve-address-stream {
        resolve-next-address: func() -> result<option<ip-address>, error-code>;
        subscribe: func() -> pollable;
    }
    resolve-addresses: func(network: borrow<network>, name: string)
        -> result<resolve-address-stream, error-code>;
}
interface tcp {
    use wasi:io/streams.{input-stream, output-stream};
    use wasi:io/poll.{pollable};
    use wasi:clocks/monotonic-clock.{duration};
    use network.{network, error-code, ip-socket-address, ip-address-family};
    enum shutdown-type { receive, send, both }
    resource tcp-socket {
        start-bind: func(network: borrow<network>, local-address: ip-socket-address)
            -> result<_, error-code>;
        finish-bind: func() -> result<_, error-code>;
        start-connect: func(network: borrow<network>, remote-address: ip-socket-address)
            -> result<_, error-code>;
        finish-connect: func() -> result<tuple<input-stream, output-stream>, error-code>;
        start-listen: func() -> result<_, error-code>;
        finish-listen: func() -> result<_, error-code>;
        accept: func() -> result<tuple<tcp-socket, input-stream, output-stream>, error-code>;
        local-address: func() -> result<ip-socket-address, error-code>;
        remote-address: func() -> result<ip-socket-address, error-code>;
        is-listening: func() -> bool;
        address-family: func() -> ip-address-family;
        set-listen-backlog-size: func(value: u64) -> result<_, error-code>;
        keep-alive-enabled: func() -> result<bool, error-code>;
        set-keep-alive-enabled: func(value: bool) -> result<_, error-code>;
        keep-alive-idle-time: func() -> result<duration, error-code>;
        set-keep-alive-idle-time: func(value: duration) -> result<_, error-code>;
        keep-alive-interval: func() -> result<duration, error-code>;
        set-keep-alive-interval: func(value: duration) -> result<_, error-code>;
        keep-alive-count: func() -> result<u32, error-code>;
        set-keep-alive-count: func(value: u32) -> result<_, error-code>;
        hop-limit: func() -> result<u8, error-code>;
        set-hop-limit: func(value: u8) -> result<_, error-code>;
        receive-buffer-size: func() -> result<u64, error-code>;
        set-receive-buffer-size: func(value: u64) -> result<_, error-code>;
        send-buffer-size: func() -> result<u64, error-code>;
        set-send-buffer-size: func(value: u64) -> result<_, error-code>;
        subscribe: func() -> pollable;
        shutdown: func(shutdown-type: shutdown-type) -> result<_, error-code>;
    }
}
interface tcp-create-socket {
    use network.{network, error-code, ip-address-family};
    use tcp.{tcp-socket};
    create-tcp-socket: func(address-family: ip-address-family)
        -> result<tcp-socket, error-code>;
}
interface udp {
    use wasi:io/poll.{pollable};
    use network.{network, error-code, ip-socket-address, ip-address-family};
    record incoming-datagram { data: list<u8>, remote-address: ip-socket-address }
    record outgoing-datagram { data: list<u8>, remote-address: option<ip-socket-address> }
    resource incoming-datagram-stream {
        receive: func(max-results: u64) -> result<list<incoming-datagram>, error-code>;
        subscribe: func() -> pollable;
    }
    resource outgoing-datagram-stream {
        check-send: func() -> result<u64, error-code>;
        send: func(datagrams: list<outgoing-datagram>) -> result<u64, error-code>;
        subscribe: func() -> pollable;
    }
    resource udp-socket {
        start-bind: func(network: borrow<network>, local-address: ip-socket-address)
            -> result<_, error-code>;
        finish-bind: func() -> result<_, error-code>;
        %stream: func(remote-address: option<ip-socket-address>)
            -> result<tuple<incoming-datagram-stream, outgoing-datagram-stream>, error-code>;
        local-address: func() -> result<ip-socket-address, error-code>;
        remote-address: func() -> result<ip-socket-address, error-code>;
        address-family: func() -> ip-address-family;
        unicast-hop-limit: func() -> result<u8, error-code>;
        set-unicast-hop-limit: func(value: u8) -> result<_, error-code>;
        receive-buffer-size: func() -> result<u64, error-code>;
        set-receive-buffer-size: func(value: u64) -> result<_, error-code>;
        send-buffer-size: func() -> result<u64, error-code>;
        set-send-buffer-size: func(value: u64) -> result<_, error-code>;
        subscribe: func() -> pollable;
    }
}
interface udp-create-socket {
    use network.{network, error-code, ip-address-family};
    use udp.{udp-socket};
    create-udp-socket: func(address-family: ip-address-family)
        -> result<udp-socket, error-code>;
}
"""

# The socket options, by what WASI calls them: level and number; one unit of the host in its own.
_OPTIONS = {
    "keep-alive-enabled": (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    "keep-alive-idle-time": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1_000_000_000),
    "keep-alive-interval": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1_000_000_000),
    "keep-alive-count": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1),
    "receive-buffer-size": (socket.SOL_SOCKET, socket.SO_RCVBUF, 1),
    "send-buffer-size": (socket.SOL_SOCKET, socket.SO_SNDBUF, 1),
    "hop-limit": (socket.IPPROTO_IP, socket.IP_TTL, 1),
}
# tcp(7), socket(7) and ip(7): what they are before they are set.
_DEFAULTS = {
    "keep-alive-enabled": 0,
    "keep-alive-idle-time": 7200 * 1_000_000_000,
    "keep-alive-interval": 75 * 1_000_000_000,
    "keep-alive-count": 9,
    "receive-buffer-size": 131072,
    "send-buffer-size": 16384,
    "hop-limit": 64,
}
_MAX_OPTION = (1 << 31) - 1
_HOW = {"receive": socket.SHUT_RD, "send": socket.SHUT_WR, "both": socket.SHUT_RDWR}


class TcpSocket(Unconnected):
    """A socket: bound, listening or connected.

    Attributes:
        bound: where it is to listen.
        listener: where it listens.
        connection: what it is connected by.
    """

    def __init__(self, family: str) -> None:
        super().__init__(family)
        self.bound: Case | None = None
        self.listener: ListeningSocket | None = None
        self.connection: Socket | None = None
        self.input: InputStream | None = None
        self.output: OutputStream | None = None
        self.ending: Ending | None = None
        self.remote: Case | None = None
        self.options = dict(_DEFAULTS)
        self._changed: dict[str, int] = {}
        self._shared: Shared | None = None

    def connected(self, host: Host, connection: Socket) -> None:
        """Be connected.

        Raises:
            Errno: the host has too many descriptors; it is closed.
        """
        self._shared = Shared(connection, host)
        self._shared.use()
        self.connection = connection
        for name, value in self._changed.items():
            self._set(connection, name, value)

    def listening(self, host: Host, listener: ListeningSocket) -> None:
        """Be a listener.

        Raises:
            Errno: the host has too many descriptors; it is closed.
        """
        self._shared = Shared(listener, host)
        self._shared.use()
        self.listener = listener

    def streams(self, host: Host) -> tuple[InputStream, OutputStream]:
        """The two directions of its connection."""
        if self._shared is None:
            raise Failed("invalid-state")
        self.input, self.output = InputStream(self._shared), OutputStream(host, self._shared)
        return self.input, self.output

    def option(self, name: str, value: int) -> None:
        """Set a socket option, now or when it is connected.

        Raises:
            OSError: it cannot have that value.
        """
        self.options[name] = self._changed[name] = value
        if self.connection is not None:
            self._set(self.connection, name, value)

    def _set(self, connection: Socket, name: str, value: int) -> None:
        level, number, unit = _OPTIONS[name]
        if name == "hop-limit" and self.family == "ipv6":
            level, number = socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS
        connection.stream.option(level, number, min(-(-value // unit), _MAX_OPTION))

    def drop(self) -> None:
        """End it; the streams go on."""
        if self._shared is not None:
            self._shared.release()


class _Progress:
    """What a socket does next, also if it was asked for before the socket listened."""

    def __init__(self, sock: TcpSocket) -> None:
        self._socket = sock
        self._accepts: Readiness | None = None

    def ready(self) -> bool:
        """Whether it is done: binding, listening and connecting are at once."""
        if self._accepts is None and self._socket.listener is not None:
            self._accepts = Readiness(self._socket.listener)
        return self._accepts is None or self._accepts.ready()

    def events(self) -> tuple[int, int] | None:
        """What a listener waits for."""
        return None if self._accepts is None else self._accepts.events()

    def timeout(self) -> float | None:
        """When a listener's next handshake is late."""
        return None if self._accepts is None else self._accepts.timeout()

    def settled(self) -> bool:
        """Whether an event means that a connection can be accepted."""
        return self._accepts is not None and self._accepts.settled()

    def drop(self) -> None:
        """End it."""


def _reach(host: Host) -> Reach:
    if host.network is None:
        raise Failed("access-denied")
    return host.network


def tcp_create_socket_create_tcp_socket(host: Host, family: str) -> TcpSocket:
    """Make a socket."""
    _reach(host)
    return TcpSocket(family)


@told
def tcp_socket_start_bind(_host: Host, sock: TcpSocket, _network: Network, at: Case) -> None:
    """Say where it shall listen; whether it may is found by listening."""
    sock.address(at)
    sock.begin("bind", allowed=sock.bound is None and sock.connection is None)
    sock.bound = at


def tcp_socket_finish_bind(_host: Host, sock: TcpSocket) -> None:
    """Do nothing more."""
    sock.finish("bind")


@told
def tcp_socket_start_listen(host: Host, sock: TcpSocket) -> None:
    """Listen, by the rule for the port; on a loopback address without one, for itself alone."""
    bound = sock.bound
    if bound is None:
        raise Failed("invalid-state")
    reach = _reach(host)
    sock.begin("listen", allowed=sock.listener is None)
    try:
        address, port = sock.address(bound)
        listener = host.listeners.pop(port, None)
        if address.is_loopback and not port:
            listener = ListeningSocket(reach.listen_within(address.compressed))
        elif listener is None:
            target = f"{bracketed(address.compressed)}:{port}"
            listener = ListeningSocket(asked(target, lambda: reach.listen(target)))
    except BaseException:
        sock.begun = ""
        raise
    sock.listening(host, listener)
    sock.bound = socket_address(address, listener.port())


def tcp_socket_finish_listen(_host: Host, sock: TcpSocket) -> None:
    """Do nothing more."""
    sock.finish("listen")


@told
def tcp_socket_accept(host: Host, sock: TcpSocket) -> tuple[TcpSocket, InputStream, OutputStream]:
    """Take the next connection, whose peer was checked."""
    if sock.listener is None or sock.begun:
        raise Failed("invalid-state")
    # Else who waits to be accepted would be taken, and lost.
    host.expect_room()
    accepted = TcpSocket(sock.family)
    accepted.options = dict(sock.options)
    accepted.connected(host, sock.listener.accept())
    return (accepted, *accepted.streams(host))


@told
def tcp_socket_start_connect(host: Host, sock: TcpSocket, _network: Network, to: Case) -> None:
    """Connect, by the rule for the host; the peer is checked before this returns."""
    reach = _reach(host)
    # What is bound without a port leaves the choice to the keep, which makes it with no need to
    # be told; one with a port wants to be known by that, and cannot be.
    free = sock.bound is None or not sock.address(sock.bound)[1]
    unused = sock.listener is None and sock.connection is None and sock.remote is None
    sock.begin("connect", allowed=free and unused)
    try:
        address, port = sock.remote_address(to)
        sock.remote = to
        target = f"{bracketed(host_of(host, address))}:{port}"
        sock.connected(
            host, Socket(asked(target, lambda: reach.connect(target, host.interrupts.wait)))
        )
    except BaseException:
        sock.begun = ""
        raise


def tcp_socket_finish_connect(host: Host, sock: TcpSocket) -> tuple[InputStream, OutputStream]:
    """Give the connection's two directions."""
    sock.finish("connect")
    return sock.streams(host)


@told
def tcp_socket_local_address(_host: Host, sock: TcpSocket) -> Case:
    """Tell where it is."""
    if sock.connection is None:
        if sock.bound is None:
            raise Failed("invalid-state")
        return sock.bound
    return told_address(*sock.connection.stream.local_address())


@told
def tcp_socket_remote_address(_host: Host, sock: TcpSocket) -> Case:
    """Tell where the other end is: as it was asked for, if it was."""
    if sock.connection is None:
        raise Failed("invalid-state")
    if sock.remote is not None:
        return sock.remote
    return told_address(*sock.connection.stream.remote_address())


def tcp_socket_is_listening(_host: Host, sock: TcpSocket) -> bool:
    """Whether it listens."""
    return sock.listener is not None


def tcp_socket_address_family(_host: Host, sock: TcpSocket) -> str:
    """Tell which addresses it has."""
    return sock.family


def tcp_socket_set_listen_backlog_size(_host: Host, _socket: TcpSocket, size: int) -> None:
    """Take note of nothing: the keep's backlog is the same for all."""
    if not size:
        raise Failed("invalid-argument")


def _option(name: str) -> tuple[Callable[[Host, TcpSocket], Any], Callable[..., None]]:
    def get(_host: Host, sock: TcpSocket) -> Any:
        value = sock.options[name]
        return bool(value) if name == "keep-alive-enabled" else value

    @told
    def change(_host: Host, sock: TcpSocket, value: Any) -> None:
        if name != "keep-alive-enabled" and not value:
            raise Failed("invalid-argument")
        sock.option(name, int(value))

    return get, change


tcp_socket_keep_alive_enabled, tcp_socket_set_keep_alive_enabled = _option("keep-alive-enabled")
tcp_socket_keep_alive_idle_time, tcp_socket_set_keep_alive_idle_time = _option(
    "keep-alive-idle-time"
)
tcp_socket_keep_alive_interval, tcp_socket_set_keep_alive_interval = _option("keep-alive-interval")
tcp_socket_keep_alive_count, tcp_socket_set_keep_alive_count = _option("keep-alive-count")
tcp_socket_hop_limit, tcp_socket_set_hop_limit = _option("hop-limit")
tcp_socket_receive_buffer_size, tcp_socket_set_receive_buffer_size = _option("receive-buffer-size")
tcp_socket_send_buffer_size, tcp_socket_set_send_buffer_size = _option("send-buffer-size")


def tcp_socket_subscribe(_host: Host, sock: TcpSocket) -> Pollable:
    """Give what to wait for: a connection to accept; all else is done at once."""
    return _Progress(sock) if sock.listener is None else Readiness(sock.listener)


@told
def tcp_socket_shutdown(host: Host, sock: TcpSocket, how: str) -> None:
    """End one direction or both; what was written before goes out first, what came is dropped."""
    if sock.connection is None:
        raise Failed("invalid-state")
    if how != "send" and sock.input is not None:
        sock.input.end()
    if how != "receive" and sock.output is not None and sock.output.end():
        if sock.ending is None:
            sock.ending = Ending(host, sock.output, sock.connection)
        if how == "send":
            return
        how = "receive"
    sock.connection.stream.shutdown(_HOW[how])


def __getattr__(name: str) -> Callable[..., Any]:
    """The functions for datagrams."""
    if not name.startswith(("udp_", "incoming_datagram_", "outgoing_datagram_")):
        raise AttributeError(name)
    from garrison.keep.component.wasi import udp  # late: most components have no use for it

    found: Callable[..., Any] = getattr(udp, name)
    return found

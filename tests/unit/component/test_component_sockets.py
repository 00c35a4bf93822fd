"""wasi:sockets by its functions: a component that is at both ends of its connections."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from garrison.formats.enarx_toml import Config, Rule
from garrison.keep.component.callbacks import Failed
from garrison.keep.component.host import Host
from garrison.keep.component.wasi import names, randomness, sockets
from garrison.keep.component.wasi import streams as io
from garrison.keep.net.network import Network
from garrison.keep.vfs.errno import Errno
from garrison.keep.wasi.interrupts import Interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Ends = tuple[sockets.TcpSocket, io.InputStream, io.OutputStream]

_NET = names.Network()
_ANY_PORT = ("ipv4", (0, (127, 0, 0, 1)))
# Its own network is none of theirs: nothing leaves the keep.
_DENYING = Config(incoming={"default": Rule("deny")}, outgoing={"default": Rule("deny")})


@pytest.fixture
def host() -> Iterator[Host]:
    with Interrupts(lambda: None) as interrupts:
        yield Host([], {}, [], [], Network(_DENYING, None, []), interrupts, 64)


def _code(call: Callable[..., Any], *args: Any) -> object:
    with pytest.raises(Failed) as caught:
        call(*args)
    return caught.value.value


def _bound(host: Host) -> sockets.TcpSocket:
    made = sockets.tcp_create_socket_create_tcp_socket(host, "ipv4")
    sockets.tcp_socket_start_bind(host, made, _NET, _ANY_PORT)
    sockets.tcp_socket_finish_bind(host, made)
    return made


def _listening(host: Host) -> sockets.TcpSocket:
    made = _bound(host)
    sockets.tcp_socket_start_listen(host, made)
    sockets.tcp_socket_finish_listen(host, made)
    return made


def _pair(host: Host, client: sockets.TcpSocket) -> tuple[Ends, Ends]:
    """Connect `client` with the component itself: its end, and the other."""
    listener = _listening(host)
    address = sockets.tcp_socket_local_address(host, listener)
    sockets.tcp_socket_start_connect(host, client, _NET, address)
    ends = sockets.tcp_socket_finish_connect(host, client)
    io.pollable_block(host, sockets.tcp_socket_subscribe(host, listener))
    accepted = sockets.tcp_socket_accept(host, listener)
    listener.drop()
    return (client, *ends), accepted


def _drop(*ends: Ends) -> None:
    for end in ends:
        for resource in end:
            resource.drop()


@pytest.fixture
def ends(host: Host) -> Iterator[tuple[Ends, Ends]]:
    found = _pair(host, sockets.tcp_create_socket_create_tcp_socket(host, "ipv4"))
    yield found
    _drop(*found)


def test_what_came_is_dropped_with_the_direction(host: Host, ends: tuple[Ends, Ends]) -> None:
    (client, reads, _), (_, _, writes) = ends
    io.output_stream_blocking_write_and_flush(host, writes, memoryview(b"too late"))
    io.pollable_block(host, io.input_stream_subscribe(host, reads))
    sockets.tcp_socket_shutdown(host, client, "receive")
    assert _code(io.input_stream_read, host, reads, 10) == ("closed", None)
    assert _code(io.input_stream_read, host, reads, 0) == ("closed", None)
    # It does not wait for what never comes.
    io.pollable_block(host, io.input_stream_subscribe(host, reads))


def _filled(host: Host, client: sockets.TcpSocket, writes: io.OutputStream) -> int:
    """Write until something is kept that the socket does not take; how much was written."""
    sockets.tcp_socket_set_send_buffer_size(host, client, 4096)
    total = 0
    for _ in range(1000):
        if not (room := io.output_stream_check_write(host, writes)):
            return total
        io.output_stream_write(host, writes, memoryview(bytes(room)))
        total += room
    pytest.fail("the socket takes all that there is")


def _drained(host: Host, reads: io.InputStream) -> tuple[int, object]:
    """Read to the end; how much there was, and what the end was."""
    found = 0
    while True:
        try:
            found += len(io.input_stream_blocking_read(host, reads, 1 << 20))
        except Failed as ended:
            return found, ended.value


@pytest.mark.parametrize("how", ["send", "both"])
def test_to_end_what_is_sent_waits_for_nobody_and_loses_nothing(
    host: Host, ends: tuple[Ends, Ends], how: str
) -> None:
    (client, _, writes), (_, reads, _) = ends
    total = _filled(host, client, writes)
    # The other end is read by whom this would wait for.
    sockets.tcp_socket_shutdown(host, client, how)
    sockets.tcp_socket_shutdown(host, client, how)
    assert _code(io.output_stream_check_write, host, writes) == ("closed", None)
    assert _code(io.output_stream_flush, host, writes) == ("closed", None)
    assert len(host.background) == 1
    assert _drained(host, reads) == (total, ("closed", None))
    assert host.background == []


def test_what_is_left_of_a_connection_that_fails_is_forgotten(
    host: Host, ends: tuple[Ends, Ends]
) -> None:
    (client, reads, writes), (accepted, _, _) = ends
    _filled(host, client, writes)
    sockets.tcp_socket_shutdown(host, client, "send")
    assert accepted.connection is not None
    accepted.connection.stream.cut("of no more use")
    accepted.connection.close()
    with pytest.raises(Failed):
        io.input_stream_blocking_read(host, reads, 1)
    io.pollable_block(host, io.output_stream_subscribe(host, writes))
    host.background[0].ready() if host.background else None
    assert host.background == []


def test_who_can_have_no_more_descriptors_loses_no_connection(host: Host) -> None:
    listener = _listening(host)
    client = sockets.tcp_create_socket_create_tcp_socket(host, "ipv4")
    address = sockets.tcp_socket_local_address(host, listener)
    sockets.tcp_socket_start_connect(host, client, _NET, address)
    ours = (client, *sockets.tcp_socket_finish_connect(host, client))
    io.pollable_block(host, sockets.tcp_socket_subscribe(host, listener))
    with contextlib.suppress(Errno):
        while True:
            host.count()
    assert _code(sockets.tcp_socket_accept, host, listener) == "new-socket-limit"
    host.opened(None)
    accepted = sockets.tcp_socket_accept(host, listener)
    _drop(ours, accepted)
    listener.drop()


def test_a_socket_that_is_bound_without_a_port_connects(host: Host) -> None:
    client = _bound(host)
    found = _pair(host, client)
    (_, _, writes), (accepted, reads, _) = found
    io.output_stream_blocking_write_and_flush(host, writes, memoryview(b"ping"))
    assert bytes(io.input_stream_blocking_read(host, reads, 10)) == b"ping"
    local = sockets.tcp_socket_local_address(host, client)
    assert local == sockets.tcp_socket_remote_address(host, accepted)
    assert local[1][0]
    _drop(*found)


def test_a_socket_that_is_bound_to_a_port_does_not_connect_by_another(host: Host) -> None:
    client = sockets.tcp_create_socket_create_tcp_socket(host, "ipv4")
    sockets.tcp_socket_start_bind(host, client, _NET, ("ipv4", (9, (127, 0, 0, 1))))
    sockets.tcp_socket_finish_bind(host, client)
    to = ("ipv4", (7, (127, 0, 0, 1)))
    assert _code(sockets.tcp_socket_start_connect, host, client, _NET, to) == "invalid-state"


def test_a_listener_does_not_connect_whatever_the_address(host: Host) -> None:
    listener = _listening(host)
    for address in (_ANY_PORT, ("ipv4", (7, (127, 0, 0, 1)))):
        found = _code(sockets.tcp_socket_start_connect, host, listener, _NET, address)
        assert found == "invalid-state"
    listener.drop()


@pytest.mark.parametrize("address", [(255, 255, 255, 255), (224, 254, 0, 0), (0, 0, 0, 0)])
def test_what_is_not_one_host_is_no_address(host: Host, address: tuple[int, ...]) -> None:
    made = sockets.tcp_create_socket_create_tcp_socket(host, "ipv4")
    for _ in range(2):
        found = _code(sockets.tcp_socket_start_connect, host, made, _NET, ("ipv4", (7, address)))
        assert found == "invalid-argument"


def test_the_seed_of_hash_tables_is_one_value(host: Host) -> None:
    first = randomness.insecure_seed_insecure_seed(host)
    assert first == randomness.insecure_seed_insecure_seed(host)
    other = Host([], {}, [], [], None, host.interrupts, 1)
    assert first != randomness.insecure_seed_insecure_seed(other)

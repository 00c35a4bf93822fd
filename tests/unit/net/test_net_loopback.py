"""What a workload says to itself, without any network."""

from __future__ import annotations

import select
import socket

import pytest

from garrison.errors import Rejected
from garrison.formats.enarx_toml import Config, Rule
from garrison.formats.limits import Limits
from garrison.keep.net.loopback import Loopback
from garrison.keep.net.network import Network
from garrison.keep.net.places import Places

_HERE = "127.0.0.1"
_FIRST = 49152


def _network(connections: int = 100, rules: dict[str, Rule] | None = None) -> Network:
    config = Config(
        incoming={"default": Rule("deny")}, outgoing={"default": Rule("deny")} | (rules or {})
    )
    return Network(config, None, [], limits=Limits(connections=connections))


def _readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


@pytest.mark.parametrize("address", [_HERE, "127.9.8.7", "::1"])
def test_both_ends_know_each_other_and_read_what_the_other_wrote(address: str) -> None:
    network = _network()
    listener = network.listen_within(address)
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert not _readable(listener.fileno())
    target = f"[{address}]" if ":" in address else address
    one = network.connect(f"{target}:{listener.port}")
    two = network.connect(f"{target}:{listener.port}")
    assert listener.ready()
    assert _readable(listener.fileno())
    first, second = listener.accept(), listener.accept()
    assert not listener.ready()
    assert not _readable(listener.fileno())
    for ours, theirs in ((one, first), (two, second)):
        assert ours.local_address() == theirs.remote_address()
        assert ours.remote_address() == theirs.local_address() == (address, listener.port)
    assert one.local_address() != two.local_address()
    assert one.write(memoryview(b"one")) == two.write(memoryview(b"two")) == 3
    room = memoryview(bytearray(10))
    assert (first.read_into(room), bytes(room[:3])) == (3, b"one")
    assert (second.read_into(room), bytes(room[:3])) == (3, b"two")
    with pytest.raises(BlockingIOError):
        first.read_into(room)
    one.shutdown(socket.SHUT_WR)
    assert first.read_into(room) == 0
    # As of TCP, and nothing that only TCP has.
    one.option(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    one.option(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    for stream in (one, two, first, second):
        stream.close()
    listener.close()
    listener.close()


def test_nobody_else_is_there() -> None:
    network, other = _network(), _network()
    listener = network.listen_within(_HERE)
    target = f"{_HERE}:{listener.port}"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((_HERE, listener.port), timeout=5)
    # To another workload, and under another address, it is the network's, where rules hold.
    with pytest.raises(Rejected):
        other.connect(target)
    with pytest.raises(Rejected):
        network.connect(f"127.0.0.2:{listener.port}")
    network.connect(target).close()
    listener.close()
    with pytest.raises(Rejected):
        network.connect(target)


def test_a_port_that_a_rule_names_is_never_hidden() -> None:
    named = {f"{_HERE}:{_FIRST}": Rule("tcp"), f"[::1]:{_FIRST + 1}": Rule("tcp")}
    listener = _network(rules=named).listen_within(_HERE)
    assert listener.port == _FIRST + 2
    listener.close()


def test_it_counts_as_connections_do() -> None:
    network = _network(connections=3)
    listener = network.listen_within(_HERE)
    target = f"{_HERE}:{listener.port}"
    stream = network.connect(target)
    with pytest.raises(OSError, match="as many connections"):
        network.connect(target)
    stream.close()
    listener.accept().close()
    stream = network.connect(target)
    stream.close()
    listener.close()
    # What nobody accepted is closed with its listener, and gives its place back.
    listener = network.listen_within(_HERE)
    network.connect(f"{_HERE}:{listener.port}").close()
    listener.close()


def test_as_many_wait_as_can() -> None:
    loopback = Loopback(Places(10_000), frozenset())
    listener = loopback.listen(_HERE)
    streams = [loopback.connect(_HERE, listener.port) for _ in range(128)]
    with pytest.raises(ConnectionRefusedError):
        loopback.connect(_HERE, listener.port)
    listener.accept().close()
    streams.append(loopback.connect(_HERE, listener.port))
    for stream in streams:
        assert stream is not None
        stream.close()
    listener.close()


def test_ports_come_to_an_end() -> None:
    every = frozenset(range(_FIRST, 65536)) - {_FIRST + 5}
    loopback = Loopback(Places(10), every)
    listener = loopback.listen(_HERE)
    assert listener.port == _FIRST + 5
    with pytest.raises(OSError, match="no port is left"):
        loopback.listen(_HERE)
    listener.close()
    assert loopback.listen(_HERE).port == _FIRST + 5

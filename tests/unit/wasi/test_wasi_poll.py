"""Who waits for many connections is told of each that can be read, and of no other."""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import threading
import time
from contextlib import ExitStack, closing, nullcontext, suppress
from struct import Struct
from typing import TYPE_CHECKING

import pytest

from garrison.formats.enarx_toml import Config, Rule
from garrison.formats.limits import Limits
from garrison.keep.engine.failures import Interrupted
from garrison.keep.net.network import Network
from garrison.keep.net.stream import Stream
from garrison.keep.net.tls_stream import TlsStream
from garrison.keep.vfs.streams import ListeningSocket, Socket
from garrison.keep.wasi import poll as polls
from garrison.keep.wasi.host import Host, Table
from garrison.keep.wasi.interrupts import Interrupts
from garrison.keep.wasi.poll import Poll
from garrison.testing.tls import Authority, workload
from garrison.testing.tls_pair import connected, identity, wait, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator

_AUTHORITY = Authority()
_LEAF = _AUTHORITY.issue(workload(), hosts=("localhost",))
# As in `poll_oneoff`.
_SUBSCRIPTION = Struct("<QB7xI4xQQH6x")
_CLOCK, _READ, _WRITE = 0, 1, 2
_NUMBER = 1 << 40
_SECONDS = 60


def read(number: int) -> bytes:
    return _SUBSCRIPTION.pack(number, _READ, number, 0, 0, 0)


def clock(nanoseconds: int) -> bytes:
    return _SUBSCRIPTION.pack(_NUMBER, _CLOCK, 1, nanoseconds, 0, 0)


def told(poll: Poll) -> set[int]:
    """The user data of what happened, which are the descriptors' numbers."""
    return {int.from_bytes(event[:8], "little") for event in poll.run()}


@pytest.fixture
def host() -> Iterator[Host]:
    with Interrupts(lambda: None) as interrupts:
        table = Table(64)
        yield Host([], {}, table, interrupts)
        table.close()


class _Pair:
    """A TLS connection of the guest's, and what its peer has sent that was not read."""

    def __init__(self, host: Host, ours: Stream, theirs: Stream) -> None:
        self.ours, self.theirs = ours, theirs
        self.number = host.descriptors.insert(Socket(ours))
        self.unread = 0
        self.ended = False

    def step(self, choice: random.Random) -> None:
        what = choice.random()
        if self.unread and what < 0.8:
            view = memoryview(bytearray(choice.choice((63, 16384, 65536, 65536))))
            self.unread -= wait(self.ours, self.ours.read_into, view)
        elif self.unread and what < 0.85:
            assert wait(self.ours, self.ours.peek_into, memoryview(bytearray(1)))
        elif self.ended:
            return
        elif what > 0.998:
            self.theirs.shutdown(socket.SHUT_WR)
            self.ended = True
        elif not self.unread and what < 0.2:
            with pytest.raises(BlockingIOError):
                self.ours.read_into(memoryview(bytearray(1)))
        elif self.unread < 100_000:
            size = choice.choice((1, 64, 16384, 16385, 40_000))
            write_all(self.theirs, bytes(size))
            self.unread += size


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [polls._MANY - 1, 12])
def test_what_is_told_is_what_can_be_read(host: Host, count: int, seed: int) -> None:
    choice = random.Random(seed)  # noqa: S311  (test data)
    rule = Rule(trust="steward")
    network = Network(Config(outgoing={"default": rule}), identity(_LEAF), [_AUTHORITY.root])
    with ExitStack() as stack:
        pairs = [
            _Pair(host, *stack.enter_context(connected(network, network))) for _ in range(count)
        ]
        for pair in pairs:
            # What TLS itself sent after the handshake is no data.
            with suppress(BlockingIOError):
                pair.ours.read_into(memoryview(bytearray(1)))
        poll = Poll(host, b"".join(map(read, range(count))) + clock(0))
        for _ in range(1000):
            for pair in choice.sample(pairs, 2):
                pair.step(choice)
            wanted = {pair.number for pair in pairs if pair.unread or pair.ended}
            end = time.monotonic() + _SECONDS
            # What was sent may be on its way; what is told has come.
            while (found := told(poll) - {_NUMBER}) != wanted:
                assert found < wanted
                assert time.monotonic() < end
        assert poll._runs > 50
        assert isinstance(poll._poller, select.epoll) == (count >= polls._MANY)


@pytest.mark.parametrize("end", ["announced", "failed"])
def test_an_end_that_was_read_with_data_is_told(host: Host, end: str) -> None:
    """The kernel has nothing more of it, and the peer leaves the connection open."""
    rule = Rule(trust="steward")
    network = Network(Config(outgoing={"default": rule}), identity(_LEAF), [_AUTHORITY.root])
    with connected(network, network) as (ours, theirs):
        assert isinstance(ours, TlsStream)
        assert isinstance(theirs, TlsStream)
        host.descriptors.insert(Socket(ours))
        # A full record, so that it is looked whether there is another.
        write_all(theirs, bytes(16384))
        if end == "announced":
            assert theirs._announce_end()
        else:
            theirs._socket.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        view = memoryview(bytearray(65536))
        # Each record has 22 bytes that are no data; an announced end is two bytes.
        whole = 16384 + 22 + (2 + 22 if end == "announced" else 5 + 32)
        deadline = time.monotonic() + _SECONDS
        while True:
            with suppress(BlockingIOError):
                if ours._socket.recv_into(view, 0, socket.MSG_PEEK) == whole:
                    break
            assert time.monotonic() < deadline
        assert ours.read_into(view) == 16384
        assert not select.select([ours], [], [], 0)[0]
        assert told(Poll(host, read(0) + clock(0))) == {0, _NUMBER}
        with pytest.raises(ConnectionAbortedError) if end == "failed" else nullcontext():
            assert ours.read_into(view) == 0


def test_a_failure_of_writing_is_told_to_who_waits_for_data(host: Host) -> None:
    rule = Rule(trust="steward")
    network = Network(Config(outgoing={"default": rule}), identity(_LEAF), [_AUTHORITY.root])
    with connected(network, network) as (ours, _):
        host.descriptors.insert(Socket(ours))
        with pytest.raises(BlockingIOError):
            ours.read_into(memoryview(bytearray(1)))
        poll = Poll(host, read(0) + clock(0))
        assert told(poll) == {_NUMBER}
        with suppress(BlockingIOError):
            while True:
                ours.write(memoryview(bytes(16384)))
        with pytest.raises(ConnectionAbortedError, match="other data"):
            ours.write(memoryview(b"x" * 16384))
        assert told(poll) == {0, _NUMBER}


def _streams(host: Host, count: int) -> list[socket.socket]:
    """Give the guest plain connections; the peers."""
    peers = []
    for _ in range(count):
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        host.descriptors.insert(Socket(Stream(ours, {})))
        peers.append(theirs)
    return peers


@pytest.fixture
def often(host: Host) -> Iterator[tuple[Poll, list[socket.socket]]]:
    """One that has been asked often, with nothing to be read, and a clock of 50 ms."""
    peers = _streams(host, polls._MANY)
    poll = Poll(host, b"".join(map(read, range(polls._MANY))) + clock(50_000_000))
    for _ in range(polls._OFTEN):
        peers[0].send(b"x")
        assert told(poll) == {0}
        assert host.descriptors[0].read(memoryview(bytearray(1))) == 1
    yield poll, peers
    for peer in peers:
        peer.close()


def test_it_waits_as_long_as_the_clock_says(often: tuple[Poll, list[socket.socket]]) -> None:
    poll, peers = often
    assert isinstance(poll._poller, select.epoll)
    before = time.monotonic()
    assert told(poll) == {_NUMBER}
    assert time.monotonic() - before >= 0.05
    peers[3].send(b"x")
    assert told(poll) == {3}


def test_a_hang_up_is_told(often: tuple[Poll, list[socket.socket]]) -> None:
    poll, peers = often
    peers[5].close()
    (event,) = poll.run()
    assert int.from_bytes(event[:8], "little") == 5
    assert event[24] == 1


def test_a_signal_ends_the_wait(
    host: Host, often: tuple[Poll, list[socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    poll, _ = often
    monkeypatch.setattr(polls, "_first", lambda _: None)

    def end() -> None:
        host.interrupts.number = 15
        os.write(host.interrupts._pipes[3], b"\x0f")

    timer = threading.Timer(0.05, end)
    timer.start()
    with pytest.raises(Interrupted):
        poll.run()
    timer.join()


def test_it_does_without_a_descriptor_of_its_own(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> select.epoll:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(select, "epoll", none_left)
    peers = _streams(host, polls._MANY)
    poll = Poll(host, b"".join(map(read, range(polls._MANY))) + clock(0))
    for _ in range(2 * polls._OFTEN):
        peers[2].send(b"x")
        assert told(poll) - {_NUMBER} == {2}
        assert host.descriptors[2].read(memoryview(bytearray(1))) == 1
    assert poll._poller is not None
    for peer in peers:
        peer.close()


def test_a_slow_handshake_is_ended_for_who_asks_whether_a_listener_can_be_written_to(
    host: Host,
) -> None:
    limits = Limits(handshake_seconds=1)
    network = Network(Config(), identity(_LEAF), [_AUTHORITY.root], limits=limits)
    with closing(network.listen("127.0.0.1:0")) as listener:
        number = host.descriptors.insert(ListeningSocket(listener))
        wanted = _SUBSCRIPTION.pack(number, _WRITE, number, 0, 0, 0)
        poll = Poll(host, wanted + clock(100_000_000))
        with socket.create_connection(("127.0.0.1", listener.port), timeout=_SECONDS) as silent:
            end = time.monotonic() + _SECONDS
            while not listener._pending:
                assert told(poll) == {_NUMBER}
                assert time.monotonic() < end
            while listener._pending:
                assert told(poll) == {_NUMBER}
                assert time.monotonic() < end
            assert silent.recv(100) == b""


def test_a_slow_handshake_is_ended_in_time_and_slows_nobody_until_then(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(handshake_seconds=1)
    network = Network(Config(), identity(_LEAF), [_AUTHORITY.root], limits=limits)
    peers = _streams(host, polls._MANY)
    # Whoever looks at each by itself is slow.
    closely: list[object] = []
    asked = Poll._asked

    def noted(poll: Poll, ends: list[tuple[int, int]]) -> list[bytes]:
        closely.append(poll)
        return asked(poll, ends)

    monkeypatch.setattr(Poll, "_asked", noted)
    with closing(network.listen("127.0.0.1:0")) as listener:
        number = host.descriptors.insert(ListeningSocket(listener))
        poll = Poll(host, b"".join(map(read, range(number + 1))) + clock(100_000_000))
        with socket.create_connection(("127.0.0.1", listener.port), timeout=_SECONDS) as silent:
            end = time.monotonic() + _SECONDS
            while not listener._pending:
                told(poll)
                assert time.monotonic() < end
            while listener._pending:
                # One that is busy is no reason to forget the other.
                peers[0].send(b"x")
                assert told(poll) - {_NUMBER} <= {0}
                host.descriptors[0].read(memoryview(bytearray(1)))
                assert time.monotonic() < end
            assert len(closely) == 1
            assert silent.recv(100) == b""
        told(poll)
    for peer in peers:
        peer.close()

"""What a server calls for each message goes a way of its own, to the same end as any call."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from garrison.keep.engine import c
from garrison.keep.engine.failures import Interrupted
from garrison.keep.net.stream import Stream
from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs.errno import NAMES, Errno
from garrison.keep.vfs.streams import Null, Socket
from garrison.keep.wasi import abi
from garrison.keep.wasi import descriptors as calls
from garrison.keep.wasi import host as hosts
from garrison.keep.wasi.host import Host, Table
from garrison.keep.wasi.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Callable


_SIZE = 256
# What a stream does when it is asked next: it moves so many bytes, or raises.
_BLOCKS, _FAILS = "blocks", "fails"
_BADF = NAMES.index("BADF")
_AGAIN = NAMES.index("AGAIN")


class _Memory(Memory):
    """A guest's, which never grows."""

    def __init__(self, data: bytearray) -> None:
        super().__init__()
        self.be(memoryview(data))

    def _refresh(self) -> None:
        self.be(self.all)


class _Stream(Stream):
    """A connection that does what it is told; what is not said here is as of any."""

    def __init__(self, script: list[int | str]) -> None:
        self.script = script
        self.taken = b""

    def _next(self, size: int) -> int:
        step = self.script.pop(0) if self.script else size
        if step == _BLOCKS:
            raise BlockingIOError
        if step == _FAILS:
            raise ConnectionResetError(errno.ECONNRESET, "gone")
        return min(int(step), size)

    def read_into(self, view: memoryview) -> int:
        count = self._next(len(view))
        view[:count] = bytes(range(1, count + 1))
        return count

    def write(self, view: memoryview) -> int:
        count = self._next(len(view))
        self.taken += bytes(view[:count])
        return count

    def fileno(self) -> int:
        return 99

    def close(self) -> None:
        self.taken += b"closed"


class _Waits:
    """Counts the waits, and ends the run at one too many."""

    def __init__(self) -> None:
        self.count = 0

    def wait(self, _events: list[tuple[int, int]], _seconds: float | None) -> dict[int, int]:
        self.count += 1
        if self.count > 20:
            raise Interrupted(15)
        return {}


class _Guest:
    """A host, and what calls it as the engine does."""

    def __init__(self, scripts: list[list[int | str]], *, nonblocking: bool, direct: bool) -> None:
        self.streams = [_Stream(list(script)) for script in scripts]
        self.waits = _Waits()
        self.table = Table(8)
        self.host = Host([], {}, self.table, cast("Any", self.waits))
        self.data = bytearray(_SIZE)
        self.host.memory = _Memory(self.data)
        for stream in self.streams:
            socket = Socket(stream)
            socket.flags = abi.NONBLOCK if nonblocking else 0
            self.table.insert(socket)
        self.table.insert(Null())
        self._values = (c.Byte * 96)()
        self._calls: dict[str, Callable[[None, int, int], int]] = {
            # Under another name it is a call as any.
            name: self.host._callback(
                name if direct else "any", hosts._function(name), abi.SIGNATURES[name]
            )
            for name in abi.DIRECT
        }

    def call(self, name: str, *values: int) -> tuple[int, int]:
        view = memoryview(self._values).cast("B").cast("I")
        for place, value in enumerate(values):
            view[4 * place] = value
        trap = self._calls[name](None, 0, c.addressof(self._values))
        return trap and 1, view[0]

    def other(self, name: str, *values: int) -> int:
        try:
            getattr(calls, name)(self.host, *values)
        except Errno as error:
            return error.number
        return 0

    def point(self, at: int, start: int, length: int) -> None:
        self.data[at : at + 8] = start.to_bytes(4, "little") + length.to_bytes(4, "little")


_PLACE = st.integers(0, 12) | st.integers(_SIZE - 12, _SIZE + 4) | st.just(2**32 - 1)
_RESULT = st.just(0) | st.sampled_from([_SIZE - 8, _SIZE - 4, _SIZE - 3, _SIZE - 1, 2**32 - 1])
_MOVE = st.tuples(
    st.sampled_from(abi.DIRECT),
    st.integers(0, 4),
    # Where the vector is, where its buffer begins and how long that is; how many; the results.
    st.sampled_from([16, _SIZE - 8]),
    st.integers(20, 60) | _PLACE,
    st.integers(0, 40) | _PLACE,
    st.sampled_from([1, 1, 1, 1, 0, 2]),
    _RESULT,
    # What sockets have beside: flags, all of which but 0 are another call.
    st.sampled_from([0, 0, 0, 0, 2, 4]),
    _RESULT,
)
_CHANGE = st.tuples(st.just("fd_renumber"), st.integers(0, 4), st.integers(0, 4)) | st.tuples(
    st.just("fd_close"), st.integers(0, 4)
)
_LESS = st.tuples(
    st.just("fd_fdstat_set_rights"),
    st.integers(0, 4),
    st.sampled_from([0, d.FD_READ, d.FD_WRITE, d.FD_READ | d.FD_WRITE]),
    st.just(0),
)
_SCRIPT = st.lists(st.integers(0, 50) | st.sampled_from([_BLOCKS, _FAILS]), max_size=12)


@settings(max_examples=300, deadline=None)
@given(
    scripts=st.lists(_SCRIPT, min_size=2, max_size=2),
    nonblocking=st.booleans(),
    steps=st.lists(_MOVE | _MOVE | _MOVE | _CHANGE | _LESS, max_size=20),
)
def test_both_ways_do_the_same(
    scripts: list[list[int | str]], nonblocking: bool, steps: list[tuple[Any, ...]]
) -> None:
    guests = [_Guest(scripts, nonblocking=nonblocking, direct=direct) for direct in (True, False)]
    for name, *values in steps:
        told: list[object] = []
        for guest in guests:
            if name in abi.DIRECT:
                fd, at, start, length, count, result, flags, out = values
                guest.point(at, start, length)
                others = {"sock_recv": (flags, result, out), "sock_send": (flags, result)}
                told.append(guest.call(name, fd, at, count, *others.get(name, (result,))))
            else:
                told.append(guest.other(name, *values))
        assert told[0] == told[1], name
        assert guests[0].data == guests[1].data
        for one, other in zip(guests[0].streams, guests[1].streams, strict=True):
            assert one.taken == other.taken
        assert guests[0].table.keys() == guests[1].table.keys()


def test_the_ways_are_two() -> None:
    """The test above says something only if its guests go different ways."""
    guest = _Guest([[], []], nonblocking=False, direct=True)
    guest.point(16, 32, 8)
    ways = {"sock_recv": (0, 0, 8), "sock_send": (0, 0)}
    for name in abi.DIRECT:
        after = ways.get(name, (0,))
        # Where its parameters are is found out by the first call.
        assert guest.call(name, 0, 16, 1, *after) == (0, 0)
        guest.host.memory.caller = 77
        assert guest.call(name, 0, 16, 1, *after) == (0, 0)
        assert guest.host.memory.caller == 77, name
        assert guest.call(name, 0, 16, 2, *after) == (0, 0)
        assert guest.host.memory.caller == 0, name


def test_what_is_no_socket_is_told_so() -> None:
    """The null device takes what is written as directly, and is nothing to send by."""
    guest = _Guest([[], []], nonblocking=False, direct=True)
    guest.point(16, 32, 8)
    for _ in range(2):
        assert guest.call("fd_write", 2, 16, 1, 0) == (0, 0)
        assert guest.call("sock_send", 2, 16, 1, 0, 0) == (0, NAMES.index("NOTSOCK"))


def test_rights_that_were_given_up_and_numbers_that_mean_another() -> None:
    """Attack: what moved data for a number goes on to do so."""
    guest = _Guest([[], []], nonblocking=False, direct=True)
    first, second = guest.streams
    guest.point(16, 32, 3)
    guest.data[32:35] = b"abc"
    for _ in range(2):
        assert guest.call("fd_write", 0, 16, 1, 0) == (0, 0)
    assert guest.other("fd_fdstat_set_rights", 0, d.FD_READ, 0) == 0
    assert guest.call("fd_write", 0, 16, 1, 0) == (0, _BADF)
    assert guest.other("fd_renumber", 1, 0) == 0
    assert guest.call("fd_write", 0, 16, 1, 0) == (0, 0)
    assert (first.taken, second.taken) == (b"abcabcclosed", b"abc")
    assert guest.other("fd_close", 0) == 0
    assert guest.call("fd_write", 0, 16, 1, 0) == (0, _BADF)
    assert not guest.table.readers
    # The null device is left.
    assert set(guest.table.writers) == {2}
    guest.table.close()
    assert not guest.table.writers


def test_who_does_not_want_to_wait_is_asked_once() -> None:
    guest = _Guest([[3, _BLOCKS, 3], []], nonblocking=True, direct=True)
    guest.point(16, 32, 3)
    assert guest.call("fd_read", 0, 16, 1, 0) == (0, 0)
    assert guest.call("fd_read", 0, 16, 1, 0) == (0, _AGAIN)
    assert guest.streams[0].script == [3]
    assert guest.waits.count == 0


@pytest.mark.parametrize("direct", [True, False])
def test_who_cannot_even_say_what_failed_ends_the_guest(
    monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    """Attack: there is no memory left to find an errno with, and nothing may enter the engine."""

    def nothing_left(_error: OSError) -> int:
        raise MemoryError

    guest = _Guest([[3, _FAILS], []], nonblocking=False, direct=direct)
    guest.point(16, 32, 3)
    assert guest.call("fd_read", 0, 16, 1, 0) == (0, 0)
    monkeypatch.setattr(hosts, "of_host", nothing_left)
    assert guest.call("fd_read", 0, 16, 1, 0)[0]
    assert isinstance(guest.host.failure, MemoryError)


def test_the_end_of_a_run_that_waits_is_a_trap() -> None:
    guest = _Guest([[3, *[_BLOCKS] * 99], []], nonblocking=False, direct=True)
    guest.point(16, 32, 3)
    assert guest.call("fd_read", 0, 16, 1, 0) == (0, 0)
    assert guest.call("fd_read", 0, 16, 1, 0)[0]
    assert isinstance(guest.host.failure, Interrupted)

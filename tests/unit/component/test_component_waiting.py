"""What a component waits for again and again: the same handles, and connections that are calm."""

from __future__ import annotations

import socket
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from garrison.keep.component.handles import Handles
from garrison.keep.component.host import Host
from garrison.keep.component.types import Resource
from garrison.keep.component.waiting import Connection, Moment, wait_for
from garrison.keep.engine.failures import Trap
from garrison.keep.net.stream import Stream
from garrison.keep.wasi.interrupts import Interrupts

if TYPE_CHECKING:
    from collections.abc import Iterator

_POLLABLE = Resource("pollable")


class _Restless(Stream):
    """Has decrypted data that the kernel knows nothing of, when a test says so."""

    restless = False

    def pending(self) -> bool:
        return self.restless


@pytest.fixture
def host() -> Iterator[Host]:
    with Interrupts(lambda: None, None) as interrupts:
        yield Host(["main.wasm"], {}, [], [], None, interrupts, 100)


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(4)]
    yield made
    for pair in made:
        for end in pair:
            end.close()


def _connection(stream: Stream) -> Connection:
    return Connection(cast("Any", SimpleNamespace(stream=stream)))


def _view(numbers: list[int]) -> memoryview:
    return memoryview(struct.pack(f"<{len(numbers)}I", *numbers))


def test_the_same_handles_are_looked_at_once() -> None:
    handles = Handles()
    numbers = [handles.add(_POLLABLE, name) for name in "abc"]
    first = handles.things(_view(numbers), _POLLABLE)
    assert first == ["a", "b", "c"]
    assert handles.things(_view(numbers), _POLLABLE) is first
    assert handles.things(_view(numbers[::-1]), _POLLABLE) == ["c", "b", "a"]


def test_a_handle_that_was_given_away_is_not_remembered() -> None:
    handles = Handles()
    numbers = [handles.add(_POLLABLE, name) for name in "ab"]
    handles.things(_view(numbers), _POLLABLE)
    handles.take(numbers[1], _POLLABLE)
    with pytest.raises(Trap, match="has no handle 2"):
        handles.things(_view(numbers), _POLLABLE)
    assert handles.add(_POLLABLE, "c") == numbers[1]
    assert handles.things(_view(numbers), _POLLABLE) == ["a", "c"]


def test_remembered_handles_are_of_one_kind() -> None:
    handles = Handles()
    numbers = [handles.add(_POLLABLE, "a")]
    handles.things(_view(numbers), _POLLABLE)
    with pytest.raises(Trap, match="used as input-stream"):
        handles.things(_view(numbers), Resource("input-stream"))


def test_more_handles_than_are_remembered_are_all_looked_at() -> None:
    handles = Handles()
    number = handles.add(_POLLABLE, "a")
    many = [number] * 5000
    assert handles.things(_view(many), _POLLABLE) == ["a"] * 5000
    with pytest.raises(Trap, match="has no handle 7"):
        handles.things(_view([*many[:-1], 7]), _POLLABLE)


def test_each_wait_for_the_same_sees_what_is_there_then(
    host: Host, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    wanted = [_connection(Stream(ours, {})) for ours, _ in pairs]
    for which in ([0], [1, 3], [2], [0, 1, 2, 3]):
        for index in which:
            pairs[index][1].send(b"x")
        assert wait_for(host, wanted) == which
        for index in which:
            pairs[index][0].recv(1)
    pairs[2][1].close()
    assert wait_for(host, wanted) == [2]


def test_what_the_kernel_does_not_know_is_seen_in_each_wait(
    host: Host, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    streams = [_Restless(ours, {}) for ours, _ in pairs]
    wanted = [_connection(stream) for stream in streams]
    pairs[0][1].send(b"x")
    assert [wait_for(host, wanted) for _ in range(3)] == [[0]] * 3
    streams[2].restless = True
    assert wait_for(host, wanted) == [0, 2]
    streams[2].restless = False
    assert wait_for(host, wanted) == [0]


def test_a_time_among_connections_is_looked_at_in_each_wait(
    host: Host, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    late = Moment(1 << 62)
    wanted: list[Any] = [_connection(Stream(pairs[0][0], {})), late]
    pairs[0][1].send(b"x")
    assert [wait_for(host, wanted) for _ in range(3)] == [[0]] * 3
    late._when = 1
    assert wait_for(host, wanted) == [0, 1]


class _Room:
    """There is some once what goes on behind has taken what was there."""

    taken = False

    def ready(self) -> bool:
        return self.taken

    def events(self) -> None:
        return

    timeout = settled = drop = events


class _Takes(_Room):
    """Takes it when it is first asked, and then waits for what never comes."""

    def __init__(self, room: _Room, never: socket.socket) -> None:
        self.room = room
        self.never = never

    def ready(self) -> bool:
        self.room.taken = True
        return False

    def events(self) -> tuple[int, int]:  # type: ignore[override]
        return self.never.fileno(), 1


def test_what_goes_on_behind_may_make_it_happen(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    # It would wait for ever: its time is over before the test's is.
    with Interrupts(lambda: None, 30) as interrupts:
        interrupts.start_clock()
        host = Host(["main.wasm"], {}, [], [], None, interrupts, 100)
        room = _Room()
        host.background.append(cast("Any", _Takes(room, pairs[0][0])))
        assert wait_for(host, cast("Any", [Moment(1 << 63), room])) == [1]

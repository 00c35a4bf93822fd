"""The bad line that stands in for `netem`: what it does to frames, and to a real connection."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from garrison.testing.bad_line import LIMIT, Line
from garrison.testing.namespaces import DELAY, JITTER, CannotError, Fabric, Machine
from garrison.testing.stack import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

_FRAMES = [number.to_bytes(2, "big") for number in range(900)]


def course(seed: int, loss: float) -> tuple[Line, list[tuple[float, bytes]]]:
    """A line after it took all frames, one a millisecond, and when each came."""
    line = Line(DELAY, JITTER, loss, random.Random(seed))  # noqa: S311
    came = []
    for number, frame in enumerate(_FRAMES):
        line.take(frame, number / 1000)
        came += [(number / 1000, each) for each in line.arrived(number / 1000)]
    while (at := line.next()) is not None:
        came += [(at, each) for each in line.arrived(at)]
    return line, came


def test_frames_come_late_and_some_never() -> None:
    line, came = course(1, 0.02)
    assert 0 < line.lost < 60
    assert (line.carried, line.dropped) == (len(_FRAMES) - line.lost, 0)
    assert len({frame for _, frame in came}) == len(came) == line.carried
    for at, frame in came:
        late = at - int.from_bytes(frame, "big") / 1000
        # It is looked at once a millisecond.
        assert DELAY - JITTER - 1e-9 <= late <= DELAY + JITTER + 0.001 + 1e-9
    assert [frame for _, frame in came] != sorted(frame for _, frame in came)


def test_a_seed_is_a_course_of_things() -> None:
    assert course(1, 0.02)[1] == course(1, 0.02)[1] != course(2, 0.02)[1]


def test_no_loss_loses_nothing_and_all_loses_all() -> None:
    assert course(1, 0.0)[0].lost == 0
    assert course(1, 1.0)[1] == []


def test_what_has_no_room_is_dropped() -> None:
    line = Line(DELAY, JITTER, 0.0, random.Random(1))  # noqa: S311
    for _ in range(LIMIT + 5):
        line.take(b"frame", 0.0)
    assert (line.carried, line.dropped) == (LIMIT, 5)
    assert len(line.arrived(1.0)) == LIMIT


@pytest.fixture
def pair() -> Iterator[tuple[Machine, Machine]]:
    try:
        with Fabric() as fabric:
            there, here = fabric.machine("10.99.0.1"), fabric.machine("10.99.0.2")
            here.impair()
            here.heal()
            yield there, here
    except CannotError as error:
        pytest.skip(f"no network namespaces, or no bad line, here: {error}")


_ECHO = """
import socket
listener = socket.create_server(("10.99.0.1", 7))
print("up", flush=True)
connection, _ = listener.accept()
while data := connection.recv(65536):
    connection.sendall(data)
"""
# Sends a number of kilobytes, has them back, and says how long the first one took; then again.
_ASK = """
import socket, sys, time
connection = socket.create_connection(("name.test", 7))
def there_and_back(size):
    began = time.monotonic()
    connection.sendall(bytes(size))
    got = 0
    while got < size:
        got += len(connection.recv(65536))
    print(time.monotonic() - began, flush=True)
for line in sys.stdin:
    there_and_back(int(line))
"""


def test_a_connection_stands_on_a_bad_line_and_after_it(pair: tuple[Machine, Machine]) -> None:
    there, here = pair
    here.name("name.test", ["10.99.0.1"])
    python = (sys.executable, "-c")
    echo = Process("echo", there.command(*python, _ECHO), {})
    try:
        echo.expect("up")
        ask = subprocess.Popen(
            here.command(*python, _ASK), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with ask:
            assert ask.stdin is not None
            assert ask.stdout is not None
            took = []
            how, told = "", {}
            for bad in (False, True, False):
                if bad:
                    how = here.impair()
                # More than one frame in flight, so that some are lost; then one alone.
                for size in (200_000, 1):
                    print(size, file=ask.stdin, flush=True)
                    took.append(float(ask.stdout.readline()))
                if bad:
                    told = here.heal()
    finally:
        echo.stop()
    assert took[3] >= 2 * (DELAY - JITTER)
    if how == "a forwarder":
        assert sum(way["lost"] for way in told.values()) > 0
        assert all(way["carried"] > 0 for way in told.values())

"""Two ends of a connection over loopback, for tests of the keep's network."""

from __future__ import annotations

import select
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVarTuple

from garrison.keep.net.network import Identity, Network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from garrison.keep.net.listener import Listener
    from garrison.keep.net.stream import Stream
    from garrison.testing.tls import Leaf

# Far beyond what any of it takes, so that only a real fault reaches it.
_SECONDS = 20.0

_Given = TypeVarTuple("_Given")


def identity(leaf: Leaf) -> Identity:
    """What a `Network` takes, from what a test authority issues."""
    return Identity(leaf.chain, leaf.key)


def serve_until(listener: Listener, done: Callable[[], bool]) -> bool:
    """Let `listener` work until `done`; whether it then has a stream to accept."""
    deadline = time.monotonic() + _SECONDS
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError("the listener did not get there")
        poller.poll(20)
        listener.ready()
    return listener.ready()


@contextmanager
def connecting(client: Network, target: str) -> Iterator[list[Stream | BaseException]]:
    """Connect in a thread; the list gets the stream, or what went wrong."""
    outcome: list[Stream | BaseException] = []

    def connect() -> None:
        try:
            outcome.append(client.connect(target))
        except BaseException as error:  # noqa: BLE001  (handed to the test, which looks at it)
            outcome.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    try:
        yield outcome
    finally:
        thread.join(_SECONDS)
        for result in outcome:
            if not isinstance(result, BaseException):
                result.close()


@contextmanager
def connected(
    server: Network, client: Network, *, host: str = "localhost"
) -> Iterator[tuple[Stream, Stream]]:
    """Both ends of a new connection, the server's first; fails if either refuses."""
    listener = server.listen("127.0.0.1:0")
    try:
        with connecting(client, f"{host}:{listener.port}") as outcome:
            serve_until(listener, lambda: bool(outcome) and (_failed(outcome) or listener.ready()))
            result = outcome[0]
            if isinstance(result, BaseException):
                raise result
            accepted = listener.accept()
            try:
                yield accepted, result
            finally:
                accepted.close()
    finally:
        listener.close()


def _failed(outcome: list[Stream | BaseException]) -> bool:
    return isinstance(outcome[0], BaseException)


def read_all(stream: Stream, *, size: int = 1 << 16) -> bytes:
    """Read until the end of the stream."""
    data = bytearray()
    view = memoryview(bytearray(size))
    while count := wait(stream, stream.read_into, view):
        data += view[:count]
    return bytes(data)


def read_exactly(stream: Stream, count: int) -> bytes:
    """Read `count` bytes."""
    data = memoryview(bytearray(count))
    done = 0
    while done < count:
        got = wait(stream, stream.read_into, data[done:])
        if not got:
            raise EOFError(f"the stream ended after {done} of {count} bytes")
        done += got
    return bytes(data)


def write_all(stream: Stream, data: bytes) -> None:
    """Write all of `data`."""
    view = memoryview(data)
    while view:
        view = view[wait(stream, stream.write, view) :]


def wait(stream: Stream, operation: Callable[[*_Given], int], *given: *_Given) -> int:
    """Repeat `operation` until it does not block, as a blocking descriptor of a guest does."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        try:
            return operation(*given)
        except BlockingIOError:
            select.select([stream], [stream], [], 0.05)
    raise TimeoutError("nothing more came")

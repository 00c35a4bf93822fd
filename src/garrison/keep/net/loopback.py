"""Connections of a workload with itself, which never leave the keep.

Whoever binds a loopback address and leaves the port open wants to be found by nobody but itself:
Python's `asyncio` wakes its loop so, where there is no `socketpair`. No rule is asked, for nothing
is reached; there is no TLS, for nobody is between; and no host sees a port.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections import deque
from typing import TYPE_CHECKING

from garrison.keep.net.policy import ANONYMOUS
from garrison.keep.net.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from garrison.keep.net.places import Places

# RFC 6335, section 6: the dynamic ports.
_FIRST = 49152
_LAST = 65535
# As the kernel's own for a listener that asks for much.
_BACKLOG = 128


class Loopback:
    """The ports of one workload that nothing but itself can reach.

    Args:
        places: what each end of a connection takes one of.
        named: ports that its configuration means by number, which these must not hide.
    """

    def __init__(self, places: Places, named: frozenset[int]) -> None:
        self._places = places
        self._named = named
        self._numbers: Iterator[int] = itertools.cycle(range(_FIRST, _LAST + 1))
        self._listeners: dict[int, LoopbackListener] = {}

    def listen(self, address: str) -> LoopbackListener:
        """Listen on a port of its choice.

        Args:
            address: a loopback address.

        Raises:
            OSError: none is left.
        """
        port = self._port()
        self._listeners[port] = listener = LoopbackListener(
            address, port, lambda: self._listeners.pop(port, None)
        )
        return listener

    def connect(self, address: str, port: int) -> Stream | None:
        """Connect to a port of its own; None if that is none.

        Raises:
            OSError: it has too many connections, or as many wait there as can.
        """
        listener = self._listeners.get(port)
        if listener is None or listener.address != address:
            return None
        here, there = (address, self._port()), (address, port)
        ours, theirs = socket.socketpair()
        streams: list[Stream] = []
        try:
            for sock, ends in ((ours, (here, there)), (theirs, (there, here))):
                sock.settimeout(0)
                streams.append(_LoopbackStream(sock, *ends))
                streams[-1].place = self._places.take()
            listener.add(streams[1])
        except BaseException:
            ours.close()
            theirs.close()
            for stream in streams:
                stream.close()
            raise
        return streams[0]

    def _port(self) -> int:
        for port in itertools.islice(self._numbers, _LAST + 1 - _FIRST):
            if port not in self._listeners and port not in self._named:
                return port
        raise OSError(errno.EADDRINUSE, "no port is left")


class _LoopbackStream(Stream):
    """One end of a connection of a workload with itself."""

    def __init__(
        self, sock: socket.socket, local: tuple[str, int], remote: tuple[str, int]
    ) -> None:
        super().__init__(sock, ANONYMOUS)
        self._local, self._remote = local, remote

    def local_address(self) -> tuple[str, int]:
        return self._local

    def remote_address(self) -> tuple[str, int]:
        return self._remote

    def option(self, level: int, number: int, value: int) -> None:
        """Only the buffers are the same as those of TCP."""
        if level == socket.SOL_SOCKET:
            super().option(level, number, value)


class LoopbackListener:
    """A listener for connections of the workload itself.

    Attributes:
        address: where it listens.
        port: likewise.
        protocols: none is agreed on, without TLS.
        restless: never: its descriptor shows all.
    """

    protocols: tuple[str, ...] = ()
    restless = False

    def __init__(self, address: str, port: int, closed: Callable[[], object]) -> None:
        self.address = address
        self.port = port
        self._closed = closed
        self._waiting: deque[Stream] = deque()
        # Readable as often as a connection waits: eventfd(2), EFD_SEMAPHORE.
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)

    def fileno(self) -> int:
        """A descriptor that is readable when a connection waits; -1 after `close`."""
        return self._event

    def ready(self) -> bool:
        """Whether a connection waits."""
        return bool(self._waiting)

    def add(self, stream: Stream) -> None:
        """Have a connection wait.

        Raises:
            OSError: as many wait as can.
        """
        if len(self._waiting) >= _BACKLOG:
            raise OSError(errno.ECONNREFUSED, "as many connections wait there as can")
        self._waiting.append(stream)
        os.eventfd_write(self._event, 1)

    def accept(self) -> Stream:
        """Take the next one.

        Raises:
            BlockingIOError: there is none yet.
        """
        if not self._waiting:
            raise BlockingIOError(errno.EAGAIN, "no connection yet")
        os.eventfd_read(self._event)
        return self._waiting.popleft()

    def timeout(self) -> None:
        """Nothing is ever late."""
        return

    def close(self) -> None:
        """Stop listening, and close what waits; again is nothing."""
        self._closed()
        while self._waiting:
            self._waiting.popleft().close()
        if self._event >= 0:
            os.close(self._event)
            self._event = -1

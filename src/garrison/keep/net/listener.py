"""Listening sockets: many handshakes at once, none of which holds up another.

Everything that may be waited for is in one epoll descriptor. `ready` does what can be done
without blocking; a client that is slow, silent or hostile costs one of a bounded number of
places until its deadline, and when all are taken the oldest goes.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from garrison.errors import GarrisonError
from garrison.formats.endpoint import bracketed
from garrison.keep.net.policy import ANONYMOUS
from garrison.keep.net.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.keep.net.places import Place, Places
    from garrison.keep.net.tls import Handshake

log = logging.getLogger("garrison.keep")

# Streams whose handshake is done and that the workload has not accepted yet.
_MAX_READY = 128
# What one call of `ready` does at most, so that the workload gets its turn.
_MAX_EVENTS = 64
# How long to leave the queue alone when there are no descriptors or no memory for it.
_PAUSE_SECONDS = 0.1
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(slots=True)
class _Pending:
    handshake: Handshake
    socket: socket.socket
    address: str
    deadline: float
    place: Place


class Listener:
    """A listening socket, and the connections that are still in their handshake.

    Attributes:
        port: the port that it listens on.
        protocols: what its connections may have agreed to speak (ALPN); none if that is open.
    """

    def __init__(
        self,
        sock: socket.socket,
        start: Callable[[socket.socket], Handshake] | None,
        accepted: Callable[[str, dict[str, Any]], None],
        *,
        places: Places,
        handshake_seconds: float,
        max_handshakes: int,
        protocols: tuple[str, ...] = (),
    ) -> None:
        """Take over `sock`, which listens and does not block.

        Args:
            sock: the listening socket.
            start: begins the handshake of a new connection, or refuses to with a
                `GarrisonError`; None where there is none (`tcp`).
            accepted: told of each accepted stream, its address and peer.
            places: what a connection takes one of before it is accepted.
            handshake_seconds: how long a handshake may take.
            max_handshakes: how many may be under way.
            protocols: what the rule has connections agree to speak.
        """
        self.port: int = sock.getsockname()[1]
        self.protocols = protocols
        self._socket = sock
        self._start = start
        self._accepted = accepted
        self._places = places
        self._handshake_seconds = handshake_seconds
        self._max_handshakes = max_handshakes
        self._pending: dict[int, _Pending] = {}
        self._ready: deque[tuple[Stream, str]] = deque()
        self._paused_until: float | None = None
        # Since the last connection; a pause that comes again and again is told once.
        self._paused = False
        self._epoll = select.epoll()
        self._epoll.register(sock, select.EPOLLIN)

    def fileno(self) -> int:
        """An epoll descriptor, readable when `ready` has something to do."""
        return self._epoll.fileno()

    @property
    def restless(self) -> bool:
        """Whether a connection waits, or the time of a handshake or pause is over."""
        return bool(self._ready) or self.timeout() == 0

    def ready(self) -> bool:
        """Do what can be done without blocking.

        Returns:
            Whether `accept` will succeed.
        """
        now = time.monotonic()
        self._drop_late(now)
        if self._paused_until is not None and now >= self._paused_until:
            self._paused_until = None
            self._epoll.modify(self._socket, select.EPOLLIN)
        for descriptor, _ in self._epoll.poll(0, _MAX_EVENTS):
            if descriptor == self._socket.fileno():
                self._take_new(now)
            elif descriptor in self._pending:
                self._advance(descriptor)
        return bool(self._ready)

    def accept(self) -> Stream:
        """Take the next stream whose peer was checked.

        Raises:
            BlockingIOError: there is none yet.
        """
        if not self._ready and not self.ready():
            raise BlockingIOError(errno.EAGAIN, "no connection yet")
        stream, address = self._ready.popleft()
        self._accepted(address, stream.peer)
        return stream

    def timeout(self) -> float | None:
        """In how many seconds `ready` has something to do without any event, None if never."""
        # In order of their deadlines, for all have the same time.
        first = next(iter(self._pending.values()), None)
        end = self._paused_until
        if first is not None:
            end = first.deadline if end is None else min(end, first.deadline)
        return None if end is None else max(0.0, end - time.monotonic())

    def close(self) -> None:
        """Stop listening, and close every connection that was not accepted; again is nothing."""
        for descriptor in list(self._pending):
            self._drop(descriptor)
        while self._ready:
            self._ready.popleft()[0].close()
        self._epoll.close()
        self._socket.close()

    def _take_new(self, now: float) -> None:
        for _ in range(_MAX_EVENTS):
            if len(self._ready) >= _MAX_READY:
                return
            if self._places.full() and not _readable(self._socket):
                # Nobody waits, and so nobody goes for it.
                return
            try:
                place = self._places.take()
            except OSError as error:
                self._pause(now, error)
                return
            try:
                sock, address = self._socket.accept()
            except OSError as error:
                place.free()
                if isinstance(error, BlockingIOError):
                    return
                if error.errno in _EXHAUSTED:
                    self._pause(now, error)
                    return
                # accept(2): the error of a connection that is gone already is no error here.
                continue
            sock.settimeout(0)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            name = address_text(address)
            if self._start is None:
                self._done(Stream(sock, ANONYMOUS), name, place)
                continue
            try:
                handshake = self._start(sock)
            except GarrisonError as error:
                log_refusal(error, name)
                end(sock)
                place.free()
                continue
            deadline = now + self._handshake_seconds
            self._pending[sock.fileno()] = _Pending(handshake, sock, name, deadline, place)
            self._epoll.register(sock, select.EPOLLIN)
            if len(self._pending) > self._max_handshakes:
                self._drop(next(iter(self._pending)), "too many handshakes under way")

    def _pause(self, now: float, error: OSError) -> None:
        """Make room by the oldest handshake, and let the queue wait a little."""
        log.log(
            logging.DEBUG if self._paused else logging.WARNING,
            "cannot accept connections for now: %s",
            error.strerror,
        )
        self._paused = True
        if self._pending:
            self._drop(next(iter(self._pending)), "its place is needed")
        self._paused_until = now + _PAUSE_SECONDS
        self._epoll.modify(self._socket, 0)

    def _advance(self, descriptor: int) -> None:
        pending = self._pending[descriptor]
        try:
            wanted = pending.handshake.step()
        except GarrisonError as error:
            log_refusal(error, pending.address)
            self._drop(descriptor)
        except OSError as error:
            self._drop(descriptor, error.strerror or "unknown reason")
        else:
            if wanted:
                self._epoll.modify(descriptor, wanted)
                return
            self._epoll.unregister(descriptor)
            del self._pending[descriptor]
            self._done(pending.handshake.stream(), pending.address, pending.place)

    def _done(self, stream: Stream, address: str, place: Place) -> None:
        stream.place = place
        self._ready.append((stream, address))
        self._paused = False

    def _drop_late(self, now: float) -> None:
        while self._pending:
            descriptor, pending = next(iter(self._pending.items()))
            if pending.deadline > now:
                return
            self._drop(descriptor, "no complete handshake in time")

    def _drop(self, descriptor: int, why: str = "") -> None:
        pending = self._pending.pop(descriptor)
        if why:
            log.info("dropped a handshake: from %s: %s", pending.address, why)
        self._epoll.unregister(descriptor)
        end(pending.socket)
        pending.place.free()


def _readable(sock: socket.socket) -> bool:
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))


def end(sock: socket.socket) -> None:
    """Close the connection of a failed handshake so that the peer can read the alert.

    Unread data would make the kernel reset the connection at once, so some is read away.
    """
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1 << 16)
    sock.close()


def log_refusal(error: GarrisonError, address: str) -> None:
    """Log one line on a peer that was refused: the rule, what was presented, what was wanted."""
    log.warning(
        "refused a peer: rule %s; at %s; presented %s; wanted %s: %s",
        error.field,
        address,
        error.found,
        error.expected,
        error.message,
    )


def address_text(address: tuple[Any, ...]) -> str:
    """Write a socket's address as `addr:port`; an IPv4 one on an IPv6 socket as itself."""
    host = str(address[0]).removeprefix("::ffff:") if "." in str(address[0]) else str(address[0])
    return f"{bracketed(host)}:{address[1]}"

"""The connections of clients, while no component has them.

One thread at a time waits here for all of them: for connections, for the head of a request, for
slow readers of a response, and for clients that have nothing more to say. A request whose head has
come whole is handed out with its connection, which comes back by `give_back`. Each state has its
time, and how many connections there are is bounded by the network.

Any thread may give a connection back; `_lock` guards what it shares with the one that waits. A
connection is put there and asked for in one step: the one that waits may end it right after.
"""

from __future__ import annotations

import _thread
import logging
import select
import socket
import time
from collections import deque

from garrison.keep.component.http.exchange import Exchange, peer_fields
from garrison.keep.component.http.message import Head, Reader, Refused, response_head
from garrison.keep.component.http.wire import Wire
from garrison.keep.component.http.wire import scratch as new_scratch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from garrison.formats.limits import Limits
    from garrison.keep.vfs.streams import ListeningSocket, Stream

log = logging.getLogger("garrison.keep")

_NEVER = float("inf")
_ONCE = select.EPOLLIN | select.EPOLLONESHOT
_ONCE_OUT = select.EPOLLOUT | select.EPOLLONESHOT
_MAX_EVENTS = 64
# How long a client may take for a request's head, to read on, and to end after it was told to; and
# how much of what it still sends is read away, so that the kernel does not drop the response with
# the connection.
_HEAD_SECONDS = 15.0
_WRITE_SECONDS = 30.0
_LINGER_SECONDS = 2.0
_MAX_DISCARDED = 1 << 18

_HEAD, _IDLE, _WRITING, _LINGERING = "head", "idle", "writing", "lingering"


class Connection(Wire):
    """A client's connection.

    Attributes:
        peer: the fields that say who it is.
        state: what it waits for.
        deadline: until when.
    """

    def __init__(self, stream: Stream, limit: int) -> None:
        super().__init__(stream, Reader(limit))
        self.peer = peer_fields(stream.peer)
        self.state = _HEAD
        self.deadline = 0.0
        self.last = False
        # Whether it has not had a request yet.
        self.fresh = True
        self.discarded = 0
        self.number = stream.fileno()


class Server:
    """All connections, and the requests that wait for a component.

    Args:
        listeners: where clients come.
        limits: how much they may take.
    """

    def __init__(self, listeners: Sequence[ListeningSocket], limits: Limits) -> None:
        self._listeners = list(listeners)
        self._limits = limits
        self._seconds = {
            _HEAD: _HEAD_SECONDS,
            _IDLE: float(limits.http_idle_seconds),
            _WRITING: _WRITE_SECONDS,
            _LINGERING: _LINGER_SECONDS,
        }
        self._lock = _thread.allocate_lock()
        # Of each state, in order of their deadlines.
        self._waiting: dict[str, dict[int, Connection]] = {state: {} for state in self._seconds}
        self._ready: deque[Exchange] = deque()
        self._epoll = select.epoll()
        self._scratch = new_scratch()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.settimeout(0)
        self._wake_write.settimeout(0)
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._accepting: dict[int, ListeningSocket] = {}
        for listener in self._listeners:
            number = (listener.events(write=False) or (-1,))[0]
            self._accepting[number] = listener
            self._epoll.register(number, select.EPOLLIN)
        self.draining = False
        # Until when the thread that waits does, 0 while none does.
        self._until = 0.0

    def wake(self) -> None:
        """Have the thread that waits look around."""
        try:
            self._wake_write.send(b"\0")
        except BlockingIOError:
            return

    def drain(self) -> None:
        """Take no more connections, and end those that wait for nothing."""
        self.draining = True
        self.wake()

    def take(self) -> Exchange | None:
        """The next request that is ready, if there is one."""
        try:
            return self._ready.popleft()
        except IndexError:
            return None

    def wait(self) -> None:
        """Wait until something happens, and do what there is to do. One thread at a time."""
        if self.draining:
            self._stop_accepting()
        found = self._epoll.poll(self._patience(time.monotonic()), _MAX_EVENTS)
        self._until = 0.0
        for number, _ in found:
            if number in self._accepting:
                self._accept(self._accepting[number])
            elif number == self._wake_read.fileno():
                self._wake_read.recv(4096)
            else:
                self._event(number)
        for listener in self._accepting.values():
            if listener.source().restless:
                self._accept(listener)
        self._expire(time.monotonic())

    def idle(self) -> bool:
        """Whether no connection is here."""
        return not self._ready and not any(self._waiting.values())

    def close(self) -> None:
        """End all."""
        self._stop_accepting()
        for waiting in self._waiting.values():
            while waiting:
                waiting.popitem()[1].close()
        while self._ready:
            self._ready.popleft().wire.close()
        self._epoll.close()
        self._wake_read.close()
        self._wake_write.close()

    def _stop_accepting(self) -> None:
        while self._accepting:
            number, listener = self._accepting.popitem()
            self._epoll.unregister(number)
            listener.close()
        with self._lock:
            idle, self._waiting[_IDLE] = self._waiting[_IDLE], {}
        for connection in idle.values():
            self._end(connection)

    def _patience(self, now: float) -> float | None:
        times = [listener.timeout() for listener in self._accepting.values()]
        ends = [now + seconds for seconds in times if seconds is not None]
        with self._lock:
            for waiting in self._waiting.values():
                for connection in waiting.values():
                    ends.append(connection.deadline)
                    break
            self._until = min(ends, default=_NEVER)
            return max(0.0, self._until - now) if ends else None

    def _expire(self, now: float) -> None:
        late = []
        with self._lock:
            for waiting in self._waiting.values():
                for number, connection in waiting.items():
                    if connection.deadline > now:
                        break
                    late.append((waiting, number, connection))
            for waiting, number, _ in late:
                del waiting[number]
        for waiting, _, connection in late:
            if waiting is self._waiting[_HEAD] and connection.reader.began:
                self._refuse(connection, Refused(408, "no complete head in time"))
            else:
                self._end(connection)

    def _accept(self, listener: ListeningSocket) -> None:
        for _ in range(_MAX_EVENTS):
            try:
                stream = listener.accept().stream
            except BlockingIOError:
                return
            connection = Connection(stream, self._limits.http_head)
            # Its end is told even so, but once.
            self._epoll.register(connection.number, select.EPOLLONESHOT)
            self._read(connection)

    def _event(self, number: int) -> None:
        with self._lock:
            for waiting in self._waiting.values():
                connection = waiting.pop(number, None)
                if connection is not None:
                    break
            else:
                return
        if connection.state == _WRITING:
            self._write(connection)
        elif connection.state == _LINGERING:
            self._linger(connection)
        else:
            self._read(connection)

    def _read(self, connection: Connection) -> None:
        """Read until a head is whole, and have it served."""
        reader = connection.reader
        while not reader.events:
            if connection.refused is not None:
                self._refuse(connection, connection.refused)
                return
            if connection.failure is not None or connection.ended:
                self._end(connection)
                return
            if not connection.receive(self._scratch):
                self._put(connection, _HEAD if reader.began or connection.fresh else _IDLE)
                return
        connection.fresh = False
        head = reader.events.popleft()
        if not isinstance(head, Head):
            raise TypeError("a message begins with its head")
        exchange = Exchange(connection, head, connection.peer, last=self.draining)
        if len(self._ready) >= self._limits.http_queue:
            log.warning("refused a request: too many wait")
            self._refuse(connection, Refused(503, "too many requests wait"))
            return
        self._ready.append(exchange)

    def _put(self, connection: Connection, state: str, *, at_once: bool = False) -> None:
        """Wait for a connection.

        Args:
            connection: nobody else's until now; the thread that waits may end it from here on.
            state: what it waits for.
            at_once: whether that is here already, where the kernel does not see it.
        """
        wants_out = at_once or state == _WRITING or connection.stream.wants_write()
        with self._lock:
            if connection.state != state or state != _HEAD or not connection.deadline:
                # What a slow head may take counts from its first byte.
                connection.deadline = time.monotonic() + self._seconds[state]
            connection.state = state
            self._waiting[state][connection.number] = connection
            self._epoll.modify(connection.number, _ONCE_OUT if wants_out else _ONCE)
            late = connection.deadline < self._until
        if late:
            # The thread that waits would wait for longer.
            self.wake()

    def give_back(self, exchange: Exchange, *, whole: bool, scratch: memoryview) -> None:
        """Take a connection back. From any thread.

        Args:
            exchange: whose it was.
            whole: whether its response is, or is on its way.
            scratch: the thread's room to read into.
        """
        connection = exchange.wire
        if not isinstance(connection, Connection):
            raise TypeError("a connection of another's")
        if not whole:
            # Without the end of TLS, so that the client sees that something is missing.
            self._forget(connection)
            connection.cut()
            return
        drained = exchange.source.discard(scratch, _MAX_DISCARDED)
        connection.last = exchange.last or not drained
        self._write(connection)

    def _write(self, connection: Connection) -> None:
        if connection.push():
            self._put(connection, _WRITING)
        elif connection.failure is not None:
            self._end(connection)
        elif connection.last or self.draining:
            self._begin_end(connection)
        else:
            connection.deadline = 0.0
            # The next request may be here already, or what is none; whoever waits takes it.
            here = bool(connection.reader.events or connection.refused is not None)
            here = here or connection.stream.pending()
            self._put(connection, _IDLE, at_once=here)

    def _refuse(self, connection: Connection, refused: Refused) -> None:
        log.info("refused a request: %s", refused.reason)
        head = [("content-length", b"0"), ("connection", b"close")]
        connection.last = True
        connection.send(response_head(refused.status, head))
        self._write(connection)

    def _begin_end(self, connection: Connection) -> None:
        """Tell the client that there is no more, and wait until it ends too."""
        try:
            connection.stream.shutdown(socket.SHUT_WR)
        except OSError:
            self._end(connection)
            return
        connection.discarded = 0
        self._put(connection, _LINGERING)

    def _linger(self, connection: Connection) -> None:
        try:
            for _ in range(4):
                count = connection.stream.read_into(self._scratch)
                connection.discarded += count
                if not count or connection.discarded > _MAX_DISCARDED:
                    self._end(connection)
                    return
        except BlockingIOError:
            pass
        except OSError:
            self._end(connection)
            return
        self._put_again(connection)

    def _put_again(self, connection: Connection) -> None:
        with self._lock:
            self._waiting[_LINGERING][connection.number] = connection
            self._epoll.modify(connection.number, _ONCE)

    def _forget(self, connection: Connection) -> None:
        try:
            self._epoll.unregister(connection.number)
        except OSError:
            return  # its descriptor is closed already

    def _end(self, connection: Connection) -> None:
        self._forget(connection)
        connection.close()

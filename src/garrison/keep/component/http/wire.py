"""A connection that speaks HTTP, and the two bodies on it: the one that comes, the one that goes.

Nothing here waits: what cannot go at once is kept, and `events` says what to wait for.
"""

from __future__ import annotations

import errno

from garrison.keep.component.http.message import (
    End,
    Head,
    Reader,
    Refused,
    chunk,
    last_chunk,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.keep.component.http.message import Headers
    from garrison.keep.vfs.streams import Stream

# poll(2), asm-generic/poll.h.
POLLIN = 1
POLLOUT = 4
# What is read at once.
_SCRATCH = 1 << 16
# As much is gathered before it is sent without being asked for, and as much may wait to go out.
_GATHER = 1 << 14
ROOM = 1 << 16


class Wire:
    """One connection.

    Args:
        stream: whose peer was checked.
        reader: reads what comes.

    Attributes:
        ended: whether the peer will send no more.
        failure: why nothing more comes or goes.
        refused: why nothing more is read.
        waiting: what is still to be sent.
    """

    def __init__(self, stream: Stream, reader: Reader) -> None:
        self.stream = stream
        self.reader = reader
        self.ended = False
        self.failure: OSError | None = None
        self.refused: Refused | None = None
        self.waiting = bytearray()

    def receive(self, scratch: memoryview) -> bool:
        """Read what is there; whether there was something, be it the end."""
        if self.ended or self.failure is not None or self.refused is not None:
            return False
        try:
            count = self.stream.read_into(scratch)
            if count:
                self.reader.feed(scratch[:count])
            else:
                self.ended = True
        except BlockingIOError:
            return False
        except OSError as error:
            self.failure = error
        except Refused as error:
            self.refused = error
        return True

    def send(self, data: bytes | bytearray) -> None:
        """Send, and keep what does not go at once."""
        self.waiting += data
        self.push()

    def push(self) -> bool:
        """Go on sending; whether something still waits."""
        waiting = self.waiting
        while waiting and self.failure is None:
            try:
                with memoryview(waiting) as view:
                    count = self.stream.write(view)
            except BlockingIOError:
                return True
            except OSError as error:
                self.failure = error
            else:
                del waiting[:count]
        if self.failure is not None:
            waiting.clear()
        return False

    def reading(self) -> tuple[int, int]:
        """What to wait for before `receive`."""
        wanted = POLLIN | (POLLOUT if self.stream.wants_write() else 0)
        return self.stream.fileno(), wanted

    def writing(self) -> tuple[int, int]:
        """What to wait for before `push`."""
        return self.stream.fileno(), POLLOUT

    def close(self) -> None:
        """End it."""
        self.stream.close()

    def cut(self) -> None:
        """End it so that the peer sees that something is missing."""
        self.stream.cut("a message was not finished")
        self.stream.close()


class Source:
    """The body that comes over a wire.

    Args:
        wire: the connection, of which the message's head was taken.
        head: that head.
        asked: called before the first of it is waited for.

    Attributes:
        trailers: what came after it, once all has come.
        failure: why the rest does not come.
    """

    def __init__(self, wire: Wire, head: Head, asked: Callable[[], None] | None = None) -> None:
        self.wire = wire
        self.trailers: Headers | None = None
        self.failure: OSError | Refused | None = None
        self._open_ended = not head.chunked and head.length is None
        self._part = memoryview(b"")
        self._asked = asked

    @property
    def ended(self) -> bool:
        """Whether no more comes."""
        return self.trailers is not None or self.failure is not None

    def ready(self, scratch: memoryview) -> bool:
        """Whether bytes are there, or the end."""
        while not self._part and not self.ended:
            if not self._next(scratch):
                return False
        return True

    def _next(self, scratch: memoryview) -> bool:
        events, wire = self.wire.reader.events, self.wire
        if events:
            event = events.popleft()
            if isinstance(event, End):
                self.trailers = event.trailers
            elif isinstance(event, bytes):
                self._part = memoryview(event)
            return True
        if wire.failure is not None or wire.refused is not None:
            self.failure = wire.failure or wire.refused
            return True
        if wire.ended:
            if self._open_ended:
                self.trailers = []
            else:
                self.failure = ConnectionResetError(errno.ECONNRESET, "the body is not complete")
            return True
        if self._asked is not None:
            asked, self._asked = self._asked, None
            asked()
        return wire.receive(scratch)

    def read(self, view: memoryview, scratch: memoryview) -> int:
        """Take bytes; 0 if there are none yet, or no more."""
        if not self.ready(scratch) or self.ended:
            return 0
        count = min(len(view), len(self._part))
        view[:count] = self._part[:count]
        self._part = self._part[count:]
        return count

    def discard(self, scratch: memoryview, most: int) -> bool:
        """Read what is there and leave it out; whether the end was reached within `most` bytes."""
        while not self.ended and most > 0:
            most -= len(self._part)
            self._part = memoryview(b"")
            if not self.ready(scratch):
                return False
        return self.trailers is not None


class Sink:
    """The body that goes over a wire; until there is one, some of it is kept.

    Args:
        length: how many bytes it will have, None if nobody said.

    Attributes:
        sent: whether the head has gone.
        done: whether all has been handed over.
        taken: how many bytes were.
        lazy: whether what is to go at once may wait until the component waits, ends or computes
            for a while, so that small responses go in one piece.
        asked: whether something does.
        failure: why no more is taken.
        held: what its trailers take of the keep's memory, if they are a component's.
    """

    def __init__(self, length: int | None) -> None:
        self.length = length
        self.held: object = None
        self.sent = False
        self.done = False
        self.failure: OSError | None = None
        self.taken = 0
        self.lazy = False
        self.asked = False
        self._kept = bytearray()
        self._trailers: Headers = []
        self._wire: Wire | None = None
        self._head: Callable[[int | None], bytes] | None = None
        self._chunked = False
        self._silent = False
        # Whether all has gone, its end too.
        self._over = False

    def attach(
        self, wire: Wire, head: Callable[[int | None], bytes], *, chunks: bool, silent: bool
    ) -> None:
        """Have somewhere to go.

        Args:
            wire: where.
            head: makes the message's head, of the length or None for chunks.
            chunks: whether the other end takes chunks.
            silent: whether the message has no body, whatever is written.
        """
        self._wire, self._head = wire, head
        self._chunked, self._silent = chunks, silent
        if self.done:
            self.flow()

    def room(self) -> int:
        """How much can be taken now."""
        if self._wire is None:
            return max(0, ROOM - len(self._kept))
        if self._wire.waiting and self._wire.push():
            return 0
        return ROOM

    def too_long(self, count: int) -> bool:
        """Whether `count` bytes more are more than was said."""
        return self.length is not None and self.taken + count > self.length

    def take(self, data: memoryview | bytes) -> None:
        """Take bytes."""
        self.taken += len(data)
        self._kept += data
        if len(self._kept) >= _GATHER:
            self.flow()

    def finish(self, trailers: Headers) -> bool:
        """Take the end; False if fewer bytes came than was said."""
        if self.length is not None and self.taken != self.length and not self._silent:
            return False
        self.done = True
        self._trailers = trailers
        self.flow()
        return True

    def flow(self) -> None:
        """Send what is kept, if there is somewhere to go."""
        wire, kept = self._wire, self._kept
        if wire is None or self._head is None or self._over:
            return
        self._over = self.done
        self.asked = False
        out = b""
        if not self.sent:
            self.sent = True
            length = self.length
            if length is None and self.done and not self._trailers:
                # All of it is there, so that its length is known.
                length = len(kept)
            if length is not None:
                self._chunked = False
            out = self._head(length)
        if self._silent:
            kept.clear()
        if not self._chunked:
            wire.send(out + kept)
        else:
            if kept:
                out += chunk(kept)
            if self.done and not self._silent:
                out += last_chunk(self._trailers)
            wire.send(out)
        kept.clear()

    def abort(self) -> None:
        """Go no further: the other end shall see that it is not complete."""
        if self.failure is None:
            self.failure = BrokenPipeError(errno.EPIPE, "the body was not finished")
        self._kept.clear()

    def broken(self) -> OSError | None:
        """Why no more is taken, if so."""
        return self.failure or (None if self._wire is None else self._wire.failure)

    def urge(self) -> bool:
        """Send what is kept, soon if not now; whether something still waits."""
        if self.lazy and self._wire is not None and not self._wire.waiting:
            self.asked = True
            return False
        return self.busy()

    def busy(self) -> bool:
        """Send what is kept and waits; whether something still waits."""
        if self._kept or not self.sent:
            self.flow()
        wire = self._wire
        return wire is not None and bool(wire.waiting) and wire.push()

    @property
    def wire(self) -> Wire | None:
        """Where it goes; None if nobody said."""
        return self._wire


def scratch() -> memoryview:
    """Room to read into."""
    return memoryview(bytearray(_SCRATCH))

"""Carries bytes between channels and streams, both ways, in one loop and without threads.

A `Flow` takes from one descriptor and gives to another, holding little in between: what cannot be
given is not taken. So a slow reader slows its writer, on either side of a machine's border, and no
stream holds up another.

Descriptors are not made non-blocking where they may be somebody else's too (a terminal): as much is
written as does not block where poll(2) says that there is room.
"""

from __future__ import annotations

import os
import select
import time

from garrison.errors import Malformed, Unavailable
from garrison.formats.channel import MAX_DATA, STREAM, Frame, FrameReader, Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol
else:
    Protocol = object  # `typing` takes an emulated machine a twentieth of a second to import

# pipe(7), PIPE_BUF: what is written without blocking where poll(2) says that it can be written.
_PIECE = 4096
# What of answers may wait for who asked: some thousand, of which nobody who reads has a hundred.
_MAX_ANSWERS = 1 << 16
_INPUT = select.POLLIN | select.POLLHUP | select.POLLERR
_OUTPUT = select.POLLOUT | select.POLLHUP | select.POLLERR


class Watched(Protocol):
    """What the loop waits for."""

    def interest(self) -> Mapping[int, int]:
        """The poll(2) events that it waits for, by descriptor."""

    def happened(self, descriptor: int, events: int) -> None:
        """Do what can be done now that `events` happened at `descriptor`."""


class Flow:
    """From a stream to a channel, or from a channel to a stream.

    Attributes:
        done: the end came, and all before it was given.
        broken: nobody takes what is given; the rest is thrown away.
    """

    def __init__(
        self, source: int, sink: int, *, channel: str, framed: bool, closes: bool = False
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            source: where bytes come from.
            sink: where they go.
            channel: the name of the channel, for errors.
            framed: whether the source is the channel; else the sink is.
            closes: whether to close the sink at the end, or when nobody takes what it is given.
        """
        self.source = source
        self.sink = sink
        self.done = False
        self.broken = False
        self._channel = channel
        self._closes = closes
        self._reader = FrameReader(channel, STREAM) if framed else None
        self._pending = b""
        self._ended = False

    def interest(self) -> Mapping[int, int]:
        """Room at the sink while there is something to give, else something from the source."""
        if self.done:
            return {}
        return {self.sink: _OUTPUT} if self._pending else {self.source: _INPUT}

    def happened(self, descriptor: int, events: int) -> None:
        """Take or give what is there.

        Raises:
            Malformed: what came is not what the channel takes.
            Unavailable: the channel is closed before its stream ends.
        """
        if self._pending and descriptor == self.sink:
            self._give(events)
        elif not self._pending and descriptor == self.source:
            self._take()
        if self._ended and not self._pending:
            self.done = True
            self._close()

    def _take(self) -> None:
        try:
            data = os.read(self.source, MAX_DATA)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if self._reader is None:
            # The end of a stream is an empty frame.
            self._ended = not data
            self._pending = Frame(Kind.DATA, data).to_bytes()
            return
        if not data:
            self._reader.end()
            raise closed(self._channel)
        for frame in self._reader.feed(data):
            self._ended = self._ended or not frame.body
            if not self._ended and not self.broken:
                self._pending += frame.body

    def _give(self, events: int) -> None:
        try:
            # A port whose host is gone says so here only: writing to it would block for ever.
            if not events & select.POLLOUT:
                raise BrokenPipeError
            written = os.write(self.sink, self._pending[:_PIECE])
        except BlockingIOError:
            return
        except OSError as error:
            if self._reader is None:
                raise closed(self._channel) from error
            self.broken = True
            self._pending = b""
            self._close()
            return
        self._pending = self._pending[written:]

    def _close(self) -> None:
        if self._closes:
            self._closes = False
            os.close(self.sink)


class Messages:
    """The frames of a channel, both ways.

    Attributes:
        closed: the other side has closed it.
        deaf: what comes is not looked at any more.
    """

    def __init__(
        self,
        descriptor: int,
        channel: str,
        limits: Mapping[Kind, int],
        take: Callable[[Frame], None],
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            descriptor: of the channel; it does not block.
            channel: its name.
            limits: which frames it takes: see `FrameReader`.
            take: told of each.
        """
        self.closed = False
        self.deaf = False
        self._descriptor = descriptor
        self._channel = channel
        self._reader = FrameReader(channel, limits)
        self._take = take
        self._pending = bytearray()
        # How much of that, at most, is answers.
        self._answers = 0

    @property
    def pending(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._pending) and not self.closed

    def send(self, frame: Frame) -> None:
        """Send a frame, as soon as there is room."""
        self._pending += frame.to_bytes()
        self._flush()

    def answer(self, frame: Frame) -> None:
        """Send a frame that the other side asked for.

        Raises:
            Malformed: it asks on and does not read, so that ever more would wait here.
        """
        self.send(frame)
        if self._pending:
            self._answers += len(frame.body)
        if self._answers > _MAX_ANSWERS:
            raise Malformed(
                "asks on, and does not take the answers",
                field=f"channel {self._channel}",
                found=f"{self._answers} bytes that wait",
                expected=f"at most {_MAX_ANSWERS}",
            )

    def interest(self) -> Mapping[int, int]:
        """Always for what comes."""
        if self.closed:
            return {}
        return {self._descriptor: _INPUT | (select.POLLOUT if self._pending else 0)}

    def happened(self, _descriptor: int, _events: int) -> None:
        """Read and send what can be.

        Raises:
            Malformed: what came is not what the channel takes.
        """
        self._flush()
        try:
            data = os.read(self._descriptor, MAX_DATA)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.closed = True
        if self.deaf:
            return
        if not data:
            self._reader.end()
        for frame in self._reader.feed(data):
            self._take(frame)

    def _flush(self) -> None:
        while self._pending and not self.closed:
            try:
                written = os.write(self._descriptor, self._pending[:MAX_DATA])
            except BlockingIOError:
                return
            except OSError:
                # That it is closed is seen when it is read.
                self._pending.clear()
                return
            del self._pending[:written]
        self._answers = 0


def carry(
    watched: list[Watched],
    until: Callable[[], bool],
    deadline: Callable[[], float | None] = lambda: None,
) -> bool:
    """Carry what comes until `until` says so, which is asked after each event.

    Args:
        watched: what to wait for.
        until: whether it is enough.
        deadline: when it is enough anyway, by `time.monotonic`, asked likewise; None: never.

    Returns:
        Whether `until` said so; else the time is over.
    """
    while not until():
        poll = select.poll()
        interest: dict[int, int] = {}
        owners: dict[int, list[Watched]] = {}
        for each in watched:
            for descriptor, events in each.interest().items():
                interest[descriptor] = interest.get(descriptor, 0) | events
                owners.setdefault(descriptor, []).append(each)
        for descriptor, events in interest.items():
            poll.register(descriptor, events)
        end = deadline()
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            return False
        for descriptor, found in poll.poll(None if left is None else left * 1000):
            for each in owners[descriptor]:
                each.happened(descriptor, found)
    return True


def closed(channel: str) -> Unavailable:
    """The error for a channel that is closed too early."""
    return Unavailable("closed by the other side", field=f"channel {channel}")

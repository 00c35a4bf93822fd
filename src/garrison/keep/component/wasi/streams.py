"""wasi:io: streams over the keep's descriptors, and waiting for several things together."""

from __future__ import annotations

import time

from garrison.keep.component.callbacks import Failed
from garrison.keep.component.host import CHUNK
from garrison.keep.component.waiting import Connection, Moment, Readiness, wait_for
from garrison.keep.engine.failures import Trap
from garrison.keep.vfs.errno import NAMES, Errno, of_host
from garrison.keep.vfs.streams import Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.component.host import Host
    from garrison.keep.component.waiting import Pollable
    from garrison.keep.vfs.descriptor import Descriptor, Room

WIT = """
package wasi:io;
interface error {
    resource error {
        to-debug-string: func() -> string;
    }
}
interface poll {
    resource pollable {
        ready: func() -> bool;
        block: func();
    }
    poll: func(in: list<borrow<pollable>>) -> list<u32>;
}
interface streams {
    use error.{error};
    use poll.{pollable};
    variant stream-error { last-operation-failed(error), closed }
    resource input-stream {
        read: func(len: u64) -> result<list<u8>, stream-error>;
        blocking-read: func(len: u64) -> result<list<u8>, stream-error>;
        skip: func(len: u64) -> result<u64, stream-error>;
        blocking-skip: func(len: u64) -> result<u64, stream-error>;
        subscribe: func() -> pollable;
    }
    resource output-stream {
        check-write: func() -> result<u64, stream-error>;
        write: func(contents: list<u8>) -> result<_, stream-error>;
        blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
        flush: func() -> result<_, stream-error>;
        blocking-flush: func() -> result<_, stream-error>;
        subscribe: func() -> pollable;
        write-zeroes: func(len: u64) -> result<_, stream-error>;
        blocking-write-zeroes-and-flush: func(len: u64) -> result<_, stream-error>;
        splice: func(src: borrow<input-stream>, len: u64) -> result<u64, stream-error>;
        blocking-splice: func(src: borrow<input-stream>, len: u64) -> result<u64, stream-error>;
    }
}
"""

# wasi:io/streams, `blocking-write-and-flush`: it takes up to 4096 bytes.
_MAX_BLOCKING_WRITE = 4096
# Up to how many bytes are copied to where a library was shown before, and not shown to it.
_SHORT = 1024
# How long what was written and not flushed may hold the end of its stream up.
_LINGER_SECONDS = 10.0


class Error:
    """What an operation failed with.

    Args:
        number: of WASI preview 1, which the keep's descriptors speak.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def drop(self) -> None:
        """End it."""


def error_to_debug_string(_host: Host, error: Error) -> str:
    """Say what it is, for people."""
    return NAMES[error.number].lower()


def pollable_ready(host: Host, pollable: Pollable) -> bool:
    """Whether it has happened."""
    return bool(wait_for(host, [pollable], block=False))


def pollable_block(host: Host, pollable: Pollable) -> None:
    """Wait for it."""
    wait_for(host, [pollable])


def poll_poll(host: Host, wanted: list[Pollable]) -> list[int]:
    """Wait for one of them."""
    if not wanted:
        raise Trap("the guest failed: it waits for nothing")
    return wait_for(host, wanted)


class Shared:
    """A descriptor that several resources use; it is closed when the last of them is dropped.

    Args:
        descriptor: what they use.
        host: what counts it; None if it was there from the start.

    Raises:
        Errno: the host has too many.
    """

    def __init__(self, descriptor: Descriptor, host: Host | None = None) -> None:
        if host is not None:
            host.opened(descriptor)
        self.descriptor = descriptor
        self._host = host
        self._users = 0

    def use(self) -> Descriptor:
        """Have one user more."""
        self._users += 1
        return self.descriptor

    def release(self) -> None:
        """Have one user less."""
        self._users -= 1
        if not self._users:
            self.descriptor.close()
            if self._host is not None:
                self._host.opened(None)


def failed(error: Errno | OSError) -> Failed:
    """A stream's error."""
    number = error.number if isinstance(error, Errno) else of_host(error)
    return Failed(("last-operation-failed", Error(number)))


_CLOSED = ("closed", None)


class InputStream:
    """Reads a descriptor from its place on."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.descriptor = shared.use()
        self._closed = False
        if self.__class__ is InputStream and self.descriptor.read_at is not None:
            # What a server calls most, without a call of ours in between.
            self._take = self.descriptor.read_at  # type: ignore[method-assign,assignment]

    def read(self, room: Room, size: int) -> int:
        """Read into `room`, at most `size` bytes; 0 if there is nothing yet.

        Raises:
            Failed: the stream has ended, or cannot be read.
        """
        if self._closed:
            raise Failed(_CLOSED)
        if not size:
            return 0
        try:
            count = self._take(room, 0, size)
        except BlockingIOError:
            return 0
        except (Errno, OSError) as error:
            self._closed = True
            raise failed(error) from error
        if not count:
            self._closed = True
            raise Failed(_CLOSED)
        return count

    def _take(self, room: Room, start: int, end: int) -> int:
        return self.descriptor.read(room.all[start:end])

    def end(self) -> None:
        """Give nothing more, not even what came before."""
        self._closed = True

    def pollable(self) -> Pollable:
        """What to wait for before reading."""
        if isinstance(self.descriptor, Socket):
            return Connection(self.descriptor)
        return Readiness(self.descriptor)

    def drop(self) -> None:
        """End it."""
        self._shared.release()


class FileInput(InputStream):
    """Reads a file from a place of its own on; it never waits."""

    def __init__(self, shared: Shared, offset: int) -> None:
        super().__init__(shared)
        self._offset = offset

    def _take(self, room: Room, start: int, end: int) -> int:
        count = self.descriptor.pread(room.all[start:end], self._offset)
        self._offset += count
        return count

    def pollable(self) -> Pollable:
        """Nothing: it is always ready."""
        return Moment(0)


def _read(host: Host, stream: InputStream, size: int, *, block: bool) -> memoryview:
    size = min(size, CHUNK)
    while not (count := stream.read(host.scratch, size)) and block and size:
        wait_for(host, [stream.pollable()])
        # A peer can send what is no data, again and again.
        host.interrupts.check()
    return host.scratch.all[:count]


def input_stream_read(host: Host, stream: InputStream, size: int) -> memoryview:
    """Give what there is."""
    room = host.scratch
    return room.all[: stream.read(room, min(size, CHUNK))]


def input_stream_blocking_read(host: Host, stream: InputStream, size: int) -> memoryview:
    """Give what there is, once there is something."""
    return _read(host, stream, size, block=True)


def input_stream_skip(host: Host, stream: InputStream, size: int) -> int:
    """Leave what there is out."""
    return len(_read(host, stream, size, block=False))


def input_stream_blocking_skip(host: Host, stream: InputStream, size: int) -> int:
    """Likewise, once there is something."""
    return len(_read(host, stream, size, block=True))


def input_stream_subscribe(_host: Host, stream: InputStream) -> Pollable:
    """Give what to wait for before reading."""
    return stream.pollable()


class OutputStream:
    """Writes a descriptor from its place on.

    What the descriptor does not take at once is kept here, and nothing more is taken until it has
    gone; as much as `permit` said is always taken.
    """

    def __init__(self, host: Host, shared: Shared) -> None:
        self._host = host
        self._shared = shared
        self.descriptor = shared.use()
        self._waiting = b""
        self._permitted = 0
        self._closed = False
        # Not a method of this: it would hold itself and the connection until a collector comes.
        self._write_at = self.descriptor.write_at

    def permit(self) -> int:
        """How much can be written now.

        Raises:
            Failed: the stream has ended, or what was written before failed.
        """
        if self._closed or self._waiting:
            self._permitted = 0 if self.push() else CHUNK
        else:
            self._permitted = CHUNK
        return self._permitted

    def write(self, data: memoryview) -> None:
        """Write, not more than `permit` said.

        Raises:
            Failed: as `permit`.
            Trap: it is more.
        """
        size = len(data)
        if size > self._permitted:
            raise Trap("the guest failed: it writes more to a stream than it may")
        self._permitted -= size
        self.put(data)

    def put(self, data: memoryview | bytes) -> None:
        """Write all, and keep what is not taken at once."""
        if self._closed:
            self.check_open()
        if self._waiting:
            self._waiting += bytes(data)
            self.push()
        elif rest := self._give(data):
            # A copy: the data is the component's, and true during the call only.
            self._waiting = bytes(rest)

    def push(self) -> bool:
        """Go on with what is kept; whether there still is something.

        Raises:
            Failed: as `permit`.
        """
        self.check_open()
        return self.go_on()

    def go_on(self) -> bool:
        """Go on with what is kept, as `push` does, though nothing more be taken since `end`."""
        if self._waiting:
            self._waiting = bytes(self._give(self._waiting))
        return bool(self._waiting)

    def end(self) -> bool:
        """Take nothing more; whether something is kept that has still to go."""
        self._closed = True
        try:
            return self.go_on()
        except Failed:
            return False

    def check_open(self) -> None:
        """Refuse to go on after the end.

        Raises:
            Failed: it has ended.
        """
        if self._closed:
            raise Failed(_CLOSED)

    def _give(self, given: memoryview | bytes) -> memoryview | bytes:
        """Write what is taken at once; the rest."""
        data = memoryview(given)
        try:
            while data:
                count = self._write(data)
                if count == len(data):
                    return b""
                data = data[count:]
        except BlockingIOError:
            pass
        except (Errno, OSError) as error:
            self._closed = True
            self._waiting = b""
            if isinstance(error, BrokenPipeError | ConnectionResetError):
                raise Failed(_CLOSED) from error
            raise failed(error) from error
        return data

    def _write(self, data: memoryview) -> int:
        # To show a library a place of a memory takes it longer than to copy a short message.
        size = len(data)
        if size > _SHORT or self._write_at is None:
            return self.descriptor.write(data)
        room = self._host.scratch
        # What was read there to be written is left as it is: not all of it may go at once.
        if data.obj is room.all.obj:
            return self.descriptor.write(data)
        room.all[:size] = data
        return self._write_at(room, 0, size)

    def flush(self, end: float | None = None) -> None:
        """Wait until all has gone, or the time `end` on the monotonic clock is over.

        Raises:
            Failed: as `permit`.
            Interrupted: a signal came.
        """
        self.check_open()
        self._drain(end)

    def _drain(self, end: float | None) -> None:
        while self.go_on() and (end is None or time.monotonic() < end):
            events = self.descriptor.events(write=True)
            seconds = None if end is None else max(0.0, end - time.monotonic())
            self._host.interrupts.wait([events] if events else [], seconds)

    def ready(self) -> bool:
        """Whether something can be written, as a `Pollable`: an error is told by writing."""
        try:
            return not self.push()
        except Failed:
            return True

    def events(self) -> tuple[int, int] | None:
        """What to wait for."""
        return self.descriptor.events(write=True)

    def drop(self) -> None:
        """End it; what was written goes out first, if that does not take too long."""
        if self._waiting:
            try:  # noqa: SIM105  (contextlib costs a start 2 ms)
                self._drain(time.monotonic() + _LINGER_SECONDS)
            except Failed:
                pass  # nobody is left to be told
        self._shared.release()


class FileOutput(OutputStream):
    """Writes a file from a place of its own on, or at its end; it never waits."""

    def __init__(self, host: Host, shared: Shared, offset: int | None) -> None:
        super().__init__(host, shared)
        self._offset = offset

    def _write(self, data: memoryview) -> int:
        offset = self.descriptor.stat().size if self._offset is None else self._offset
        count = self.descriptor.pwrite(data, offset)
        if self._offset is not None:
            self._offset += count
        return count


class Writability:
    """A stream that can be written."""

    def __init__(self, stream: OutputStream) -> None:
        self._stream = stream

    def ready(self) -> bool:
        """Whether it can."""
        return self._stream.ready()

    def events(self) -> tuple[int, int] | None:
        """What to wait for."""
        return self._stream.events()

    def timeout(self) -> None:
        """Nothing happens without an event."""
        return

    def settled(self) -> bool:
        """There may be more to write than goes at once."""
        return self._stream.ready()

    def drop(self) -> None:
        """End it."""


def output_stream_check_write(_host: Host, stream: OutputStream) -> int:
    """Tell how much can be written."""
    return stream.permit()


def output_stream_write(_host: Host, stream: OutputStream, data: memoryview) -> None:
    """Write."""
    stream.write(data)


def output_stream_blocking_write_and_flush(
    _host: Host, stream: OutputStream, data: memoryview
) -> None:
    """Write, and wait until it has gone."""
    if len(data) > _MAX_BLOCKING_WRITE:
        raise Trap("the guest failed: it writes more to a stream than it may")
    stream.put(data)
    stream.flush()


def output_stream_flush(_host: Host, stream: OutputStream) -> None:
    """Begin to send what was written; all that is written is sent as soon as it can be."""
    stream.push()


def output_stream_blocking_flush(_host: Host, stream: OutputStream) -> None:
    """Wait until all that was written has gone."""
    stream.flush()


def output_stream_subscribe(_host: Host, stream: OutputStream) -> Pollable:
    """Give what to wait for before writing."""
    return Writability(stream)


def output_stream_write_zeroes(_host: Host, stream: OutputStream, size: int) -> None:
    """Write zeros."""
    stream.write(memoryview(bytes(min(size, CHUNK + 1))))


def output_stream_blocking_write_zeroes_and_flush(
    host: Host, stream: OutputStream, size: int
) -> None:
    """Write zeros, and wait until they have gone."""
    zeros = memoryview(bytes(min(size, _MAX_BLOCKING_WRITE + 1)))
    output_stream_blocking_write_and_flush(host, stream, zeros)


def output_stream_splice(
    host: Host, stream: OutputStream, source: InputStream, size: int, *, block: bool = False
) -> int:
    """Write what can be read."""
    if block:
        stream.flush()
    view = _read(host, source, min(size, stream.permit()), block=block)
    stream.write(view)
    return len(view)


def output_stream_blocking_splice(
    host: Host, stream: OutputStream, source: InputStream, size: int
) -> int:
    """Write what can be read, once there is something."""
    return output_stream_splice(host, stream, source, size, block=True)

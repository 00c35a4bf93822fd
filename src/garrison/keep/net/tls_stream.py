"""TLS streams, whose peer was checked in the handshake.

Data goes between OpenSSL and the workload's memory without a copy. The end of a stream counts only
if TLS announced it: a connection that is cut off, as an attacker on the way can do, is an error and
no end of data.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from garrison.keep.net.openssl import failure, ffi, handle, lib, likely_failure
from garrison.keep.net.stream import Stream
from garrison.keep.vfs.descriptor import Room
from garrison.keep.vfs.streams import UNREST

if TYPE_CHECKING:
    from collections.abc import Callable

    from OpenSSL import SSL

# RFC 8446, section 5.1: the plain text of a record has at most 2^14 bytes.
_MAX_RECORD = 1 << 14
# How many of them are taken to come alone before one looks again whether another waits.
_MOST_ALONE = 63
# A call that reads ends after a record that is no data. Servers begin with some, tickets that
# nobody here uses: so many are passed over in a stream's whole life, without a wait for each.
_TICKETS = 4
# The library counts in a C int.
_MAX_CALL = (1 << 31) - 1
# How long, and for how many streams at a time, the announcement of the end may stay unsent
# because the peer does not read. Beyond, the stream is cut off.
_LINGER_SECONDS = 10.0
_MAX_LINGERING = 64
# What every read and write calls.
_CHARS, _POINTER = ffi.typeof("char[]"), ffi.typeof("char *")
_from_buffer, _release = ffi.from_buffer, ffi.release
_read, _write = lib.SSL_read, lib.SSL_write
_clear_errors = lib.ERR_clear_error


def _look_at(memory: Room) -> Any:
    """Have the library see `memory`: to do that at each call takes a tenth of a short one.

    What it sees holds no buffer of Python's. A collector that ends both at once, as it does when
    the interpreter ends, would release that after the memory's own view, and crash.
    """
    with _from_buffer(_CHARS, memory.all, True) as held:  # noqa: FBT003  (it takes no keyword)
        memory.chars = ffi.cast(_POINTER, held)
    return memory.chars


def _place(memory: Room, start: int, end: int) -> Any:
    """What the library calls the part of `memory` from `start` to `end`."""
    if start < 0 or end > memory.size:
        raise _beyond(memory, start, end)
    return (memory.chars or _look_at(memory)) + start


def _beyond(memory: Room, start: int, end: int) -> IndexError:
    return IndexError(f"{start} to {end} of a memory of {memory.size} bytes")


class TlsStream(Stream):
    """A TLS connection after its handshake."""

    secure = True

    def __init__(
        self,
        sock: socket.socket,
        connection: SSL.Connection,
        peer: dict[str, Any],
        closed: Callable[[TlsStream], object],
    ) -> None:
        """Take over a connection whose handshake is done; `closed` is told of its end."""
        super().__init__(sock, peer)
        self._on_close = closed
        # Kept, for it owns what the handle points to.
        self._connection = connection
        self._ssl = handle(connection)
        self._closed = False
        # How many whole records are still taken to come alone, with none to look for after them;
        # and how many were, the last time.
        self._alone = self._expected = 0
        self._tickets = _TICKETS
        # Whether there is more to look at than the data: any of what is below, or the end.
        self._closing = False
        # Number and message of the error that ended the connection. Not the exception: with its
        # traceback it would keep the workload's memory alive, and itself.
        self._failure: tuple[int, str] | None = None
        # What a call that was repeated had failed by, if that was its own error.
        self._suspected: OSError | None = None
        self._read_wants_write = False
        self._read_ended = False
        # The end of writing: asked for, and announced in TLS.
        self._write_ended = False
        self._end_sent = False
        # A record that could not be sent whole. OpenSSL has encrypted it and cannot take it
        # back, while the workload was told that nothing was taken and may come again with more,
        # less or other data. `_record` is what is still to be sent, None once it is; `_owed` is
        # what the workload has yet to hand over of it.
        self._record: memoryview | None = None
        self._owed = memoryview(b"")
        self.restless = self.pending()

    def fileno(self) -> int:
        """The socket's descriptor, to poll; -1 after `close`."""
        return -1 if self._closed else self._socket.fileno()

    def read_into(self, view: memoryview) -> int:
        """Read into `view`, as `Stream.read_into` does."""
        room = Room(view)
        room.chars = _from_buffer(_CHARS, view, True)  # noqa: FBT003  (it takes no keyword)
        try:
            return self.read_at(room, 0, len(view))
        finally:
            # At once: it may go, or become larger.
            _release(room.chars)

    def read_at(self, memory: Room, start: int, end: int) -> int:
        """Read into a part of `memory`, as `Stream.read_at` does."""
        size = end - start
        if self._closing:
            self._check_usable()
            if self._read_ended:
                return 0
            if self._write_ended and not self._end_sent:
                self._end_write()
        if not 0 < size <= _MAX_CALL:
            return self.read_at(memory, start, start + _MAX_CALL) if size else 0
        if start != memory.target_at or end > memory.size:
            memory.target, memory.target_at = _place(memory, start, end), start
        self._read_wants_write = False
        count: int = _read(self._ssl, memory.target, size)
        if 0 < count < size and (count < _MAX_RECORD or self._alone):
            # A record's end, and so all that there was most likely.
            if count == _MAX_RECORD:
                self._alone -= 1
            self.restless = self._write_ended
            return count
        return self._read_on(memory.target, size, count)

    def _read_on(self, target: Any, size: int, count: int) -> int:
        """Go on after a read that gave `count`: one call gives one record, and another may wait."""
        self._stir()
        total = 0
        if count <= 0:
            count = self._without_others(_read, target, size, count)
        while count <= 0 and self._tickets and self._has_no_data(count):
            self._tickets -= 1
            count = _read(self._ssl, target, size)
        while count > 0:
            total += count
            if total == size:
                self.restless = self._write_ended or self.pending()
                return total
            if count < _MAX_RECORD:
                self.restless = self._write_ended
                return total
            _clear_errors()
            count = _read(self._ssl, target + total, size - total)
        if total == _MAX_RECORD:
            # To look was for nothing: it is done half as often the next time.
            self._alone = self._expected = min(2 * self._expected + 1, _MOST_ALONE)
        elif total:
            self._alone = self._expected = 0
        # If there was something, what comes next, also an error, is for the next call.
        if self._is_end(count) or total:
            return total
        self._check_usable()
        raise BlockingIOError(errno.EAGAIN, "nothing to read yet")

    def _stir(self) -> None:
        self.restless = True
        UNREST.stir()

    def _without_others(
        self, call: Callable[[Any, Any, int], int], place: Any, size: int, count: int
    ) -> int:
        """What `call`, which failed by giving `count`, gives where no error of another's is queued.

        OpenSSL's rule is to empty its queue of errors before each call, for they tell what a call
        that fails means. Calls seldom fail, and to look each time takes a 25th of a short message.
        So it is done afterwards: what failed fails again, and what did not says what it meant.
        """
        self._suspected = None
        if not lib.ERR_peek_error():
            return count
        suspected = likely_failure()
        count = call(self._ssl, place, size)
        # Whatever else it says is its own word, and a later failure has its own reason.
        if lib.SSL_get_error(self._ssl, count) in (lib.SSL_ERROR_SSL, lib.SSL_ERROR_SYSCALL):
            self._suspected = suspected
        return count

    def _has_no_data(self, count: int) -> bool:
        """Whether a read that gave `count` met nothing, or a record that is no data."""
        return bool(lib.SSL_get_error(self._ssl, count) == lib.SSL_ERROR_WANT_READ)

    def _is_end(self, count: int) -> bool:
        """Whether a read that gave `count`, which is nothing, met the end; or note why not."""
        code = lib.SSL_get_error(self._ssl, count)
        if code == lib.SSL_ERROR_WANT_READ:
            # All that came was given, and the kernel tells when there is more.
            self.restless = self._write_ended
        elif code == lib.SSL_ERROR_WANT_WRITE:
            self._read_wants_write = True
        elif code != lib.SSL_ERROR_ZERO_RETURN:
            self._fail_by(code)
        return bool(code == lib.SSL_ERROR_ZERO_RETURN)

    def peek_into(self, view: memoryview) -> int:
        """As `read_into`, of one record, and what is read stays to be read again."""
        self._check_usable()
        if self._read_ended or not len(view):
            return 0
        if self._write_ended and not self._end_sent:
            self._end_write()
        # What stays is with the library, where the kernel does not see it.
        self._stir()
        self._read_wants_write = False
        target = _from_buffer(_CHARS, view, True)  # noqa: FBT003  (see `read_into`)
        try:
            _clear_errors()
            count: int = lib.SSL_peek(self._ssl, target, min(len(view), _MAX_CALL))
            if count > 0 or self._is_end(count):
                return max(count, 0)
        finally:
            _release(target)
        self._check_usable()
        raise BlockingIOError(errno.EAGAIN, "nothing to read yet")

    def write(self, view: memoryview) -> int:
        """Write from `view`, as `Stream.write` does.

        Raises:
            ConnectionAbortedError: see `write_at`.
        """
        room = Room(view)
        room.chars = _from_buffer(_CHARS, view)
        try:
            return self.write_at(room, 0, len(view))
        finally:
            _release(room.chars)

    def write_at(self, memory: Room, start: int, end: int) -> int:
        """Write from a part of `memory`, as `Stream.write_at` does.

        Raises:
            ConnectionAbortedError: after a write that would have blocked, other data came. Part
                of the first is on its way already, so that the stream cannot go on.
        """
        size = end - start
        if self._closing:
            self._check_usable()
            if self._write_ended:
                raise BrokenPipeError(errno.EPIPE, "this direction was shut down")
        if self._owed:
            return self._pay(memory.all[start:end])
        if not 0 < size <= _MAX_CALL:
            return self.write_at(memory, start, start + _MAX_CALL) if size else 0
        if start != memory.source_at or end > memory.size:
            memory.source, memory.source_at = _place(memory, start, end), start
        if size > _MAX_RECORD:
            return self._write_records(memory.all[start:end], memory.source)
        count: int = _write(self._ssl, memory.source, size)
        if count == size:
            return size
        return self._write_on(memory.all[start:end], memory.source, count)

    def _write_records(self, view: memoryview, source: Any) -> int:
        """Write what takes several records.

        tcp(7), TCP_CORK: they go together, where each alone wakes the peer for a part.
        """
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        try:
            return self._write_on(view, source, _write(self._ssl, source, len(view)))
        finally:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    def _write_on(self, view: memoryview, source: Any, count: int) -> int:
        """Go on after a write that took `count`: one call takes one record."""
        total, size = 0, len(view)
        if count <= 0:
            count = self._without_others(_write, source, size, count)
        while count > 0:
            total += count
            if total == size:
                return total
            _clear_errors()
            count = _write(self._ssl, source + total, size - total)
        # At once, for no other call may come between the failed one and this.
        code = lib.SSL_get_error(self._ssl, count)
        if code in (lib.SSL_ERROR_WANT_WRITE, lib.SSL_ERROR_WANT_READ):
            self._record = self._owed = memoryview(bytes(view[total : total + _MAX_RECORD]))
        else:
            self._fail_by(code)
        if total:
            # What came then is for the next call.
            return total
        self._check_usable()
        raise BlockingIOError(errno.EAGAIN, "cannot write yet")

    def _pay(self, view: memoryview) -> int:
        """Take from `view` what the record on its way already holds."""
        count = min(len(view), len(self._owed))
        if view[:count] != self._owed[:count]:
            self._fail(
                OSError(errno.ECONNABORTED, "other data after a write that was to be repeated")
            )
            self._check_usable()
        if self._record is not None:
            self._send_record(self._record)
            self._record = None
        self._owed = self._owed[count:]
        return count

    def _send_record(self, record: memoryview) -> None:
        """Go on to send a record that could not be sent whole."""
        _clear_errors()
        with _from_buffer(_CHARS, record) as source:
            count: int = _write(self._ssl, source, len(record))
            code = 0 if count > 0 else lib.SSL_get_error(self._ssl, count)
        if code in (lib.SSL_ERROR_WANT_WRITE, lib.SSL_ERROR_WANT_READ):
            raise BlockingIOError(errno.EAGAIN, "cannot write yet")
        if code:
            self._fail_by(code)
            self._check_usable()

    def _fail_by(self, code: int) -> None:
        """Note that a call failed with `SSL_get_error` = `code`."""
        says_why = lib.ERR_peek_error()
        error = failure(code)
        self._fail(error if says_why or self._suspected is None else self._suspected)

    def _fail(self, error: OSError) -> None:
        self._failure = (error.errno or errno.EIO, error.strerror or "")
        self._closing = True
        # The socket may be as it was.
        self._stir()

    def _check_usable(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._failure is not None:
            raise OSError(*self._failure)

    def pending(self) -> bool:
        """Whether decrypted data waits, or an end: one that was met before, or made here.

        The peer may well leave the socket open after any of them.
        """
        if self._closed:
            return False
        if self._read_ended or self._failure is not None or lib.SSL_pending(self._ssl) > 0:
            return True
        return bool(lib.SSL_get_shutdown(self._ssl) & lib.SSL_RECEIVED_SHUTDOWN)

    def wants_write(self) -> bool:
        """Whether a read waits for the descriptor to be writable.

        It then has something of TLS itself to send: a key update's answer, or the end.
        """
        return self._read_wants_write or (self._write_ended and not self._end_sent)

    def shutdown(self, how: int) -> None:
        """End one direction or both; the end of writing is announced in TLS.

        Where the peer does not read, the announcement waits for the next read, or for `close`.

        Raises:
            OSError: the connection failed.
        """
        self._check_usable()
        self._closing = True
        self._stir()
        if how != socket.SHUT_WR:
            self._read_ended = True
        if how != socket.SHUT_RD:
            self._write_ended = True
            self._end_write()

    def _end_write(self) -> None:
        """Announce the end of writing, then end it on the socket.

        Where part of a record was abandoned there is no announcement, and the peer sees that
        the stream was cut off.
        """
        if self._owed or self._announce_end():
            self._end_sent = True
            self._socket.shutdown(socket.SHUT_WR)

    def _announce_end(self) -> bool:
        """Send the end of TLS; False if the socket takes no more for now."""
        if self._end_sent or self._failure is not None:
            return True
        lib.ERR_clear_error()
        code = lib.SSL_get_error(self._ssl, lib.SSL_shutdown(self._ssl))
        self._end_sent = bool(code != lib.SSL_ERROR_WANT_WRITE)
        lib.ERR_clear_error()
        return self._end_sent

    def close(self) -> None:
        """Announce the end in TLS and close the connection; again is nothing.

        A peer that does not read holds nobody up: the announcement then waits in the background,
        for a while.
        """
        if self._closed:
            return
        self._closed = self._closing = True
        self._on_close(self)
        self._free()
        if self._owed or self._announce_end() or not _LINGERING.acquire(blocking=False):
            self._socket.close()
            return
        threading.Thread(target=self._linger, name="tls-end", daemon=True).start()

    def cut(self, why: str) -> None:
        """End the connection at once, from any thread: nothing more is read from it or written."""
        self._failure = (errno.ECONNABORTED, why)
        self._closing = True
        with contextlib.suppress(OSError):  # it may be gone already
            self._socket.shutdown(socket.SHUT_RDWR)

    def _linger(self) -> None:
        """Announce the end when the peer reads on; nobody else uses this stream any more."""
        deadline = time.monotonic() + _LINGER_SECONDS
        try:
            poller = select.poll()
            poller.register(self._socket, select.POLLOUT)
            while (left := deadline - time.monotonic()) > 0 and not self._announce_end():
                poller.poll(left * 1000)
        finally:
            _LINGERING.release()
            self._socket.close()


_LINGERING = threading.BoundedSemaphore(_MAX_LINGERING)

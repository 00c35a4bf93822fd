"""Descriptors that end outside the virtual file system: standard streams and the network.

None blocks; `events` says what the host shall wait for.
"""

# ruff: noqa: ARG002  (what cannot be done is refused under the same signature)

import posix  # the part of `os` that is used here, and no file to load
from itertools import count

from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.descriptor import Descriptor, Room
from garrison.keep.vfs.errno import Errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from typing_extensions import TypeIs

    class Stream(Protocol):
        """A connection whose peer was checked (`garrison.keep.net`)."""

        restless: bool
        secure: bool

        @property
        def peer(self) -> dict[str, Any]: ...  # noqa: D102
        def fileno(self) -> int: ...  # noqa: D102
        def local_address(self) -> tuple[str, int]: ...  # noqa: D102
        def remote_address(self) -> tuple[str, int]: ...  # noqa: D102
        def option(self, level: int, number: int, value: int) -> None: ...  # noqa: D102
        def read_into(self, view: memoryview) -> int: ...  # noqa: D102
        def peek_into(self, view: memoryview) -> int: ...  # noqa: D102
        def write(self, view: memoryview) -> int: ...  # noqa: D102
        def read_at(self, memory: Room, start: int, end: int) -> int: ...  # noqa: D102
        def write_at(self, memory: Room, start: int, end: int) -> int: ...  # noqa: D102
        def pending(self) -> bool: ...  # noqa: D102
        def wants_write(self) -> bool: ...  # noqa: D102
        def shutdown(self, how: int) -> None: ...  # noqa: D102
        def cut(self, why: str) -> None: ...  # noqa: D102
        def close(self) -> None: ...  # noqa: D102

    class Listener(Protocol):
        """A listening socket (`garrison.keep.net`)."""

        port: int

        @property
        def protocols(self) -> tuple[str, ...]: ...  # noqa: D102
        @property
        def restless(self) -> bool: ...  # noqa: D102
        def fileno(self) -> int: ...  # noqa: D102
        def ready(self) -> bool: ...  # noqa: D102
        def accept(self) -> Stream: ...  # noqa: D102
        def timeout(self) -> float | None: ...  # noqa: D102
        def close(self) -> None: ...  # noqa: D102


# poll(2), asm-generic/poll.h: written here because the module `select` is not needed for a guest
# that only writes to a file.
POLLIN = 1
POLLOUT = 4

# sys/stat.h: what of a mode is its type, and the two that can block.
_TYPE = 0o170000
_PIPE_OR_SOCKET = (0o010000, 0o140000)

# What a device that never ends gives at once. A call of the guest's may ask for gigabytes, and
# nobody can end it before it returns.
_MOST_ZEROS = 1 << 20
_MOST_RANDOM = 1 << 16

# pipe(7), PIPE_BUF: a pipe that polls as writable takes as much without blocking.
_PIPE_BUF = 4096


class Unrest:
    """Tells whether any connection became restless: those that were calm are, until then.

    To look at each takes longer than all else of a wait for many.

    Attributes:
        count: another number each time one did.
    """

    __slots__ = ("_numbers", "count")

    def __init__(self) -> None:
        self.count = 0
        self._numbers = count(1)

    def stir(self) -> None:
        """Note that one became restless, in whatever thread."""
        self.count = next(self._numbers)


UNREST = Unrest()


def is_stream(opened: "Stream | Listener") -> "TypeIs[Stream]":
    """Whether `opened` is a connection, and not a listener."""
    return hasattr(opened, "read_into")


class HostStream(Descriptor):
    """A standard stream of the keep's own process. It is never closed, for it is not ours."""

    possible = d.STREAM_RIGHTS

    def __init__(self, number: int) -> None:
        terminal = posix.isatty(number)
        if terminal:
            self.filetype = d.CHARACTER
        super().__init__()
        self.rights &= ~(d.FD_WRITE if number == 0 else d.FD_READ)
        self._number = number
        # Files and devices such as /dev/null never block, and poll(2) says nothing of them.
        self._waits = terminal or posix.fstat(number).st_mode & _TYPE in _PIPE_OR_SOCKET

    def read(self, view: memoryview) -> int:
        """Read what is there."""
        if self._waits and not self.ready(write=False):
            raise BlockingIOError
        return posix.readv(self._number, [view])

    def write(self, view: memoryview) -> int:
        """Write as much as surely does not block."""
        if not self._waits:
            return posix.write(self._number, view)
        if not self.ready(write=True):
            raise BlockingIOError
        return posix.write(self._number, view[:_PIPE_BUF])

    def ready(self, *, write: bool) -> bool:
        """Ask the kernel."""
        if not self._waits:
            return True
        from select import poll  # late: a guest that writes nothing starts without

        poller = poll()
        poller.register(self._number, POLLOUT if write else POLLIN)
        return bool(poller.poll(0))

    def events(self, *, write: bool) -> tuple[int, int] | None:
        """Its own descriptor, unless it is a file."""
        return (self._number, POLLOUT if write else POLLIN) if self._waits else None


class Null(Descriptor):
    """`/dev/null`, and a standard stream that is none."""

    filetype = d.CHARACTER
    possible = d.STREAM_RIGHTS

    def read(self, view: memoryview) -> int:
        """Give the end."""
        return 0

    def write(self, view: memoryview) -> int:
        """Take all."""
        return len(view)

    def write_at(self, memory: Room, start: int, end: int) -> int:
        """Take all."""
        return end - start


class Zero(Null):
    """`/dev/zero`."""

    def read(self, view: memoryview) -> int:
        """Give zeros."""
        count = min(len(view), _MOST_ZEROS)
        view[:count] = bytes(count)
        return count


class Random(Null):
    """`/dev/urandom`; what is written to it goes nowhere."""

    def read(self, view: memoryview) -> int:
        """Give random bytes."""
        count = min(len(view), _MOST_RANDOM)
        view[:count] = posix.urandom(count)
        return count


class Socket(Descriptor):
    """A connection.

    Attributes:
        stream: whose peer was checked.
    """

    filetype = d.STREAM
    possible = d.SOCKET_RIGHTS

    def __init__(self, stream: "Stream") -> None:
        super().__init__()
        self.stream = stream
        # What a server calls most, without a call of ours in between.
        self.read = stream.read_into  # type: ignore[method-assign]
        self.write = stream.write  # type: ignore[method-assign]
        self.read_at = stream.read_at
        self.write_at = stream.write_at

    def ready(self, *, write: bool) -> bool:
        """Whether decrypted bytes wait that the kernel knows nothing of."""
        return not write and self.stream.pending()

    def events(self, *, write: bool) -> tuple[int, int] | None:
        """Its socket; a TLS stream may have to write before it can read."""
        if write:
            return self.stream.fileno(), POLLOUT
        return self.stream.fileno(), POLLIN | (POLLOUT if self.stream.wants_write() else 0)

    def source(self) -> "Stream":
        """The connection."""
        return self.stream

    def close(self) -> None:
        """Close the connection."""
        self.stream.close()


class ListeningSocket(Descriptor):
    """A listener."""

    filetype = d.STREAM
    possible = d.LISTENER_RIGHTS

    def __init__(self, listener: "Listener") -> None:
        super().__init__()
        self._listener = listener

    def port(self) -> int:
        """Where it listens."""
        return self._listener.port

    def accept(self) -> Socket:
        """Take the next connection.

        Raises:
            BlockingIOError: there is none yet.
            OSError: the host's reason.
        """
        return Socket(self._listener.accept())

    def read(self, view: memoryview) -> int:
        """Fail: it is not connected."""
        raise Errno(errno.NOTSUP)

    def ready(self, *, write: bool) -> bool:
        """Whether a connection waits; this goes on with handshakes that are under way."""
        # Also where writing is asked about: else what is late stays so, and no wait takes any time.
        return self._listener.ready() and not write

    def events(self, *, write: bool) -> tuple[int, int] | None:
        """Its own descriptor, which is readable when there is something to go on with."""
        return self._listener.fileno(), POLLIN

    def source(self) -> "Listener":
        """The listener."""
        return self._listener

    def timeout(self) -> float | None:
        """When the next handshake is late."""
        return self._listener.timeout()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

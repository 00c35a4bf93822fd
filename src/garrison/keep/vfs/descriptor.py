"""What an open file, directory, stream or listener has in common, and the rights to use it.

A descriptor never blocks: where it would, it raises BlockingIOError, and says with `events`
and `timeout` what to wait for. Waiting is the host's.
"""

# ruff: noqa: ARG002  (what cannot be done is refused under the same signature)

from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from garrison.keep.vfs.nodes import Directory

    class Source(Protocol):
        """What a descriptor's readiness comes from."""

        @property
        def restless(self) -> bool:
            """Whether more than the kernel knows may be ready, or wanted of the kernel."""

    Move = Callable[["Room", int, int], int]


# `filetype`
UNKNOWN = 0
CHARACTER = 2
FOLDER = 3
REGULAR = 4
STREAM = 6
SYMLINK = 7

# `rights`, by bit
FD_DATASYNC = 1 << 0
FD_READ = 1 << 1
FD_SEEK = 1 << 2
FD_FDSTAT_SET_FLAGS = 1 << 3
FD_SYNC = 1 << 4
FD_TELL = 1 << 5
FD_WRITE = 1 << 6
FD_ADVISE = 1 << 7
FD_ALLOCATE = 1 << 8
PATH_CREATE_DIRECTORY = 1 << 9
PATH_CREATE_FILE = 1 << 10
PATH_LINK_SOURCE = 1 << 11
PATH_LINK_TARGET = 1 << 12
PATH_OPEN = 1 << 13
FD_READDIR = 1 << 14
PATH_READLINK = 1 << 15
PATH_RENAME_SOURCE = 1 << 16
PATH_RENAME_TARGET = 1 << 17
PATH_FILESTAT_GET = 1 << 18
PATH_FILESTAT_SET_SIZE = 1 << 19
PATH_FILESTAT_SET_TIMES = 1 << 20
FD_FILESTAT_GET = 1 << 21
FD_FILESTAT_SET_SIZE = 1 << 22
FD_FILESTAT_SET_TIMES = 1 << 23
PATH_SYMLINK = 1 << 24
PATH_REMOVE_DIRECTORY = 1 << 25
PATH_UNLINK_FILE = 1 << 26
POLL = 1 << 27
SOCK_SHUTDOWN = 1 << 28
SOCK_ACCEPT = 1 << 29
ALL = (1 << 30) - 1

# What a name costs us in a list of them, about, beside the node's own.
NAME_COST = 128

_SYNC = FD_DATASYNC | FD_SYNC

STREAM_RIGHTS = FD_READ | FD_WRITE | FD_FDSTAT_SET_FLAGS | _SYNC | FD_FILESTAT_GET | POLL
FILE_RIGHTS = (
    STREAM_RIGHTS
    | FD_SEEK
    | FD_TELL
    | FD_ADVISE
    | FD_ALLOCATE
    | FD_FILESTAT_SET_SIZE
    | FD_FILESTAT_SET_TIMES
)
SOCKET_RIGHTS = STREAM_RIGHTS | SOCK_SHUTDOWN
LISTENER_RIGHTS = SOCK_ACCEPT | FD_READ | FD_FDSTAT_SET_FLAGS | FD_FILESTAT_GET | POLL
FOLDER_RIGHTS = (
    0x07FFFE00 & ~(FD_FILESTAT_SET_SIZE)  # every right on a path
    | FD_READDIR
    | FD_FDSTAT_SET_FLAGS
    | _SYNC
)


# `device` of all that is no file of the host.
KEEP_DEVICE = 1


class Stat:
    """What a guest can know of a node: `filestat`."""

    __slots__ = ("atim", "ctim", "dev", "filetype", "ino", "links", "mtim", "size")

    def __init__(
        self,
        filetype: int,
        ino: int = 0,
        links: int = 1,
        size: int = 0,
        times: tuple[int, int, int] = (0, 0, 0),
        dev: int = KEEP_DEVICE,
    ) -> None:
        self.dev = dev
        self.filetype = filetype
        self.ino = ino
        self.links = links
        self.size = size
        self.atim, self.mtim, self.ctim = times


class Room:
    """A memory that stays where it is as long as it is used, and what is known of it meanwhile.

    Attributes:
        all: all of it.
        size: how many bytes it has.
        chars: where the TLS library sees it begin, None until it was asked to.
        target: where it sees the place that was last read into.
        target_at: that place, None if there is none. Most guests read to the same again and again.
        source: likewise where it sees what was last written from.
        source_at: that place.
    """

    __slots__ = ("all", "chars", "size", "source", "source_at", "target", "target_at")

    def __init__(self, memory: memoryview) -> None:
        self.be(memory)

    def be(self, memory: memoryview) -> None:
        """Stand for `memory` from now on."""
        self.all = memory
        self.size = len(memory)
        self.chars: Any = None
        self.target: Any = None
        self.source: Any = None
        self.target_at: int | None = None
        self.source_at: int | None = None


class Descriptor:
    """An open thing; by itself it can do nothing.

    Attributes:
        filetype: what it is.
        rights: what may be done with it.
        inheriting: what may be done with what is opened through it.
        flags: `fdflags`.
        preopened: the name that the guest finds it by, None if the guest opened it.
        read_at: reads as `read` does, into a part of a memory that is given whole, with where the
            part begins and ends; None where that is no faster.
        write_at: writes likewise.
    """

    filetype = UNKNOWN
    possible = 0
    inheriting = 0
    flags = 0
    preopened: str | None = None
    read_at: "Move | None" = None
    write_at: "Move | None" = None

    def __init__(self) -> None:
        self.rights = self.possible

    def read(self, view: memoryview) -> int:
        """Read some; 0 is the end.

        Raises:
            BlockingIOError: there is nothing yet.
            Errno: this cannot be read.
            OSError: the host's reason.
        """
        raise Errno(errno.BADF)

    def write(self, view: memoryview) -> int:
        """Write some, and say how much.

        Raises:
            BlockingIOError: nothing can be taken yet.
            Errno: this cannot be written.
            OSError: the host's reason.
        """
        raise Errno(errno.BADF)

    def pread(self, view: memoryview, offset: int) -> int:
        """Read at a place.

        Raises:
            Errno: this has no places.
        """
        raise Errno(errno.SPIPE)

    def pwrite(self, view: memoryview, offset: int) -> int:
        """Write at a place.

        Raises:
            Errno: this has no places.
        """
        raise Errno(errno.SPIPE)

    def seek(self, offset: int, whence: int) -> int:
        """Change the place (`whence`: 0 from the start, 1 from here, 2 from the end).

        Raises:
            Errno: this has no places, or not that one.
        """
        raise Errno(errno.SPIPE)

    def stat(self) -> Stat:
        """What it is."""
        return Stat(self.filetype)

    def set_size(self, size: int) -> None:
        """Cut it or fill it with zeros.

        Raises:
            Errno: it has no size.
        """
        raise Errno(errno.INVAL)

    def allocate(self, offset: int, length: int) -> None:
        """Make sure that there is room.

        Raises:
            Errno: it has no size, or there is none.
        """
        raise Errno(errno.NOTSUP)

    def set_times(self, atim: int | None, mtim: int | None) -> None:
        """Set its times, in nanoseconds.

        Raises:
            Errno: it has none.
        """
        raise Errno(errno.INVAL)

    def node(self) -> "Directory":
        """The node that it is open on, as the directory of a path.

        Raises:
            Errno: it is no directory.
        """
        raise Errno(errno.NOTDIR)

    def names(self, *, again: bool) -> "list[tuple[str, int, int]]":
        """What a directory holds, name, number and type of each, as of the last time `again`.

        Raises:
            Errno: it is no directory.
        """
        raise Errno(errno.NOTDIR)

    def forget_names(self) -> None:
        """Hold no names for `names` any more: who goes on has them as they are then."""

    def ready(self, *, write: bool) -> bool:
        """Whether a read or write would do something now, if that is known without asking."""
        return True

    def events(self, *, write: bool) -> "tuple[int, int] | None":
        """Host descriptor and poll events to wait for; None where waiting is never needed."""
        return None

    def source(self) -> "Source":
        """What says whether `ready`, `events` and `timeout` have to be asked at all."""
        return _RESTLESS

    def timeout(self) -> "float | None":
        """Seconds after which to ask again without any event."""
        return None

    def available(self) -> int:
        """How many bytes a read would give, as far as known."""
        return 1

    def close(self) -> None:
        """End it."""


class _Restless:
    restless = True


_RESTLESS = _Restless()


class Late(Descriptor):
    """A directory that the guest has from the start, and that is made when it is first used.

    A guest that prints a line and ends never looks at its files.

    Args:
        name: what the guest finds it by.
        make: makes it.
    """

    filetype = FOLDER
    possible = FOLDER_RIGHTS

    def __init__(self, name: str, make: "Callable[[], Descriptor]") -> None:
        super().__init__()
        self.inheriting = ALL
        self.preopened = name
        self._make = make
        self._made: Descriptor | None = None

    def _directory(self) -> Descriptor:
        if self._made is None:
            self._made = self._make()
            # What every path asks for, from now on without a call of ours in between.
            self.node = self._made.node  # type: ignore[method-assign]
        return self._made

    def read(self, view: memoryview) -> int:
        """Fail as the directory does."""
        return self._directory().read(view)

    def pread(self, view: memoryview, offset: int) -> int:
        """Fail as the directory does."""
        return self._directory().pread(view, offset)

    def seek(self, offset: int, whence: int) -> int:
        """Fail as the directory does."""
        return self._directory().seek(offset, whence)

    def stat(self) -> Stat:
        """What the directory is."""
        return self._directory().stat()

    def set_times(self, atim: int | None, mtim: int | None) -> None:
        """Set the directory's times."""
        self._directory().set_times(atim, mtim)

    def node(self) -> "Directory":
        """The directory."""
        return self._directory().node()

    def names(self, *, again: bool) -> "list[tuple[str, int, int]]":
        """What the directory holds."""
        return self._directory().names(again=again)

    def forget_names(self) -> None:
        """Hold none of the directory's names."""
        self._directory().forget_names()

    def close(self) -> None:
        """End it, if it was ever made."""
        if self._made is not None:
            self._made.close()

"""Of wasi:filesystem: descriptors, and what goes wrong with files."""

from __future__ import annotations

from garrison.keep.component.callbacks import Failed
from garrison.keep.component.wasi.streams import Shared
from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import NAMES, Errno, of_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar

    from garrison.keep.component.host import Host
    from garrison.keep.component.wasi.streams import Error
    from garrison.keep.vfs.descriptor import Descriptor

    P = ParamSpec("P")
    R = TypeVar("R")

# Preview 1's errno and this package's error code, by the names that they have.
_CODES = {
    "ACCES": "access", "AGAIN": "would-block", "ALREADY": "already", "BADF": "bad-descriptor",
    "BUSY": "busy", "DEADLK": "deadlock", "DQUOT": "quota", "EXIST": "exist",
    "FBIG": "file-too-large", "ILSEQ": "illegal-byte-sequence", "INPROGRESS": "in-progress",
    "INTR": "interrupted", "INVAL": "invalid", "IO": "io", "ISDIR": "is-directory",
    "LOOP": "loop", "MLINK": "too-many-links", "MSGSIZE": "message-size",
    "NAMETOOLONG": "name-too-long", "NODEV": "no-device", "NOENT": "no-entry",
    "NOLCK": "no-lock", "NOMEM": "insufficient-memory", "NOSPC": "insufficient-space",
    "NOTDIR": "not-directory", "NOTEMPTY": "not-empty", "NOTRECOVERABLE": "not-recoverable",
    "NOTSUP": "unsupported", "NOTTY": "no-tty", "NXIO": "no-such-device",
    "OVERFLOW": "overflow", "PERM": "not-permitted", "PIPE": "pipe", "ROFS": "read-only",
    "SPIPE": "invalid-seek", "TXTBSY": "text-file-busy", "XDEV": "cross-device",
    "NOTCAPABLE": "not-permitted", "MFILE": "quota",
}  # fmt: skip


class Opened:
    """A descriptor of this package.

    Attributes:
        descriptor: what it is open on.
        shared: likewise, for its streams.
        flags: what it was opened for.

    Raises:
        Errno: the host has too many open.
    """

    def __init__(
        self, descriptor: Descriptor, flags: frozenset[str], host: Host | None = None
    ) -> None:
        self.shared = Shared(descriptor, host)
        self.descriptor = self.shared.use()
        self.flags = flags

    def need(self, flag: str, number: int) -> Descriptor:
        """The descriptor, if it was opened for `flag`.

        Raises:
            Errno: `number`, it was not.
        """
        if self.descriptor.filetype == d.FOLDER:
            raise Errno(errno.ISDIR)
        if flag not in self.flags:
            raise Errno(number)
        return self.descriptor

    def drop(self) -> None:
        """End it."""
        self.shared.release()


def told(function: Callable[P, R]) -> Callable[P, R]:
    """Tell the component what goes wrong, by its own error codes."""

    def telling(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Errno as error:
            raise Failed(_code(error.number)) from error
        except OSError as error:
            raise Failed(_code(of_host(error))) from error

    return telling


def _code(number: int) -> str:
    return _CODES.get(NAMES[number], "io")


def types_filesystem_error_code(_host: Host, error: Error) -> str | None:
    """Tell what a stream's error means for files."""
    return _CODES.get(NAMES[error.number])

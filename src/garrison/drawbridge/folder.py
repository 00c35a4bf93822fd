"""What a store in a folder does by itself, since it is much faster than by the library.

Names that were read lately are kept in memory; content is read without threads where the kernel has
it in memory, and an upload becomes content by a link, without a second copy. The files are the
library's, and it does the rest: listing, creating names, copying and removing.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from collections import OrderedDict
from typing import IO, TYPE_CHECKING

from garrison.drawbridge.named import damaged, failed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from garrison.drawbridge.named import Named

# Of names that are kept: records and entries have some hundred bytes, so all are some megabytes.
_MOST_KEPT = 4096
_LONGEST_KEPT = 4096
# By what a file that was read is known to be the same still: inode, size, and both times.
Mark = tuple[int, int, int, int]
# Read at once. It is encrypted and sent while the processor has it near; and the kernel, which sees
# that a file is read from end to end, reads ahead of it.
_PIECE = 256 * 1024
# What `preadv2` answers where a file system, or the kernel, cannot tell what it has in memory.
_NO_NOWAIT = frozenset({errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class _Open:
    """A descriptor that is closed when nobody has it any more."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        # It is not there where the constructor failed.
        descriptor = getattr(self, "descriptor", None)
        if descriptor is not None:
            os.close(descriptor)


class Folder:
    """The files of a store.

    The folder stays the only truth: what is removed, replaced or damaged there is seen at once.
    Every request reads names, and the same ones; a look at the file tells whether it is the one
    that was read, at a hundredth of the price.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._prefix = f"{folder}{os.sep}"
        self._names: OrderedDict[str, tuple[Mark, Named]] = OrderedDict()

    def mark(self, key: str) -> Mark | None:
        """What the file of the name `key` looks like, before it is read; None if there is none.

        Raises:
            StorageFailure: it cannot be told.
        """
        try:
            found = os.stat(self._prefix + key)  # noqa: PTH116  (for its price)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                # A path that no file can have: there is none.
                return None
            raise failed(error) from error
        return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def get(self, key: str, mark: Mark) -> Named | None:
        """What was read, if the file looks as it did then."""
        kept = self._names.get(key)
        if kept is None or kept[0] != mark:
            return None
        self._names.move_to_end(key)
        return kept[1]

    def kept(self, key: str) -> tuple[Mark, Named] | None:
        """What is kept of `key`, and what its file looked like; it may have changed since."""
        return self._names.get(key)

    def keep(self, key: str, mark: Mark, named: Named) -> None:
        """Keep what was read of a file that looked so before."""
        if len(named.body) > _LONGEST_KEPT:
            return
        self._names[key] = (mark, named)
        if len(self._names) > _MOST_KEPT:
            self._names.popitem(last=False)

    async def content(
        self, key: str, part: tuple[int, int] | None
    ) -> tuple[int, AsyncIterator[bytes | memoryview]] | None:
        """The length of the content under `key`, and its pieces, or those of a part of it.

        Raises:
            StorageFailure: it cannot be read.
        """
        try:
            file = await asyncio.to_thread(_Open, self._prefix + key)
            size = os.fstat(file.descriptor).st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise failed(error) from error
        start, end = part or (0, size)
        return size, _pieces(file, key, start, end)

    def take(self, key: str, file: IO[bytes]) -> bool:
        """Make an upload the content under `key`, if it is a file in this folder without a name.

        Raises:
            OSError: there is no room, or the like.
        """
        target = self._prefix + key
        # What is there is replaced, for it may be damaged. Until then the name is one of those
        # that the library takes for half written, and `Store.remove_leftovers` for left over.
        staged = f"{target}#{secrets.randbelow(10**12)}"
        try:
            file.flush()
            os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
            # The link is followed if a descriptor is given, which has no other meaning here.
            number = file.fileno()
            os.link(f"/proc/self/fd/{number}", staged, src_dir_fd=number, follow_symlinks=True)
        except OSError as error:
            # It had a name, which is gone, or stands elsewhere: it must be copied.
            if error.errno in {errno.ENOENT, errno.EXDEV}:
                return False
            raise
        os.replace(staged, target)  # noqa: PTH105
        return True


async def _pieces(file: _Open, key: str, start: int, end: int) -> AsyncIterator[bytes | memoryview]:
    while start < end:
        wanted = min(_PIECE, end - start)
        try:
            piece: bytes | memoryview | None = _read_at_once(file.descriptor, wanted, start)
            if piece is None:
                piece = await asyncio.to_thread(_read, file, wanted, start)
        except OSError as error:
            raise failed(error) from error
        if not piece:
            raise damaged(f"{key}: it became shorter")
        start += len(piece)
        yield piece
        if start < end:
            # Perhaps neither reading nor sending had to wait, and others have their turn too.
            await asyncio.sleep(0)


def _read(file: _Open, wanted: int, start: int) -> bytes:
    # With the file, not its number: it stays open until it is read.
    return os.pread(file.descriptor, wanted, start)


def _read_at_once(descriptor: int, wanted: int, start: int) -> memoryview | None:
    """What can be read without waiting for a disk, perhaps not all; None if that is nothing.

    A thread for what the kernel has in memory costs more than reading it.
    """
    buffer = bytearray(wanted)
    try:
        length = os.preadv(descriptor, [buffer], start, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno in _NO_NOWAIT:
            return None
        raise
    return memoryview(buffer)[:length]

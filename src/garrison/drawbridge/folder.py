"""What a store in a folder does by itself, since it is much faster than by the library.

Names that were read lately are kept in memory; content is read without threads where the kernel has
it in memory, and an upload becomes content by a link, without a second copy. What is written is on
the disk before its writer is told so, and either all there or not at all, though the power goes.
The files are as the library's, and it does the rest: listing, copying and removing.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from garrison.disk import flush
from garrison.drawbridge.folder_flush import Flushes
from garrison.drawbridge.named import damaged, failed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
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
# Copied by the kernel in one call.
_COPIED = 1 << 30
# What `preadv2` answers where a file system, or the kernel, cannot tell what it has in memory.
_NO_NOWAIT = frozenset({errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class _Open:
    """A descriptor that is closed when nobody has it any more.

    Args:
        file: the path of a file, or a descriptor, which stays its owner's.
    """

    def __init__(self, file: str | int) -> None:
        if isinstance(file, int):
            self.descriptor = os.dup(file)
        else:
            self.descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)

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
        # With a slash at the end.
        self._prefix = os.path.join(folder, "")  # noqa: PTH118
        self._names: OrderedDict[str, tuple[Mark, Named]] = OrderedDict()
        self._top = str(folder)
        self._flushes = Flushes(self._top)

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

    async def create(self, key: str, data: bytes) -> None:
        """Create the file of the name `key`.

        Raises:
            FileExistsError: there was one, which is on the disk if it is not removed.
            OSError: it cannot be written, or not flushed.
        """
        await self._flushes.in_thread(partial(self._create, key, data))

    async def replace(self, key: str, data: bytes) -> None:
        """Create the file under `key`, or replace it.

        Raises:
            OSError: it cannot be written, or not flushed.
        """
        await self._flushes.in_thread(
            partial(self._write, key, partial(_write_all, data), os.replace)
        )

    async def take(self, key: str, number: int) -> None:
        """Make an upload the content under `key`; what is there is replaced, for it may be damaged.

        Args:
            key: where it is to be.
            number: the descriptor of the upload's file. It is not copied if it is in this folder,
                and never had a name.

        Raises:
            OSError: there is no room, or the like.
        """
        # Its own descriptor: who put it may leave, and close it, while a thread is at work.
        await self._flushes.in_thread(partial(self._take, key, _Open(number)))

    async def settle(self, key: str) -> None:
        """Wait until the file under `key`, whoever wrote it, is on the disk.

        Raises:
            OSError: there is none, or it could not be flushed.
        """
        await self._flushes.in_thread(partial(self._settle, key))

    async def settle_entry(self, key: str) -> None:
        """Wait until the disk knows that there is a file under `key`, or is none any more.

        Raises:
            OSError: it could not be flushed.
        """
        await self._flushes.in_thread(partial(self._settle_entry, key))

    # In a thread.

    def _create(self, key: str, data: bytes) -> None:
        try:
            self._write(key, partial(_write_all, data), os.link)
        except FileExistsError:
            # Who is told so relies on it. If it was removed since, it was there.
            with suppress(FileNotFoundError):
                self._settle(key)
            raise

    def _settle(self, key: str) -> None:
        flush(self._prefix + key)
        self._settle_entry(key)

    def _settle_entry(self, key: str) -> None:
        self._flushes.entries(os.path.dirname(self._prefix + key))  # noqa: PTH120

    def _write(
        self, key: str, write: Callable[[int], None], give: Callable[[str, str], None]
    ) -> None:
        """Write a file, and then `give` it, by link or by rename, the name `key`; flush both."""
        staged = self._stage(key)
        try:
            descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                write(descriptor)
                # Before it has its name: no loss of power leaves half a file under that.
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            give(staged, self._prefix + key)
        finally:
            _unlink(staged)
        self._settle_entry(key)

    def _take(self, key: str, file: _Open) -> None:
        """Give a file without a name the name `key`, or copy it if that cannot be; flush both."""
        staged, number = self._stage(key), file.descriptor
        try:
            # The link is followed if a descriptor is given, which has no other meaning here.
            os.link(f"/proc/self/fd/{number}", staged, src_dir_fd=number, follow_symlinks=True)
        except OSError as error:
            # It had a name, which is gone, or stands elsewhere: it must be copied.
            if error.errno not in {errno.ENOENT, errno.EXDEV}:
                raise
            self._write(key, partial(_copy, file), os.replace)
            return
        try:
            # As above.
            os.fsync(number)
            os.replace(staged, self._prefix + key)  # noqa: PTH105
        finally:
            _unlink(staged)
        self._settle_entry(key)

    def _stage(self, key: str) -> str:
        """A path beside that of `key`, whose directory is made, for a file that is not whole yet.

        It is one of those that the library takes for half written, and `Store.remove_leftovers`
        for left over. It is short, for the lengths of paths are bounded.
        """
        directory = os.path.dirname(self._prefix + key)  # noqa: PTH120
        self._make(directory)
        return f"{directory}{os.sep}n#{secrets.randbelow(10**12)}"

    def _make(self, directory: str) -> None:
        if directory == self._top or os.path.isdir(directory):  # noqa: PTH112
            # A store that was taken away, or unmounted, is not begun anew: what comes next fails.
            return
        self._make(os.path.dirname(directory))  # noqa: PTH120
        # Somebody else may be making it too. If it is a file, what comes next fails.
        with suppress(FileExistsError):
            os.mkdir(directory)  # noqa: PTH102
            self._flushes.made(directory)


def _write_all(data: bytes, descriptor: int) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _copy(file: _Open, descriptor: int) -> None:
    start = 0
    while count := os.sendfile(descriptor, file.descriptor, start, _COPIED):
        start += count


def _unlink(staged: str) -> None:
    # A link leaves it, a rename does not.
    with suppress(FileNotFoundError):
        os.unlink(staged)  # noqa: PTH108


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

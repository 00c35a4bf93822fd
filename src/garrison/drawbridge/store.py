"""The object store: the only state of a drawbridge, behind one small interface.

A folder on one machine; S3, Google Cloud Storage or Azure where one machine is not enough. What
is asked of it is little: conditional creation, reads, and a listing of one level. There are two
kinds of object:

- **names** are created if absent, in one step. Whoever creates first has it, however many
  drawbridges race, and nothing ever changes one.
- **content** is stored under its own SHA-256, before any name stands for it. Storing it again
  stores the same bytes, so it needs no condition, and mends an object that was damaged.

An upload that fails on the way has therefore changed nothing that anybody can see. What a call
has done when it returns stays done: other stores see to that themselves, and for a folder its
files and directories are flushed to the disk (`folder_flush`).

Content that nothing refers to is removed in two steps (`gc`): it is put aside first, where it is
still found, and erased at a later time. So a name that was given in between loses nothing.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from os import SEEK_END
from pathlib import Path
from typing import IO, TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, MemoryStore, from_url

from garrison.disk import make_folder
from garrison.drawbridge.folder import Folder
from garrison.drawbridge.layout import PROBE, aside_prefix
from garrison.drawbridge.named import Exists, Named, damaged, failed
from garrison.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from obstore import GetOptions, ObjectMeta
    from obstore.store import ObjectStore

    from garrison.drawbridge.folder import Mark

# The library raises Python's own error for some, where there is one.
_NOT_FOUND = (NotFoundError, FileNotFoundError)
_FAILURES = (BaseError, OSError)
_CHUNK = 256 * 1024
# What is smaller stays in memory while it is uploaded.
SPOOL = 1 << 20
# Larger content goes to a remote store in parts, and is never in memory as a whole.
_PART = 5 * 1024 * 1024
# A name's object is a record, or the content of a tag; nothing is larger.
_MAX_NAMED = 256 * 1024
# What writers that are killed leave in a folder beside `NAME`: the library `NAME#1`, we `n#1`.
_STAGED = re.compile(r".+#\d+")


@dataclass(frozen=True, slots=True)
class Stored:
    """An object of the store, as a listing tells of it.

    Attributes:
        key: where it is.
        size: its bytes.
        modified: when it was last written, by the store's clock.
        tag: the store's own for this content.
    """

    key: str
    size: int
    modified: datetime
    tag: str

    @classmethod
    def of(cls, item: ObjectMeta) -> Stored:
        """What the library tells of an object."""
        return cls(item["path"], item["size"], item["last_modified"], item["e_tag"] or "")

    @property
    def mark(self) -> str:
        """What differs once it was written again."""
        return f"{self.tag} {self.size} {self.modified.timestamp()}"


class Store:
    """Names and content in an object store."""

    def __init__(self, backend: ObjectStore, folder: Path | None = None) -> None:
        self._backend = backend
        self._folder = None if folder is None else Folder(folder)

    @classmethod
    def open(cls, location: str | Path) -> Store:
        """Open the store at `location`: a folder, made if need be, or a URL such as `s3://bucket`.

        Credentials for a URL come from the environment, as that cloud's own tools take them.

        Raises:
            Misuse: there cannot be a store.
        """
        try:
            if isinstance(location, Path) or "://" not in location:
                make_folder(Path(location))
                return cls(LocalStore(location), Path(location))
            return cls(from_url(location))
        except (*_FAILURES, ValueError) as error:
            # What the library says beyond that is for its authors.
            reason = str(error).partition("\n")[0]
            raise Misuse(f"cannot be opened: {reason}", field="store", found=location) from error

    @classmethod
    def in_memory(cls) -> Store:
        """An empty store that nothing outlives."""
        return cls(MemoryStore())

    @property
    def spool(self) -> Path | None:
        """The directory where uploads are best kept until they are whole; None for any."""
        return None if self._folder is None else self._folder.path

    async def create(self, key: str, named: Named) -> None:
        """Create the name `key`.

        Raises:
            Exists: the name is taken, and stays so.
            StorageFailure: the store does not answer.
        """
        try:
            if self._folder is not None:
                await self._folder.create(key, named.to_bytes())
                return
            await obstore.put_async(
                self._backend, key, named.to_bytes(), mode="create", use_multipart=False
            )
        except (AlreadyExistsError, FileExistsError) as error:
            raise Exists("Already exists", found=key) from error
        except _FAILURES as error:
            raise failed(error) from error

    async def taken(self, key: str) -> Exists:
        """The error for the name `key` that `named` has found: who is told so relies on it.

        Raises:
            StorageFailure: the store does not answer.
        """
        if self._folder is not None:
            try:
                await self._folder.settle(key)
            except OSError as error:
                raise failed(error) from error
        return Exists("Already exists", found=key)

    async def replace(self, key: str, named: Named) -> bool:
        """Make `key` stand for something else, and tell whether it stood for something before.

        Raises:
            StorageFailure: the store does not answer.
        """
        was_there = await self.stored(key) is not None
        try:
            if self._folder is not None:
                await self._folder.replace(key, named.to_bytes())
            else:
                await obstore.put_async(self._backend, key, named.to_bytes(), use_multipart=False)
        except _FAILURES as error:
            raise failed(error) from error
        return was_there

    async def named(self, key: str) -> Named | None:
        """What the name `key` stands for, or None where there is no such name.

        Raises:
            StorageFailure: the store does not answer.
            Damaged: it holds something else under this key.
        """
        mark = None
        if self._folder is not None:
            mark = self._folder.mark(key)
            if mark is None:
                return None
            kept = self._folder.get(key, mark)
            if kept is not None:
                return kept
        try:
            found = await obstore.get_async(self._backend, key)
            if found.meta["size"] > _MAX_NAMED:
                raise damaged(f"{key}: {found.meta['size']} bytes")
            named = Named.from_bytes(bytes(await found.bytes_async()))
        except _NOT_FOUND:
            return None
        except _FAILURES as error:
            raise failed(error) from error
        if self._folder is not None and mark is not None:
            self._folder.keep(key, mark, named)
        return named

    def kept(self, key: str) -> tuple[Mark, Named] | None:
        """What `named` read of `key` lately, and what its file looked like, if that is kept."""
        return None if self._folder is None else self._folder.kept(key)

    def mark(self, key: str) -> Mark | None:
        """What the file of the name `key` looks like now, None if there is none.

        Raises:
            StorageFailure: it cannot be told.
        """
        return None if self._folder is None else self._folder.mark(key)

    async def names(self, prefix: str) -> list[str]:
        """The last parts of the names directly under `prefix`, which ends with a slash; sorted.

        Raises:
            StorageFailure: the store does not answer.
        """
        try:
            found = await obstore.list_with_delimiter_async(self._backend, prefix)
        except _FAILURES as error:
            raise failed(error) from error
        return sorted(item["path"].removeprefix(prefix) for item in found["objects"])

    async def put_content(self, key: str, file: IO[bytes]) -> None:
        """Store the content in `file` under its digest's `key`.

        Raises:
            StorageFailure: the store does not answer.
        """
        try:
            length = file.seek(0, SEEK_END)
            file.seek(0)
            if self._folder is None:
                await obstore.put_async(self._backend, key, file, chunk_size=_PART)
            elif length > SPOOL:
                file.flush()
                await self._folder.take(key, file.fileno())
            else:
                await self._folder.replace(key, file.read())
        except _FAILURES as error:
            raise failed(error) from error

    async def content(
        self, key: str, length: int, part: tuple[int, int] | None = None
    ) -> AsyncIterator[bytes | memoryview]:
        """The content under `key`, in pieces, though it was put aside.

        Args:
            key: where it is.
            length: how long it must be.
            part: the first byte that is wanted, and the one after the last; None for all.

        Raises:
            StorageFailure: the store does not answer.
            Damaged: it has no such content, or what it has is not `length` bytes long.
        """
        found = await self._get(key, part)
        if found is None:
            # Newest first: one that is erased meanwhile is the oldest.
            for aside in sorted([item.key async for item in self.objects(aside_prefix(key))])[::-1]:
                found = found or await self._get(aside, part)
        # Between the first look and the second it may have been put back.
        found = found or await self._get(key, part)
        if found is None:
            raise damaged(f"{key}: missing")
        size, pieces = found
        if size != length:
            raise damaged(f"{key}: {size} bytes instead of {length}")
        return pieces

    async def _get(
        self, key: str, part: tuple[int, int] | None
    ) -> tuple[int, AsyncIterator[bytes | memoryview]] | None:
        """The size of an object, and its pieces, or those of a part of it."""
        if self._folder is not None:
            return await self._folder.content(key, part)
        options: GetOptions | None = None if part is None else {"range": part}
        try:
            found = await obstore.get_async(self._backend, key, options=options)
        except _NOT_FOUND:
            return None
        except _FAILURES as error:
            raise failed(error) from error
        return found.meta["size"], _pieces(found)

    # For `fsck` and `gc`.

    async def objects(self, prefix: str = "") -> AsyncIterator[Stored]:
        """All objects under `prefix`, at any depth, in no order.

        Raises:
            StorageFailure: the store does not answer.
        """
        try:
            async for page in obstore.list(self._backend, prefix or None, chunk_size=1000):
                for item in page:
                    yield Stored.of(item)
        except _FAILURES as error:
            raise failed(error) from error

    async def stored(self, key: str) -> Stored | None:
        """What is under `key`, or None; raises as `objects`."""
        try:
            item = await obstore.head_async(self._backend, key)
        except _NOT_FOUND:
            return None
        except _FAILURES as error:
            raise failed(error) from error
        return Stored.of(item)

    async def copy(self, source: str, target: str) -> bool:
        """Copy an object, and tell whether there was one; raises as `objects`."""
        try:
            await obstore.copy_async(self._backend, source, target)
        except _NOT_FOUND:
            return False
        except _FAILURES as error:
            raise failed(error) from error
        if self._folder is not None:
            try:
                await self._folder.settle_entry(target)
            except OSError as error:
                raise failed(error) from error
        return True

    async def remove(self, key: str) -> None:
        """Remove an object, if it is there; raises as `objects`."""
        await self._discard(key)
        if self._folder is not None:
            try:
                # Though it was gone already: another may have removed it this moment.
                await self._folder.settle_entry(key)
            except FileNotFoundError:
                # The library keeps directories: there never was one from which to remove it.
                return
            except OSError as error:
                raise failed(error) from error

    async def _discard(self, key: str) -> None:
        """Remove an object that may come back if the power goes."""
        try:
            await obstore.delete_async(self._backend, key)
        except _NOT_FOUND:
            return
        except _FAILURES as error:
            raise failed(error) from error

    async def now(self) -> datetime:
        """The time by the store's own clock, with which `Stored.modified` compares.

        Raises:
            StorageFailure: the store does not answer, or cannot be written.
        """
        key = f"{PROBE}{secrets.token_hex(16)}"
        try:
            await obstore.put_async(self._backend, key, b"", use_multipart=False)
        except _FAILURES as error:
            raise failed(error) from error
        probe = await self.stored(key)
        await self._discard(key)
        if probe is None:
            raise damaged(f"{key}: missing")
        return probe.modified

    async def check(self) -> None:
        """Check that an object can be written, for good, and read and removed.

        Raises:
            StorageFailure: the store does not answer, or cannot be written.
            Damaged: it gives something else back.
        """
        key, content = f"{PROBE}{secrets.token_hex(16)}", secrets.token_bytes(32)
        try:
            await obstore.put_async(self._backend, key, content, use_multipart=False)
            try:
                if self._folder is not None:
                    await self._folder.settle(key)
                found = await obstore.get_async(self._backend, key)
                is_same = bytes(await found.bytes_async()) == content
            finally:
                await self._discard(key)
        except _FAILURES as error:
            raise failed(error) from error
        if not is_same:
            raise damaged(f"{key}: other content")

    async def remove_leftovers(self, before: datetime) -> int:
        """Remove what writers that were killed left in a folder, and return how many.

        Other stores have nothing of the kind in their listings. (In S3 it is unfinished multipart
        uploads, which a life-cycle rule of the bucket ends.)

        Args:
            before: younger ones may still be written.

        Raises:
            StorageFailure: the folder cannot be read or written.
        """
        if self._folder is None:
            return 0
        try:
            return await asyncio.to_thread(_remove_staged, self._folder.path, before)
        except OSError as error:
            raise failed(error) from error


def _modified(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        # Its writer has finished: it is not left over.
        return datetime.max.replace(tzinfo=UTC)


def _remove_staged(folder: Path, before: datetime) -> int:
    count = 0
    for path in folder.rglob("*#*"):
        if _STAGED.fullmatch(path.name) and _modified(path) < before:
            path.unlink(missing_ok=True)
            count += 1
    return count


async def _pieces(found: obstore.GetResult) -> AsyncIterator[bytes | memoryview]:
    async for piece in found.stream(min_chunk_size=_CHUNK):
        yield bytes(piece)

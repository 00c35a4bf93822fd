"""The object store: the only state of a drawbridge, behind one small interface.

A folder on one machine; S3, Google Cloud Storage or Azure where one machine is not enough. What
is asked of it is little: conditional creation, reads, and a listing of one level. There are two
kinds of object:

- **names** are created if absent, in one step. Whoever creates first has it, however many
  drawbridges race, and nothing ever changes one.
- **content** is stored under its own SHA-256, before any name stands for it. Storing it again
  stores the same bytes, so it needs no condition, and mends an object that was damaged.

An upload that fails on the way has therefore changed nothing that anybody can see.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, MemoryStore, from_url

from garrison.errors import Misuse, Rejected, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from obstore.store import ObjectStore

# The library raises Python's own error for some, where there is one.
_NOT_FOUND = (NotFoundError, FileNotFoundError)
_FAILURES = (BaseError, OSError)
_CHUNK = 256 * 1024
# Larger content goes to a remote store in parts, and is never in memory as a whole.
_PART = 5 * 1024 * 1024
# A name's object is a record, or the content of a tag; nothing is larger.
_MAX_NAMED = 256 * 1024


class Exists(Rejected):
    """The name is taken."""


class StorageFailure(Unavailable):
    """The store does not answer, or does not have what was put into it."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a name stands for: a media type and a short body, exactly as they were put."""

    type: str
    body: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Named:
        """Read the object: the media type, a line feed, the body.

        Raises:
            StorageFailure: `data` was not stored by a drawbridge.
        """
        kind, _, body = data.partition(b"\n")
        try:
            return cls(kind.decode("ascii"), body)
        except ValueError as error:
            raise StorageFailure("Storage backend failure") from error

    def to_bytes(self) -> bytes:
        """Write the object."""
        return self.type.encode("ascii") + b"\n" + self.body


class Store:
    """Names and content in an object store."""

    def __init__(self, backend: ObjectStore) -> None:
        self._backend = backend

    @classmethod
    def open(cls, location: str | Path) -> Store:
        """Open the store at `location`: a folder, made if need be, or a URL such as `s3://bucket`.

        Credentials for a URL come from the environment, as that cloud's own tools take them.

        Raises:
            Misuse: there cannot be a store.
        """
        try:
            if isinstance(location, Path) or "://" not in location:
                Path(location).mkdir(parents=True, exist_ok=True, mode=0o700)
                return cls(LocalStore(location))
            return cls(from_url(location))
        except (*_FAILURES, ValueError) as error:
            raise Misuse(f"cannot be opened: {error}", field="store", found=location) from error

    @classmethod
    def in_memory(cls) -> Store:
        """An empty store that nothing outlives."""
        return cls(MemoryStore())

    async def create(self, key: str, named: Named) -> None:
        """Create the name `key`.

        Raises:
            Exists: the name is taken.
            StorageFailure: the store does not answer.
        """
        try:
            await obstore.put_async(
                self._backend, key, named.to_bytes(), mode="create", use_multipart=False
            )
        except AlreadyExistsError as error:
            raise Exists("Already exists", found=key) from error
        except _FAILURES as error:
            raise _failed(error) from error

    async def named(self, key: str) -> Named | None:
        """What the name `key` stands for, or None where there is no such name.

        Raises:
            StorageFailure: the store does not answer, or holds something else under this key.
        """
        try:
            found = await obstore.get_async(self._backend, key)
            if found.meta["size"] > _MAX_NAMED:
                raise _failed(ValueError(f"{key}: {found.meta['size']} bytes"))
            return Named.from_bytes(bytes(await found.bytes_async()))
        except _NOT_FOUND:
            return None
        except _FAILURES as error:
            raise _failed(error) from error

    async def names(self, prefix: str) -> list[str]:
        """The last parts of the names directly under `prefix`, which ends with a slash; sorted.

        Raises:
            StorageFailure: the store does not answer.
        """
        try:
            found = await obstore.list_with_delimiter_async(self._backend, prefix)
        except _FAILURES as error:
            raise _failed(error) from error
        return sorted(item["path"].removeprefix(prefix) for item in found["objects"])

    async def put_content(self, key: str, file: IO[bytes]) -> None:
        """Store the content in `file` under its digest's `key`.

        Raises:
            StorageFailure: the store does not answer.
        """
        try:
            await obstore.put_async(self._backend, key, file, chunk_size=_PART)
        except _FAILURES as error:
            raise _failed(error) from error

    async def content(self, key: str, length: int) -> AsyncIterator[bytes]:
        """The content under `key`, in pieces.

        Raises:
            StorageFailure: the store does not answer, or what it has is not `length` bytes long.
        """
        try:
            found = await obstore.get_async(self._backend, key)
        except _FAILURES as error:
            raise _failed(error) from error
        if found.meta["size"] != length:
            raise _failed(ValueError(f"{key}: {found.meta['size']} bytes instead of {length}"))
        return _pieces(found)


async def _pieces(found: obstore.GetResult) -> AsyncIterator[bytes]:
    async for piece in found.stream(min_chunk_size=_CHUNK):
        yield bytes(piece)


def _failed(error: Exception) -> StorageFailure:
    # The original's words. Ours may hold addresses of the store: for the log, not for clients.
    failure = StorageFailure("Storage backend failure")
    failure.add_note(str(error))
    return failure

"""Receiving what a client puts: into a temporary file, digested on the way.

Nothing is stored before all of it has arrived and is what its headers announced. A client that
goes away in the middle leaves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import tempfile
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Self

from garrison.drawbridge.belt import Belt
from garrison.drawbridge.named import failed
from garrison.drawbridge.rules import check_digest, check_length
from garrison.drawbridge.store import SPOOL
from garrison.errors import Malformed
from garrison.formats.content_digest import ALGORITHMS, ContentDigest, ContentHasher
from garrison.formats.tree import Entry, check_media_type
from garrison.service.bodies import Body
from garrison.service.problem import TooLarge
from garrison.service.requests import header

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path
    from types import TracebackType

    from starlette.requests import Request

# What file systems say that have no files without names: open(2).
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT}


@dataclass(frozen=True, slots=True)
class Announced:
    """What a request's headers say of its body; the digest is None where none is given."""

    length: int
    type: str
    digest: ContentDigest | None

    @classmethod
    def by(cls, request: Request) -> Announced:
        """Read the headers.

        Raises:
            Malformed: one is missing or unreadable.
        """
        length = request.headers.get("content-length")
        if length is None:
            raise Malformed("Header of type `content-length` was missing")
        if not (length.isascii() and length.isdecimal()) or len(length) > 18:
            raise Malformed("not a length", field="Content-Length", found=repr(length[:40]))
        kind = header(request, "content-type")
        if kind is None:
            raise Malformed("Header of type `content-type` was missing")
        digest = header(request, "content-digest")
        return cls(
            int(length),
            check_media_type(kind, "Content-Type"),
            None if digest is None else ContentDigest.from_header(digest),
        )


class Upload:
    """A body that arrived as announced. Close it, or use it as a context manager.

    Attributes:
        entry: its digests, length and media type.
        file: its bytes, from the start.
    """

    def __init__(self, entry: Entry, file: IO[bytes]) -> None:
        self.entry = entry
        self.file = file

    def read(self) -> bytes:
        """All of the body."""
        data = self.file.read()
        self.file.seek(0)
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.file.close()


async def receive(
    request: Request,
    announced: Announced,
    limit: int,
    spool: Path | None,
    algorithms: Collection[str] = frozenset(ALGORITHMS),
) -> Upload:
    """Receive the body of `request`, of at most `limit` bytes, in a file of the directory `spool`.

    Args:
        request: the request.
        announced: what its headers say.
        limit: how long the body may be.
        spool: where it is kept until it is whole; None for anywhere.
        algorithms: of the digests that the upload's entry has, beside those announced.

    Raises:
        TooLarge: it is longer.
        StorageFailure: there is no room for it.
        Malformed: it is not what was announced.
        TooSlow: the client paused for too long.
        ClientDisconnect: the client went away.
    """
    if announced.length > limit:
        raise TooLarge(
            "too long", field="Content-Length", found=announced.length, expected=f"at most {limit}"
        )
    file = await asyncio.to_thread(_temporary, announced.length, spool)
    try:
        names = {*algorithms, *(announced.digest.values if announced.digest is not None else ())}
        length, digest = await _digest(request, announced.length, file, ContentHasher(names))
        if announced.digest is not None:
            check_digest(announced.digest, digest)
        file.seek(0)
    except OSError as error:
        _close(file)
        # There is no room for it, most likely; the text goes to the log.
        raise failed(error) from error
    except BaseException:
        _close(file)
        raise
    return Upload(Entry(digest, length, announced.type), file)


def _temporary(length: int, spool: Path | None) -> IO[bytes]:
    """Where a body of that `length` is kept until it is whole. It never has a name.

    Raises:
        StorageFailure: there is no such place.
    """
    if length <= SPOOL:
        return io.BytesIO()
    try:
        if spool is None:
            return tempfile.TemporaryFile()
        try:
            descriptor = os.open(spool, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            # It has a name for a moment, and then it has none and can be given none.
            return tempfile.TemporaryFile(dir=spool)
        return os.fdopen(descriptor, "w+b")
    except OSError as error:
        raise failed(error) from error


async def _digest(
    request: Request, expected: int, file: IO[bytes], hasher: ContentHasher
) -> tuple[int, ContentDigest]:
    """Digest a body, and write it to `file`."""
    if expected <= SPOOL:
        length = await _short(request, expected, file, hasher)
    else:
        length = await _long(request, expected, file, hasher)
    check_length(expected, length)
    return length, hasher.digest()


async def _short(request: Request, expected: int, file: IO[bytes], hasher: ContentHasher) -> int:
    """See `_digest`; threads would cost more than they save."""
    length = 0
    async for piece in request.stream():
        length += len(piece)
        # More is read, and counted, so that the client sees the answer.
        if length <= expected:
            hasher.update(piece)
            file.write(piece)
    return length


async def _long(request: Request, expected: int, file: IO[bytes], hasher: ContentHasher) -> int:
    """See `_digest`; in threads, while more is received."""

    def jobs(block: memoryview) -> list[Callable[[], None]]:
        return [*hasher.jobs([block]), partial(_write, file, block)]

    body, belt, length = Body(request), Belt(jobs), 0
    try:
        is_whole = False
        while not is_whole:
            place = await belt.place()
            size = await body.into(place)
            is_whole = size < len(place)
            length += size
            # As above.
            if size and length <= expected:
                belt.send(place, size)
    finally:
        await belt.end()
    return length


def _write(file: IO[bytes], block: memoryview) -> None:
    file.write(block)


def _close(file: IO[bytes]) -> None:
    """Close a temporary file that is given up; what it still held could not be written either."""
    with contextlib.suppress(OSError):
        file.close()

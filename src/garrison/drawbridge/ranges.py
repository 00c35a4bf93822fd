"""A long file in ranges, over two connections at once, into one piece of memory.

One connection takes one core, to decrypt what comes and to digest it. Here two threads receive,
each its ranges into their places, while the caller digests what is there in the order of the file.
A range that breaks off is asked for again from where it broke off. A server that has no ranges is
asked for all of it, in one stream.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

import urllib3

from garrison.drawbridge.place import Placing, touch
from garrison.drawbridge.wire import (
    CONTENT_RANGE,
    PINNING,
    RANGES_AT_ONCE,
    Answer,
    Whole,
    deadline,
    too_slow,
)
from garrison.errors import Unverified
from garrison.formats.content_digest import ContentHasher

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from garrison.drawbridge.wire import Body

# Below this a second connection costs more than it saves.
LEAST = 16 << 20
# At most. Each costs a request; but what came of one before its turn is digested late.
_RANGE = 16 << 20
# Received at once, of many records of TLS: shorter ones have the threads wake each other often.
_PIECE = 1 << 20


class Contents:
    """Gets content whose length and SHA-256 are known: what is long in ranges, one at a time."""

    def __init__(self) -> None:
        # Held for a long file, whose ranges take the connections that there are.
        self._long = threading.Lock()

    def get(
        self,
        ask: Callable[[Body], Answer],
        where: str,
        *,
        length: int,
        progress: Callable[[int], None],
        algorithms: Collection[str] = PINNING,
    ) -> Answer:
        """Get a content of `length` bytes, whose digest the caller checks.

        Args:
            ask: asks for what a body wants of the content, goes on where it breaks off, and
                returns the answer, or raises what it is if it is another than 200.
            where: what is asked for, in words for errors.
            length: in bytes; nothing longer is taken.
            progress: told of every number of bytes that came, by one thread at a time.
            algorithms: of the digests that the answer has, the SHA-256 among them. Where that one
                is known, others would say nothing more, and take most of the time.

        Raises:
            Unverified: the server sends other bytes than it was asked for, or of another content.
            Unavailable: it is too slow; and what `ask` raises.
        """
        if length >= LEAST:
            with self._long:
                answer = _in_ranges(ask, where, length, progress, algorithms)
            if answer is not None:
                return answer
        return ask(Whole(length, progress, algorithms))


def _in_ranges(
    ask: Callable[[Body], Answer],
    where: str,
    length: int,
    progress: Callable[[int], None],
    algorithms: Collection[str],
) -> Answer | None:
    """As `Contents.get`; None if the server has no ranges."""
    download = _Download(length, progress)
    try:
        return download.get(ask, where, ContentHasher(algorithms))
    except _NoRangesError:
        return None
    finally:
        # An error holds all that it went through, and so the file.
        download.failure = None


class _NoRangesError(Exception):
    """The server answers a range with all of it, or without the tag that holds ranges together."""


class _StoppedError(Exception):
    """The download failed elsewhere."""


class _Download:
    """A file that comes in ranges; `changed` guards all of it but the place."""

    def __init__(self, length: int, progress: Callable[[int], None]) -> None:
        # Zeros take no memory until something is written there. `getvalue` makes no copy.
        self._file = BytesIO(bytes(length))
        self.place = self._file.getbuffer()
        self.length, self.progress = length, progress
        self.changed = threading.Condition()
        self.tag: str | None = None
        self.headers = urllib3.HTTPHeaderDict()
        self._open: set[urllib3.BaseHTTPResponse] = set()
        self.failure: BaseException | None = None

    def get(self, ask: Callable[[Body], Answer], where: str, hasher: ContentHasher) -> Answer:
        # All of a length, and so many that all connections end together.
        rounds = -(-self.length // (RANGES_AT_ONCE * _RANGE))
        size = -(-self.length // (RANGES_AT_ONCE * rounds))
        starts = range(0, self.length, size)
        parts = [_Part(self, start, min(start + size, self.length)) for start in starts]
        waiting = iter(parts)

        def receive() -> None:
            try:
                while (part := self._next(waiting)) is not None:
                    ask(part)
                    part.check_end(where)
            except BaseException as error:  # noqa: BLE001 - the thread that digests raises it
                self._fail(error)

        until = deadline(self.length)
        with self.place, ThreadPoolExecutor(RANGES_AT_ONCE) as threads:
            try:
                # The first range alone tells whether there are ranges, and of what.
                threads.submit(receive)
                self._wait(lambda: self.tag is not None, until, hasher, where)
                for _ in range(1, RANGES_AT_ONCE):
                    threads.submit(receive)
                touch(self.place)
                for part in parts:
                    while hasher.length < part.end:
                        self._wait(partial(part.has_more, hasher.length), until, hasher, where)
                        hasher.update(self.place[hasher.length : part.at])
            except BaseException as error:
                self._fail(error)
                raise
        # What came too much came after all that was wanted.
        if self.failure is not None:
            raise self.failure
        return Answer(200, self.headers, self._file.getvalue(), hasher.digest())

    def _next(self, waiting: Iterator[_Part]) -> _Part | None:
        with self.changed:
            return next(waiting, None)

    def _wait(
        self, came: Callable[[], bool], until: float, hasher: ContentHasher, where: str
    ) -> None:
        """Wait for something to come, and raise what failed in its place."""
        with self.changed:
            self.changed.wait_for(
                lambda: self.failure is not None or came(), until - time.monotonic()
            )
            if self.failure is not None:
                raise self.failure
            if not came():
                raise too_slow(hasher.length, where)

    def _fail(self, error: BaseException) -> None:
        """End everything; the first error counts."""
        with self.changed:
            if self.failure is None:
                self.failure = error
            # Whoever waits for a slow server is woken.
            for response in self._open:
                # Neither is an error: one that ended in this moment needs no waking.
                with contextlib.suppress(RuntimeError, OSError):
                    response.shutdown()
            self.changed.notify_all()

    def begin(self, response: urllib3.BaseHTTPResponse, where: str) -> None:
        """Take note of a range that begins to come: all must be of the same content."""
        tag = response.headers.get("ETag")
        with self.changed:
            self.check_goes_on()
            if self.tag is None:
                # Section 8.8.1 of RFC 9110: a weak tag says nothing of bytes.
                if response.status == 200 or tag is None or tag.startswith("W/"):
                    raise _NoRangesError
                self.tag, self.headers = tag, response.headers
                self.changed.notify_all()
            elif response.status == 200 or tag != self.tag:
                raise Unverified(
                    "the drawbridge serves other content than it began with",
                    field=f"{where}: status and ETag",
                    found=f"{response.status} {tag!r}"[:100],
                    expected=f"206 {self.tag!r}"[:100],
                )

    @contextlib.contextmanager
    def reading(self, response: urllib3.BaseHTTPResponse) -> Iterator[None]:
        """While its body is read, to be ended if the download fails."""
        with self.changed:
            self.check_goes_on()
            self._open.add(response)
        try:
            yield
        finally:
            with self.changed:
                self._open.discard(response)

    def check_goes_on(self) -> None:
        """Raise if the download has failed."""
        if self.failure is not None:
            raise _StoppedError


class _Part:
    """One range of a download: what `Wire` calls a body."""

    def __init__(self, download: _Download, start: int, end: int) -> None:
        self._download = download
        self.at, self.end = start, end

    def asks(self) -> dict[str, str]:
        self._download.check_goes_on()
        asked = {"Range": f"bytes={self.at}-{self.end - 1}"}
        if self._download.tag is not None:
            asked["If-Range"] = self._download.tag
        return asked

    def begin(self, response: urllib3.BaseHTTPResponse, where: str) -> int | None:
        if response.status not in {200, 206}:
            return None
        self._download.begin(response, where)
        self._check_range(response.headers.get("Content-Range"), where)
        return 200

    def _check_range(self, header: str | None, where: str) -> None:
        match = CONTENT_RANGE.fullmatch(header or "")
        wanted = (self.at, self.end - 1, self._download.length)
        if match is None or tuple(map(int, match.groups())) != wanted:
            raise Unverified(
                "another range than was asked for",
                field=f"{where}: Content-Range",
                found=repr(header)[:100],
                expected="bytes {}-{}/{}".format(*wanted),
            )

    def read(self, response: urllib3.BaseHTTPResponse, where: str) -> None:
        download, placing = self._download, Placing(response)
        with download.reading(response):
            while self.at < self.end:
                place = download.place[self.at : min(self.at + _PIECE, self.end)]
                count = placing.into(place)
                if not count:
                    return
                with download.changed:
                    download.check_goes_on()
                    self.at += count
                    download.progress(count)
                    download.changed.notify_all()
            if placing.into(memoryview(bytearray(1))):
                raise Unverified(
                    "longer than it should be",
                    field=where,
                    expected=f"at most {self.end} bytes at the end of a range",
                )

    def has_more(self, done: int) -> bool:
        """Whether more came than the first `done` bytes of the file."""
        return self.at > done

    def check_end(self, where: str) -> None:
        """Check that all came that was asked for."""
        if self.at != self.end:
            raise Unverified(
                "wrong length",
                field=where,
                found=f"{self.at} bytes at the end of a range",
                expected=f"{self.end} bytes",
            )

    def answer(self, status: int, headers: urllib3.HTTPHeaderDict) -> Answer:
        # Its bytes are in their place, and digested there.
        return Answer(status, headers, b"", ContentHasher(frozenset()).digest())

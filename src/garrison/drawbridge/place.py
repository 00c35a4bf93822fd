"""The body of an answer, read into the place where it is to be.

urllib3 hands a body over in pieces of its own: each is memory that is got for it, and then copied.
For a long file both cost more than to decrypt it. The standard library's answer, which lies below
urllib3's, can be read into memory that is there; a connection of `pools` remembers it.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import ssl
import time
from typing import TYPE_CHECKING, Any, cast

import urllib3
from urllib3.exceptions import IncompleteRead, ProtocolError, SSLError

if TYPE_CHECKING:
    from collections.abc import Callable

    from urllib3 import BaseHTTPResponse


# <sys/mman.h>; Linux has it since 5.14.
_MADV_POPULATE_WRITE = 23
# From when the request was sent until the head of its answer is there.
HEAD_SECONDS = 60.0


class _Response(http.client.HTTPResponse):
    """One whose head comes in time: else each byte of it, and each interim answer, has its own."""

    def begin(self) -> None:
        raw: Any = self.fp.raw  # what `makefile` buffers
        read, late = raw.readinto, time.monotonic() + HEAD_SECONDS

        def readinto(place: memoryview) -> int | None:
            if time.monotonic() > late:
                raise TimeoutError("the head of the answer comes too slowly")
            count: int | None = read(place)
            return count

        raw.readinto = readinto
        try:
            super().begin()
        finally:
            # What a body may take is its reader's to say.
            del raw.readinto


class _Connection(urllib3.connection.HTTPSConnection):
    """One that remembers its last answer as the standard library has it."""

    below: http.client.HTTPResponse

    def __str__(self) -> str:
        # As errors name it to people.
        return f"{self.host}:{self.port}"

    def response_class(  # type: ignore[override]  # http.client calls it, whatever it is
        self, *arguments: Any, **named: Any
    ) -> http.client.HTTPResponse:
        self.below = _Response(*arguments, **named)
        return self.below


class _Pool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Connection


def pools(**options: Any) -> urllib3.PoolManager:
    """A pool manager, made with these options of it, for HTTPS alone.

    A body is read through urllib3, as ever, or with `Placing`.
    """
    manager = urllib3.PoolManager(**options)
    manager.pool_classes_by_scheme = {"https": _Pool}
    return manager


class Placing:
    """Reads one body of a connection of `pools`; its encoding, if it has one, is not undone."""

    def __init__(self, response: BaseHTTPResponse) -> None:
        """Prepare; nothing of the body was read yet.

        Args:
            response: to a request with `preload_content=False`.
        """
        connection = cast("_Connection", response.connection)
        self._read: Callable[[memoryview], int] = connection.below.readinto
        self._response = response
        self._left = response.length_remaining

    def into(self, place: memoryview) -> int:
        """Fill the `place`, which is not empty, but for the end of the body.

        Returns:
            How many bytes came; 0 if the body has ended, and then the connection is free again.

        Raises:
            urllib3.exceptions.HTTPError: as urllib3 raises when it reads: the body broke off.
        """
        try:
            count = self._read(place)
        except ssl.SSLError as error:
            raise SSLError(error) from error
        except (http.client.HTTPException, OSError) as error:
            raise ProtocolError(f"Connection broken: {error!r}", error) from error
        if self._left is not None:
            self._left -= count
        if count == 0:
            if self._left:
                raise IncompleteRead(0, self._left)
            self._response.release_conn()
        return count


def touch(place: memoryview) -> None:
    """Have the kernel give the memory of `place` at once, as far as it can; its content stays.

    Otherwise it gives each page when something is first written there, and interrupts whoever
    reads into it 256 times for a mebibyte.
    """
    first = ctypes.addressof(ctypes.c_char.from_buffer(place))
    page = os.sysconf("SC_PAGE_SIZE")
    start, end = -(-first // page) * page, (first + len(place)) // page * page
    if start < end:
        # Where it cannot, nothing has changed: an older kernel, or one that is not Linux's.
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_POPULATE_WRITE
        )

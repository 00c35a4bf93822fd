"""The body of an answer, read into the place where it is to be.

urllib3 hands a body over in pieces of its own: each is memory that is got for it, and then copied.
For a long file both cost more than to decrypt it. The standard library's answer, which lies below
urllib3's, can be read into memory that is there.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import ssl
from typing import TYPE_CHECKING

from urllib3.exceptions import IncompleteRead, ProtocolError, SSLError

from garrison.http_pools import below

if TYPE_CHECKING:
    from collections.abc import Callable

    from urllib3 import BaseHTTPResponse


# <sys/mman.h>; Linux has it since 5.14.
_MADV_POPULATE_WRITE = 23


class Placing:
    """Reads one body of a connection of `pools`; its encoding, if it has one, is not undone."""

    def __init__(self, response: BaseHTTPResponse) -> None:
        """Prepare; nothing of the body was read yet.

        Args:
            response: to a request with `preload_content=False`, by `garrison.http_pools`.
        """
        self._read: Callable[[memoryview], int] = below(response).readinto
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

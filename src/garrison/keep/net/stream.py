"""Connected streams: plain ones here, TLS ones in `tls_stream`. Their sockets do not block."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from garrison.keep.net.places import Place
    from garrison.keep.vfs.descriptor import Room

# socket(7), struct linger: on, and not for a moment.
_RESET = struct.pack("ii", 1, 0)


class Stream:
    """A plain connection.

    Attributes:
        peer: who is at the other end, as the workload reads it.
        place: what it has of the workload's connections, freed when it is closed.
        restless: whether `pending` or `wants_write` may say so.
        secure: whether it is TLS.
    """

    restless = False
    secure = False

    def __init__(self, sock: socket.socket, peer: dict[str, Any]) -> None:
        self.peer = dict(peer)
        self.place: Place | None = None
        self._socket = sock

    def fileno(self) -> int:
        """The socket's descriptor, to poll."""
        return self._socket.fileno()

    def local_address(self) -> tuple[str, int]:
        """Address and port of this end.

        Raises:
            OSError: it is closed.
        """
        found: tuple[Any, ...] = self._socket.getsockname()
        return found[0], found[1]

    def remote_address(self) -> tuple[str, int]:
        """Address and port of the other end.

        Raises:
            OSError: it is closed, or was cut off.
        """
        found: tuple[Any, ...] = self._socket.getpeername()
        return found[0], found[1]

    def option(self, level: int, number: int, value: int) -> None:
        """Set an option of the socket, as `socket.setsockopt` does.

        Raises:
            OSError: it cannot have that value.
        """
        self._socket.setsockopt(level, number, value)

    def read_into(self, view: memoryview) -> int:
        """Read into `view`.

        Returns:
            How many bytes, 0 at the end of the stream.

        Raises:
            BlockingIOError: there is nothing yet.
            OSError: the connection failed.
        """
        return self._socket.recv_into(view) if len(view) else 0

    def peek_into(self, view: memoryview) -> int:
        """Read as `read_into` does, and leave what was read to be read again."""
        return self._socket.recv_into(view, 0, socket.MSG_PEEK)

    def write(self, view: memoryview) -> int:
        """Write from `view`.

        Returns:
            How many bytes were taken, perhaps not all.

        Raises:
            BlockingIOError: none can be taken yet.
            OSError: the connection failed.
        """
        return self._socket.send(view)

    def read_at(self, memory: Room, start: int, end: int) -> int:
        """Read as `read_into` does, into the part of `memory` from `start` to `end`."""
        return self.read_into(memory.all[start:end])

    def write_at(self, memory: Room, start: int, end: int) -> int:
        """Write as `write` does, from the part of `memory` from `start` to `end`; see `read_at`."""
        return self.write(memory.all[start:end])

    def pending(self) -> bool:
        """Whether data waits that the descriptor does not show."""
        return False

    def wants_write(self) -> bool:
        """Whether a read waits for the descriptor to be writable."""
        return False

    def shutdown(self, how: int) -> None:
        """End one direction or both, as `socket.shutdown` does.

        Raises:
            OSError: the connection failed.
        """
        self._socket.shutdown(how)

    def cut(self, why: str) -> None:  # noqa: ARG002  (TLS keeps the reason)
        """End the connection at once, and not as if all had been said."""
        with contextlib.suppress(OSError):  # it may be gone already
            # socket(7): closing it then resets the connection.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close the connection; again is nothing."""
        self._socket.close()
        self._free()

    def _free(self) -> None:
        if self.place is not None:
            self.place.free()

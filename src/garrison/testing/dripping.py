"""A server that answers, and never ends what it began: a piece, and a piece, and a piece.

Each piece comes well within any time that a client has for a single read.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from garrison.testing.tls import Leaf

_PAUSE_SECONDS = 0.02
# No test hangs.
_LONGEST_SECONDS = 30.0
# What never ends, by what of an answer it is: what comes before it, and the piece that is repeated.
ENDLESS: Mapping[str, tuple[bytes, bytes]] = {
    "a head": (b"HTTP/1.1 200 OK\r\nX-Filler: ", b"a"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a body": (b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n", b" "),
    "the length of a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: a\r\n"),
}
HEADS = ("a head", "interim answers")
BODIES = tuple(kind for kind in ENDLESS if kind not in HEADS)


class DrippingServer:
    """Answers every request with what never ends, until the client goes or the server closes.

    Attributes:
        gave_up: whether a client had so much patience that the server had none any more.
    """

    def __init__(self, leaf: Leaf, kind: str, honest: Mapping[str, bytes] | None = None) -> None:
        """Serve at a free port of 127.0.0.1.

        Args:
            leaf: for its TLS.
            kind: of `ENDLESS`.
            honest: the JSON that is answered to GET at once and whole, by path.
        """
        self._begin, self._piece = ENDLESS[kind]
        self._honest = honest or {}
        self._closed = threading.Event()
        self._context = leaf.server_context()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"localhost:{self._listener.getsockname()[1]}"
        self.gave_up = False
        self._threads = [threading.Thread(target=self._serve)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        # Only that wakes who accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._answer, args=(plain,))
            self._threads.append(thread)
            thread.start()

    def _answer(self, plain: socket.socket) -> None:
        # Until the client goes.
        with contextlib.suppress(OSError), plain:
            plain.settimeout(60)
            with self._context.wrap_socket(plain, server_side=True) as connection:
                while request := connection.recv(1 << 16):
                    body = self._honest.get(request.split(b" ", 2)[1].decode())
                    if body is None:
                        self._drip(connection)
                        return
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                    connection.sendall(head.encode() + body)

    def _drip(self, connection: ssl.SSLSocket) -> None:
        connection.sendall(self._begin)
        end = time.monotonic() + _LONGEST_SECONDS
        while not self._closed.wait(_PAUSE_SECONDS):
            connection.sendall(self._piece)
            if time.monotonic() > end:
                self.gave_up = True
                return

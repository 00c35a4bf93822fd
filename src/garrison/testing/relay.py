"""A host on the way: a TCP relay that passes on, cuts, or changes what goes through it."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

_CHUNK = 1 << 16


class Relay:
    """Relays connections to `target`, a port on loopback. Use it as a context manager.

    Args:
        target: the port to relay to.
        port: where to listen; a free one for 0.
        connections: how many connections it lets through; None for all. Later ones are closed.
        cut_after: after how many bytes from the target it cuts a connection; None for never.
        flip: the place of one byte, counted from the target's first, in which it flips a bit.
        harms: in how many connections it cuts or flips, from the first on; None for all.

    Attributes:
        port: where it listens.
        seen: all that went through it, in both directions.
        answered: how many bytes of it came from the target.
        opened: how many connections came.
    """

    def __init__(
        self,
        target: int,
        *,
        port: int = 0,
        connections: int | None = None,
        cut_after: int | None = None,
        flip: int | None = None,
        harms: int | None = None,
    ) -> None:
        self._target = target
        self._connections = connections
        self._cut_after = cut_after
        self._flip = flip
        self._harms = harms
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.seen = bytearray()
        self.answered = self.opened = 0
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cut all connections, and let nobody through any more; again is nothing."""
        if self._listener.fileno() != -1:
            # `close` alone does not wake who accepts.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut all connections that are open."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.opened += 1
            if self._connections is not None and self.opened > self._connections:
                client.close()
                continue
            server = socket.create_connection(("localhost", self._target))
            self._sockets += [client, server]
            harmed = self._harms is None or self.opened <= self._harms
            for source, sink, back in ((client, server, False), (server, client, True)):
                arguments = (source, sink, back, back and harmed)
                threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, back: bool, harmed: bool) -> None:
        count = 0
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(_CHUNK)):
                if harmed and self._flip is not None and 0 <= self._flip - count < len(data):
                    data[self._flip - count] ^= 1
                if harmed and self._cut_after is not None and count + len(data) > self._cut_after:
                    sink.sendall(data[: self._cut_after - count])
                    break
                count += len(data)
                self.seen += data
                self.answered += len(data) if back else 0
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

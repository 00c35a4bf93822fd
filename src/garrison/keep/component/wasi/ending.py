"""The end of what a component sends, where what it sent has not all gone yet.

A component can be at both ends of a connection, so to end one direction must not wait for the
other end to read: what is left goes while the component waits for something else.
"""

from __future__ import annotations

import socket

from garrison.keep.component.callbacks import Failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.component.host import Host
    from garrison.keep.component.http.wire import Sink
    from garrison.keep.component.wasi.streams import OutputStream
    from garrison.keep.vfs.streams import Socket


class Ending:
    """Goes on in the background of `host` until all has gone, and then ends the direction.

    Args:
        host: whose.
        output: what keeps what is left; it takes nothing more.
        connection: what that goes to.
    """

    def __init__(self, host: Host, output: OutputStream, connection: Socket) -> None:
        self._host = host
        self._output = output
        self._connection = connection
        host.background.append(self)

    def ready(self) -> bool:
        """Go on; whether it is over."""
        try:
            if self._output.go_on():
                return False
            self._connection.stream.shutdown(socket.SHUT_WR)
        except (Failed, OSError):
            pass  # the connection failed: whoever reads from it is told
        self._host.background.remove(self)
        return True

    def takes(self, _sink: Sink) -> bool:
        """It sends no body."""
        return False

    def events(self) -> tuple[int, int] | None:
        """What to wait for."""
        return self._connection.events(write=True)

    def timeout(self) -> None:
        """It is never late."""
        return

    def settled(self) -> bool:
        """An event means that more can be sent, not that all has gone."""
        return False

    def drop(self) -> None:
        """Nobody holds it but the host."""

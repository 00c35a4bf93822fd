"""QEMU's monitor: forwards ports of this host to a guest that listens on them.

QEMU, docs/interop/qmp-spec.rst: a line of JSON each way, the capabilities first; then one command
of the human monitor, `hostfwd_add` (hmp-commands.hx), for QMP has none for this.

What QEMU answers is bounded and checked: it is a program that a guest may have got the better of.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import socket
from typing import TYPE_CHECKING, Any

from garrison.errors import Malformed
from garrison.terminal import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger("garrison.launch")

# Of the user-mode network, in `qemu_command`.
NETDEV = "net"
# An answer is a few hundred bytes.
_MAX_LINE = 1 << 16
_READ = 1 << 14
# A workload has some; each costs the host a descriptor, and each that is asked for memory.
_MAX_PORTS = 256


class Publication:
    """A port of the guest, and where on this host it is to be reached.

    Args:
        guest: the port.
        host: the port here; the same if there is none.
        address: an IPv4 address of this host.
        udp: whether it is a port of UDP, else of TCP.
    """

    __slots__ = ("address", "guest", "host", "udp")

    def __init__(
        self,
        guest: int,
        host: int | None = None,
        address: str = "0.0.0.0",  # noqa: S104
        *,
        udp: bool = False,
    ) -> None:
        self.guest = guest
        self.host = guest if host is None else host
        self.address = address
        self.udp = udp


class Monitor:
    """The connection to a monitor; a thing to wait for (`garrison.relay.Watched`)."""

    def __init__(self, connection: socket.socket, published: Sequence[Publication] = ()) -> None:
        """Prepare.

        Args:
            connection: to QEMU; it does not block.
            published: where ports are to be reached; others under their own number, on all
                addresses.
        """
        self._connection = connection
        self._published = {(each.guest, each.udp): each for each in published}
        self._buffer = b""
        self._forwarded: set[tuple[int, bool]] = set()
        # In the order of what was sent: what takes the answer.
        self._waiting: list[Callable[[Any], None]] = [self._greeted]
        # Commands before the monitor takes any.
        self._held: list[tuple[str, Callable[[Any], None]]] | None = []

    def forward(self, port: int, told: Callable[[int], None], *, udp: bool = False) -> None:
        """Forward a port to the guest's, and tell zero or an errno."""
        if (port, udp) in self._forwarded:
            told(0)
            return
        asked = len(self._waiting) + len(self._held or ())
        if not port or len(self._forwarded) + asked >= _MAX_PORTS:
            told(errno.EADDRNOTAVAIL if not port else errno.EMFILE)
            return
        to = self._published.get((port, udp)) or Publication(port, udp=udp)
        rule = f"{'udp' if udp else 'tcp'}:{to.address}:{to.host}-:{port}"

        def answered(text: Any) -> None:
            if text == "":
                self._forwarded.add((port, udp))
                log.debug("port %d of the keep is port %d here", port, to.host)
                told(0)
                return
            error = _why(to)
            log.warning(
                "the keep's port %d cannot be reached: port %d of this host cannot be had: %s",
                port,
                to.host,
                os.strerror(error),
            )
            told(error)

        self._command(f"hostfwd_add {NETDEV} {rule}", answered)

    def interest(self) -> Mapping[int, int]:
        """What it answers, while it owes an answer."""
        return {self._connection.fileno(): select.POLLIN} if self._waiting else {}

    def happened(self, _descriptor: int, _events: int) -> None:
        """Take what came.

        Raises:
            Malformed: it is not what a monitor says.
        """
        try:
            data = self._connection.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # That QEMU has ended is seen elsewhere.
            self._waiting.clear()
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > _MAX_LINE:
            raise _bad("no end of line", f"more than {_MAX_LINE} bytes")
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            read = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _bad("not JSON", plain(repr(line[:80]))) from error
        if not isinstance(read, dict):
            raise _bad("not an object", plain(repr(read)[:80]))
        if "event" in read or not self._waiting:
            return
        if "error" in read:
            raise _bad("refused a command", plain(repr(read["error"])[:200]))
        self._waiting.pop(0)(read.get("return"))

    def _greeted(self, _greeting: Any) -> None:
        self._waiting.append(self._ready)
        self._send("qmp_capabilities", {})

    def _ready(self, _answer: Any) -> None:
        held, self._held = self._held or [], None
        for line, answered in held:
            self._command(line, answered)

    def _command(self, line: str, answered: Callable[[Any], None]) -> None:
        if self._held is not None:
            self._held.append((line, answered))
            return
        self._waiting.append(answered)
        self._send("human-monitor-command", {"command-line": line})

    def _send(self, command: str, arguments: Mapping[str, str]) -> None:
        # Some hundred bytes: a socket always has room for them.
        line = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        try:
            self._connection.sendall(line)
        except OSError:
            self._waiting.clear()


def _why(to: Publication) -> int:
    """Why a port of this host cannot be had; QEMU does not say."""
    kind = socket.SOCK_DGRAM if to.udp else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, not to.udp)
        try:
            probe.bind((to.address, to.host))
            if not to.udp:
                probe.listen(1)
        except OSError as error:
            return error.errno or errno.EADDRINUSE
    return errno.EADDRINUSE


def _bad(message: str, found: str) -> Malformed:
    return Malformed(message, field="QEMU's monitor", found=found)

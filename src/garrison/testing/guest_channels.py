"""Plays the host of a keep whose channels are sockets, and whose machine is this one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Self

from garrison.formats.channel import (
    CHANNELS,
    CONTROL,
    STREAM,
    TO_HOST,
    Frame,
    FrameReader,
    Kind,
)

_GUEST = """
import os, sys
from garrison.errors import Unavailable
from garrison.guest.serve import serve
network, *channels = sys.argv[1:]
ports = dict(zip(channels[::2], map(int, channels[1::2])))
for port in ports.values():
    os.set_blocking(port, False)
def connect():
    if network == "none":
        raise Unavailable("the host gives none", field="network card")
sys.exit(serve(ports, lambda request: None, connect))
"""
# The machine may be loaded.
SECONDS = 60


class Played:
    """A keep in a process of its own, and the host's ends of its channels."""

    def __init__(self, *, network: bool = True) -> None:
        """Start it; without `network`, its machine has no card."""
        pairs = {name: socket.socketpair() for name in CHANNELS}
        self.sockets = {name: ours for name, (ours, _) in pairs.items()}
        self._readers = {
            name: FrameReader(name, TO_HOST if name == CONTROL else STREAM) for name in CHANNELS
        }
        self._frames: dict[str, list[Frame]] = {name: [] for name in CHANNELS}
        arguments = [
            word for name, (_, theirs) in pairs.items() for word in (name, str(theirs.fileno()))
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _GUEST, "one" if network else "none", *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno() for _, theirs in pairs.values()],
            env={**os.environ, "GARRISON_TRACEBACK": ""},
        )
        for ours, theirs in pairs.values():
            theirs.close()
            ours.settimeout(SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.sockets.values():
            each.close()
        self.process.kill()
        self.process.communicate()

    def send(self, channel: str, kind: Kind, body: bytes = b"") -> None:
        """Send a frame."""
        self.sockets[channel].sendall(Frame(kind, body).to_bytes())

    def next(self, channel: str) -> Frame:
        """The next frame from the keep."""
        while not self._frames[channel]:
            data = self.sockets[channel].recv(1 << 16)
            if not data:
                raise EOFError(f"{channel} was closed")
            self._frames[channel] += self._readers[channel].feed(data)
        return self._frames[channel].pop(0)

    def stream(self, channel: str) -> bytes:
        """All of a stream, to its end."""
        whole = b""
        while body := self.next(channel).body:
            whole += body
        return whole

    def until_phase(self, name: str) -> None:
        """Wait until the keep is that far."""
        while not self.next(CONTROL).body.startswith(name.encode() + b" "):
            pass

    def exit_code(self) -> int:
        """The exit code that the keep tells."""
        while (frame := self.next(CONTROL)).kind is not Kind.EXIT:
            pass
        return frame.body[0]

    def ended(self) -> tuple[int, str]:
        """Hang up, and return the process's exit code and what it printed."""
        for each in self.sockets.values():
            each.close()
        _, console = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, console.decode()

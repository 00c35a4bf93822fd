"""Plays QEMU, and the guest in it: `python -m garrison.testing.fake_qemu PLAY ARGUMENTS-OF-QEMU`.

It reads from the arguments which sockets lead to the host, as QEMU would, and then does what the
play says: what a guest may do, and what none should.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from garrison.formats.channel import (
    CONTROL,
    INSECURE_SIMULATED,
    STDERR,
    STDIN,
    STDOUT,
    STREAM,
    TO_KEEP,
    Frame,
    FrameReader,
    Kind,
    Phase,
    Reachable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MONITOR = "monitor"
CONSOLE = "console"
_SECONDS = 30.0


class Guest:
    """A guest whose machine is this process, and the monitor of its QEMU."""

    def __init__(self, arguments: list[str]) -> None:
        chardevs = {}
        names = {}
        for option, value in pairwise(arguments):
            if option == "-chardev":
                kind, identity, descriptor = value.split(",")
                assert kind == "socket"  # noqa: S101
                number = int(descriptor.removeprefix("fd="))
                chardevs[identity.removeprefix("id=")] = socket.socket(fileno=number)
            if option == "-device" and "virtserialport" in value:
                device = json.loads(value)
                names[device["chardev"]] = device["name"]
        self.sockets = {names.get(each, each): found for each, found in chardevs.items()}
        self._frames: list[Frame] = []
        self._reader = FrameReader(CONTROL, TO_KEEP)

    def say(self, text: str) -> None:
        """Write to the console."""
        self.sockets[CONSOLE].sendall(text.encode())

    def send(self, channel: str, kind: Kind, body: bytes = b"") -> None:
        """Send a frame to the host."""
        self.sockets[channel].sendall(Frame(kind, body).to_bytes())

    def asked(self) -> Frame:
        """The host's next frame on the channel of control."""
        while not self._frames:
            data = self.sockets[CONTROL].recv(1 << 16)
            if not data:
                sys.exit("the host has hung up")
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)

    def boot(self) -> Frame:
        """Tell that it is there, and take the request."""
        self.send(CONTROL, Kind.PHASE, Phase("booted", 1.0).to_bytes())
        while (frame := self.asked()).kind is Kind.FILE:
            pass
        return frame

    def end(self, code: int) -> None:
        """End the streams and tell the exit code; the host hangs up."""
        for channel in (STDOUT, STDERR):
            self.send(channel, Kind.DATA)
        self.send(CONTROL, Kind.EXIT, bytes((code,)))
        self.sockets[CONTROL].settimeout(_SECONDS)
        while self.sockets[CONTROL].recv(1 << 16):
            pass

    def answer_monitor(self, answers: Callable[[str], str]) -> None:
        """Be the monitor for one command of its human kind."""
        monitor = self.sockets[MONITOR].makefile("rw")
        monitor.write('{"QMP": {"version": {}, "capabilities": []}}\n')
        monitor.flush()
        for line in monitor:
            command = json.loads(line)
            if command["execute"] == "qmp_capabilities":
                monitor.write('{"return": {}}\n{"event": "SOMETHING", "data": {}}\n')
                monitor.flush()
                continue
            text = answers(command["arguments"]["command-line"])
            monitor.write(json.dumps({"return": text}) + "\n")
            monitor.flush()
            return


def cat(guest: Guest) -> None:
    """Copy standard input to standard output, and end with 7."""
    guest.boot()
    reader = FrameReader(STDIN, STREAM)
    while True:
        for frame in reader.feed(guest.sockets[STDIN].recv(1 << 16)):
            if not frame.body:
                guest.end(7)
                return
            guest.send(STDOUT, Kind.DATA, frame.body)


def silent(guest: Guest) -> None:
    """Boot and say nothing on any channel."""
    guest.say("Linux version 6.12\r\nKernel panic - not \x1b[31msyncing\r\n")
    time.sleep(_SECONDS)


def chatter(guest: Guest) -> None:
    """Write to the console without end."""
    while True:
        guest.say("spam " * 1024 + "\n")


def dies(guest: Guest) -> None:
    """End in the middle."""
    guest.boot()
    guest.say("out of memory\n")


def waits(guest: Guest) -> None:
    """Run until it is asked to end, and end then."""
    guest.boot()
    guest.send(STDOUT, Kind.DATA, b"running\n")
    frame = guest.asked()
    guest.end(128 + frame.body[0])


def deaf(guest: Guest) -> None:
    """Run, and never end."""
    guest.boot()
    guest.send(STDOUT, Kind.DATA, b"running\n")
    time.sleep(_SECONDS)


def starting(guest: Guest) -> None:
    """Never boot."""
    guest.say("SeaBIOS\n")
    time.sleep(_SECONDS)


def listens(guest: Guest, kind: Kind = Kind.LISTENING) -> None:
    """Ask for a port, and print what the monitor was told, and the host's answer."""
    guest.boot()
    guest.send(CONTROL, kind, (8080).to_bytes(2, "little"))
    told = []

    def answers(line: str) -> str:
        told.append(line)
        return "" if "taken" not in os.environ.get("FAKE_QEMU", "") else "could not set up"

    guest.answer_monitor(answers)
    answer = Reachable.from_bytes(guest.asked().body)
    guest.send(STDOUT, Kind.DATA, f"{told[0]} {answer.port} {answer.error}\n".encode())
    guest.end(0)


def listens_udp(guest: Guest) -> None:
    """Likewise for a port of UDP."""
    listens(guest, Kind.LISTENING_UDP)


def attests(guest: Guest) -> None:
    """Ask for evidence, and print how much came."""
    guest.boot()
    guest.send(INSECURE_SIMULATED, Kind.INSECURE_ASK, bytes(64))
    size = len(guest.sockets[INSECURE_SIMULATED].recv(1 << 16))
    guest.send(STDOUT, Kind.DATA, f"{size > 1184}\n".encode())
    guest.end(0)


def _raw(channel: str, data: bytes) -> Callable[[Guest], None]:
    def play(guest: Guest) -> None:
        guest.boot()
        guest.sockets[channel].sendall(data)
        select.select([guest.sockets[CONTROL]], [], [], _SECONDS)
        time.sleep(_SECONDS)

    return play


PLAYS: dict[str, Callable[[Guest], None]] = {
    play.__name__: play
    for play in (cat, silent, chatter, dies, waits, deaf, starting, listens, listens_udp, attests)
} | {
    "garbage-control": _raw(CONTROL, b"\xff" * 64),
    "garbage-stdout": _raw(STDOUT, b"GET / HTTP/1.1\r\n\r\n"),
    "huge-frame": _raw(STDERR, b"G\x04\0\0\xff\xff\xff\xff"),
    "no-frame-for-hosts": _raw(CONTROL, Frame(Kind.REQUEST, b"{}").to_bytes()),
    "two-byte-exit": _raw(CONTROL, b"G\x06\0\0\x02\0\0\0\0\0"),
    "bad-phase": _raw(CONTROL, Frame(Kind.PHASE, b"\x1b[2J 1").to_bytes()),
    "garbage-monitor": _raw(MONITOR, b"\x00\x01 not JSON\n"),
    # What it asks for is answered at once: there is no such port.
    "asks-on": _raw(CONTROL, Frame(Kind.LISTENING, bytes(2)).to_bytes() * 200_000),
    "asks-on-simulated": _raw(
        INSECURE_SIMULATED, Frame(Kind.INSECURE_ASK, bytes(64)).to_bytes() * 1000
    ),
    "garbage-simulated": _raw(INSECURE_SIMULATED, b"\0" * 16),
}


def main() -> None:
    """Play."""
    play, *arguments = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if play == "missing-library":
        sys.exit("qemu: error while loading shared libraries: libpixman")
    if play == "old":
        sys.exit("qemu: -device virtio-net-pci: 'virtio-net-pci' is not a valid device model name")
    if not any("virtserialport" in each for each in arguments):
        # Asked whether KVM runs a guest: it does not.
        sys.exit(1)
    pid_file = os.environ.get("FAKE_QEMU_PID")
    if pid_file:
        Path(pid_file).write_text(str(os.getpid()))
    PLAYS[play](Guest(arguments))


if __name__ == "__main__":
    main()

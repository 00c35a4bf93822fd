"""Runs a keep in a virtual machine, and is to its caller what the keep's process would be.

It starts QEMU, gives the guest its request over the channels (`garrison.formats.channel`), carries
the standard streams, and returns the workload's exit code. What comes from the guest is bounded and
checked like anything from outside. A signal that asks this command to end is passed on to the
workload; a guest that has not started, or does not end soon, or a second signal, ends the machine.

However this ends so does QEMU: it asks the kernel for that, and a machine in memory has nothing to
lose. What the guest wrote to its console is kept where it did not end as it should.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from garrison.errors import Malformed, Unavailable
from garrison.formats.channel import (
    CONTROL,
    INSECURE_SIMULATED,
    INSECURE_TO_HOST,
    STDERR,
    STDIN,
    STDOUT,
    TO_HOST,
    File,
    Frame,
    Kind,
    Phase,
    Reachable,
)
from garrison.launch.monitor import Monitor
from garrison.relay import Flow, Messages, Watched, carry
from garrison.terminal import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from garrison.attesters.base import Attester
    from garrison.formats.guest_request import GuestRequest
    from garrison.launch.monitor import Publication

log = logging.getLogger("garrison.launch")

# Emulated, on a loaded machine, a guest is there within 20 s.
BOOT_SECONDS = 120.0
# How long a workload has to end after it was asked to.
_PATIENCE_SECONDS = 10.0
# QEMU connects to the channels before it does anything else.
_CONNECT_SECONDS = 30.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# linux/prctl.h
_PR_SET_PDEATHSIG = 1
# What of a console is shown: its last lines, each of which may be long.
_TAIL_LINES = 12
_TAIL_SIZE = 8192
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Place:
    """Where QEMU finds the host's ends.

    Attributes:
        channels: their sockets, by name.
        monitor: its socket.
        console: the file.
    """

    channels: tuple[tuple[str, Path], ...]
    monitor: Path
    console: Path


def run_machine(
    command: Callable[[Place], list[str]],
    request: GuestRequest,
    files: Mapping[str, bytes],
    *,
    published: Sequence[Publication] = (),
    insecure_simulated: Attester | None = None,
    boot_seconds: float = BOOT_SECONDS,
    streams: tuple[int, int, int] = (0, 1, 2),
) -> int:
    """Run a keep in a virtual machine, and return its exit code (128 + n for a signal n).

    Args:
        command: the command line of QEMU, once it is known where everything is.
        request: what the guest is asked for.
        files: of a local workload.
        published: where this host has the ports that the workload listens on.
        insecure_simulated: answers for a TEE that the guest does not have: for development only.
        boot_seconds: how long the guest may take until it answers.
        streams: standard input, output and error.

    Raises:
        Unavailable: the machine does not start, or ended without an exit code.
        Malformed: the guest sent what is not a frame.
    """
    names = [CONTROL, STDIN, STDOUT, STDERR]
    if insecure_simulated is not None:
        names.append(INSECURE_SIMULATED)
    with tempfile.TemporaryDirectory(prefix="garrison-keep-") as directory, ExitStack() as stack:
        folder = Path(directory)
        place = Place(
            tuple((name, folder / f"{number}") for number, name in enumerate(names)),
            folder / "monitor",
            folder / "console",
        )
        sockets = [path for _, path in place.channels] + [place.monitor]
        listeners = [stack.enter_context(_listening(path)) for path in sockets]
        said = stack.enter_context((folder / "qemu").open("w+b"))
        asked = stack.enter_context(_signals())
        start = time.monotonic()
        process = stack.enter_context(_started(command(place), said.fileno()))
        machine = _Machine(process, asked, start)
        try:
            *ends, monitor = (stack.enter_context(machine.accept(each)) for each in listeners)
            ports = dict(zip(names, ends, strict=True))
            machine.monitor = Monitor(monitor, published)
            return machine.serve(ports, request, files, insecure_simulated, boot_seconds, streams)
        except (Unavailable, Malformed) as error:
            process.kill()
            process.wait()
            error.hint = _console(place.console, folder / "qemu")
            raise


class _Machine:
    """QEMU's process, and how far its guest is."""

    monitor: Monitor

    def __init__(self, process: subprocess.Popen[bytes], asked: _Asked, start: float) -> None:
        self._process = process
        self._asked = asked
        self._start = start
        self._end = _End(process.pid)
        self._booted = False
        self._code: int | None = None
        self._deadline: float | None = None

    def accept(self, listener: socket.socket) -> socket.socket:
        """QEMU's end of a channel."""
        incoming = _Readable(listener.fileno())
        deadline = time.monotonic() + _CONNECT_SECONDS
        watched: list[Watched] = [incoming, self._end]
        carry(watched, lambda: incoming.ready or self._end.ready, lambda: deadline)
        if not incoming.ready:
            raise Unavailable("does not start", field="QEMU")
        connection, _ = listener.accept()
        connection.settimeout(0)
        return connection

    def serve(
        self,
        ports: Mapping[str, socket.socket],
        request: GuestRequest,
        files: Mapping[str, bytes],
        insecure_simulated: Attester | None,
        boot_seconds: float,
        streams: tuple[int, int, int],
    ) -> int:
        def told(frame: Frame) -> None:
            self._told(control, frame)

        control = Messages(ports[CONTROL].fileno(), CONTROL, TO_HOST, told)
        stdin = Flow(streams[0], ports[STDIN].fileno(), channel=STDIN, framed=False)
        outputs = [
            Flow(ports[name].fileno(), sink, channel=name, framed=True)
            for name, sink in ((STDOUT, streams[1]), (STDERR, streams[2]))
        ]
        watched: list[Watched] = [control, stdin, *outputs, self._end, self._asked, self.monitor]
        if insecure_simulated is not None:
            watched.append(_answering(ports[INSECURE_SIMULATED].fileno(), insecure_simulated))
        for path, content in files.items():
            control.send(Frame(Kind.FILE, File(path, content).to_bytes()))
        control.send(Frame(Kind.REQUEST, request.to_json()))
        self._deadline = time.monotonic() + boot_seconds

        def over() -> bool:
            self._pass_on(control)
            done = self._code is not None and all(flow.done for flow in outputs)
            gone = self._end.ready or control.closed or any(flow.broken for flow in outputs)
            return done or gone or self._asked.enough

        in_time = carry(watched, over, lambda: self._deadline)
        if self._asked.numbers and self._code is None:
            return 128 + self._asked.numbers[0]
        if any(flow.broken for flow in outputs):
            return 128 + signal.SIGPIPE
        if not in_time:
            raise Unavailable(f"did not answer in {boot_seconds:.0f} s", field="guest")
        if self._code is None:
            raise Unavailable("ended without an exit code", field="guest")
        return self._code

    def _told(self, control: Messages, frame: Frame) -> None:
        if frame.kind is Kind.LISTENING:
            port = int.from_bytes(frame.body, "little")

            def answer(error: int) -> None:
                control.send(Frame(Kind.REACHABLE, Reachable(port, error).to_bytes()))

            self.monitor.forward(port, answer)
            return
        if frame.kind is Kind.EXIT:
            if len(frame.body) != 1:
                raise Malformed("no exit code", field=f"channel {CONTROL}", expected="one byte")
            self._code = frame.body[0]
            return
        phase = Phase.from_bytes(frame.body)
        if not self._booted:
            self._booted, self._deadline = True, None
        log.debug(
            "%s %.2f s after the command; %.2f s by the guest's clock",
            phase.name,
            time.monotonic() - self._start,
            phase.seconds,
        )

    def _pass_on(self, control: Messages) -> None:
        """Tell the guest that it was asked to end; it is waited for if it can have heard."""
        number = self._asked.take()
        if number is None:
            return
        if not self._booted:
            self._asked.enough = True
            return
        control.send(Frame(Kind.SIGNAL, bytes((number,))))
        self._deadline = time.monotonic() + _PATIENCE_SECONDS


class _Readable:
    """A descriptor that has something to read, once."""

    def __init__(self, descriptor: int) -> None:
        self.ready = False
        self._descriptor = descriptor

    def interest(self) -> Mapping[int, int]:
        return {} if self.ready else {self._descriptor: 1}  # POLLIN

    def happened(self, _descriptor: int, _events: int) -> None:
        self.ready = True


class _End(_Readable):
    """The end of a process; it is not waited for."""

    def __init__(self, pid: int) -> None:
        self._owned = os.pidfd_open(pid)
        super().__init__(self._owned)

    def __del__(self) -> None:
        os.close(self._owned)


class _Asked:
    """The signals that ask this command to end.

    Attributes:
        numbers: of those that came.
        enough: nothing is to be waited for any more.
    """

    def __init__(self, descriptor: int) -> None:
        self.numbers: list[int] = []
        self.enough = False
        self._descriptor = descriptor
        self._new: int | None = None

    def interest(self) -> Mapping[int, int]:
        return {self._descriptor: 1}  # POLLIN

    def happened(self, descriptor: int, _events: int) -> None:
        with suppress(BlockingIOError):
            for number in os.read(descriptor, 64):
                if number in _SIGNALS:
                    self.enough = bool(self.numbers)
                    self.numbers.append(number)
                    self._new = number

    def take(self) -> int | None:
        """The last signal, if it was not taken yet."""
        number, self._new = self._new, None
        return number


@contextmanager
def _signals() -> Iterator[_Asked]:
    """Take signals as things that happen, until the end of the block."""
    receive, send = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    previous_wakeup = signal.set_wakeup_fd(send)
    previous = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    try:
        yield _Asked(receive)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_wakeup)
        os.close(receive)
        os.close(send)


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(1)
        yield listener


def _die_with_us() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@contextmanager
def _started(command: list[str], said: int) -> Iterator[subprocess.Popen[bytes]]:
    """QEMU, until the end of the block."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        # A terminal's Ctrl-C is for us, who pass it on to the workload.
        start_new_session=True,
        preexec_fn=_die_with_us,  # noqa: PLW1509  (one prctl, no locks)
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _answering(descriptor: int, attester: Attester) -> Messages:
    """Answers for the TEE that a guest does not have."""

    def take(frame: Frame) -> None:
        evidence = attester.attest(frame.body)
        if evidence is not None:
            messages.send(Frame(Kind.INSECURE_EVIDENCE, evidence.payload))

    messages = Messages(descriptor, INSECURE_SIMULATED, INSECURE_TO_HOST, take)
    return messages


def _console(console: Path, qemu: Path) -> str:
    """Keep what the guest and QEMU said, and give the last of it."""
    whole = b"".join(path.read_bytes() for path in (console, qemu) if path.exists())
    tail = whole[-_TAIL_SIZE:].decode(errors="replace").splitlines()[-_TAIL_LINES:]
    lines = "\n".join(f"  {plain(line)}" for line in tail if line.strip())
    if not lines:
        return "neither the guest nor QEMU said anything"
    try:
        descriptor, kept = tempfile.mkstemp(prefix="garrison-console-", suffix=".log")
        with os.fdopen(descriptor, "wb") as file:
            file.write(whole)
    except OSError as error:
        return f"its console (not kept: {error.strerror}) ends with\n{lines}"
    return f"its console is kept in {kept}, and ends with\n{lines}"

"""Runs a keep in a virtual machine, and is to its caller what the keep's process would be.

It starts QEMU, gives the guest its request over the channels (`garrison.formats.channel`), carries
the standard streams, and returns the workload's exit code. What comes from the guest is bounded and
checked like anything from outside. A signal that asks this command to end is passed on to the
workload; a guest that has not started, or does not end soon, or a second signal, ends the machine.

However this ends so does QEMU: it asks the kernel for that, and a machine in memory has nothing to
lose. Nothing of it is on disk: QEMU inherits what leads to the host, and of the console the last is
held in memory, to be kept in a file where the machine did not end as it should.
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
from typing import TYPE_CHECKING

from garrison.errors import Malformed, Unavailable
from garrison.formats.channel import (
    CONTROL,
    INSECURE_SIMULATED,
    INSECURE_TO_HOST,
    MAX_DATA,
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
from garrison.launch.qemu_command import EMULATED
from garrison.relay import Flow, Messages, Watched, carry
from garrison.terminal import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from garrison.attesters.base import Attester
    from garrison.formats.guest_request import GuestRequest
    from garrison.launch.monitor import Publication

log = logging.getLogger("garrison.launch")

# Emulated, a guest is there within 10 s; where twenty others share its processor, in two minutes.
BOOT_SECONDS = 240.0
# How long a workload has to end after it was asked to.
_PATIENCE_SECONDS = 10.0
# Its channels close just before it ends.
_END_SECONDS = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_THP_DISABLE = 41
# What of a console is held, so that a guest cannot fill the host: a boot that says all has 64 KiB.
_CONSOLE_SIZE = 256 << 10
# What of it is shown: its last lines, each of which may be long; a kernel's panic has 30.
_TAIL_LINES = 40
_TAIL_SIZE = 8192
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Place:
    """QEMU's ends of what leads to the host: descriptors of sockets that it inherits.

    Attributes:
        channels: by name.
        monitor: its monitor's.
        console: the serial console's.
    """

    channels: tuple[tuple[str, int], ...]
    monitor: int
    console: int


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
    with ExitStack() as stack:
        asked = stack.enter_context(_signals())
        with ExitStack() as theirs:
            pairs = [_pair(stack, theirs) for _ in (*names, "monitor", "console", "QEMU")]
            *ports, monitor, console, said = (ours for ours, _ in pairs)
            *inherited, own = (their.fileno() for _, their in pairs)
            *channels, at_monitor, at_console = inherited
            place = Place(tuple(zip(names, channels, strict=True)), at_monitor, at_console)
            start = time.monotonic()
            process = stack.enter_context(_started(command(place), inherited, own))
        machine = _Machine(
            process,
            asked,
            start,
            Monitor(monitor, published),
            # The last is what the guest said: QEMU warns of much at its start.
            [_Console(said.fileno()), _Console(console.fileno())],
        )
        try:
            return machine.serve(
                dict(zip(names, ports, strict=True)),
                request,
                files,
                insecure_simulated,
                boot_seconds,
                streams,
            )
        except (Unavailable, Malformed) as error:
            error.hint = machine.told()
            raise


class _Machine:
    """QEMU's process, and how far its guest is."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        asked: _Asked,
        start: float,
        monitor: Monitor,
        consoles: list[_Console],
    ) -> None:
        self._process = process
        self._asked = asked
        self._start = start
        self._monitor = monitor
        self._consoles = consoles
        self._end = _End(process.pid)
        self._booted = False
        self._code: int | None = None
        self._deadline: float | None = None

    def told(self) -> str:
        """End QEMU; keep what it and the guest said, and give the last of it."""
        self._process.kill()
        self._process.wait()
        for each in self._consoles:
            each.drain()
        return _kept(self._consoles)

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
        watched: list[Watched] = [control, stdin, *outputs, self._end, self._asked]
        watched += [self._monitor, *self._consoles]
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

        in_time = True
        # A channel that is closed in the middle of a stream is the end of the machine.
        with suppress(Unavailable):
            in_time = carry(watched, over, lambda: self._deadline)
        if self._asked.numbers and self._code is None:
            return 128 + self._asked.numbers[0]
        if any(flow.broken for flow in outputs):
            return 128 + signal.SIGPIPE
        if not in_time:
            raise Unavailable(f"did not answer in {boot_seconds:.0f} s", field="guest")
        if self._code is None:
            if not self._booted and self._failed():
                raise Unavailable("does not start", field="QEMU")
            raise Unavailable("ended without an exit code", field="guest")
        return self._code

    def _failed(self) -> bool:
        """Whether QEMU ended by itself, with an error."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(_END_SECONDS) != 0
        return False

    def _told(self, control: Messages, frame: Frame) -> None:
        if frame.kind in (Kind.LISTENING, Kind.LISTENING_UDP):
            if len(frame.body) != 2:
                raise Malformed("no port", field=f"channel {CONTROL}", expected="two bytes")
            port = int.from_bytes(frame.body, "little")

            def answer(error: int) -> None:
                control.answer(Frame(Kind.REACHABLE, Reachable(port, error).to_bytes()))

            self._monitor.forward(port, answer, udp=frame.kind is Kind.LISTENING_UDP)
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


def _pair(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    """The two ends of a connection, each until the end of its block; ours does not block."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    here.settimeout(0)
    return ours.enter_context(here), theirs.enter_context(there)


def _die_with_us() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def touch_few_pages() -> None:
    """Have this process and those that it becomes take memory in small pages.

    QEMU asks for large ones. An emulated machine touches a little of most of them at its start,
    and is done before they pay: to find and to clear them takes a tenth of that.
    """
    _LIBC.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)


def _die_with_us_and_touch_few_pages() -> None:
    _die_with_us()
    touch_few_pages()


@contextmanager
def _started(
    command: list[str], inherited: list[int], said: int
) -> Iterator[subprocess.Popen[bytes]]:
    """QEMU, until the end of the block."""
    before = _die_with_us_and_touch_few_pages if EMULATED in command else _die_with_us
    process = subprocess.Popen(
        command,
        pass_fds=inherited,
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        # A terminal's Ctrl-C is for us, who pass it on to the workload.
        start_new_session=True,
        preexec_fn=before,  # noqa: PLW1509  (prctl alone, no locks)
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
            messages.answer(Frame(Kind.INSECURE_EVIDENCE, evidence.payload))

    messages = Messages(descriptor, INSECURE_SIMULATED, INSECURE_TO_HOST, take)
    return messages


class _Console:
    """What somebody says, as it comes.

    Attributes:
        said: the last of it.
    """

    def __init__(self, descriptor: int) -> None:
        self.said = b""
        self._descriptor = descriptor
        self._over = False

    def interest(self) -> Mapping[int, int]:
        return {} if self._over else {self._descriptor: 1}  # POLLIN

    def happened(self, _descriptor: int, _events: int) -> None:
        self._take()

    def drain(self) -> None:
        """Take what is there."""
        while self._take():
            pass

    def _take(self) -> bool:
        try:
            data = os.read(self._descriptor, MAX_DATA)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self._over = not data
        self.said = (self.said + data)[-_CONSOLE_SIZE:]
        return bool(data)


def _kept(consoles: list[_Console]) -> str:
    """Keep what was said, and give the last of it."""
    whole = b"".join(each.said for each in consoles)
    tail = whole[-_TAIL_SIZE:].decode(errors="replace").splitlines()
    lines = [f"  {plain(line)}" for line in tail if line.strip()][-_TAIL_LINES:]
    if not lines:
        return "neither the guest nor QEMU said anything"
    ends = "and ends with\n" + "\n".join(lines)
    try:
        descriptor, kept = tempfile.mkstemp(prefix="garrison-console-", suffix=".log")
        with os.fdopen(descriptor, "wb") as file:
            file.write(whole)
    except OSError as error:
        return f"the console cannot be kept ({error.strerror}), {ends}"
    return f"the console is kept in {kept}, {ends}"

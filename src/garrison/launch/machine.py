"""Runs a keep in a virtual machine, and is to its caller what the keep's process would be.

It starts QEMU, serves the guest over the channels (`garrison.launch.session`), and returns the
workload's exit code.

However this ends so does QEMU: it asks the kernel for that, and a machine in memory has nothing to
lose. Nothing of it is on disk: QEMU inherits what leads to the host, and of the console the last is
held in memory, to be kept in a file where the machine did not end as it should.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.errors import Malformed, Unavailable
from garrison.formats.channel import (
    CHANNELS,
    INSECURE_SIMULATED,
    INSECURE_TO_HOST,
    MAX_DATA,
    Frame,
    Kind,
)
from garrison.launch.monitor import Monitor
from garrison.launch.process import die_with_us
from garrison.launch.qemu_command import EMULATED
from garrison.launch.session import Session, signals
from garrison.relay import Messages, Watched
from garrison.terminal import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from garrison.attesters.base import Attester
    from garrison.formats.guest_request import GuestRequest
    from garrison.launch.monitor import Publication

# Emulated, a guest is there within 10 s; where twenty others share its processor, in two minutes.
BOOT_SECONDS = 240.0
# Its channels close just before it ends.
_END_SECONDS = 2.0
# linux/prctl.h
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
    names = list(CHANNELS)
    if insecure_simulated is not None:
        names.append(INSECURE_SIMULATED)
    with ExitStack() as stack:
        asked = stack.enter_context(signals())
        with ExitStack() as theirs:
            pairs = [_pair(stack, theirs) for _ in (*names, "monitor", "console", "QEMU")]
            *ports, at_monitor, console, said = (ours for ours, _ in pairs)
            *channels, their_monitor, their_console, own = (their.fileno() for _, their in pairs)
            place = Place(tuple(zip(names, channels, strict=True)), their_monitor, their_console)
            monitor = Monitor(at_monitor, published)
            session = Session("guest", asked, monitor, boot_seconds)
            inherited = [*channels, their_monitor, their_console]
            process = stack.enter_context(_started(command(place), inherited, own))
        end = _End(process.pid)
        # The last is what the guest said: QEMU warns of much at its start.
        consoles = [_Console(said.fileno()), _Console(console.fileno())]
        watched: list[Watched] = [end, monitor, *consoles]
        found = {name: port.fileno() for name, port in zip(names, ports, strict=True)}
        if insecure_simulated is not None:
            watched.append(_answering(found[INSECURE_SIMULATED], insecure_simulated))
        try:
            code = session.serve(
                found, request, files, streams, also=watched, gone=lambda: end.ready
            )
            return _checked(code, process, booted=session.booted)
        except (Unavailable, Malformed) as error:
            process.kill()
            process.wait()
            for each in consoles:
                each.drain()
            error.hint = _kept(consoles)
            raise


def _checked(code: int | None, process: subprocess.Popen[bytes], *, booted: bool) -> int:
    """The exit code, if there is one."""
    if code is not None:
        return code
    if not booted:
        with suppress(subprocess.TimeoutExpired):
            if process.wait(_END_SECONDS) != 0:
                raise Unavailable("does not start", field="QEMU")
    raise Unavailable("ended without an exit code", field="guest")


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


def _pair(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    """The two ends of a connection, each until the end of its block; ours does not block."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    here.settimeout(0)
    return ours.enter_context(here), theirs.enter_context(there)


def touch_few_pages() -> None:
    """Have this process and those that it becomes take memory in small pages.

    QEMU asks for large ones. An emulated machine touches a little of most of them at its start,
    and is done before they pay: to find and to clear them takes a tenth of that.
    """
    _LIBC.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)


def _die_with_us_and_touch_few_pages() -> None:
    die_with_us()
    touch_few_pages()


@contextmanager
def _started(
    command: list[str], inherited: list[int], said: int
) -> Iterator[subprocess.Popen[bytes]]:
    """QEMU, until the end of the block."""
    before = _die_with_us_and_touch_few_pages if EMULATED in command else die_with_us
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

"""The host's side of a keep's channels, whatever kind of machine the keep is in.

A `Session` gives the keep its request over the channels (`garrison.formats.channel`), carries the
standard streams, and gives its exit code. What comes from there is bounded and checked like
anything from outside. A signal that asks this command to end is passed on to the workload; a keep
that has not started, or does not end soon, or a second signal, ends the session.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from garrison.errors import Malformed, Unavailable
from garrison.formats.channel import (
    CONTROL,
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
from garrison.relay import Flow, Messages, Watched, carry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from garrison.formats.guest_request import GuestRequest

log = logging.getLogger("garrison.launch")

# How long a workload has to end after it was asked to.
_PATIENCE_SECONDS = 10.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ports(Protocol):
    """What makes a port that the keep listens on one of this host's."""

    def forward(self, port: int, told: Callable[[int], None], *, udp: bool = False) -> None:
        """Do it for `port`, and tell zero or an errno."""


class Session:
    """The host's side of the channels, from now on.

    Attributes:
        booted: the keep has told of its start.
    """

    def __init__(self, what: str, asked: Asked, ports: Ports, boot_seconds: float) -> None:
        """Prepare.

        Args:
            what: what the keep is in, for errors.
            asked: the signals that ask this command to end.
            ports: told of those that the keep listens on.
            boot_seconds: how long it may take until it answers a request.
        """
        self.booted = False
        self._what = what
        self._asked = asked
        self._ports = ports
        self._boot_seconds = boot_seconds
        self._start = time.monotonic()
        self._code: int | None = None
        self._deadline: float | None = None

    def serve(
        self,
        channels: Mapping[str, int],
        request: GuestRequest,
        files: Mapping[str, bytes],
        streams: tuple[int, int, int],
        *,
        also: Sequence[Watched] = (),
        gone: Callable[[], bool] = lambda: False,
    ) -> int | None:
        """Carry streams and signals until the keep has ended.

        Args:
            channels: descriptors by name; they do not block.
            request: what the keep is asked for.
            files: of a local workload.
            streams: standard input, output and error.
            also: what else is to be waited for.
            gone: whether the machine is there no more.

        Returns:
            The exit code, 128 + n for a signal n; None if the keep ended without one.

        Raises:
            Unavailable: it does not answer.
            Malformed: it sent what is not a frame.
        """

        def told(frame: Frame) -> None:
            self._told(control, frame)

        control = Messages(channels[CONTROL], CONTROL, TO_HOST, told)
        stdin = Flow(streams[0], channels[STDIN], channel=STDIN, framed=False)
        outputs = [
            Flow(channels[name], sink, channel=name, framed=True)
            for name, sink in ((STDOUT, streams[1]), (STDERR, streams[2]))
        ]
        for path, content in files.items():
            control.send(Frame(Kind.FILE, File(path, content).to_bytes()))
        control.send(Frame(Kind.REQUEST, request.to_json()))
        self._deadline = time.monotonic() + self._boot_seconds

        def over() -> bool:
            self._pass_on(control)
            done = self._code is not None and all(flow.done for flow in outputs)
            lost = gone() or control.closed or any(flow.broken for flow in outputs)
            return done or lost or self._asked.enough

        watched: list[Watched] = [control, stdin, *outputs, self._asked, *also]
        in_time = True
        # A channel that is closed in the middle of a stream is the end of the machine.
        with suppress(Unavailable):
            in_time = carry(watched, over, lambda: self._deadline)
        if self._asked.numbers and self._code is None:
            return 128 + self._asked.numbers[0]
        if any(flow.broken for flow in outputs):
            return 128 + signal.SIGPIPE
        if not in_time:
            raise Unavailable(f"did not answer in {self._boot_seconds:.0f} s", field=self._what)
        return self._code

    def _told(self, control: Messages, frame: Frame) -> None:
        if frame.kind in (Kind.LISTENING, Kind.LISTENING_UDP):
            if len(frame.body) != 2:
                raise Malformed("no port", field=f"channel {CONTROL}", expected="two bytes")
            port = int.from_bytes(frame.body, "little")

            def answer(error: int) -> None:
                control.answer(Frame(Kind.REACHABLE, Reachable(port, error).to_bytes()))

            self._ports.forward(port, answer, udp=frame.kind is Kind.LISTENING_UDP)
            return
        if frame.kind is Kind.EXIT:
            if len(frame.body) != 1:
                raise Malformed("no exit code", field=f"channel {CONTROL}", expected="one byte")
            self._code = frame.body[0]
            return
        phase = Phase.from_bytes(frame.body)
        if not self.booted:
            self.booted, self._deadline = True, None
        log.debug(
            "%s %.2f s after the command; %.2f s by the %s's clock",
            phase.name,
            time.monotonic() - self._start,
            phase.seconds,
            self._what,
        )

    def _pass_on(self, control: Messages) -> None:
        """Tell the keep that it was asked to end; it is waited for if it can have heard."""
        number = self._asked.take()
        if number is None:
            return
        if not self.booted:
            self._asked.enough = True
            return
        control.send(Frame(Kind.SIGNAL, bytes((number,))))
        self._deadline = time.monotonic() + _PATIENCE_SECONDS


class Asked:
    """The signals that ask this command to end; a thing to wait for.

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
        """What comes next."""
        return {self._descriptor: 1}  # POLLIN

    def happened(self, descriptor: int, _events: int) -> None:
        """Take what came."""
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
def signals() -> Iterator[Asked]:
    """Take signals as things that happen, until the end of the block."""
    receive, send = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    previous_wakeup = signal.set_wakeup_fd(send)
    previous = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    try:
        yield Asked(receive)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_wakeup)
        os.close(receive)
        os.close(send)

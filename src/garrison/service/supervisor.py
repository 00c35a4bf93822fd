"""Several processes of a service: one socket, and a supervisor that serves nobody itself.

All workers accept from the socket that the supervisor opened, so that connections which wait to
be accepted outlive any of them. A worker that dies is started again, at once at first, then
after pauses that double. SIGTERM and SIGINT end the workers, each finishing what is under way;
who is not done within the limit is killed. SIGHUP goes to all. Where the supervisor itself is
killed, its workers see the end of a pipe, and end too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.service import log

if TYPE_CHECKING:
    from collections.abc import Callable

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
# A worker that lived so long did not die of its start.
_SOUND_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
# Between a worker's own limit for its end and the supervisor's.
_MARGIN_SECONDS = 2.0
_READY = b"1"


@dataclass(frozen=True, slots=True)
class Calling:
    """What a worker is called with.

    Attributes:
        ready: to be called when it serves.
        lifeline: readable when the supervisor has gone; None where there is none.
    """

    ready: Callable[[], None]
    lifeline: int | None


@dataclass(slots=True)
class _Place:
    """A place for a worker, and who is in it."""

    pid: int = 0
    started: float = 0.0
    due: float = 0.0
    pause: float = 0.0
    # Readable when the worker is ready; at its end, too.
    answer: int = -1
    is_ready: bool = False


class Supervisor:
    """Starts workers, and starts them again."""

    def __init__(
        self,
        count: int,
        work: Callable[[Calling], None],
        *,
        announce: Callable[[], None],
        close: Callable[[], None],
        forget: Callable[[int], None],
        renew: Callable[[], None],
        drain_seconds: float,
    ) -> None:
        """Prepare; `run` begins.

        Args:
            count: how many workers.
            work: what a worker does, in a process of its own, until it ends.
            announce: called when all are ready for the first time.
            close: called when no worker is to be started any more: closes the sockets.
            forget: called with the pid of each that ended.
            renew: called at SIGHUP, before the workers are told: reads again what those that are
                started later are to begin with.
            drain_seconds: how long a worker may take to end.
        """
        self._places = [_Place() for _ in range(count)]
        self._work = work
        self._announce = announce
        self._close = close
        self._forget = forget
        self._renew = renew
        self._drain_seconds = drain_seconds
        self._lifeline = os.pipe()
        self._is_announced = False
        self._ends_by: float | None = None
        self._code = 0

    def run(self) -> int | None:
        """Supervise until the end.

        Returns:
            The exit code, in the supervisor. In a worker, where its work is done, None.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return self._run(before)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _run(self, before: set[int] | set[signal.Signals]) -> int | None:
        # A signal that is blocked is kept only if it is not ignored.
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        while True:
            if self._start_due(before):
                return None
            if all(not place.pid for place in self._places) and self._ends_by is not None:
                return self._code
            told = signal.sigtimedwait(_SIGNALS, self._patience())
            if told is not None:
                self._hear(signal.Signals(told.si_signo))
            self._bury()
            for place in self._places:
                self._hear_ready(place)
            self._announce_once()
            if self._ends_by is not None and time.monotonic() >= self._ends_by:
                self._tell(signal.SIGKILL)

    def _announce_once(self) -> None:
        if self._is_announced or self._ends_by is not None:
            return
        if all(place.is_ready for place in self._places):
            self._is_announced = True
            self._announce()

    def _start_due(self, mask: set[int] | set[signal.Signals]) -> bool:
        """Start those that are due; True in a worker that has done its work."""
        if self._ends_by is not None:
            return False
        for place in self._places:
            if place.pid or time.monotonic() < place.due:
                continue
            readable, writable = os.pipe()
            place.pid = os.fork()
            if place.pid == 0:
                os.close(readable)
                self._be_worker(writable, mask)
                return True
            os.close(writable)
            place.answer, place.is_ready, place.started = readable, False, time.monotonic()
        return False

    def _be_worker(self, answer: int, mask: set[int] | set[signal.Signals]) -> None:
        os.close(self._lifeline[1])
        for place in self._places:
            if place.answer >= 0:
                os.close(place.answer)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # A terminal sends it to all processes; the supervisor passes on what is meant.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Not SIGHUP: what comes before the worker listens for it must not be lost on it.
        signal.pthread_sigmask(signal.SIG_SETMASK, {*mask, signal.SIGHUP})

        def ready() -> None:
            # A supervisor that has gone is seen elsewhere.
            with contextlib.suppress(BrokenPipeError):
                os.write(answer, _READY)
            os.close(answer)

        self._work(Calling(ready, self._lifeline[0]))

    def _patience(self) -> float:
        """How long nothing is to be done unless a signal comes."""
        if self._ends_by is not None:
            return max(0.0, min(self._ends_by - time.monotonic(), 1.0))
        if any(place.answer >= 0 for place in self._places):
            # A worker's word that it is ready is no signal.
            return 0.02
        waiting = [place.due - time.monotonic() for place in self._places if not place.pid]
        return max(0.0, min([*waiting, 3600.0]))

    def _hear(self, told: signal.Signals) -> None:
        if told == signal.SIGHUP:
            try:
                self._renew()
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the service
                facts = {"outcome": "nothing renewed", "reason": f"{type(error).__name__}: {error}"}
                log.record("worker", facts, level=logging.ERROR)
            self._tell(signal.SIGHUP)
        elif told in {signal.SIGTERM, signal.SIGINT}:
            self._end()

    def _end(self) -> None:
        """Have all workers end; asked again, at once."""
        if self._ends_by is None:
            self._ends_by = time.monotonic() + self._drain_seconds + _MARGIN_SECONDS
            # Or connections would wait for nobody.
            self._close()
        self._tell(signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        for place in self._places:
            if place.pid:
                os.kill(place.pid, number)

    def _bury(self) -> None:
        """Take notice of workers that have ended."""
        for place in self._places:
            if not place.pid:
                continue
            pid, status = os.waitpid(place.pid, os.WNOHANG)
            if not pid:
                continue
            self._hear_ready(place)
            if place.answer >= 0:
                os.close(place.answer)
                place.answer = -1
            self._forget(pid)
            place.pid = 0
            if self._ends_by is not None:
                continue
            code = os.waitstatus_to_exitcode(status)
            if not place.is_ready and not self._is_announced:
                # It cannot start: its error is on standard error, and is that of all.
                self._code = code if code > 0 else 70
                self._end()
                continue
            self._plan(place, pid, code)

    def _plan(self, place: _Place, pid: int, code: int) -> None:
        lived = time.monotonic() - place.started
        if lived >= _SOUND_SECONDS:
            place.pause = 0.0
        place.due = time.monotonic() + place.pause
        facts = {
            "outcome": "ended",
            "pid": pid,
            "code": code,
            "lived_seconds": round(lived, 1),
            "restart_in_seconds": place.pause,
        }
        log.record("worker", facts, level=logging.ERROR)
        place.pause = min(max(_FIRST_PAUSE_SECONDS, place.pause * 2), _LONGEST_PAUSE_SECONDS)

    def _hear_ready(self, place: _Place) -> None:
        """Read what a worker says, if it has said something: once, that it is ready."""
        if place.answer < 0 or not select.select([place.answer], [], [], 0)[0]:
            return
        place.is_ready = os.read(place.answer, 1) == _READY
        os.close(place.answer)
        place.answer = -1

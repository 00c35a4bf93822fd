"""Signals, and the end of its time, that end a run wherever the guest is.

A guest can be in its own code for ever, where no Python runs. So the interpreter's C handler
writes to a pipe, and a thread that reads it tells the engine, which stops the guest at its next
loop or call; it does the same when the guest's time is over. Python's own handlers raise
nothing: an exception at the entry of a host function would be lost. Where the host waits, it
waits for a second pipe too, so that no signal that comes just before the waiting is missed.

To sleep and be woken takes 40 us where the processor has nothing else to do, and twice that in a
virtual machine: as long as the whole of a short answer. So where answers came at once of late, the
host looks for the next one for a moment before it sleeps.
"""

import _thread
import posix  # the part of `os` that is used here, and no file to load
import time

from garrison.keep.engine.failures import Interrupted, OutOfTime
from garrison.keep.vfs.streams import POLLIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select
    import signal
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, Self

    Poller = select.poll | select.epoll
else:
    import _signal as signal  # its wrapper makes enumerations, which costs a start 3 ms

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STOP = b"\0"
# As no signal is written.
_START = b"\xff"
# How long it looks before it sleeps, in nanoseconds: not much more than to sleep and be woken would
# take, so that to look for nothing costs about as much again, at the most.
_LOOK = 100_000
# How many answers in a row must come that fast before it looks again, after many looks in vain.
_MOST_PATIENT = 64
# In seconds, less than 2^31 ms.
_LONGEST = float(1 << 20)
# No descriptor, and not -1, which stands for none.
_NOT_SET = -2


class Eagerness:
    """Whether to look for a moment before one sleeps, by what came of it.

    One look in vain stands against an event at least that came within a look's time while one
    slept; each further one, with no success in between, against twice as many.
    """

    def __init__(self) -> None:
        self._quick = 0
        self._wanted = 1

    def looks(self) -> bool:
        """Whether to look."""
        return self._quick >= self._wanted

    def looked(self, *, found: bool) -> None:
        """Note what a look came to."""
        if found:
            self._wanted = max(1, self._wanted // 2)
        else:
            self._wanted = min(2 * self._wanted, _MOST_PATIENT)
            self._quick = 0

    def slept(self, nanoseconds: int, *, found: bool) -> None:
        """Note how long a sleep took, and whether an event ended it, or else its time."""
        self._quick = self._quick + 1 if found and nanoseconds <= _LOOK else 0


class Interrupts:
    """Ends a run by `Interrupted` or `OutOfTime`, from `__enter__` to `__exit__`.

    Outside the main thread, where Python allows no handlers, signals do nothing.

    Args:
        stop: stops the guest; called in another thread.
        seconds: how long it may run, from `start_clock` on; None is for ever.

    Attributes:
        number: the signal that came, 0 if none did.
    """

    def __init__(self, stop: "Callable[[], None]", seconds: int | None = None) -> None:
        self.number = 0
        self._stop = stop
        self._seconds = seconds
        self._late = False
        self._watched = False
        self._previous: dict[int, Any] = {}
        self._previous_wakeup = _NOT_SET
        # Whoever holds it may stop the guest, or end the run so that nobody may any more.
        self._lock = _thread.allocate_lock()
        self._ended = False
        self._pipes: list[int] = []
        self._eagerness = Eagerness()
        self._poll: Poller | None = None
        self._polled: list[tuple[int, int]] = []

    def __enter__(self) -> "Self":
        signals, wake = posix.pipe()
        woken, tell = posix.pipe()
        self._pipes = [signals, wake, woken, tell]
        posix.set_blocking(wake, False)
        try:
            self._previous_wakeup = signal.set_wakeup_fd(wake)
            heard: tuple[int, ...] = _SIGNALS
        except ValueError:
            # Not the main thread: signals go elsewhere.
            if self._seconds is None:
                return self
            heard = ()
        _thread.start_new_thread(self._watch, (signals, tell))
        self._watched = True
        for number in heard:
            # One that is ignored (nohup, a shell's background job) stays so.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._previous_wakeup != _NOT_SET:
            signal.set_wakeup_fd(self._previous_wakeup)
        with self._lock:
            self._ended = True
        signals, wake, woken, tell = self._pipes
        if self._watched:
            # It closes what it uses when it reads this. Nobody waits for that: to change from one
            # thread to another and back takes as long as a hundred calls of the guest.
            posix.write(wake, _STOP)
        else:
            posix.close(signals)
            posix.close(tell)
        posix.close(wake)
        posix.close(woken)

    @property
    def ended(self) -> int:
        """A descriptor that can be read once the run is to end."""
        return self._pipes[2]

    def start_clock(self) -> None:
        """Let the guest's time begin."""
        if self._seconds is not None:
            posix.write(self._pipes[1], _START)

    def check(self) -> None:
        """Raise if the run is to end.

        Raises:
            Interrupted: a signal came.
            OutOfTime: the time is over.
        """
        if self.number:
            raise Interrupted(self.number)
        if self._late:
            raise OutOfTime(self._seconds or 0)

    def wait(self, events: list[tuple[int, int]], seconds: float | None) -> dict[int, int]:
        """Wait until one of `events` (descriptor, poll(2) events) happens, or the time is over.

        Returns:
            What happened, by descriptor; nothing if the time is over.

        Raises:
            Interrupted: a signal came.
            OutOfTime: the guest's own time is over.
        """
        # A guest that serves waits for the same again and again. The object holds numbers only,
        # so it stays right when one of them is closed and given to another.
        if self._poll is None or events != self._polled:
            self._poll, self._polled = self.poller(events), events
        return dict(self.wait_for(self._poll, seconds))

    def wait_for(self, poll: "Poller", seconds: float | None) -> list[tuple[int, int]]:
        """Wait as `wait` does, for what `poller` was given."""
        found = poll.poll(0)
        if not found and (seconds is None or seconds > 0):
            found = self._await(poll, seconds)
        # The descriptor that wakes it is readable only after one of them is set.
        if self.number or self._late:
            self.check()
        return found

    def _await(self, poll: "Poller", seconds: float | None) -> list[tuple[int, int]]:
        """What happens at last where nothing has: look for it if that pays, then sleep."""
        begun = time.monotonic_ns()
        if self._eagerness.looks():
            most = _LOOK if seconds is None else min(_LOOK, int(seconds * 1e9))
            end = begun + most
            while not (found := poll.poll(0)) and time.monotonic_ns() < end:
                pass
            self._eagerness.looked(found=bool(found))
            if found or (seconds is not None and (seconds := seconds - most / 1e9) <= 0):
                return found
            begun = end
        if seconds is not None:
            # The kernel takes a C int of milliseconds; a longer wait is a caller's loop.
            seconds = min(seconds, _LONGEST)
            # Of what Python gives, one counts seconds and the other milliseconds.
            seconds = seconds if hasattr(poll, "fileno") else seconds * 1000
        found = poll.poll(seconds)
        self._eagerness.slept(time.monotonic_ns() - begun, found=bool(found))
        return found

    def poller(self, events: list[tuple[int, int]], *, often: bool = False) -> "Poller":
        """Make what waits for `events`, and for what ends the run.

        Args:
            events: descriptors, and poll(2) events of them.
            often: whether to make what takes longer to make, and as long for many descriptors as
                for few. It forgets a descriptor that is closed, and has to be made again then.

        Raises:
            OSError: there is no descriptor left for it.
        """
        from select import epoll, poll  # late: most short programs never wait

        poller = epoll() if often else poll()
        wanted = {self._pipes[2]: POLLIN}
        for descriptor, mask in events:
            wanted[descriptor] = wanted.get(descriptor, 0) | mask
        for descriptor, mask in wanted.items():
            poller.register(descriptor, mask)
        return poller

    def _note(self, number: int, _frame: "FrameType | None") -> None:
        self.number = number

    def _watch(self, signals: int, tell: int) -> None:
        end: float | None = None
        while True:
            if end is not None and not _readable(signals, end):
                end = None
                self._late = True
                received = _STOP
            elif (received := posix.read(signals, 1)) == _STOP:
                break
            elif received == _START:
                end = time.monotonic() + (self._seconds or 0)
                continue
            elif received[0] not in _SIGNALS:
                continue
            else:
                self.number = received[0]
            with self._lock:
                if not self._ended:
                    posix.write(tell, received)
                    self._stop()
        posix.close(signals)
        posix.close(tell)


def _readable(descriptor: int, end: float) -> bool:
    """Whether something is to be read before the time `end`."""
    from select import poll  # late: see `poller`

    poller = poll()
    poller.register(descriptor, POLLIN)
    while (left := end - time.monotonic()) > 0:
        # poll(2) takes a C int of milliseconds.
        if poller.poll(min(left * 1000 + 1, 1 << 30)):
            return True
    return False

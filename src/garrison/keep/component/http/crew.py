"""The threads that run components for requests, and the time that each request has.

One thread at a time has the turn: it waits for all connections, and runs the component for the
first request that is ready itself, without handing it to another thread. It gives the turn away
when the component has to wait for something, or runs for longer than a moment; then the next
thread goes on. So short requests cost no changing of threads, and long ones hold up nobody.

A component's time, and the keep's end, reach it wherever it is: in a wait of ours by that wait,
in its own code by the engine, which asks `Member.late` when `Engine.interrupt` was called.
"""

from __future__ import annotations

import _thread
import logging
import time
from select import poll

from garrison.errors import GarrisonError
from garrison.keep.component.http.message import Refused
from garrison.keep.component.http.wire import POLLIN, scratch
from garrison.keep.component.instance import Ended
from garrison.keep.engine.failures import Interrupted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from garrison.keep.component.http.exchange import Exchange
    from garrison.keep.component.http.server import Server
    from garrison.keep.engine.runtime import Engine
    from garrison.keep.wasi.interrupts import Interrupts

    class Handler(Protocol):
        """What answers requests, one after the other, always in the same thread."""

        def handle(self, exchange: Exchange) -> None:
            """Answer one."""
            ...

        def close(self) -> None:
            """Give all back."""
            ...


log = logging.getLogger("garrison.keep")

# How long a component may compute before others have the turn; and how often that is looked at,
# which takes the interpreter from who answers.
_MOMENT = 0.005
_TICK_SECONDS = 0.02
# Where requests compute for longer than this on average, each gives the turn away at once: to wake
# another thread costs less than to have the other cores wait.
_LONG = 0.001
# How long the threads may take to end.
_END_SECONDS = 5.0
# Beside the guest's own stack, what the host functions that it calls take.
_OWN_STACK = 3 << 20


class Late(GarrisonError):
    """A request took longer than it may."""


class Member:
    """One of the threads, as the component that it runs sees it: it is its `Interrupts`.

    Args:
        crew: all of them.
        ended: a descriptor that can be read once the keep is to end.

    Attributes:
        exchange: what it answers now.
        deadline: until when.
    """

    def __init__(self, crew: Crew, ended: int) -> None:
        self._crew = crew
        self._ended = ended
        self._poll: poll | None = None
        self._polled: list[tuple[int, int]] = []
        self.exchange: Exchange | None = None
        self.deadline = 0.0
        # Its thread's own clock, and what that showed when the request began.
        self._clock = time.pthread_getcpuclockid(_thread.get_ident())
        self._began = 0.0
        self.scratch = scratch()

    def begin(self, exchange: Exchange, seconds: float) -> None:
        """Begin to answer a request."""
        self.deadline = time.monotonic() + seconds
        self._began = time.clock_gettime(self._clock)
        self.exchange = exchange

    def busy(self) -> bool:
        """Whether it has computed for longer than a moment; from any thread.

        By its own clock: on a machine with much to do, time goes by that it did not have.
        """
        try:
            return self.computed() >= _MOMENT
        except OSError:
            return True  # the thread is gone

    def computed(self) -> float:
        """For how many seconds it has."""
        return time.clock_gettime(self._clock) - self._began

    def check(self) -> None:
        """Raise if the request is to end.

        Raises:
            Interrupted: the keep ends.
            Late: its time is over.
        """
        if self._crew.over:
            raise Interrupted(15)
        if time.monotonic() >= self.deadline:
            raise Late("the request took longer than it may", field="limits.http_seconds")

    def late(self) -> bool:
        """Whether the request is to end, asked while the component computes, in its thread."""
        if self.exchange is not None and self.exchange.asked:
            self.exchange.flush()
        return self._crew.over or time.monotonic() >= self.deadline

    def wait(self, events: list[tuple[int, int]], seconds: float | None) -> dict[int, int]:
        """Wait as `Interrupts.wait` does, and let others have the turn meanwhile."""
        if seconds != 0 and self.exchange is not None:
            self.exchange.flush()
        if self._poll is None or events != self._polled:
            poller = poll()
            poller.register(self._ended, POLLIN)
            wanted: dict[int, int] = {}
            for descriptor, mask in events:
                wanted[descriptor] = wanted.get(descriptor, 0) | mask
                poller.register(descriptor, wanted[descriptor])
            self._poll, self._polled = poller, list(events)
        found = self._poll.poll(0)
        if not found and seconds != 0:
            self._crew.pass_turn(self)
            left = max(0.0, self.deadline - time.monotonic())
            patience = left if seconds is None else min(seconds, left)
            # poll(2) takes a C int of milliseconds; a little more, so that the time is over then.
            found = self._poll.poll(min(patience * 1000 + 1, 1 << 30))
            if seconds is None or not found:
                self.check()
        if found and found[0][0] == self._ended:
            self.check()
            del found[0]
        return dict(found)


class Crew:
    """The threads.

    Args:
        server: where requests come from.
        engine: what runs components.
        handler: makes what answers a thread's requests; called in that thread.
        most: how many requests may be under way.
        seconds: how long one may take.
        stack: how many bytes of stack a guest's calls may take.
        ended: a descriptor that can be read once the keep is to end.
    """

    def __init__(
        self,
        server: Server,
        engine: Engine,
        handler: Callable[[Member], Handler],
        *,
        most: int,
        seconds: float,
        stack: int,
        ended: int,
    ) -> None:
        self._server = server
        self._engine = engine
        self._handler = handler
        self._most = most
        self._seconds = seconds
        self._stack = stack
        self._ended = ended
        self._lock = _thread.allocate_lock()
        self._turn = _thread.allocate_lock()
        self._leader: Member | None = None
        self._members: list[Member] = []
        self._queued = 0
        self._running = 0
        self._average = 0.0
        self._alive = 0
        self.over = False
        self.failure: BaseException | None = None

    def run(self, interrupts: Interrupts, grace: float) -> None:
        """Serve until a signal comes; then let what is under way end, within `grace` seconds.

        Raises:
            Interrupted: always, in the end.
            OutOfTime: the keep's own time is over.
        """
        self._start()
        try:
            self._watch(interrupts)
        finally:
            self._server.drain()
            self._finish(grace)
            if self.failure is not None:
                raise self.failure

    def _watch(self, interrupts: Interrupts) -> None:
        while self.failure is None:
            interrupts.wait([], _TICK_SECONDS)
            interrupts.check()
            self._look()

    def _look(self) -> None:
        """Take the turn from who runs a component for long, and end who does so for too long."""
        leader = self._leader
        if leader is not None and leader.exchange is not None and leader.busy():
            self.pass_turn(leader)
        now = time.monotonic()
        for member in list(self._members):
            exchange = member.exchange
            if exchange is not None and (exchange.asked or now >= member.deadline):
                self._engine.interrupt()
                return

    def _finish(self, grace: float) -> None:
        end = time.monotonic() + grace
        while self._busy() and time.monotonic() < end and self.failure is None:
            time.sleep(_TICK_SECONDS / 4)
            self._look()
        self.over = True
        end = time.monotonic() + _END_SECONDS
        while self._alive and time.monotonic() < end:
            self._engine.interrupt()
            self._server.wake()
            time.sleep(_TICK_SECONDS / 4)

    def _busy(self) -> bool:
        return self._running > 0 or not self._server.idle()

    def _start(self) -> None:
        """Have one thread more."""
        with self._lock:
            if self._alive > self._most:
                return
            self._alive += 1
        before = _thread.stack_size(self._stack + _OWN_STACK)
        try:
            _thread.start_new_thread(self._live, ())
        finally:
            _thread.stack_size(before)

    def pass_turn(self, member: Member) -> None:
        """Let another thread have the turn, if `member` has it. From any thread."""
        with self._lock:
            if self._leader is not member:
                return
            self._leader = None
            alone = not self._queued
        self._turn.release()
        if alone:
            self._start()

    def _live(self) -> None:
        member = Member(self, self._ended)
        self._members.append(member)
        handler: Handler | None = None
        try:
            handler = self._handler(member)
            while not self.over:
                self._take_turn(member)
                if self.over:
                    self.pass_turn(member)
                    return
                while self._leader is member and not self.over:
                    self._serve(member, handler)
        except BaseException as error:  # noqa: BLE001  (the thread that waits for all raises it)
            self.failure = self.failure or error
            self.pass_turn(member)
        finally:
            if handler is not None:
                handler.close()
            self._members.remove(member)
            with self._lock:
                self._alive -= 1

    def _take_turn(self, member: Member) -> None:
        with self._lock:
            self._queued += 1
        try:
            while not self._turn.acquire(timeout=1.0):
                if self.over:
                    return
        finally:
            with self._lock:
                self._queued -= 1
        self._leader = member

    def _serve(self, member: Member, handler: Handler) -> None:
        """With the turn: wait for requests, and answer them as long as there are any."""
        while (exchange := self._next()) is not None:
            self._answer(member, handler, exchange)
            if self.over:
                return
        if self._leader is member:
            self._server.wait()

    def _next(self) -> Exchange | None:
        with self._lock:
            if self._running >= self._most:
                return None
            exchange = self._server.take()
            if exchange is not None:
                self._running += 1
            return exchange

    def _answer(self, member: Member, handler: Handler, exchange: Exchange) -> None:
        member.begin(exchange, self._seconds)
        if self._average > _LONG:
            self.pass_turn(member)
        status = 500
        try:
            handler.handle(exchange)
        except Refused as refused:
            exchange.last = True
            status = refused.status
            log.info("refused a request: %s", refused)
        except Late as error:
            status = 504
            log.warning("a request was ended: %s", error)
        except Interrupted:
            status = 503
        except (GarrisonError, Ended) as error:
            if self.over or time.monotonic() >= member.deadline:
                status = 503 if self.over else 504
            log.warning("a request failed: %s", _told(error))
        finally:
            self._average += (member.computed() - self._average) / 8
            member.exchange = None
            with self._lock:
                self._running -= 1
        if not exchange.answered:
            exchange.refuse(status)
        self._server.give_back(exchange, whole=exchange.finish(), scratch=member.scratch)


def _told(error: BaseException) -> str:
    if isinstance(error, Ended):
        return f"the component ended itself, with {error.code}"
    return str(error)

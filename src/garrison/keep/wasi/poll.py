"""`poll_oneoff`: wait for clocks and descriptors together."""

import time
from _struct import Struct  # see `memory`

from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.streams import UNREST, Socket
from garrison.keep.wasi import abi
from garrison.keep.wasi.host import now
from garrison.keep.wasi.memory import put_u32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.vfs.descriptor import Descriptor, Source
    from garrison.keep.wasi.host import Host
    from garrison.keep.wasi.interrupts import Poller

    # What the guest is told, what was asked for, and what the kernel is: descriptor and poll(2)
    # events.
    _Asked = tuple[bytes, int, Descriptor, tuple[int, int]]

# `subscription`, 48 bytes: user data at 0, tag at 8; of a clock its number at 16, the time at
# 24, the precision at 32, the flags at 40; of a descriptor its number at 16.
_SUBSCRIPTION = Struct("<QB7xI4xQQH6x")
# `event`, 32 bytes: user data at 0, errno at 8, type at 10, how many bytes at 16, flags at 24.
_event = Struct("<QHB5xQH6x").pack
_EVENT_SIZE = 32
_SIZE_AT = 16
_FLAGS_AT = 24
_CLOCK = 0
_READ = 1
_WRITE = 2
_ABSOLUTE = 1
# `eventrwflags`, to the end of the event.
_HANGUP = b"\1" + bytes(7)

# More than any library asks for; the answer is as long, and made at once.
_MAX_SUBSCRIPTIONS = 8192

# From how many waits for the same on, and of how many descriptors, the kernel is asked by what
# takes it as long for many as for few: to prepare that takes a call for each.
_OFTEN = 16
_MANY = 8

# poll(2), asm-generic/poll.h
_POLLERR = 8
_POLLHUP = 16
_POLLNVAL = 32
# What poll(2) tells without being asked.
_ALWAYS = _POLLERR | _POLLHUP | _POLLNVAL


def poll_oneoff(host: "Host", subscriptions: int, events: int, count: int, result: int) -> None:
    """Wait until something happens; tell all that has."""
    memory = host.memory
    memory.expect(result, 4)
    if not 0 < count <= _MAX_SUBSCRIPTIONS:
        raise Errno(errno.INVAL)
    # A copy: the guest may want the events where the subscriptions are.
    wanted = bytes(memory.view(subscriptions, count * _SUBSCRIPTION.size))
    memory.expect(events, count * _EVENT_SIZE)
    poll = host.polled
    # A guest that serves waits for the same again and again.
    if poll is None or poll.wanted != wanted or poll.changes != host.descriptors.changes:
        poll = host.polled = Poll(host, wanted)
    happened = poll.run()
    memory.all[events : events + len(happened) * _EVENT_SIZE] = b"".join(happened)
    put_u32(memory.all, result, len(happened))


class Poll:
    """What is waited for, read from the subscriptions as long as they mean the same.

    Attributes:
        wanted: the subscriptions.
        changes: how often the descriptors had changed when they were read.
    """

    def __init__(self, host: "Host", wanted: bytes) -> None:
        self.wanted = wanted
        self.changes = host.descriptors.changes
        self._interrupts = host.interrupts
        self._errors: list[bytes] = []
        # User data, flags, the number of the clock and the time.
        self._clocks: list[tuple[int, int, int, int]] = []
        self._descriptors: list[tuple[bytes, int, Descriptor]] = []
        for data, tag, number, timeout, _precision, flags in _SUBSCRIPTION.iter_unpack(wanted):
            try:
                self._add(host, data, tag, number, timeout, flags)
            except Errno as error:
                self._errors.append(_event(data, error.number, tag, 0, 0))
        self._listeners: list[Descriptor] = []
        self._sources: list[Source] = []
        for *_, found in self._descriptors:
            if found.possible & d.SOCK_ACCEPT:
                self._listeners.append(found)
            else:
                self._sources.append(found.source())
        # What `UNREST` counted when none of the sources was restless.
        self._calm_at = -1
        # What the kernel is asked where nothing is restless: made when it is first wanted.
        self._poller: Poller | None = None
        self._runs = 0
        self._events: list[tuple[int, int]] = []
        self._by_number: dict[int, list[_Asked]] = {}
        # What most of what the kernel sees means: that and no more, and the same each time.
        self._plain: dict[tuple[int, int], bytes] = {}

    def _add(
        self, host: "Host", data: int, tag: int, number: int, timeout: int, flags: int
    ) -> None:
        if tag == _CLOCK:
            if number not in abi.CLOCKS:
                raise Errno(errno.INVAL)
            self._clocks.append((data, flags, number, timeout))
        elif tag in (_READ, _WRITE):
            found = host.descriptors.having(number, d.POLL)
            self._descriptors.append((_event(data, 0, tag, 1, 0), tag, found))
        else:
            raise Errno(errno.INVAL)

    def run(self) -> list[bytes]:
        """Wait, and tell the events that happened."""
        begun = time.monotonic_ns() if self._clocks else 0
        ends = [
            (data, begun + (max(0, timeout - now(number)) if flags & _ABSOLUTE else timeout))
            for data, flags, number, timeout in self._clocks
        ]
        while True:
            happened = self._calm(ends) if self._is_calm() else self._asked(ends)
            if ends:
                present = time.monotonic_ns()
                happened += [_event(data, 0, _CLOCK, 0, 0) for data, end in ends if end <= present]
            if happened:
                return happened

    def _is_calm(self) -> bool:
        """Whether the kernel alone knows what is ready."""
        if self._errors or not self._descriptors:
            return False
        for listener in self._listeners:
            if listener.source().restless:
                return False
        if self._calm_at == UNREST.count:
            return True
        for source in self._sources:
            if source.restless:
                return False
        self._calm_at = UNREST.count
        return True

    def _calm(self, ends: list[tuple[int, int]]) -> list[bytes]:
        self._runs += 1
        if (poller := self._poller) is None:
            poller = self._poller = self._prepare()
        elif self._runs == _OFTEN and len(self._events) >= _MANY:
            try:  # noqa: SIM105  (contextlib costs a start 2 ms)
                poller = self._poller = self._interrupts.poller(self._events, often=True)
            except OSError:
                pass  # there is no descriptor left for it, and none is needed
        seconds = _first(ends)
        for listener in self._listeners:
            if (late := listener.timeout()) is not None:
                seconds = late if seconds is None else min(seconds, late)
        found = self._interrupts.wait_for(poller, seconds)
        try:
            return list(map(self._plain.__getitem__, found))
        except KeyError:
            # Not all of it is plain.
            happened: list[bytes] = []
        for number, seen in found:
            for entry in self._by_number.get(number, ()):
                _note(happened, entry, seen)
        return happened

    def _prepare(self) -> "Poller":
        """Make what the kernel is asked by, and by which its answers are understood."""
        asked: list[_Asked] = []
        for event, tag, descriptor in self._descriptors:
            events = descriptor.events(write=tag == _WRITE)
            assert events is not None  # noqa: S101  (what can be calm has a descriptor)
            asked.append((event, tag, descriptor, events))
        for entry in asked:
            self._by_number.setdefault(entry[3][0], []).append(entry)
        self._plain = {
            events: event
            for event, _, descriptor, events in asked
            if len(self._by_number[events[0]]) == 1 and isinstance(descriptor, Socket)
        }
        self._events = [events for *_, events in asked]
        return self._interrupts.poller(self._events)

    def _asked(self, ends: list[tuple[int, int]]) -> list[bytes]:
        """What is ready without asking the kernel, or what is when it was asked."""
        happened = list(self._errors)
        asked: list[_Asked] = []
        seconds = _first(ends)
        for event, tag, descriptor in self._descriptors:
            write = tag == _WRITE
            # First `ready`, after which there may be other events to wait for; a listener goes
            # on with its handshakes.
            if descriptor.ready(write=write) or not (events := descriptor.events(write=write)):
                happened.append(_told(event, tag, descriptor))
            else:
                asked.append((event, tag, descriptor, events))
                if (late := descriptor.timeout()) is not None:
                    seconds = late if seconds is None else min(seconds, late)
        found = self._interrupts.wait([events for *_, events in asked], 0 if happened else seconds)
        for entry in asked if found else ():
            if seen := found.get(entry[3][0], 0):
                _note(happened, entry, seen)
        return happened


def _first(ends: list[tuple[int, int]]) -> float | None:
    """In how many seconds the first of the clocks is over."""
    if not ends:
        return None
    return max(0, min(end for _, end in ends) - time.monotonic_ns()) / 1e9


def _note(happened: list[bytes], asked: "_Asked", seen: int) -> None:
    """Add what the kernel saw at one descriptor, if it is what was asked for."""
    event, tag, descriptor, (_, mask) = asked
    if not seen & (mask | _ALWAYS):
        return
    # A listener's event may be a step of a handshake only: its own word counts.
    if descriptor.possible & d.SOCK_ACCEPT and not descriptor.ready(write=False):
        return
    if tag == _READ:
        event = _told(event, tag, descriptor)
    happened.append(event if not seen & _POLLHUP else event[:_FLAGS_AT] + _HANGUP)


def _told(event: bytes, tag: int, descriptor: "Descriptor") -> bytes:
    """The event with how many bytes there are to read; it says 1, which is most often right."""
    if tag == _READ and (size := descriptor.available()) != 1:
        return event[:_SIZE_AT] + size.to_bytes(8, "little") + event[_FLAGS_AT:]
    return event

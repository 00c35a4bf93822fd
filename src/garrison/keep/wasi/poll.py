"""`poll_oneoff`: wait for clocks and descriptors together."""

import time
from _struct import Struct  # see `memory`

from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno
from garrison.keep.wasi import abi
from garrison.keep.wasi.host import now
from garrison.keep.wasi.memory import U32

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select

    from garrison.keep.vfs.descriptor import Descriptor
    from garrison.keep.wasi.host import Host

    # User data, errno, type, how many bytes, flags.
    _Event = tuple[int, int, int, int, int]
    # User data, type, what, and what the kernel is asked: descriptor and poll(2) events.
    _Asked = tuple[int, int, Descriptor, tuple[int, int]]

# `subscription`, 48 bytes: user data at 0, tag at 8; of a clock its number at 16, the time at
# 24, the precision at 32, the flags at 40; of a descriptor its number at 16.
_SUBSCRIPTION = Struct("<QB7xI4xQQH6x")
# `event`, 32 bytes: user data at 0, errno at 8, type at 10, how many bytes at 16, flags at 24.
_EVENT = Struct("<QHB5xQH6x")
_CLOCK = 0
_READ = 1
_WRITE = 2
_ABSOLUTE = 1
_HANGUP = 1

# More than any library asks for; the answer is as long, and made at once.
_MAX_SUBSCRIPTIONS = 8192

# poll(2), asm-generic/poll.h
_POLLERR = 8
_POLLHUP = 16
_POLLNVAL = 32


def poll_oneoff(host: "Host", subscriptions: int, events: int, count: int, result: int) -> None:
    """Wait until something happens; tell all that has."""
    host.memory.expect(result, 4)
    if not 0 < count <= _MAX_SUBSCRIPTIONS:
        raise Errno(errno.INVAL)
    # A copy: the guest may want the events where the subscriptions are.
    wanted = bytes(host.memory.view(subscriptions, count * _SUBSCRIPTION.size))
    answer = host.memory.view(events, count * _EVENT.size)
    poll = host.polled
    # A guest that serves waits for the same again and again.
    if poll is None or poll.wanted != wanted or poll.changes != host.descriptors.changes:
        poll = host.polled = Poll(host, wanted)
    happened = poll.run()
    place = 0
    for event in happened:
        _EVENT.pack_into(answer, place, *event)
        place += _EVENT.size
    U32.pack_into(host.memory.all, result, len(happened))


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
        self._errors: list[_Event] = []
        # User data, flags, the number of the clock and the time.
        self._clocks: list[tuple[int, int, int, int]] = []
        self._descriptors: list[tuple[int, int, Descriptor]] = []
        for data, tag, number, timeout, _precision, flags in _SUBSCRIPTION.iter_unpack(wanted):
            try:
                self._add(host, data, tag, number, timeout, flags)
            except Errno as error:
                self._errors.append((data, error.number, tag, 0, 0))
        self._sources = [descriptor.source() for *_, descriptor in self._descriptors]
        # What the kernel is asked where nothing is restless: made when it is first wanted.
        self._poller: select.poll | None = None
        self._by_number: dict[int, list[_Asked]] = {}

    def _add(
        self, host: "Host", data: int, tag: int, number: int, timeout: int, flags: int
    ) -> None:
        if tag == _CLOCK:
            if number not in abi.CLOCKS:
                raise Errno(errno.INVAL)
            self._clocks.append((data, flags, number, timeout))
        elif tag in (_READ, _WRITE):
            found = host.descriptors.having(number, d.POLL)
            self._descriptors.append((data, tag, found))
        else:
            raise Errno(errno.INVAL)

    def run(self) -> "list[_Event]":
        """Wait, and say what happened."""
        begun = time.monotonic_ns() if self._clocks else 0
        ends = [
            (data, begun + (max(0, timeout - now(number)) if flags & _ABSOLUTE else timeout))
            for data, flags, number, timeout in self._clocks
        ]
        while True:
            happened = self._calm(ends) if self._is_calm() else self._asked(ends)
            if ends:
                present = time.monotonic_ns()
                happened += [(data, 0, _CLOCK, 0, 0) for data, end in ends if end <= present]
            if happened:
                return happened

    def _is_calm(self) -> bool:
        """Whether the kernel alone knows what is ready."""
        if self._errors or not self._sources:
            return False
        for source in self._sources:  # noqa: SIM110  (a generator costs as much as all the rest)
            if source.restless:
                return False
        return True

    def _calm(self, ends: list[tuple[int, int]]) -> "list[_Event]":
        if self._poller is None:
            asked = []
            for data, tag, descriptor in self._descriptors:
                events = descriptor.events(write=tag == _WRITE)
                assert events is not None  # noqa: S101  (what can be calm has a descriptor)
                asked.append((data, tag, descriptor, events))
            for entry in asked:
                self._by_number.setdefault(entry[3][0], []).append(entry)
            self._poller = self._interrupts.poller([events for *_, events in asked])
        happened: list[_Event] = []
        for number, seen in self._interrupts.wait_for(self._poller, _first(ends)):
            for entry in self._by_number.get(number, ()):
                _note(happened, entry, seen)
        return happened

    def _asked(self, ends: list[tuple[int, int]]) -> "list[_Event]":
        """What is ready without asking the kernel, or what is when it was asked."""
        happened = list(self._errors)
        asked: list[_Asked] = []
        seconds = _first(ends)
        for data, tag, descriptor in self._descriptors:
            write = tag == _WRITE
            # First `ready`, after which there may be other events to wait for; a listener goes
            # on with its handshakes.
            if descriptor.ready(write=write) or not (events := descriptor.events(write=write)):
                happened.append((data, 0, tag, _size(descriptor, tag), 0))
            else:
                asked.append((data, tag, descriptor, events))
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


def _note(happened: "list[_Event]", asked: "_Asked", seen: int) -> None:
    """Add what the kernel saw at one descriptor, if it is what was asked for."""
    data, tag, descriptor, (_, mask) = asked
    # A listener's event may be a step of a handshake only.
    if seen & (mask | _POLLERR | _POLLHUP | _POLLNVAL) and (
        not _is_listener(descriptor) or descriptor.ready(write=False)
    ):
        hangup = _HANGUP if seen & _POLLHUP else 0
        happened.append((data, 0, tag, _size(descriptor, tag), hangup))


def _is_listener(descriptor: "Descriptor") -> bool:
    # Its own word counts, and not the kernel's.
    return bool(descriptor.possible & d.SOCK_ACCEPT)


def _size(descriptor: "Descriptor", tag: int) -> int:
    return descriptor.available() if tag == _READ else 1

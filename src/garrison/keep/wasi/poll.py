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
    from collections.abc import Iterable

    from garrison.keep.vfs.descriptor import Descriptor
    from garrison.keep.wasi.host import Host

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
    poll = _Poll(host, _SUBSCRIPTION.iter_unpack(wanted))
    happened = poll.run()
    for index, event in enumerate(happened):
        _EVENT.pack_into(answer, index * _EVENT.size, *event)
    U32.pack_into(host.memory.all, result, len(happened))


class _Poll:
    """One call: what is waited for, and what has happened already."""

    def __init__(self, host: "Host", subscriptions: "Iterable[tuple[int, ...]]") -> None:
        self._host = host
        self.happened: list[tuple[int, int, int, int, int]] = []
        self._clocks: list[tuple[int, int]] = []
        self._descriptors: list[tuple[int, int, Descriptor]] = []
        for data, tag, number, timeout, _precision, flags in subscriptions:
            try:
                self._add(data, tag, number, timeout, flags)
            except Errno as error:
                self.happened.append((data, error.number, tag, 0, 0))

    def _add(self, data: int, tag: int, number: int, timeout: int, flags: int) -> None:
        if tag == _CLOCK:
            if flags & _ABSOLUTE:
                timeout = max(0, timeout - now(number))
            elif number not in abi.CLOCKS:
                raise Errno(errno.INVAL)
            self._clocks.append((data, time.monotonic_ns() + timeout))
        elif tag in (_READ, _WRITE):
            found = self._host.descriptors.having(number, d.POLL)
            self._descriptors.append((data, tag, found))
        else:
            raise Errno(errno.INVAL)

    def run(self) -> list[tuple[int, int, int, int, int]]:
        """Wait, and say what happened."""
        while True:
            # What is ready without asking the kernel; a listener goes on with its handshakes.
            happened = list(self.happened)
            asked = []
            timeouts = [max(0, end - time.monotonic_ns()) / 1e9 for _, end in self._clocks]
            for data, tag, descriptor in self._descriptors:
                write = tag == _WRITE
                # First `ready`, after which there may be other events to wait for.
                if descriptor.ready(write=write) or not (events := descriptor.events(write=write)):
                    happened.append((data, 0, tag, _size(descriptor, tag), 0))
                else:
                    asked.append((data, tag, descriptor, events))
                    if (late := descriptor.timeout()) is not None:
                        timeouts.append(late)
            seconds = 0 if happened else min(timeouts, default=None)
            found = self._host.interrupts.wait([events for *_, events in asked], seconds)
            for data, tag, descriptor, (number, mask) in asked if found else ():
                if not (seen := found.get(number, 0)):
                    continue
                # A listener's event may be a step of a handshake only.
                if seen & (mask | _POLLERR | _POLLHUP | _POLLNVAL) and (
                    not _is_listener(descriptor) or descriptor.ready(write=False)
                ):
                    hangup = _HANGUP if seen & _POLLHUP else 0
                    happened.append((data, 0, tag, _size(descriptor, tag), hangup))
            present = time.monotonic_ns()
            happened += [(data, 0, _CLOCK, 0, 0) for data, end in self._clocks if end <= present]
            if happened:
                return happened


def _is_listener(descriptor: "Descriptor") -> bool:
    # Its own word counts, and not the kernel's.
    return bool(descriptor.possible & d.SOCK_ACCEPT)


def _size(descriptor: "Descriptor", tag: int) -> int:
    return descriptor.available() if tag == _READ else 1

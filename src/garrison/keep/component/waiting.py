"""Waiting, for times and descriptors together: what the resource `pollable` stands for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from garrison.keep.vfs.descriptor import SOCK_ACCEPT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from garrison.keep.component.host import Host
    from garrison.keep.vfs.descriptor import Descriptor

# poll(2), asm-generic/poll.h: what comes without having been asked for.
_POLL_ENDED = 8 | 16 | 32


class Pollable(Protocol):
    """Something to wait for."""

    def ready(self) -> bool:
        """Whether it has happened, as far as that is known without the kernel."""
        ...

    def events(self) -> tuple[int, int] | None:
        """A descriptor of the host's and what to wait for there; None if there is no such."""
        ...

    def timeout(self) -> float | None:
        """Seconds after which to ask again without any event."""
        ...

    def settled(self) -> bool:
        """Whether an event means that it has happened, and not only that one has to ask."""
        ...

    def drop(self) -> None:
        """End it."""
        ...


class Moment:
    """A time to wait for.

    Args:
        when: on the monotonic clock, in nanoseconds; 0 is always over.
    """

    def __init__(self, when: int) -> None:
        self._when = when

    def ready(self) -> bool:
        """Whether it is over."""
        return not self._when or time.monotonic_ns() >= self._when

    def events(self) -> None:
        """None: no descriptor knows."""
        return

    def timeout(self) -> float:
        """How long it is until then."""
        return max(0, self._when - time.monotonic_ns()) / 1e9

    def settled(self) -> bool:
        """There are no events."""
        return False

    def drop(self) -> None:
        """End it."""


class Readiness:
    """A descriptor that can be read or accepted from."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor

    def ready(self) -> bool:
        """Whether it can, as far as that is known without the kernel."""
        return self._descriptor.ready(write=False) or self.events() is None

    def events(self) -> tuple[int, int] | None:
        """What to wait for."""
        return self._descriptor.events(write=False)

    def timeout(self) -> float | None:
        """When a listener's next handshake is late."""
        return self._descriptor.timeout()

    def settled(self) -> bool:
        """A listener's event may be a step of a handshake only."""
        return not self._descriptor.possible & SOCK_ACCEPT or self._descriptor.ready(write=False)

    def drop(self) -> None:
        """End it."""


def wait_for(host: Host, wanted: Sequence[Pollable], *, block: bool = True) -> list[int]:
    """Wait until something of `wanted` happens, and say which have; all at once, if not `block`.

    Raises:
        Interrupted: a signal came.
    """
    while True:
        # First `ready`, after which there may be other events to wait for.
        happened = [index for index, pollable in enumerate(wanted) if pollable.ready()]
        asked = [
            (index, pollable, events)
            for index, pollable in enumerate(wanted)
            if index not in happened and (events := pollable.events())
        ]
        late = [seconds for p in wanted if (seconds := p.timeout()) is not None]
        seconds = 0 if happened or not block else min(late, default=None)
        found = host.interrupts.wait([events for *_, events in asked], seconds)
        for index, pollable, (number, mask) in asked if found else ():
            if found.get(number, 0) & (mask | _POLL_ENDED) and pollable.settled():
                happened.append(index)
        if happened or not block:
            return sorted(happened)

"""wasi:clocks: the time, and waiting for it."""

from __future__ import annotations

import time

from garrison.keep.component.waiting import Moment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.component.host import Host
    from garrison.keep.component.waiting import Pollable

WIT = """
package wasi:clocks;
interface monotonic-clock {
    use wasi:io/poll.{pollable};
    type instant = u64;
    type duration = u64;
    now: func() -> instant;
    resolution: func() -> duration;
    subscribe-instant: func(when: instant) -> pollable;
    subscribe-duration: func(when: duration) -> pollable;
}
interface wall-clock {
    record datetime { seconds: u64, nanoseconds: u32 }
    now: func() -> datetime;
    resolution: func() -> datetime;
}
"""

_SECOND = 1_000_000_000


def monotonic_clock_now(_host: Host) -> int:
    """Tell the time since some moment, in nanoseconds."""
    return time.monotonic_ns()


def monotonic_clock_resolution(_host: Host) -> int:
    """Tell how fine it is."""
    return _resolution(time.CLOCK_MONOTONIC)


def monotonic_clock_subscribe_instant(_host: Host, when: int) -> Pollable:
    """Give a time to wait for."""
    return Moment(when)


def monotonic_clock_subscribe_duration(_host: Host, duration: int) -> Pollable:
    """Give a time to wait for, from now on."""
    return Moment(time.monotonic_ns() + duration)


def wall_clock_now(_host: Host) -> tuple[int, int]:
    """Tell the time of day."""
    return divmod(time.time_ns(), _SECOND)


def wall_clock_resolution(_host: Host) -> tuple[int, int]:
    """Tell how fine it is."""
    return divmod(_resolution(time.CLOCK_REALTIME), _SECOND)


def _resolution(clock: int) -> int:
    return max(1, round(time.clock_getres(clock) * 1e9))

"""Asking the steward again: after how long, and at a keep's start for how long.

What it refuses stands. What may pass is asked again: no connection, or an answer that says "not
now" (`Away`). A keep that runs goes on for ever (`renewal`, `trust`). For one that starts somebody
waits, so it says at once that it waits too, and gives up in time.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from garrison.errors import Unavailable
from garrison.keep.logs import keep_log

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# For how long a start asks for one thing: as long as a steward's restart, or a failover, takes.
START_SECONDS = 60.0
# Seconds between the first attempts of a start, and between the last ones.
START_FIRST_RETRY = 1.0
START_LAST_RETRY = 15.0


class Away(Unavailable):
    """The steward cannot be reached, or says "not now": it may answer when it is asked again.

    Attributes:
        retry_after: the seconds for which it asks to be left alone, if it does.
    """

    retry_after: float | None = None


class Backoff:
    """How long to wait after each failure of a row."""

    def __init__(self, first: float, last: float) -> None:
        """Begin a row.

        Args:
            first: the longest that the first wait takes, in seconds; it doubles each time.
            last: the longest that any takes of which the steward says nothing.
        """
        self._next = first
        self._last = last

    def after(self, error: Exception) -> float:
        """Seconds to wait after `error`: more than the steward asks for in it, if it does."""
        delay = retry_delay(self._next, random.random())  # noqa: S311  (spreads load)
        self._next = min(2 * self._next, self._last)
        asked = error.retry_after if isinstance(error, Away) else None
        return delay + (asked or 0.0)


def retry_delay(longest: float, jitter: float) -> float:
    """Seconds until the next attempt after a failed one.

    Args:
        longest: the back-off that was reached.
        jitter: from 0 to 1; spreads, over half of it, the keeps that lost one steward together.
    """
    return longest * (1 - jitter / 2)


def patiently(ask: Callable[[], T]) -> T:
    """What `ask` returns, which is called again while the steward is away, for `START_SECONDS`.

    Every call is an attempt from its beginning, with a challenge of its own. A signal ends it.

    Raises:
        Unavailable: the steward was away all the time; what the last attempt found.
        GarrisonError: `ask` raised something else.
    """
    backoff = Backoff(START_FIRST_RETRY, START_LAST_RETRY)
    begun = time.monotonic()
    attempts = 0
    while True:
        try:
            return ask()
        except Away as error:
            attempts += 1
            delay = backoff.after(error)
            passed = time.monotonic() - begun
            if passed + delay > START_SECONDS:
                raise Unavailable(
                    f"{error.message} (attempt {attempts}, after {passed:.0f} s)",
                    field=error.field,
                    hint="is this the steward's address, and does it run?",
                ) from error
            if attempts == 1:
                # Once: a person sees why nothing happens, and a log is not filled.
                keep_log().warning("%s; trying again for %.0f s", error, START_SECONDS)
        time.sleep(delay)

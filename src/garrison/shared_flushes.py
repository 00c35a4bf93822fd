"""Flushes that serve all who came before they began: many who write at once share most of them."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from copy import copy
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

K = TypeVar("K")


class SharedFlushes(Generic[K]):
    """Flushes of some things; of each, one after the other.

    Args:
        flush: flushes one thing, and raises what all are told whom that was for.
    """

    def __init__(self, flush: Callable[[K], None]) -> None:
        self._flush = flush
        self._lock = threading.Lock()
        # The flush that whoever comes now waits for, and the one that is under way.
        self._coming: dict[K, Future[None]] = {}
        self._under_way: dict[K, Future[None]] = {}

    def __call__(self, what: K) -> None:
        """Wait for a flush that begins from now on."""
        turn, is_first = self._join(what)
        if is_first:
            self._take(what, turn)
        if (error := turn.exception()) is not None:
            # One for each: an error holds what was open where it passed, such as an upload's file.
            raise copy(error)

    def _join(self, what: K) -> tuple[Future[None], bool]:
        """Return the next flush, which is to begin yet, and whether nobody waits for it so far.

        The one under way may have passed over what was written meanwhile.
        """
        with self._lock:
            is_first = what not in self._coming
            return self._coming.setdefault(what, Future()), is_first

    def _take(self, what: K, turn: Future[None]) -> None:
        """Flush when the one under way has ended, for all who have come until then.

        They are told at once: a lock that all take in turn may be given to those first who came
        later, and want another.
        """
        with self._lock:
            before = self._under_way.get(what)
        if before is not None:
            wait((before,))
        with self._lock:
            self._under_way[what] = self._coming.pop(what)
        try:
            self._flush(what)
        except BaseException as error:  # noqa: BLE001  (it is raised to each of them)
            # Without where it passed: that holds the turn, and so all of it would hold itself.
            turn.set_exception(error.with_traceback(None))
        else:
            turn.set_result(None)
        with self._lock:
            # The next one may have begun meanwhile, and ended too.
            if self._under_way.get(what) is turn:
                del self._under_way[what]

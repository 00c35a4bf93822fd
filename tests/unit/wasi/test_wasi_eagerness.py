"""The host looks for a moment before it sleeps only where that paid, and wastes little."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.keep.engine.failures import Interrupted
from garrison.keep.wasi import interrupts
from garrison.keep.wasi.interrupts import Eagerness, Interrupts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from garrison.keep.wasi.interrupts import Poller

_LOOK = interrupts._LOOK


@given(st.lists(st.integers(0, 3 * _LOOK), max_size=300))
def test_what_is_wasted_is_bounded_by_the_quick_events(gaps: list[int]) -> None:
    eagerness = Eagerness()
    in_vain = quick = 0
    for gap in gaps:
        left = gap
        if eagerness.looks():
            eagerness.looked(found=gap <= _LOOK)
            if gap <= _LOOK:
                continue
            in_vain += 1
            left -= _LOOK
        eagerness.slept(left, found=True)
        quick += left <= _LOOK
    assert in_vain <= quick


def test_it_looks_after_a_quick_event_and_as_long_as_that_pays() -> None:
    eagerness = Eagerness()
    assert not eagerness.looks()
    eagerness.slept(_LOOK, found=True)
    for _ in range(100):
        assert eagerness.looks()
        eagerness.looked(found=True)
    eagerness.looked(found=False)
    assert not eagerness.looks()


@pytest.mark.parametrize("rounds", [1, 3, 6, 9])
def test_each_look_in_vain_wants_twice_as_many_quick_events(rounds: int) -> None:
    eagerness = Eagerness()
    for _ in range(rounds):
        while not eagerness.looks():
            eagerness.slept(0, found=True)
        eagerness.looked(found=False)
    wanted = 0
    while not eagerness.looks():
        eagerness.slept(0, found=True)
        wanted += 1
    assert wanted == min(2**rounds, 64)


@pytest.mark.parametrize(("nanoseconds", "found"), [(_LOOK + 1, True), (0, False)])
def test_a_slow_event_or_none_ends_the_row(nanoseconds: int, *, found: bool) -> None:
    eagerness = Eagerness()
    eagerness.looked(found=False)
    eagerness.slept(0, found=True)
    eagerness.slept(nanoseconds, found=found)
    eagerness.slept(0, found=True)
    assert not eagerness.looks()
    eagerness.slept(0, found=True)
    assert eagerness.looks()


class _Poll:
    """Sees an event when it is asked for the `ready`-th time; notes how it was asked."""

    def __init__(self, poll: Poller, ready: int | None) -> None:
        self.asked: list[float | None] = []
        self._poll = poll
        self._ready = ready

    def poll(self, milliseconds: float | None) -> list[tuple[int, int]]:
        self.asked.append(milliseconds)
        if len(self.asked) == self._ready:
            return [(-1, 1)]
        return self._poll.poll(milliseconds)


@pytest.fixture
def eager() -> Iterator[Interrupts]:
    """One whose last event came at once."""
    with Interrupts(lambda: None) as made:
        made._eagerness.slept(0, found=True)
        yield made


def test_what_comes_while_it_looks_is_found_without_sleep(
    eager: Interrupts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long it does not run meanwhile, as where others do.
    monkeypatch.setattr(interrupts, "_LOOK", 60_000_000_000)
    poll = _Poll(eager.poller([]), 3)
    assert eager.wait_for(poll, None) == [(-1, 1)]  # type: ignore[arg-type]
    assert poll.asked == [0, 0, 0]


def test_after_a_look_in_vain_it_sleeps_for_the_rest(eager: Interrupts) -> None:
    poll = _Poll(eager.poller([]), None)
    before = time.monotonic()
    assert eager.wait_for(poll, 0.05) == []  # type: ignore[arg-type]
    assert time.monotonic() - before >= 0.049
    *looks, slept = poll.asked
    assert set(looks) == {0}
    assert slept is not None
    assert 0 < slept <= 50 - _LOOK / 1e6


def test_it_looks_no_longer_than_it_may_wait(eager: Interrupts) -> None:
    poll = _Poll(eager.poller([]), None)
    assert eager.wait_for(poll, 1e-6) == []  # type: ignore[arg-type]
    assert set(poll.asked) == {0}


def test_it_asks_once_if_it_may_not_wait(eager: Interrupts) -> None:
    poll = _Poll(eager.poller([]), None)
    assert eager.wait_for(poll, 0) == []  # type: ignore[arg-type]
    assert poll.asked == [0]


def test_a_look_ends_at_a_signal(eager: Interrupts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_LOOK", 60_000_000_000)
    eager._eagerness.slept(0, found=True)

    def end() -> None:
        eager.number = 15
        os.write(eager._pipes[3], b"\x0f")

    timer = threading.Timer(0.05, end)
    timer.start()
    with pytest.raises(Interrupted):
        eager.wait_for(eager.poller([]), None)
    timer.join()

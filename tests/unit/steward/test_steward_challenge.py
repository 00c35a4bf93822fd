"""Challenges: good for minutes, at this steward and its replicas alone."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.steward.conftest import NOW

from garrison.errors import Malformed, Rejected, Unverified
from garrison.steward.challenge import LIFETIME, Challenges

KEY = bytes(range(32))
CHALLENGES = Challenges(KEY)
OFFER = CHALLENGES.issue(NOW)
SECOND = timedelta(seconds=1)


def test_challenge_is_good_until_it_expires_at_every_replica() -> None:
    assert OFFER.expires == NOW + LIFETIME
    for moment in (NOW, NOW + LIFETIME - SECOND):
        Challenges(KEY).check(OFFER.challenge, moment)


def test_two_challenges_differ() -> None:
    assert CHALLENGES.issue(NOW).challenge != OFFER.challenge


@pytest.mark.parametrize("late", [timedelta(0), SECOND, timedelta(days=9999)])
def test_expired_challenge_is_rejected(late: timedelta) -> None:
    with pytest.raises(Rejected) as caught:
        CHALLENGES.check(OFFER.challenge, OFFER.expires + late)
    assert caught.value.found == "good until 2026-03-01T12:05:00+00:00"


def test_challenge_of_the_far_future_is_rejected() -> None:
    """A replica whose clock is wrong must not make challenges that never expire elsewhere."""
    future = CHALLENGES.issue(NOW + timedelta(hours=1))
    with pytest.raises(Rejected):
        CHALLENGES.check(future.challenge, NOW)
    CHALLENGES.check(CHALLENGES.issue(NOW + timedelta(seconds=20)).challenge, NOW)


def test_foreign_challenge_is_unverified() -> None:
    with pytest.raises(Unverified) as caught:
        Challenges(bytes(32)).check(OFFER.challenge, NOW)
    assert "not issued by this steward" in str(caught.value)


@given(st.integers(1, len(OFFER.challenge) - 1), st.integers(0, 7))
def test_any_changed_bit_is_unverified(position: int, bit: int) -> None:
    changed = bytearray(OFFER.challenge)
    changed[position] ^= 1 << bit
    with pytest.raises(Unverified):
        CHALLENGES.check(bytes(changed), NOW)


@given(st.binary(max_size=80))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises((Malformed, Unverified)):
        CHALLENGES.check(data, NOW)


@pytest.mark.parametrize(
    "data",
    [b"", OFFER.challenge[:-1], OFFER.challenge + b"\0"],
    ids=["empty", "one less", "one more"],
)
def test_wrong_length_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        CHALLENGES.check(data, NOW)


def test_short_key_is_malformed() -> None:
    with pytest.raises(Malformed):
        Challenges(b"short")


def test_key_is_not_shown() -> None:
    assert KEY.hex() not in repr(CHALLENGES)
    assert repr(KEY) not in repr(CHALLENGES)

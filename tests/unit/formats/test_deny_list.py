"""What a steward tells running keeps to deny."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed, Rejected
from garrison.formats.deny_list import MAX_SIZE, DenyList
from garrison.formats.identity import CertifiedIdentity
from garrison.testing.tls import workload

SLUG = "drawbridge.test/jane/chat:1.2.3"
CERTIFIED = CertifiedIdentity(replace(workload(SLUG), platform=b"p" * 16), "t", "spiffe://t/x")
FIELDS: dict[str, Any] = json.loads(DenyList(10).to_json())


@given(
    st.builds(
        DenyList,
        st.integers(1, 300),
        measurements=st.frozensets(st.binary(min_size=1)),
        slugs=st.frozensets(st.text()),
        serials=st.frozensets(st.integers(0, 1 << 160)),
        platforms=st.frozensets(st.binary(min_size=1)),
    )
)
def test_a_list_is_read_as_it_was_written(denied: DenyList) -> None:
    assert DenyList.from_json(denied.to_json()) == denied


@pytest.mark.parametrize(
    "denied",
    [
        DenyList(10, serials=frozenset({7})),
        DenyList(10, measurements=frozenset({b"\x22" * 48})),
        DenyList(10, platforms=frozenset({b"p" * 16})),
        DenyList(10, slugs=frozenset({SLUG})),
        DenyList(10, slugs=frozenset({"drawbridge.test/jane/chat"})),
    ],
    ids=["serial", "measurement", "platform", "slug", "repository"],
)
def test_who_is_denied(denied: DenyList) -> None:
    with pytest.raises(Rejected, match="the steward denies it"):
        denied.check(CERTIFIED, 7)


def test_who_is_not() -> None:
    DenyList(10).check(CERTIFIED, 7)
    others = DenyList(
        10,
        measurements=frozenset({b"\x22" * 32}),
        slugs=frozenset({"drawbridge.test/jane/chat:1.2.4", "drawbridge.test/jane/cha"}),
        serials=frozenset({8}),
        platforms=frozenset({b"q" * 16}),
    )
    others.check(CERTIFIED, 7)
    others.check(CertifiedIdentity(workload(None), "t", "spiffe://t/x"), 7)


@pytest.mark.parametrize(
    "change",
    [
        {"poll_seconds": 0},
        {"poll_seconds": 301},
        {"poll_seconds": True},
        {"poll_seconds": None},
        {"slugs": "all"},
        {"slugs": [1]},
        {"serials": ["x"]},
        {"measurements": ["0"]},
        {"more": []},
    ],
    ids=str,
)
def test_what_is_wrong_is_malformed(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        DenyList.from_json(json.dumps(FIELDS | change).encode())
    missing = {name: value for name, value in FIELDS.items() if name != "slugs"}
    with pytest.raises(Malformed):
        DenyList.from_json(json.dumps(missing).encode())


@given(st.binary(max_size=100))
def test_any_bytes_are_a_list_or_malformed(data: bytes) -> None:
    try:
        DenyList.from_json(data)
    except Malformed:
        return


def test_one_that_is_too_long() -> None:
    with pytest.raises(Malformed, match="too long"):
        DenyList.from_json(b" " * (MAX_SIZE + 1))

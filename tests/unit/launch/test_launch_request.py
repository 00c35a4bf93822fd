"""The host's word to a keep: strict JSON, nothing more."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats.launch_request import MAX_SIZE, LaunchRequest

REQUEST = LaunchRequest(
    slug="h/u/r:1.0.0",
    steward="https://steward.example",
    steward_roots="PEM",
    registry_ca=None,
    attester={"kind": "nil"},
)


def test_round_trip() -> None:
    assert LaunchRequest.from_json(REQUEST.to_json()) == REQUEST


@pytest.mark.parametrize(
    "change",
    [
        {"slug": None},
        {"slug": "nonsense"},
        {"steward": 1},
        {"attester": {"kind": 1}},
        {"attester": "nil"},
        {"extra": 1},
    ],
)
def test_any_other_document_is_malformed(change: dict[str, object]) -> None:
    document = json.loads(REQUEST.to_json()) | change
    with pytest.raises(Malformed):
        LaunchRequest.from_json(json.dumps(document).encode())


def test_a_missing_field_and_a_long_document_are_malformed() -> None:
    document = json.loads(REQUEST.to_json())
    del document["attester"]
    with pytest.raises(Malformed):
        LaunchRequest.from_json(json.dumps(document).encode())
    with pytest.raises(Malformed):
        LaunchRequest.from_json(REQUEST.to_json() + b" " * MAX_SIZE)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        LaunchRequest.from_json(data)

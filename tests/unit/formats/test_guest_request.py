"""What a host asks of the keep in a machine: strict JSON, nothing more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats.channel import File, Phase, Reachable
from garrison.formats.guest_request import GuestRequest, Local
from garrison.formats.launch_request import LaunchRequest

LOCAL = GuestRequest(
    Local(("a", "b"), "PEM", "https://steward.test", {"kind": "nil"}, {"memory": 1 << 20}),
    {"localhost": "10.0.2.2"},
    "debug",
)
PUBLISHED = GuestRequest(
    LaunchRequest("h/u/r:1.0.0", "https://steward.test", "PEM", None, {"kind": "nil"})
)


@pytest.mark.parametrize("request_", [LOCAL, PUBLISHED], ids=["local", "published"])
def test_round_trip(request_: GuestRequest) -> None:
    assert GuestRequest.from_json(request_.to_json()) == request_


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"extra": 1}, "wrong fields"),
        ({"log": "all"}, "guest request: log"),
        ({"local": None}, "launch, local"),
        ({"hosts": {"a b": "10.0.0.1"}}, "guest request: hosts"),
        ({"hosts": {"a": "::1"}}, "guest request: hosts: a"),
        ({"hosts": {"a": 167772161}}, "guest request: hosts: a"),
        ({"local": {"arguments": [], "roots": ""}}, "guest request: local"),
    ],
)
def test_any_other_document_is_malformed(change: dict[str, Any], field: str) -> None:
    document = json.loads(LOCAL.to_json()) | change
    with pytest.raises(Malformed, match=field):
        GuestRequest.from_json(json.dumps(document).encode())


@pytest.mark.parametrize(
    "change",
    [{"arguments": [1]}, {"roots": None}, {"steward": 1}, {"attester": {"kind": 1}}]
    + [{"limits": {"memory": value}} for value in (True, "1", 1.5)],
)
def test_wrong_types_in_a_local_workload_are_malformed(change: dict[str, Any]) -> None:
    document = json.loads(LOCAL.to_json())
    document["local"] |= change
    with pytest.raises(Malformed, match="guest request: local"):
        GuestRequest.from_json(json.dumps(document).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        GuestRequest.from_json(data)


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_what_becomes_of_a_port_is_read_as_it_was_written(port: int, error: int) -> None:
    assert Reachable.from_bytes(Reachable(port, error).to_bytes()) == Reachable(port, error)


@given(st.binary(max_size=80))
def test_bodies_of_frames_are_read_or_malformed(data: bytes) -> None:
    for kind in (Reachable, Phase, File):
        try:
            read = kind.from_bytes(data)
        except Malformed:
            continue
        if kind is not Phase:
            assert read.to_bytes() == data

"""Random calls of wasi:http with wild handles: a trap, and nothing else, comes out of them.

The long run is `python -m garrison.testing.http_fuzzer` (docs/reference/fuzzing.md).
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

import pytest

from garrison.keep.component import interfaces
from garrison.keep.component.callbacks import Failed
from garrison.keep.component.host import Host
from garrison.keep.component.http.client import (
    future_incoming_response_subscribe,
    outgoing_handler_handle,
)
from garrison.keep.component.waiting import wait_for
from garrison.keep.component.wasi.http_bodies import outgoing_body_finish
from garrison.keep.component.wasi.http_fields import Fields
from garrison.keep.component.wasi.http_messages import (
    OutgoingRequest,
    OutgoingResponse,
    outgoing_response_headers,
    outgoing_response_new,
)
from garrison.keep.engine.failures import Interrupted
from garrison.keep.vfs.streams import Null
from garrison.testing import http_fuzzer

_RUNS = 150


def test_wild_handles_trap_and_nothing_else_comes_out() -> None:
    source = random.Random(7)  # noqa: S311  (to be repeated)
    counts: Counter[tuple[str, str]] = Counter()
    for _ in range(_RUNS):
        http_fuzzer.run(source.randbytes(1024), counts)
    # It is no test if nothing ever works, or nothing is ever refused.
    every = {
        f"{interface.name} {function}"
        for interface in interfaces.known()
        if interface.name.startswith("wasi:http/") and interface.name not in interfaces.EXPORTED
        for function in interface.functions
    }
    assert {name for name, _ in counts} >= every
    done = {name for name, end in counts if end == "done"}
    assert every - done == set()
    assert sum(count for (_, end), count in counts.items() if end == "trap") > _RUNS


def test_who_waits_for_a_response_that_was_given_up_is_told() -> None:
    """The fuzzer found a wait without end: for an answer whose request had been dropped."""
    network: Any = _Nowhere()
    interrupts = _Never()
    host = Host([], {}, [Null(), Null(), Null()], [], network, interrupts, 8)
    request = OutgoingRequest(Fields([]))
    request.scheme, request.authority = ("HTTP", None), "localhost"
    future = outgoing_handler_handle(host, request, None)
    waiting = future_incoming_response_subscribe(host, future)
    assert not wait_for(host, [waiting], block=False)
    future.drop()
    assert wait_for(host, [waiting]) == [0]
    assert host.background == []
    network.end.set()


def test_what_is_never_settled_does_not_outlast_the_run() -> None:
    interrupts = _Never(after=3)
    host = Host([], {}, [Null(), Null(), Null()], [], None, interrupts, 8)
    with pytest.raises(Interrupted):
        wait_for(host, [_Restless()])


def test_trailers_are_given_away_though_the_body_is_broken() -> None:
    """The fuzzer found a message that could not be dropped any more."""
    host = Host([], {}, [Null(), Null(), Null()], [], None, _Never(), 8)
    response = OutgoingResponse(Fields([]))
    trailers = outgoing_response_headers(host, response)
    body = OutgoingResponse(Fields([])).body()
    body.sink.abort()
    with pytest.raises(Failed):
        outgoing_body_finish(host, body, trailers)
    response.drop()


def test_the_headers_of_a_message_can_be_given_to_another() -> None:
    host = Host([], {}, [Null(), Null(), Null()], [], None, _Never(), 8)
    first = OutgoingResponse(Fields([("a", b"b")]))
    second = outgoing_response_new(host, outgoing_response_headers(host, first))
    first.drop()
    assert second.headers == [("a", b"b")]


class _Nowhere:
    """A network where connecting takes until the test ends."""

    def __init__(self) -> None:
        self.end = threading.Event()

    def check_outgoing(self, target: str) -> None:
        """Allow all."""

    def connect(self, _target: str, _wait: object) -> None:
        self.end.wait(60)
        raise ConnectionRefusedError(111, "refused")


class _Never:
    """Interrupts that come after so many questions; nothing else happens."""

    def __init__(self, after: int = 1000) -> None:
        self._left = after

    def check(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Interrupted(15)

    def wait(self, _events: object, seconds: float | None) -> dict[int, int]:
        assert seconds is not None, "it would wait for ever"
        return {}


class _Restless:
    """What asks to be asked again at once, and never happens."""

    def ready(self) -> bool:
        return False

    def events(self) -> None:
        return

    def timeout(self) -> float:
        return 0.0

    def settled(self) -> bool:
        return False

    def drop(self) -> None:
        pass

"""Bodies that are read into places: whole, in order, and as safely as others."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.service.sample import Server, running

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from tests.unit.service.conftest import Pki

CONTENT = random.Random(5).randbytes(3_000_000)  # noqa: S311  (content)


@pytest.fixture(scope="module")
def server(pki: Pki) -> Iterator[Server]:
    with running(pki) as started:
        yield started


def head(length: int, query: str = "room=65536", more: str = "") -> bytes:
    text = f"POST /placed?{query} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{more}\r\n"
    return text.encode()


def answer(tls: ssl.SSLSocket, status: int = 200) -> dict[str, Any]:
    response = http.client.HTTPResponse(tls, method="POST")
    response.begin()
    assert response.status == status
    found: dict[str, Any] = json.loads(response.read())
    return found


def check(found: dict[str, Any], content: bytes, room: int) -> None:
    assert sum(found["counts"]) == len(content)
    assert found["sha256"] == hashlib.sha256(content).hexdigest()
    # A place is filled unless the body ends.
    assert set(found["counts"][:-1]) <= {room}


@pytest.mark.parametrize(
    ("length", "room"),
    [
        (length, room)
        for length in (0, 1, 262_144, 262_145, 3_000_000)
        for room in (1, 1000, 65_536, 1 << 20, 3_000_000, 5_000_000)
        # A place is filled so often at most.
        if length <= 1000 * room
    ],
)
def test_a_body_comes_whole_and_in_order(server: Server, length: int, room: int) -> None:
    with server.raw() as tls:
        for _ in range(2):
            tls.sendall(head(length, f"room={room}") + CONTENT[:length])
            check(answer(tls), CONTENT[:length], room)


def test_a_body_in_small_pieces(server: Server) -> None:
    with server.raw() as tls:
        tls.sendall(head(len(CONTENT)))
        chance, start = random.Random(6), 0  # noqa: S311  (where it is cut)
        while start < len(CONTENT):
            size = chance.choice([1, 100, 20_000, 500_000])
            tls.sendall(CONTENT[start : start + size])
            start += size
        check(answer(tls), CONTENT, 65_536)


def test_what_follows_a_body_is_the_next_request(server: Server) -> None:
    """Both in the same records, so that they come together."""
    one, other = CONTENT, CONTENT[::-1]
    with server.raw() as tls:
        tls.sendall(head(len(one)) + one + head(len(other), "room=1000000") + other)
        check(answer(tls), one, 65_536)
        check(answer(tls), other, 1_000_000)


def test_a_client_that_waits_to_be_asked(server: Server) -> None:
    with server.raw() as tls:
        tls.sendall(head(len(CONTENT), more="Expect: 100-continue\r\n"))
        assert tls.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        tls.sendall(CONTENT)
        check(answer(tls), CONTENT, 65_536)


def test_a_body_without_a_length_comes_as_ever(server: Server) -> None:
    chunks = [CONTENT[start : start + 300_000] for start in range(0, len(CONTENT), 300_000)]
    text = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
    with server.raw() as tls:
        tls.sendall(head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + text)
        check(answer(tls), CONTENT, 65_536)


def test_what_nobody_wants_any_more_is_read_before_the_next_request(server: Server) -> None:
    with server.raw() as tls:
        tls.sendall(head(len(CONTENT), "room=500000&once") + CONTENT[:1_000_000])
        assert answer(tls)["counts"] == [500_000]
        tls.sendall(CONTENT[1_000_000:] + head(len(CONTENT)) + CONTENT)
        check(answer(tls), CONTENT, 65_536)


def test_a_client_that_goes_away_harms_no_other(pki: Pki) -> None:
    with running(pki, metrics=("localhost", 0)) as server:
        with server.raw() as tls:
            tls.sendall(head(len(CONTENT), "room=500000") + CONTENT[:1_200_000])
            for _ in range(2):
                server.expect("filled")
        server.expect('"POST"')
        with server.raw() as tls:
            tls.sendall(head(len(CONTENT)) + CONTENT)
            check(answer(tls), CONTENT, 65_536)


def test_one_that_pauses_is_told_and_one_that_is_slow_is_not(pki: Pki) -> None:
    with running(pki, {"pause_seconds": 3}) as server, server.raw() as tls:
        tls.sendall(head(len(CONTENT), "room=3000000") + CONTENT[:1_000_000])
        # In all longer than a pause, though nothing of the place is given to the application.
        for start in range(1_000_000, 1_000_004):
            time.sleep(1)
            tls.sendall(CONTENT[start : start + 1])
        started = time.monotonic()
        assert "stopped arriving" in answer(tls, 408)["detail"]
        assert time.monotonic() - started > 2

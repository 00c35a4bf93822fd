"""What a client may take of a service, tried through real sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.service.sample import Server, running

from garrison.service.frontend import place_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.service.conftest import Pki

ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF = b"POST /large HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc"
QUICK = {"head_seconds": 0.5, "pause_seconds": 0.5, "idle_seconds": 0.5, "handshake_seconds": 0.5}


def read_all(tls: ssl.SSLSocket) -> bytes:
    """All that comes until the other side ends it."""
    answer = b""
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        while more := tls.recv(65536):
            answer += more
    return answer


def problem_of(answer: bytes) -> tuple[int, dict[str, Any]]:
    """Status and problem document of the one answer in `answer`."""
    assert answer.count(b"HTTP/1.1 ") == 1
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    problem: dict[str, Any] = json.loads(body)
    status = int(head.split()[1])
    assert problem["status"] == status
    return status, problem


@pytest.fixture(scope="module")
def quick(pki: Pki) -> Iterator[Server]:
    with running(pki, QUICK) as started:
        yield started


@pytest.mark.parametrize("words", [b"", ASK], ids=["nothing", "idle"])
def test_idle_connection_is_ended_without_a_word(quick: Server, words: bytes) -> None:
    with quick.raw() as tls:
        tls.sendall(words)
        assert read_all(tls).count(b"HTTP/1.1 200 ") == (1 if words else 0)


def test_half_a_head_is_408(quick: Server) -> None:
    with quick.raw() as tls:
        tls.sendall(b"GET / HT")
        status, problem = problem_of(read_all(tls))
    assert (status, problem["title"]) == (408, "too slow")
    assert problem["checks"][0]["expected"] == "all of it within 0.5 s"


def test_slowloris_is_408_however_it_drips(quick: Server) -> None:
    """A header every tenth of a second does not buy more time."""
    started = time.monotonic()
    with quick.raw() as tls:
        tls.sendall(ASK[:-2])
        tls.settimeout(0.1)
        answer = b""
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            while time.monotonic() < started + 60:
                try:
                    more = tls.recv(4096)
                except TimeoutError:
                    tls.sendall(b"X-A: b\r\n")
                    continue
                if not more:
                    break
                answer += more
    assert problem_of(answer)[0] == 408
    assert time.monotonic() - started < 30


def test_body_that_stops_arriving_is_408(quick: Server) -> None:
    with quick.raw() as tls:
        tls.sendall(HALF)
        assert problem_of(read_all(tls))[0] == 408


def test_handshake_that_stalls_is_ended(quick: Server) -> None:
    with socket.create_connection(("localhost", quick.port), timeout=20) as plain:
        plain.sendall(b"\x16\x03\x01")
        assert plain.recv(10) == b""


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 40_000,
        ASK[:-2] + b"X-A: " + b"b" * 80_000,
        ASK[:-2] + b"X-A: b\r\n" * 101,
        ASK[:-2] + b"X-A: bbbbbbbb\r\n" * 3000,
    ],
    ids=["line", "header", "count", "size"],
)
def test_too_long_a_head_is_431(quick: Server, head: bytes) -> None:
    with quick.raw() as tls:
        with contextlib.suppress(ConnectionError):
            tls.sendall(head)
        status, problem = problem_of(read_all(tls))
    assert status == 431
    assert problem["checks"][0]["expected"] == "at most 32768 bytes and 100 fields"


def test_endless_trailers_are_cut_off(quick: Server) -> None:
    words = b"POST /large HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    with quick.raw() as tls:
        tls.sendall(words)
        with contextlib.suppress(ConnectionError):
            tls.sendall(b"X-A: bbbbbbbb\r\n" * 3000)
        assert b"200 OK" not in read_all(tls)


def test_what_is_not_http_is_400(quick: Server) -> None:
    with quick.raw() as tls:
        tls.sendall(b"\x00\x01\x02\x03\r\n\r\n")
        assert problem_of(read_all(tls))[0] == 400


@pytest.mark.parametrize(
    ("head", "field"),
    [
        (b"GET / HTTP/1.1\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n", "Host"),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nHost: a@b\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nHost: a:b\r\n", "Host"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n", "HTTP version"),
        (b"GET /\r\n", "HTTP version"),
    ],
)
def test_a_head_that_others_may_read_otherwise_is_400(
    quick: Server, head: bytes, field: str
) -> None:
    with quick.raw() as tls:
        tls.sendall(head + b"\r\n" + ASK)
        status, problem = problem_of(read_all(tls))
    assert status == 400
    assert problem["checks"][0]["check"].startswith(f"{field}: ")


@pytest.mark.parametrize("host", [b"localhost", b"localhost:8080", b"[::1]:8080", b"", b"a_b."])
def test_hosts_that_are_fine(quick: Server, host: bytes) -> None:
    with quick.raw() as tls:
        tls.sendall(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\nGET / HTTP/1.0\r\n\r\n")
        assert read_all(tls).count(b"HTTP/1.1 200 ") == 2


def test_what_follows_another_protocol_is_no_request(quick: Server) -> None:
    """One answer, and the end: a second would be taken for that to the request that was lost."""
    upgrade = ASK[:-2] + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    with quick.raw() as tls:
        tls.sendall(upgrade + ASK)
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            tls.sendall(ASK)
        answer = read_all(tls)
    assert answer.count(b"HTTP/1.1 ") == answer.count(b"HTTP/1.1 200 ") == 1
    assert b"connection: close" in answer


def test_requests_sent_ahead_are_bounded(pki: Pki) -> None:
    with running(pki) as server, server.raw() as tls:
        tls.sendall(b"GET /slow?seconds=0.2 HTTP/1.1\r\nHost: localhost\r\n\r\n" + ASK * 20)
        answer = b""
        while answer.count(b"HTTP/1.1 200 ") < 21:
            answer += tls.recv(65536)
        tls.sendall(b"GET /slow?seconds=5 HTTP/1.1\r\nHost: localhost\r\n\r\n" + ASK * 200)
        assert b"HTTP/1.1" not in read_all(tls)


def test_request_that_takes_too_long_is_503(pki: Pki) -> None:
    with running(pki, {"request_seconds": 0.3}) as server:
        with server.raw() as tls:
            tls.sendall(b"GET /slow?seconds=9 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert problem_of(read_all(tls))[0] == 503
        # A byte now and then keeps within `pause_seconds`, and is not endless.
        with server.raw() as tls:
            tls.sendall(HALF)
            assert problem_of(read_all(tls))[0] == 408


def test_client_that_does_not_read_is_cut_off(pki: Pki) -> None:
    """An answer that is not whole does not look like one, and holds nothing."""
    with running(pki, {"request_seconds": 0.5}) as server, server.raw() as tls:
        tls.sendall(ASK.replace(b"/ HTTP", b"/big HTTP"))
        time.sleep(1)
        answer = read_all(tls)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert len(answer) < 100 << 20
        assert not answer.endswith(b"0\r\n\r\n")


def test_connections_beyond_the_limit_are_told_and_others_live(pki: Pki) -> None:
    """Forty idle connections: ten have a place, nine are told so, the others are closed."""
    with running(pki, {"connections": 10}) as server, contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.closing(server.connect()))
        first.request("GET", "/")
        assert first.getresponse().read()
        held = [stack.enter_context(server.raw()) for _ in range(9)]
        told = [stack.enter_context(server.raw()) for _ in range(9)]
        for _ in range(5):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                server.raw()
        for tls in told:
            tls.sendall(ASK)
            status, problem = problem_of(read_all(tls))
            assert (status, problem["detail"]) == (503, "too many connections")
        first.request("GET", "/")
        assert first.getresponse().status == 200
        for tls in held:
            tls.close()
        # Places are given back.
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), server.raw() as tls:
                tls.sendall(ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                if read_all(tls).startswith(b"HTTP/1.1 200 "):
                    break
            time.sleep(0.05)
        else:
            pytest.fail("no place was given back")


def test_one_address_cannot_take_all_places(pki: Pki) -> None:
    with (
        running(pki, {"connections_per_address": 2}) as server,
        server.raw(),
        server.raw(),
        server.raw() as third,
    ):
        third.sendall(ASK)
        assert problem_of(read_all(third))[0] == 503


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_place_is_an_address_or_a_network(host: str, place: str) -> None:
    assert place_of(host) == place

"""Components that answer HTTP requests: what a client gets, however it or the component behaves."""

from __future__ import annotations

import http.client
import re
import select
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from http_guest import Served, built, everything, plain, served  # type: ignore[import-not-found]

from garrison.errors import Malformed, Misuse
from garrison.formats.enarx_toml import Config, Rule
from garrison.formats.peer_rule import PeerRule
from garrison.keep.component.http import crew
from garrison.keep.component.http import server as servers
from garrison.keep.execute import execute
from garrison.keep.net.network import Network
from garrison.testing.component import command
from garrison.testing.stack import free_port
from garrison.testing.tls import Authority, workload
from garrison.testing.tls_pair import connecting, identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from socket import socket

pytest.importorskip("ziglang", reason="builds the guest")

_AUTHORITY = Authority()
_CLIENT = "drawbridge.test/jane/client:1.0.0"
_GET = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"
_LAST = b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def wasm(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return bytes(built(tmp_path_factory.mktemp("http")))


@pytest.fixture(scope="module")
def keep(wasm: bytes) -> Iterator[Served]:
    with served(wasm, limits={"http_seconds": 2}) as keep:
        yield keep


@contextmanager
def _client(keep: Served) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", keep.port, timeout=20)
    try:
        yield connection
    finally:
        connection.close()


def _got(
    keep: Served, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    with _client(keep) as client:
        client.request(method, path, body, headers)
        answer = client.getresponse()
        return answer.status, answer.read()


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/", 200, b"hello"),
        ("/length", 200, b"hello"),
        ("/late", 200, b"hello, world"),
        ("/trailers", 200, b"hello"),
        ("/empty", 204, b""),
        # Forbidden; invalid syntax; immutable.
        ("/forbidden", 200, b"111012"),
        # The body can be had once.
        ("/twice", 200, b"1"),
        ("/error", 403, b""),
        ("/none", 500, b""),
        ("/trap", 500, b""),
        # A child outlives its parent.
        ("/child", 500, b""),
        ("/spin", 504, b""),
        ("/wait", 504, b""),
    ],
)
def test_what_a_component_does_is_what_a_client_gets(
    keep: Served, path: str, status: int, body: bytes
) -> None:
    assert _got(keep, path) == (status, body)


@pytest.mark.parametrize("path", ["/half", "/dropped", "/short", "/long", "/open-stream"])
def test_a_response_that_was_not_finished_does_not_look_so(keep: Served, path: str) -> None:
    answer = keep.raw(_GET % path.encode())
    assert b"\r\n0\r\n" not in answer
    assert not answer.endswith(b"hello")
    assert _got(keep, "/")[0] == 200


def test_a_body_goes_through_as_it_comes(keep: Served) -> None:
    body = bytes(range(256)) * 4000
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: _got(keep, "/echo", "POST", body), range(8)))
    assert answers == [(200, body)] * 8


def test_a_client_that_does_not_read_holds_the_component_up_and_not_the_keep(keep: Served) -> None:
    body = b"x" * (24 << 20)
    with keep.connect() as slow:
        slow.settimeout(1.5)
        head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
        with pytest.raises(TimeoutError):
            slow.sendall(head + body)
        assert _got(keep, "/")[0] == 200


def test_what_was_written_goes_though_the_component_computes_on(keep: Served) -> None:
    with keep.connect() as reading:
        reading.sendall(_GET % b"/said-and-spin")
        began, found = time.monotonic(), b""
        while not found.endswith(b"hello\r\n"):
            found += reading.recv(1000)
        # It computes for a minute.
        assert time.monotonic() - began < 30


def test_a_small_response_has_its_length(keep: Served) -> None:
    assert b"content-length: 5\r\n" in keep.raw(_LAST % b"/")


def test_requests_follow_each_other_on_one_connection(keep: Served) -> None:
    with _client(keep) as client:
        for _ in range(3):
            client.request("POST", "/echo", iter([b"a", b"b"]), encode_chunked=True,
                           headers={"Transfer-Encoding": "chunked"})  # fmt: skip
            assert client.getresponse().read() == b"ab"
            client.request("GET", "/length")
            assert client.getresponse().read() == b"hello"


def test_requests_that_are_sent_ahead_are_answered_in_order(keep: Served) -> None:
    answer = keep.raw(_GET % b"/late" + _GET % b"/length" + _LAST % b"/count")
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200"] * 3
    assert re.findall(rb"\r\n\r\n(?:\w+\r\n)?(hello|1)", answer) == [b"hello", b"hello", b"1"]


def test_head_has_the_fields_and_no_body(keep: Served) -> None:
    answer = keep.raw(b"HEAD /length HTTP/1.1\r\nHost: a\r\n\r\n" + _LAST % b"/empty")
    first, second = answer.split(b"HTTP/1.1 204")
    assert b"content-length: 5\r\n" in first
    assert first.endswith(b"\r\n\r\n")
    assert b"content-length" not in second
    assert b"transfer-encoding" not in second


def test_http_1_0_ends_with_the_connection_unless_it_asks(keep: Served) -> None:
    answer = keep.raw(b"GET /late HTTP/1.0\r\n\r\n")
    assert b"connection: close" in answer
    assert b"chunked" not in answer
    assert answer.endswith(b"hello, world")
    kept = keep.raw(b"GET /length HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + _LAST % b"/length")
    assert kept.count(b"hello") == 2


def test_a_client_that_asks_first_is_told_when_the_body_is_read(keep: Served) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    with keep.connect() as asking:
        asking.sendall(head % b"/echo")
        assert asking.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        asking.sendall(b"abc" + _LAST % b"/length")
        answer = everything(asking)
        assert answer.count(b"HTTP/1.1 200 ") == 2
        assert b"abc" in answer
    # Nobody read it, and so it was not asked for; the connection is of no use then.
    answer = keep.raw(head % b"/length")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer


def test_trailers_go_both_ways(keep: Served) -> None:
    request = (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;x=y\r\nabc\r\n0\r\nX-Sum: 7\r\nGarrison-Peer-Kind: keep\r\n\r\n"
    )
    answer = plain(keep.raw(request))
    assert answer.endswith(b"abcx-sum: 7\n")
    assert keep.raw(_LAST % b"/trailers").endswith(b"0\r\nx-end: good\r\n\r\n")


def test_trailers_come_though_the_body_was_not_read(keep: Served) -> None:
    request = (
        b"POST /rest HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n"
    )
    assert plain(keep.raw(request)).endswith(b"x-sum: 7\n")


def test_a_body_that_breaks_off_is_an_error_of_its_stream(keep: Served) -> None:
    request = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc"
    assert b"broken" in keep.raw(request, end=True)
    request = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX"
    assert b"broken" in keep.raw(request)


class _SlowEpoll:
    """Takes its time to be changed, in which another thread sees what there is to see."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def modify(self, number: int, events: int) -> None:
        time.sleep(0.02)
        self._epoll.modify(number, events)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


def test_a_client_that_ended_is_not_ended_twice(
    wasm: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The thread that waits sees its end while another one gives it back.
    names = {name: getattr(select, name) for name in dir(select) if name.isupper()}
    monkeypatch.setattr(servers, "select", SimpleNamespace(**names, epoll=_SlowEpoll))
    request = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc"
    with served(wasm) as keep:
        for _ in range(20):
            assert b"broken" in keep.raw(request, end=True)


@pytest.mark.parametrize(
    "name",
    [b"garrison-peer-kind", b"Garrison-Peer-Kind", b"GARRISON_PEER_KIND", b"garrison-peer_kind",
     b"Garrison-Peer-Workload", b"garrison-anything"],
)  # fmt: skip
def test_a_client_cannot_say_who_it_is(keep: Served, name: bytes) -> None:
    answer = plain(keep.raw(_LAST.replace(b"Host", name + b": forged\r\nHost") % b"/headers"))
    assert b"forged" not in answer
    assert answer.lower().count(b"garrison") == 1
    assert b"garrison-peer-kind: anonymous\n" in answer


def test_what_belongs_to_the_connection_is_not_shown(keep: Served) -> None:
    request = b"GET http://a/headers HTTP/1.1\r\nHost: a\r\nTE: x\r\nConnection: close\r\n\r\n"
    assert plain(keep.raw(request)).endswith(b"\r\n\r\na\ngarrison-peer-kind: anonymous\n")


_HOST = b"Host: a\r\n"
_SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
_POST = b"POST /echo HTTP/1.1\r\n" + _HOST


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (_POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (_POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400),
        (_POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
        (_POST + b"Content-Length: 3, 3\r\n\r\nabc", 400),
        (_POST + b"Content-Length: +3\r\n\r\nabc", 400),
        (_POST + b"Content-Length: 0x3\r\n\r\nabc", 400),
        (_POST + b"Content-Length: 99999999999999999999999\r\n\r\nabc", 400),
        (_POST + b"Content-Length : 3\r\n\r\nabc", 400),
        (_POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (_POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        (_POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        (_POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n", 400),
        (_POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        (_POST + b"X: a\r\n b\r\n\r\n", 400),
        (_POST + b"X: a\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (_POST + b"X: a\rTransfer-Encoding: chunked\r\n\r\n", 400),
        (_POST + b"X: a\0b\r\n\r\n", 400),
        (_POST + b"X Y: a\r\n\r\n", 400),
        (_POST + b": a\r\n\r\n", 400),
        (b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
        (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 501),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"DESCRIBE / RTSP/1.0\r\n\r\n", 501),
        (b"NONSENSE / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)  # fmt: skip
def test_what_could_be_understood_in_two_ways_is_refused(
    keep: Served, request_: bytes, status: int
) -> None:
    answer = keep.raw(request_ + _SMUGGLED)
    found = re.findall(rb"HTTP/1.1 (\d+)", answer)
    # PRI and TLS have no method: what they are called matters less than that they end.
    assert found in ([str(status).encode()], [b"400"], [b"501"]), answer
    assert b"200" not in answer


def test_a_client_may_send_some_requests_ahead_and_not_thousands(keep: Served) -> None:
    answer = keep.raw(_GET % b"/length" * 100 + _LAST % b"/length")
    assert answer.count(b"HTTP/1.1 200 OK") == 101
    many = keep.raw(_GET % b"/length" * 1500)
    assert many.count(b"HTTP/1.1 200 OK") <= 128
    assert many.endswith(b"connection: close\r\n\r\n")
    assert b"HTTP/1.1 400 Bad Request" in many


def test_no_upgrade_is_made_and_the_next_request_is_one(keep: Served) -> None:
    asked = b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost"
    answer = keep.raw((_GET % b"/length").replace(b"Host", asked) + _LAST % b"/length")
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200"]


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 500, 431),
        (b"GET /", 414),
    ],
)
def test_a_head_has_a_limit(wasm: bytes, start: bytes, status: int) -> None:
    with served(wasm, limits={"http_head": 2048}) as keep:
        with keep.connect() as large:
            # What is read at once may be more than the limit.
            for part in (start, b"x" * 2000, b"x" * 2000):
                large.sendall(part)
                time.sleep(0.05)
            answer = everything(large)
        assert answer.startswith(b"HTTP/1.1 4"), answer
        assert int(answer[9:12]) in (status, 431)
        with keep.connect() as endless:
            endless.sendall(_POST + b"Transfer-Encoding: chunked\r\n\r\n3;x")
            for _ in range(3):
                endless.sendall(b"x" * 2000)
                time.sleep(0.05)
            assert b"broken" in everything(endless)
        trailers = b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 900
        assert b"HTTP/1.1 200" in keep.raw(_POST + trailers)


@pytest.mark.parametrize("threads", [1, 2])
def test_slow_and_silent_clients_are_ended(
    wasm: bytes, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(servers, "_HEAD_SECONDS", 0.3)
    # Whether another thread waits for connections meanwhile, with no reason to look up.
    monkeypatch.setattr(crew, "_LONG", 60 if threads == 1 else -1)
    with served(wasm, limits={"http_idle_seconds": 1}) as keep:
        began = time.monotonic()
        with keep.connect() as silent, keep.connect() as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHo")
            assert everything(slow).startswith(b"HTTP/1.1 408 ")
            assert everything(silent) == b""
        with keep.connect() as idle:
            idle.sendall(_GET % b"/length")
            assert everything(idle).endswith(b"hello")
        assert 1 <= time.monotonic() - began < 10


def test_requests_wait_for_each_other_no_longer_than_they_must(wasm: bytes) -> None:
    limits = {"http_seconds": 6, "http_requests": 8}
    with served(wasm, limits=limits) as keep, ThreadPoolExecutor(12) as pool:
        spinning = [pool.submit(_got, keep, "/spin") for _ in range(3)]
        waiting = [pool.submit(_got, keep, "/wait") for _ in range(3)]
        time.sleep(0.3)
        began = time.monotonic()
        assert all(pool.map(lambda _: _got(keep, "/late")[0] == 200, range(8)))
        assert time.monotonic() - began < 5.5
        assert {future.result()[0] for future in spinning + waiting} == {504}


def test_more_than_may_wait_are_refused(wasm: bytes) -> None:
    limits = {"http_seconds": 5, "http_requests": 1, "http_queue": 2}
    with served(wasm, limits=limits) as keep, ThreadPoolExecutor(8) as pool:
        first = pool.submit(_got, keep, "/wait")
        time.sleep(1)
        others = [pool.submit(_got, keep, "/") for _ in range(6)]
        assert first.result()[0] == 504
        assert sorted(other.result()[0] for other in others) == [200] * 2 + [503] * 4


def test_an_instance_answers_as_many_requests_as_it_may(wasm: bytes) -> None:
    with served(wasm, limits={"http_requests": 1}) as keep:
        assert [_got(keep, "/count")[1] for _ in range(3)] == [b"1"] * 3
    with served(wasm, limits={"http_requests": 1, "http_instance_requests": 3}) as keep:
        # Which thread answers is the machine's business, and each has an instance of its own.
        counts = [int(_got(keep, "/count")[1]) for _ in range(30)]
    assert set(counts) == {1, 2, 3}
    assert counts.count(1) >= counts.count(2) >= counts.count(3)


def test_what_is_under_way_ends_well_when_the_keep_ends(wasm: bytes) -> None:
    with served(wasm) as keep, keep.connect() as idle, keep.connect() as busy:
        idle.sendall(_GET % b"/length")
        assert b"hello" in idle.recv(1000)
        busy.sendall(_GET % b"/late")
        time.sleep(0.02)
        keep.end()
        answer = everything(busy)
        assert answer.endswith(b"0\r\n\r\n")
        assert everything(idle) == b""
        keep.thread.join(10)
        with pytest.raises(ConnectionRefusedError):
            keep.connect()


def test_the_keep_ends_though_a_component_does_not(
    wasm: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("garrison.keep.component.http.proxy._GRACE_SECONDS", 0.2)
    with served(wasm) as keep, keep.connect() as one, keep.connect() as other:
        one.sendall(_GET % b"/spin")
        other.sendall(_GET % b"/wait")
        time.sleep(0.3)
        began = time.monotonic()
        keep.end()
        keep.thread.join(10)
        assert time.monotonic() - began < 5


@contextmanager
def _answering(*answers: bytes) -> Iterator[int]:
    """A server that says what it is told, once for each connection; its port."""
    import socket as sockets

    listener = sockets.create_server(("127.0.0.1", 0))
    listener.settimeout(20)

    def run() -> None:
        for answer in answers:
            connection: socket = listener.accept()[0]
            with connection:
                connection.settimeout(20)
                connection.recv(1 << 16)
                connection.sendall(answer)
                if answer.endswith(b"<wait>"):
                    connection.recv(1)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join(20)
        listener.close()


# `error-code`, by number.
_REFUSED, _READ_TIMEOUT, _DENIED, _INCOMPLETE, _PROTOCOL, _UPGRADE = 6, 9, 15, 25, 35, 34
_CONFIGURATION, _HEAD_SIZE, _URI = 37, 26, 19


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 2\r\n\r\nhi", b"200\nx: y\n"),
        (b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", b"404\n"),
        (b"HTTP/1.0 200 OK\r\n\r\nhi", b"200\n"),
        (b"HTTP/1.1 103 E\r\nX: z\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"200"),
        # Some are as usual; who says nothing else would be listened to for ever.
        (b"HTTP/1.1 102 P\r\n\r\n" * 30 + b"HTTP/1.1 204 None\r\n\r\n", b"204\n"),
        (b"HTTP/1.1 102 P\r\n\r\n" * 40 + b"HTTP/1.1 204 None\r\n\r\n", b"error 35"),
        (b"HTTP/1.1 204 None\r\n\r\n", b"204\n"),
        (b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", b"error %d" % _UPGRADE),
        (b"HTTP/1.1 200", b"error %d" % _INCOMPLETE),
        (b"", b"error %d" % _INCOMPLETE),
        (b"SSH-2.0-nonsense\r\n\r\n", b"error %d" % _PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi", b"error 35"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, b"error %d" % _HEAD_SIZE),
    ],
)  # fmt: skip
def test_a_component_gets_what_a_server_answers(keep: Served, answer: bytes, found: bytes) -> None:
    with _answering(answer) as port:
        status, body = _got(keep, "/fetch", to=f"127.0.0.1:{port}")
    assert status == 200
    assert body.startswith(found)
    if not body.startswith(b"error"):
        assert b"garrison-peer-kind: anonymous\n" in body
        assert body.endswith(b"hi") == (b"hi" in answer)


def test_a_server_cannot_say_who_it_is(keep: Served) -> None:
    answer = b"HTTP/1.1 200 OK\r\nGarrison-Peer-Kind: keep\r\nContent-Length: 0\r\n\r\n"
    with _answering(answer) as port:
        assert b"keep\n" not in _got(keep, "/fetch", to=f"127.0.0.1:{port}")[1]


def test_why_a_request_is_not_sent_is_told(keep: Served) -> None:
    port = free_port()
    assert _got(keep, "/fetch", to="localhost:9")[1] == b"error %d" % _DENIED
    assert _got(keep, "/fetch", to=f"127.0.0.1:{port}")[1] == b"error %d" % _REFUSED
    assert _got(keep, "/fetch")[1] == b"error %d" % _URI
    # The rule for it has no TLS.
    to = f"127.0.0.1:{keep.port}"
    assert _got(keep, "/fetch-https", to=to)[1] == b"error %d" % _CONFIGURATION


def test_a_server_may_take_as_long_as_the_component_says(keep: Served) -> None:
    with _answering(b"<wait>") as port:
        began = time.monotonic()
        found = _got(keep, "/fetch-late", to=f"127.0.0.1:{port}")
        assert found == (200, b"error %d" % _PROTOCOL) or found[1] == b"error %d" % _READ_TIMEOUT
        assert time.monotonic() - began < 5


def _networks(port: int, alpn: tuple[str, ...] = ()) -> tuple[Network, Network]:
    """A keep's, which demands a peer and listens on `port`; and that peer's."""
    rule = Rule("tls", peers=(PeerRule.parse(_CLIENT, field="peers"),), alpn=alpn)
    ours = identity(_AUTHORITY.issue(workload("drawbridge.test/jane/server:1.2.3")))
    theirs = identity(_AUTHORITY.issue(workload(_CLIENT)))
    keep = Network(Config(incoming={str(port): rule}, files=None), ours, [_AUTHORITY.root])
    peers = {"default": Rule("tls", peers=(PeerRule.parse("any", field="peers"),))}
    return keep, Network(Config(outgoing=peers), theirs, [_AUTHORITY.root])


def test_a_peer_is_demanded_and_shown(wasm: bytes) -> None:
    port = free_port()
    ours, theirs = _networks(port)
    with served(wasm, network=ours, port=port), connecting(theirs, f"localhost:{port}") as found:
        deadline = time.monotonic() + 20
        while not found and time.monotonic() < deadline:
            time.sleep(0.01)
        stream = found[0]
        assert not isinstance(stream, BaseException), stream
        stream.write(memoryview(_LAST % b"/headers"))
        text, view = b"", memoryview(bytearray(65536))
        while time.monotonic() < deadline:
            try:
                count = stream.read_into(view)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            if not count:
                break
            text += bytes(view[:count])
    text = plain(text)
    assert b"garrison-peer-kind: keep\n" in text
    assert b"garrison-peer-workload: " + _CLIENT.encode() in text
    for name in (b"digest", b"tee", b"measurement", b"tcb-status", b"spiffe-id", b"serial"):
        assert b"garrison-peer-" + name + b": " in text


def _execute(wasm: bytes, network: Network) -> None:
    streams = [("", None), ("", None), ("", None)]
    execute(wasm, args=["main.wasm"], env={}, descriptors=streams, files={}, network=network)


def test_a_component_without_a_port_is_told_so(wasm: bytes) -> None:
    with pytest.raises(Misuse, match="has no port"):
        _execute(wasm, Network(Config(files=None), None, []))


@pytest.mark.parametrize("alpn", [("h2",), ("h2", "http/1.1"), ("http/1.1", "h2")])
def test_a_port_where_http_2_could_be_agreed_on_is_refused(
    wasm: bytes, alpn: tuple[str, ...]
) -> None:
    network, _ = _networks(port := free_port(), alpn=alpn)
    with pytest.raises(Misuse, match=r"the component serves HTTP/1\.1") as caught:
        _execute(wasm, network)
    assert caught.value.field == f"alpn of port {port}"
    assert caught.value.found == "h2"
    # It was given back.
    network.listen(str(port)).close()


def test_a_port_may_say_what_the_keep_speaks(wasm: bytes) -> None:
    network, _ = _networks(port := free_port(), alpn=("http/1.1",))
    with served(wasm, network=network, port=port):
        pass


def test_what_can_answer_serves_whatever_its_run_does() -> None:
    both = command(
        """(func (export "run") (result i32) unreachable)
        (func (export "handle") (param i32 i32))""",
        {},
        drops={
            "drop-outparam": ("wasi:http/types", "response-outparam"),
            "drop-request": ("wasi:http/types", "incoming-request"),
        },
        exports=("run", "handle"),
    )
    with served(both) as keep, _client(keep) as client:
        client.request("GET", "/")
        assert client.getresponse().status == 500


def test_a_component_of_no_world_is_refused() -> None:
    wasm = command('(func (export "run") (result i32) (i32.const 0))', {})
    with pytest.raises(Malformed, match="not a program") as caught:
        execute(
            wasm.replace(b"wasi:cli/run@", b"wasi:cli/ran@"),
            args=[],
            env={},
            descriptors=[("", None)],
            files={},
            network=None,
        )
    assert "wasi:http/incoming-handler" in str(caught.value.expected)

"""Requests that are answered where they are parsed: the same to a client in all but the price."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.service.sample import Server, ask, running

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from tests.unit.service.conftest import Pki


@pytest.fixture(scope="module")
def server(pki: Pki) -> Iterator[Server]:
    with running(pki, metrics=["127.0.0.1", 0], json_output=True) as started:
        yield started


def post(body: bytes, *fields: str, target: str = "/prompt", version: str = "1.1") -> bytes:
    head = [f"POST {target} HTTP/{version}", "Host: localhost", *fields]
    if not any(field.lower().startswith("transfer-encoding") for field in fields):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*head, "", "")).encode() + body


class Answers:
    """The answers on a connection, one after another."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self.tls = tls
        # What is sent goes out: the kernel does not wait for an acknowledgement of what was before.
        tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = tls.makefile("rb")

    def next(self) -> tuple[int, http.client.HTTPMessage, Any]:
        status = int(self._file.readline().split()[1])
        headers = http.client.parse_headers(self._file)
        body = self._file.read(int(headers["Content-Length"]))
        is_json = headers["Content-Type"] == "application/json"
        return status, headers, json.loads(body) if is_json else body

    def how(self) -> str:
        status, headers, answer = self.next()
        assert status == 200
        assert headers["X-Request-Id"] == answer["id"]
        assert headers["Date"]
        return str(answer["how"])


@pytest.fixture
def answers(server: Server) -> Iterator[Answers]:
    with server.raw() as tls:
        yield Answers(tls)


def test_what_comes_whole_is_answered_at_once(answers: Answers) -> None:
    ids = set()
    for number in range(3):
        answers.tls.sendall(post(b"%d" % number, "Connection: keep-alive"))
        status, headers, answer = answers.next()
        assert (status, answer["how"], answer["body"]) == (200, "at once", str(number))
        assert headers["X-Request-Id"] == answer["id"]
        ids.add(answer["id"])
    assert len(ids) == 3
    answers.tls.sendall(post(b"", target="/prompt?a=b"))
    assert answers.how() == "at oncea=b"


def test_what_must_wait_keeps_its_id_and_what_was_done(answers: Answers) -> None:
    answers.tls.sendall(post(b"wait"))
    status, headers, answer = answers.next()
    assert (status, answer["body"]) == (200, "wait")
    assert answer["how"] == f"begun as {answer['id']}" == f"begun as {headers['X-Request-Id']}"


@pytest.mark.parametrize(
    "request_",
    [
        post(b"1\r\na\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        post(b"a", "Connection: close"),
        post(b"a", target="/%70rompt"),
        post(b"a", "Connection: keep-alive", version="1.0"),
    ],
    ids=["chunked", "close", "escaped", "1.0"],
)
def test_what_asks_for_more_takes_the_long_way(answers: Answers, request_: bytes) -> None:
    answers.tls.sendall(request_)
    assert answers.how() == "the long way"


def test_expectations_are_met(answers: Answers) -> None:
    request = post(b"a", "Expect: 100-continue")
    answers.tls.sendall(request[:-1])
    assert answers.tls.recv(100).startswith(b"HTTP/1.1 100 ")
    answers.tls.sendall(request[-1:])
    assert answers.how() == "the long way"


@pytest.mark.parametrize("first", [-5, -2, 0])
def test_what_comes_in_pieces_takes_the_long_way(
    server: Server, answers: Answers, first: int
) -> None:
    request = post(b"pieces")
    start = len(request) + first if first else 10
    answers.tls.sendall(request[:start])
    # When this is answered twice, the other connection has been looked at.
    connection = server.connect()
    for _ in range(2):
        ask(connection)
    connection.close()
    answers.tls.sendall(request[start:])
    # Where the head came in pieces but its end with the body, all is there in time.
    assert answers.how() == ("the long way" if first else "at once")


def test_one_of_many_sent_ahead_is_answered_at_once_and_all_in_order(answers: Answers) -> None:
    many = [post(b"0"), post(b"wait"), post(b"2"), post(b"3")]
    answers.tls.sendall(b"".join(many))
    found = [answers.next()[2] for _ in many]
    assert [answer["body"] for answer in found] == ["0", "wait", "2", "3"]
    assert found[0]["how"] == "at once"
    assert {answer["how"] for answer in found[2:]} == {"the long way"}
    # Only its turn is over: what comes next is answered at once again.
    answers.tls.sendall(post(b"4"))
    assert answers.how() == "at once"


def test_one_behind_a_slow_one_waits(answers: Answers) -> None:
    slow = b"GET /slow?seconds=0.2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answers.tls.sendall(slow)
    answers.tls.sendall(post(b"after"))
    assert "how" not in answers.next()[2]
    assert answers.next()[2]["body"] == "after"


def test_a_defect_is_500_and_told(pki: Pki) -> None:
    with running(pki) as server:
        with server.raw() as tls:
            answers = Answers(tls)
            tls.sendall(post(b"break"))
            status, _, answer = answers.next()
            assert (status, answer) == (500, b"Internal Server Error")
            tls.sendall(post(b"on"))
            assert answers.how() == "at once"
        _, _, err = server.end()
    lines = [json.loads(line) for line in err.splitlines()]
    assert any("RuntimeError: a defect" in line.get("trace", "") for line in lines)
    requests = [(line["status"], line["level"]) for line in lines if line["event"] == "request"]
    assert requests == [(500, "error"), (200, "info")]


def test_it_is_counted_as_any_other(server: Server, answers: Answers) -> None:
    def counted() -> tuple[float, float]:
        found = server.counted()
        labels = 'method="POST",route="/prompt",status="200"'
        return (
            found.get(f"garrison_requests_total{{{labels}}}", 0),
            found.get('garrison_received_bytes_total{route="/prompt"}', 0),
        )

    before = counted()
    answers.tls.sendall(post(b"12345"))
    assert answers.how() == "at once"
    answers.tls.sendall(post(b"12345", "Connection: close"))
    assert answers.how() == "the long way"
    # The long way is counted when it has ended, which may be after its answer has come.
    for _ in range(1000):
        if counted() == (before[0] + 2, before[1] + 10):
            return
        ask(server.connect())
    raise AssertionError(f"{before} became {counted()}")

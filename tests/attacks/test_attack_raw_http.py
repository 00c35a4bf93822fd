"""Bytes that are no HTTP, or two requests at once for two readers, sent to a real drawbridge.

It refuses them, or ends the connection; it never fails, and never takes one request for two.
"""

from __future__ import annotations

import json
import random
import re
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from garrison.testing.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_SECONDS = 60.0
# Some of what is sent here leaves the drawbridge waiting for more: not for long.
_WAITS = [f"--{what}-timeout=0.3" for what in ("header", "body", "idle")]
_AT_ONCE = 8


class Target:
    """A drawbridge, and a user's token."""

    def __init__(self, stack: Stack) -> None:
        self.process = stack.processes[0]
        self.port = int(stack.registry.rpartition(":")[2])
        self._context = ssl.create_default_context(cafile=str(stack.registry_ca))
        tokens = stack.directory / "home/.config/garrison/tokens.json"
        self.token = json.loads(tokens.read_text())[stack.registry].encode()

    def send(self, data: bytes) -> bytes:
        """Send `data`, and return all that is answered until the drawbridge ends it."""
        with (
            socket.create_connection(("127.0.0.1", self.port), _SECONDS) as plain,
            self._context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            answer = b""
            try:
                connection.sendall(data)
                while piece := connection.recv(65536):
                    answer += piece
            except (ConnectionError, ssl.SSLError):
                # It ended the connection while it was still being told.
                return answer
            return answer


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    directory = tmp_path_factory.mktemp("raw")
    (directory / "home").mkdir()
    with Stack(directory) as stack:
        process = stack.start(
            "the drawbridge", "drawbridge", "serve", "--insecure-dev", "--port", "0",
            "--store", str(directory / "drawbridge"), *_WAITS,
        )  # fmt: skip
        url = process.expect("listening on https://").rpartition(" ")[2]
        stack.registry = f"localhost:{url.rpartition(':')[2]}"
        stack.login()
        stack.register_repo("chat")
        yield Target(stack)
        # It lives to the end, and nothing surprised it.
        assert process.stop() == 0
        assert not [line for line in process.lines if "Traceback" in line]


def _seeds(token: bytes) -> list[bytes]:
    """Good requests."""
    head = b"Host: localhost\r\nAuthorization: Bearer " + token + b"\r\n"
    record = b'{"public":true}'
    announced = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(record)
    chat = b"/api/v0.1.0/demo/chat"
    return [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/v0.1.0/?q=chat&n=3 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET " + chat + b"/_tag?latest HTTP/1.1\r\n" + head + b"\r\n",
        b"HEAD " + chat + b" HTTP/1.1\r\n" + head + b"If-None-Match: *\r\n\r\n",
        b"GET " + chat + b"/_tag/1.0.0/tree/a HTTP/1.1\r\n" + head + b"Range: bytes=0-1\r\n\r\n",
        b"PUT " + chat + b" HTTP/1.1\r\n" + head + announced + b"\r\n" + record,
        b"PUT " + chat + b" HTTP/1.1\r\n" + head + announced + b"Expect: 100-continue\r\n\r\n",
        b"PUT " + chat + b"/_tag/1.0.0 HTTP/1.1\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n",
        b"DELETE " + chat + b"/_tag/1.0.0/yank HTTP/1.1\r\n" + head + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ]


# What is put somewhere into a request.
_SPICES = [
    b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b"%00", b"%ff", b"%2f%2e%2e",
    b"\xff\xfe", b"\xc0\xaf", b"../", b"//", b"?", b"#", b"_tag", b"-1", b"99999999999999999999",
    b"Content-Length: 5\r\n", b"Content-Length: -5\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Content-Digest: sha-256=::\r\n", b"Range: bytes=-0\r\n", b"Range: bytes=9-1\r\n",
    b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"Connection: close\r\n", b"traceparent: 00-0-0-0\r\n", b"If-Match: \x80\r\n", b"HTTP/2.0",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"ffffffffffffffff\r\n", b"x" * 40_000,
]  # fmt: skip


def _spoilt(chance: random.Random, seeds: list[bytes]) -> bytes:
    """A request, or some, that something was done to."""
    data = bytearray(b"".join(chance.choices(seeds, k=chance.choice([1, 1, 1, 2, 3]))))
    for _ in range(chance.choice([1, 1, 2, 4, 8])):
        at = chance.randrange(len(data) + 1)
        end = at + chance.choice([1, 1, 2, 10, 100])
        deed = chance.randrange(5)
        if deed == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif deed == 1:
            del data[at:end]
        elif deed == 2:
            data[at:at] = chance.choice(_SPICES)
        elif deed == 3:
            data[at:at] = data[at:end]
        else:
            data[at:end] = chance.randbytes(end - at)
    return bytes(data)


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(200, id="few"),
        pytest.param(10_000, id="many", marks=pytest.mark.slow),
    ],
)
def test_spoilt_requests(target: Target, count: int) -> None:
    chance = random.Random(count)  # noqa: S311  (no secret)
    seeds = _seeds(target.token)
    sent = [_spoilt(chance, seeds) for _ in range(count)]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        answers = list(threads.map(target.send, sent))
    found = set()
    for data, answer in zip(sent, answers, strict=True):
        statuses = {int(status) for status in _STATUS.findall(answer)}
        assert not answer or answer.startswith(b"HTTP/1.1 "), data
        # 501 is the original's answer to an API that is newer.
        assert all(status < 500 or status == 501 for status in statuses), (data, answer)
        found |= statuses
    # It is no test of one refusal.
    assert {200, 400, 401, 404, 408} <= found
    assert target.send(seeds[0]).startswith(b"HTTP/1.1 200 ")


_INNER = b"GET /api/v0.1.0/inner HTTP/1.1\r\nHost: localhost\r\n\r\n"
_CHUNKED = b"0\r\n\r\n" + _INNER
# Heads whose end of the body different readers see in different places.
_AMBIGUOUS = {
    "length-and-chunked": b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % len(_CHUNKED),
    "chunked-and-length": b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n" % len(_CHUNKED),
    "two-lengths": b"Content-Length: %d\r\nContent-Length: 5\r\n" % len(_CHUNKED),
    "list-of-lengths": b"Content-Length: 5, %d\r\n" % len(_CHUNKED),
    "length-with-sign": b"Content-Length: +5\r\n",
    "length-in-hex": b"Content-Length: 0x5\r\n",
    "length-below-zero": b"Content-Length: -5\r\n",
    "length-over-64-bits": b"Content-Length: 18446744073709551621\r\n",
    "blank-before-colon": b"Content-Length : 5\r\n",
    "folded": b"Content-Length:\r\n 5\r\n",
    "other-coding": b"Transfer-Encoding: xchunked\r\n",
    "chunked-then-identity": b"Transfer-Encoding: chunked, identity\r\n",
    "nul-in-value": b"Transfer-Encoding: chunked\0\r\n",
}


@pytest.mark.parametrize("name", _AMBIGUOUS)
def test_one_request_for_two(target: Target, name: str) -> None:
    """What might be the body, or the next request, is answered as neither."""
    head = b"PUT /api/v0.1.0/demo HTTP/1.1\r\nHost: localhost\r\n" + _AMBIGUOUS[name]
    answer = target.send(head + b"\r\n" + _CHUNKED)
    # Where the head is sound, and the body is not, the end may come before the refusal.
    assert [int(status) for status in _STATUS.findall(answer)] in ([400], [])
    assert answer or name == "other-coding"


def test_two_requests(target: Target) -> None:
    """The control: two requests on one connection are answered both."""
    head = b"PUT /api/v0.1.0/demo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = target.send(head + _CHUNKED)
    assert [int(status) for status in _STATUS.findall(answer)] == [400, 401]
    assert b"content-length` was missing" in answer


_BAD_CHUNKS = {
    "size-over-64-bits": b"1ffffffffffffffff\r\n",
    "size-below-zero": b"-1\r\n",
    "no-size": b"\r\n",
    "no-end": b"1\r\naa\r\n",
    "long-extension": b"1;" + b"x" * 100_000,
    "bare-feed": b"1\na\n0\n\n",
    "endless-trailers": b"0\r\n" + b"a: b\r\n" * 50_000,
}


@pytest.mark.parametrize("name", _BAD_CHUNKS)
def test_bodies_in_bad_chunks(target: Target, name: str) -> None:
    """Whatever is announced: the request was refused, or is; nothing comes after it."""
    head = b"PUT /api/v0.1.0/demo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = target.send(head + _BAD_CHUNKS[name] + _INNER)
    statuses = [int(status) for status in _STATUS.findall(answer)]
    # Refused for its head, for its body, or for both; or cut off by what was sent after it.
    assert statuses in ([400], [431], [400, 400], [400, 431], [])

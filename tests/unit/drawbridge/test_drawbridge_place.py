"""A body is read into its place, and the connection is used again, or not, as it must be."""

from __future__ import annotations

import resource
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from urllib3.exceptions import HTTPError, IncompleteRead, ProtocolError, SSLError

from garrison.drawbridge.place import Placing, touch
from garrison.http_pools import pools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from urllib3 import PoolManager

    from garrison.testing.tls import Authority

CONTENT = bytes(number % 251 for number in range(100_000))


class Handler(BaseHTTPRequestHandler):
    """Answers as the path says."""

    protocol_version = "HTTP/1.1"
    clients: list[tuple[str, int]]

    def do_GET(self) -> None:
        self.clients.append(self.client_address)
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(CONTENT), 9999):
                piece = CONTENT[start : start + 9999]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return
        if self.path == "/half%20a%20chunk":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b" % (len(CONTENT), CONTENT[:500]))
            self.close_connection = True
            return
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if self.path == "/half":
            self.wfile.write(CONTENT[:500])
            self.close_connection = True
        elif self.path == "/no%20record":
            self.wfile.write(CONTENT[:500])
            self.wfile.flush()
            # What comes now is not TLS.
            raw = socket.socket(fileno=self.connection.fileno())
            raw.sendall(b"\xff" * 100)
            raw.detach()
            self.close_connection = True
        else:
            self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(certifier: Authority) -> Iterator[str]:
    context = certifier.issue(hosts=("localhost",)).server_context()
    Handler.clients = []
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.socket = context.wrap_socket(listening.socket, server_side=True)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"https://localhost:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


@pytest.fixture
def pool(certifier: Authority) -> Iterator[PoolManager]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certifier.root_pem)
    with pools(ssl_context=context, retries=False, timeout=60) as manager:
        yield manager


def read(pool: PoolManager, url: str, step: int) -> bytes:
    response = pool.request("GET", url, preload_content=False)
    try:
        placing, got = Placing(response), bytearray(2 * len(CONTENT))
        at = 0
        while count := placing.into(memoryview(got)[at : at + step]):
            at += count
        return bytes(got[:at])
    finally:
        response.close()


@pytest.mark.parametrize("path", ["/", "/chunked"])
@pytest.mark.parametrize("step", [1000, len(CONTENT), len(CONTENT) + 1])
def test_a_body_is_read_and_its_connection_used_again(
    server: str, pool: PoolManager, path: str, step: int
) -> None:
    for _ in range(2):
        assert read(pool, server + path, step) == CONTENT
    # As urllib3 itself reads.
    assert pool.request("GET", server + path).data == CONTENT
    assert len(Handler.clients) == 3
    assert len(set(Handler.clients)) == 1


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/half", IncompleteRead), ("/half a chunk", ProtocolError), ("/no record", SSLError)],
)
def test_a_body_that_breaks_off(
    server: str, pool: PoolManager, path: str, kind: type[HTTPError]
) -> None:
    with pytest.raises(kind):
        read(pool, server + path.replace(" ", "%20"), 1000)
    assert read(pool, server, 1000) == CONTENT
    assert len(set(Handler.clients)) == 2


def test_no_pool_is_without_tls(pool: PoolManager) -> None:
    with pytest.raises(KeyError, match="http"):
        pool.request("GET", "http://localhost/")


@pytest.mark.parametrize("length", [1, 5000, 100_000])
def test_touching_changes_nothing(length: int) -> None:
    file = BytesIO(CONTENT[:length])
    with file.getbuffer() as place:
        touch(place)
        touch(place[length // 2 :])
    assert file.getvalue() == CONTENT[:length]


def test_what_was_touched_is_there() -> None:
    file = BytesIO(bytes(32 << 20))
    with file.getbuffer() as place:
        touch(place)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for start in range(0, len(place), resource.getpagesize()):
            place[start] = 1
    pages = len(file.getvalue()) // resource.getpagesize()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < pages / 10

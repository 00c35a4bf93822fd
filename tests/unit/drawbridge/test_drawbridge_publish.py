"""A publication that is done again: what is there is not sent, and what is not there is."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from garrison.drawbridge.client import Client
from garrison.errors import Rejected
from garrison.formats.slug import Slug
from garrison.formats.tree import Package
from garrison.testing.drawbridge import served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from garrison.testing.tls import Authority

# Longer than what is on its way between two sockets.
PACKAGE = Package({"main.wasm": b"\0asm" * 5_000_000, "a/b": b"b", "a/c": b""})
LONG = 100_000
KEY = ec.generate_private_key(ec.SECP256R1())


@dataclass
class Original:
    """Keeps what it gets as the original's server does, but for its checks.

    It answers 409 without reading a long file that it has, and ends the connection.
    """

    host: str = ""
    kept: dict[str, tuple[bytes, str, str]] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)


@pytest.fixture
def original(certifier: Authority) -> Iterator[Original]:
    found = Original()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, kept: tuple[bytes, str, str] = (b"", "", "")) -> None:
            body, digest, kind = kept
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if digest:
                self.send_header("Content-Digest", digest)
                self.send_header("Content-Type", kind)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_PUT(self) -> None:
            found.sent.append(self.path)
            length = int(self.headers["Content-Length"])
            if self.path in found.kept and length > LONG:
                self.close_connection = True
                self.answer(409)
                return
            body = self.rfile.read(length)
            if self.path in found.kept:
                self.answer(409)
                return
            digest, kind = self.headers["Content-Digest"], self.headers["Content-Type"]
            found.kept[self.path] = (body, digest, kind)
            self.answer(201)

        def do_GET(self) -> None:
            if self.path not in found.kept:
                self.answer(404)
                return
            self.answer(200, found.kept[self.path])

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    context = certifier.issue(hosts=("localhost",)).server_context()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    found.host = f"localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def client(original: Original, certifier: Authority) -> Client:
    return Client(original.host, ca_pem=certifier.root_pem, token="t")


@pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
def test_what_is_there_is_not_sent_again(
    original: Original, client: Client, key: ec.EllipticCurvePrivateKey | None
) -> None:
    slug = Slug.parse(f"{original.host}/jane/chat:1.0.0")
    paths = list(served(slug, PACKAGE))
    told: list[int] = []
    client.publish(slug, PACKAGE, told.append, key=key)
    assert sorted(original.sent) == sorted(paths)
    total = sum(told)
    # It was interrupted before these two came.
    tag, missing = paths[0], [path for path in paths if path.endswith(("/a/b", "/main.wasm"))]
    assert len(missing) == 2
    for path in missing:
        del original.kept[path]
    original.sent.clear()
    told.clear()
    client.publish(slug, PACKAGE, told.append, key=key)
    assert sorted(original.sent) == sorted([tag, *missing])
    assert sum(told) == total
    # And once more: the tag alone is sent, which tells whether it is the same.
    original.sent.clear()
    client.publish(slug, PACKAGE, key=key)
    assert original.sent == [tag]
    assert client.fetch(slug).files == PACKAGE.files


def test_what_is_there_and_other_is_a_conflict(original: Original, client: Client) -> None:
    slug = Slug.parse(f"{original.host}/jane/chat:1.0.0")
    client.publish(slug, PACKAGE)
    with pytest.raises(Rejected, match="answers 409"):
        client.publish(slug, Package({"main.wasm": b"other"}))
    # The original's takes what its directory does not list.
    (path,) = (path for path in original.kept if path.endswith("/a/b"))
    body, _, kind = original.kept[path]
    other = original.kept[next(path for path in original.kept if path.endswith("/a/c"))][1]
    original.kept[path] = (body, other, kind)
    with pytest.raises(Rejected, match="answers 409"):
        client.publish(slug, PACKAGE)

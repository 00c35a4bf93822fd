"""A drawbridge without sockets, and one that lies.

`MemoryDrawbridge` is the real application over a store in memory, called as a server would call
it. `LyingServer` serves over TLS whatever a test tells it to, starting from what an honest
drawbridge would serve.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from garrison.drawbridge.http import application
from garrison.drawbridge.insecure_dev import InsecureIssuer
from garrison.drawbridge.layout import node_name, tag_name
from garrison.drawbridge.store import Store
from garrison.formats.content_digest import ContentDigest
from garrison.formats.slug import Slug
from garrison.formats.tree import ENTRY_TYPE, Entry, Package, parse_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from starlette.types import Message

    from garrison.testing.tls import Leaf

JSON = "application/json"
# Seconds for which a lying server holds a connection at most; reads wait for as long.
HOLD = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answers: header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


class MemoryDrawbridge:
    """The real application, in this process."""

    def __init__(
        self,
        store: Store | None = None,
        *,
        steward_ids: frozenset[str] = frozenset(),
        issuer: InsecureIssuer | None = None,
    ) -> None:
        self.store = store or Store.in_memory()
        self.issuer = issuer or InsecureIssuer("secret")
        self.app = application(
            self.store,
            self.issuer.verifier(),
            steward_ids=steward_ids,
            routes=self.issuer.routes(),
        )

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Iterable[bytes] = (),
        headers: Mapping[str, str] | None = None,
        user: str | None = None,
        certificate: bytes | None = None,
        disconnect: bool = False,
    ) -> Answer:
        """Send one request.

        Args:
            method: of the request.
            path: what follows the host.
            body: its pieces.
            headers: as they are; a value of several lines is as many fields.
            user: send a token of this subject.
            certificate: DER of the client certificate that a TLS handshake would have verified.
            disconnect: go away after the body's pieces, as if more were to come.
        """
        return asyncio.run(
            self.send(
                method,
                path,
                body=body,
                headers=headers,
                user=user,
                certificate=certificate,
                disconnect=disconnect,
            )
        )

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: Iterable[bytes] = (),
        headers: Mapping[str, str] | None = None,
        user: str | None = None,
        certificate: bytes | None = None,
        disconnect: bool = False,
    ) -> Answer:
        """See `request`; to send several at once."""
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        if user is not None:
            sent["authorization"] = f"Bearer {self.issuer.token(user)}"
        incoming: list[Message] = [
            {"type": "http.request", "body": piece, "more_body": True} for piece in body
        ]
        incoming.append(
            {"type": "http.disconnect"} if disconnect else {"type": "http.request", "body": b""}
        )
        outgoing: list[Message] = []

        async def receive() -> Message:
            if not incoming:
                # A client that waits for its answer: nothing more comes from it.
                await asyncio.Event().wait()
            return incoming.pop(0)

        async def send(message: Message) -> None:
            outgoing.append(message)

        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path.partition("?")[0],
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "https",
            "query_string": path.partition("?")[2].encode(),
            "headers": [
                (name.encode(), line.encode())
                for name, value in sent.items()
                for line in value.split("\n")
            ],
            "server": ("localhost", 443),
            "state": {"client_certificate": certificate, "request_id": "0123456789abcdef"},
        }
        await self.app(scope, receive, send)
        start, *rest = outgoing
        return Answer(
            start["status"],
            {name.decode(): value.decode() for name, value in start["headers"]},
            # A server sends no body in answer to HEAD, whatever the application gives it.
            b"" if method == "HEAD" else b"".join(message.get("body", b"") for message in rest),
        )

    def put(
        self,
        path: str,
        body: bytes,
        media_type: str = JSON,
        *,
        user: str | None = "jane",
        **headers: str,
    ) -> Answer:
        """PUT `body` as a client does; `headers` replace what it would send."""
        all_headers = {
            "content-type": media_type,
            "content-length": str(len(body)),
            "content-digest": ContentDigest.of(body).to_header(),
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("PUT", path, body=[body], headers=all_headers, user=user)

    def publish(self, slug: Slug, package: Package) -> None:
        """PUT a whole package, which must succeed."""
        for name, (entry, content) in served(slug, package).items():
            answer = self.put(name, content, entry.type)
            if answer.status != 201:
                raise AssertionError(f"{name}: {answer.status} {answer.text}")


def served(slug: Slug, package: Package) -> dict[str, tuple[Entry, bytes]]:
    """What an honest drawbridge serves of `package`: path to media type, and so on, and body."""
    nodes = package.nodes()
    tag = nodes[""][0].to_bytes()
    found = {tag_name(slug).url_path(): (Entry.of(tag, ENTRY_TYPE), tag)}
    for path, node in nodes.items():
        found[node_name(slug, parse_path(path)).url_path()] = node
    return found


@dataclass
class Lie:
    """One answer of a `LyingServer`, to be spoilt by a test; after it the server may hold."""

    status: int
    headers: dict[str, str]
    body: bytes
    hold: threading.Event | None = None


@dataclass
class LyingServer:
    """A TLS server for `localhost` that answers GET, POST and PUT as it is told.

    A context manager.

    Attributes:
        answers: to every request for a path.
        turns: what is answered before that, once each, in turn.
        by_range: what is answered in place of both, from `Range`.
        requested: the paths that were asked for.
        ranges: of each of these requests, `Range` and `If-Range`.
        shown: of each, `Authorization` and the client's certificate, which it asks for where it
            has a `client_ca`, in PEM.
    """

    leaf: Leaf
    answers: dict[str, Lie] = field(default_factory=dict)
    turns: dict[str, list[Lie]] = field(default_factory=dict)
    by_range: dict[str, Callable[[str | None], Lie]] = field(default_factory=dict)
    requested: list[str] = field(default_factory=list)
    ranges: list[tuple[str | None, str | None]] = field(default_factory=list)
    shown: list[tuple[str | None, bytes | None]] = field(default_factory=list)
    client_ca: str | None = None
    host: str = ""

    def __enter__(self) -> Self:
        lying = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                lying.requested.append(self.path)
                lying.ranges.append((self.headers.get("Range"), self.headers.get("If-Range")))
                certificate = self.connection.getpeercert(binary_form=True)
                lying.shown.append((self.headers.get("Authorization"), certificate))
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                lie = lying.answers.get(self.path, Lie(404, {"Content-Length": "0"}, b""))
                if lying.turns.get(self.path):
                    lie = lying.turns[self.path].pop(0)
                if self.path in lying.by_range:
                    lie = lying.by_range[self.path](self.headers.get("Range"))
                self.send_response(lie.status)
                for name, value in lie.headers.items():
                    self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(lie.body)
                if lie.hold is not None:
                    lie.hold.wait(HOLD)

            do_POST = do_PUT = do_GET  # noqa: N815  (the library's names)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that hangs up in the middle is what these tests are about."""

        context = self.leaf.server_context()
        if self.client_ca is not None:
            context.load_verify_locations(cadata=self.client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.host = f"localhost:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def tell_the_truth(self, name: str, package: Package) -> Slug:
        """Serve `package` as `name` (`user/repo:tag`), and return its slug."""
        slug = Slug.parse(f"{self.host}/{name}")
        for path, (entry, content) in served(slug, package).items():
            self.answers[path] = Lie(
                200,
                {
                    "Content-Type": entry.type,
                    "Content-Length": str(len(content)),
                    "Content-Digest": entry.digest.to_header(),
                },
                content,
            )
        return slug

"""A vendor's server on the loopback interface, by HTTPS, that serves what it is told.

It stands in for AMD's KDS, Intel's PCS and a PCCS at once, and fails in any way that a test
asks for: with a status, slowly, halfway, or not at all.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from garrison.endorsements import kds, pcs
from garrison.endorsements.fetch import Servers
from garrison.endorsements.resource import Kind
from garrison.testing.tls import Authority

if TYPE_CHECKING:
    from datetime import datetime

    from garrison.endorsements.resource import Resource

_MEMBERS = {Kind.TCB_INFO: "tcbInfo", Kind.QE_IDENTITY: "enclaveIdentity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server answers, and how it fails.

    Attributes:
        body: the body.
        status: the status.
        headers: further headers.
        missing: how many bytes of the body it withholds, and then hangs up.
        piece: how many bytes it sends at a time; 0: all.
        pause: how many seconds it waits before each piece.
        hang: whether it sends nothing until it is closed.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    piece: int = 0
    pause: float = 0.0
    hang: bool = False


class Clock:
    """A clock that stands still until it is told, or slept on.

    Attributes:
        now: what it shows.
        slept: for how many seconds it was slept on, each time.
    """

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> datetime:
        """The time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass at once."""
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)


def signed_json(kind: Kind, issued: datetime, expires: datetime, **members: object) -> bytes:
    """Collateral in Intel's form, with a signature that is none."""
    inner = {
        "issueDate": f"{issued:%Y-%m-%dT%H:%M:%SZ}",
        "nextUpdate": f"{expires:%Y-%m-%dT%H:%M:%SZ}",
        **members,
    }
    return json.dumps({_MEMBERS[kind]: inner, "signature": "00" * 64}).encode()


def chain_answer(resource: Resource, body: bytes, chain_pem: bytes) -> Answer:
    """An answer with the signer's chain in the header that `resource` wants."""
    headers = {} if resource.chain_header is None else {resource.chain_header: quote(chain_pem)}
    return Answer(body=body, headers=headers)


class VendorServer:
    """The server; it runs while it is entered.

    Attributes:
        authority: who vouches for it.
        requests: the paths that were asked for, in order.
    """

    def __init__(self, authority: Authority | None = None, host: str = "localhost") -> None:
        """Prepare it.

        Args:
            authority: who vouches for it.
            host: what its certificate calls it; it is reached as `localhost`.
        """
        self.authority = authority or Authority("Test Mirror")
        self.requests: list[str] = []
        self._answers: dict[str, list[Answer]] = {}
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._broken: dict[type[BaseException], int] = defaultdict(int)
        self._httpd = _Httpd(("127.0.0.1", 0), self)
        context = self.authority.issue(hosts=(host,)).server_context()
        # The handshake is left to the thread of each connection: a bad one holds up nobody.
        self._httpd.socket = context.wrap_socket(
            self._httpd.socket, server_side=True, do_handshake_on_connect=False
        )

    @property
    def origin(self) -> str:
        """Where it is."""
        return f"https://localhost:{self._httpd.server_address[1]}"

    @property
    def servers(self) -> Servers:
        """It in place of AMD and Intel."""
        mirrors = {kds.ORIGIN: f"{self.origin}/kds", **pcs.mirrors(f"{self.origin}/pccs")}
        return Servers(mirrors, self.authority.root_pem)

    def path(self, resource: Resource) -> str:
        """The path under which it serves `resource`."""
        return self.servers.address(resource.url).removeprefix(self.origin)

    def serve(self, resource: Resource, *answers: Answer) -> None:
        """Answer requests for `resource` with `answers`, one after the other, the last for ever."""
        with self._lock:
            self._answers[self.path(resource)] = list(answers)

    def count(self, resource: Resource) -> int:
        """How often it was asked for `resource`."""
        with self._lock:
            return self.requests.count(self.path(resource))

    def next_answer(self, path: str) -> Answer:
        """Note a request for `path`, and take what to answer."""
        with self._lock:
            self.requests.append(path)
            answers = self._answers.get(path, [Answer(status=404)])
            return answers[0] if len(answers) == 1 else answers.pop(0)

    def wait(self, seconds: float | None) -> bool:
        """Wait, but not beyond the closing of the server; whether it is closing."""
        return self._closing.wait(seconds)

    def note_broken(self, error: BaseException) -> None:
        """Note that a connection ended with `error`: clients hang up, as tests want them to."""
        with self._lock:
            self._broken[type(error)] += 1

    def __enter__(self) -> Self:
        threading.Thread(target=self._httpd.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._httpd.shutdown()
        self._httpd.server_close()


class _Httpd(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], vendor: VendorServer) -> None:
        self.vendor = vendor
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as it came
            return
        self.vendor.note_broken(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Httpd

    def do_GET(self) -> None:
        vendor = self.server.vendor
        answer = vendor.next_answer(self.path)
        self.close_connection = True
        if answer.hang:
            vendor.wait(None)
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Transfer-Encoding" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        body = answer.body[: len(answer.body) - answer.missing]
        piece = answer.piece or len(body) or 1
        for start in range(0, len(body), piece):
            if answer.pause and vendor.wait(answer.pause):
                return
            self.wfile.write(body[start : start + piece])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing: the test looks at `requests`."""

"""A keep's first start, while its steward comes, goes, or refuses: over real TLS."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from base64 import urlsafe_b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from garrison.errors import Rejected, Unavailable
from garrison.formats.csr import Request, encode_pki_path
from garrison.formats.identity import WorkloadIdentity
from garrison.formats.tree import Package
from garrison.keep import life, retries
from garrison.keep.identity import StewardClient
from garrison.keep.retries import Away, Backoff
from garrison.testing.stack import free_port
from garrison.testing.tls import Authority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# A memory, and a `_start` that returns.
WASM = bytes.fromhex(
    "0061736d 01000000 01040160 0000 03020100 05030100 01"
    "0713 02 066d656d6f7279 0200 065f7374617274 0000 0a040102 000b".replace(" ", "")
)
FILES = {"main.wasm": WASM}
_SECONDS = 60


class Steward:
    """Certifies whom it hears of, once the answers that a test put before are used up.

    Attributes:
        before: status and `Retry-After` of the answers that come first, by path and in order.
        challenges: those that it gave.
        requests: the CSRs that came.
    """

    def __init__(self, authority: Authority, port: int = 0) -> None:
        self.authority = authority
        self.before: dict[str, list[tuple[int, str | None]]] = {}
        self.challenges: list[bytes] = []
        self.requests: list[Request] = []
        context = self.authority.issue(hosts=("localhost",)).server_context()
        steward = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self._refused():
                    return
                if self.path == "/challenge":
                    self._answer(200, steward.offer())
                else:
                    # The original's has neither a bundle nor a deny list.
                    self._answer(404, b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                steward.requests.append(Request.from_der(body))
                if not self._refused():
                    self._answer(200, steward.certify(steward.requests[-1]))

            def _refused(self) -> bool:
                waiting = steward.before.get(self.path)
                if not waiting:
                    return False
                status, retry_after = waiting.pop(0)
                self._answer(status, b"{}", retry_after)
                return True

            def _answer(self, status: int, body: bytes, retry_after: str | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if retry_after is not None:
                    self.send_header("Retry-After", retry_after)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def offer(self) -> bytes:
        challenge = bytes([len(self.challenges)]) * 64
        self.challenges.append(challenge)
        text = urlsafe_b64encode(challenge).rstrip(b"=").decode()
        return f'{{"challenge": "{text}", "expires": "2026-01-01T00:00:00Z"}}'.encode()

    def certify(self, request: Request) -> bytes:
        key = load_der_public_key(request.spki)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert request.workload is not None
        leaf = self.authority.issue(request.workload, public_key=key)
        return encode_pki_path(list(reversed(leaf.chain)))

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def steward() -> Iterator[Steward]:
    with contextlib.closing(Steward(Authority())) as steward:
        yield steward


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "START_FIRST_RETRY", 0.01)


def run(url: str, roots: str) -> int:
    return life.run_local(
        FILES,
        Package(FILES).digest,
        steward=StewardClient(url, roots),
        attester={"kind": "nil"},
    )


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_steward_that_says_not_now_is_asked_again_with_a_fresh_challenge(
    status: int, steward: Steward, caplog: pytest.LogCaptureFixture
) -> None:
    steward.before = {"/challenge": [(status, "0")], "/": [(status, "0"), (status, None)]}
    assert run(steward.url, steward.authority.root_pem) == 0
    assert [request.challenge for request in steward.requests] == steward.challenges
    assert len(steward.challenges) == 3
    assert steward.requests[-1].workload == WorkloadIdentity(None, Package(FILES).digest)
    # Once, not each time.
    (told,) = [record for record in caplog.records if "trying again" in record.message]
    assert "cannot answer now" in told.message
    assert steward.url in told.message


def test_a_steward_that_is_away_once_the_keep_is_certified(steward: Steward) -> None:
    """What it denies is asked for at the start too."""
    steward.before = {"/deny": [(503, "0"), (503, "0")]}
    assert run(steward.url, steward.authority.root_pem) == 0
    assert steward.before == {"/deny": []}
    assert len(steward.requests) == 1


class Log:
    """Starts the steward when the keep says that it waits for it."""

    def __init__(self, start: Callable[[], Steward]) -> None:
        self._start = start
        self.started: list[Steward] = []

    def warning(self, *_arguments: object) -> None:
        self.started.append(self._start())


def test_a_steward_that_starts_later(monkeypatch: pytest.MonkeyPatch) -> None:
    port, authority = free_port(), Authority()
    log = Log(lambda: Steward(authority, port))
    monkeypatch.setattr(retries, "keep_log", lambda: log)
    try:
        assert run(f"https://localhost:{port}", authority.root_pem) == 0
    finally:
        for steward in log.started:
            steward.close()
    assert len(log.started) == 1


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 422])
def test_a_refusal_is_final(status: int, steward: Steward) -> None:
    steward.before = {"/": [(status, "0")]}
    with pytest.raises(Rejected, match=str(status)):
        run(steward.url, steward.authority.root_pem)
    assert len(steward.requests) == 1


def test_a_steward_s_own_failure_is_final(steward: Steward) -> None:
    steward.before = {"/": [(500, "0")]}
    with pytest.raises(Unavailable, match="500"):
        run(steward.url, steward.authority.root_pem)
    assert len(steward.requests) == 1


def test_the_last_error_says_how_often_and_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "START_SECONDS", 0.2)
    url = f"https://localhost:{free_port()}"
    with pytest.raises(Unavailable, match=r"cannot be reached: .*attempt [2-9].*after 0 s") as last:
        run(url, Authority().root_pem)
    assert last.value.field == url
    assert last.value.hint is not None


def test_a_steward_that_asks_for_more_time_than_there_is_is_not_waited_for(
    steward: Steward,
) -> None:
    steward.before = {"/challenge": [(503, "61")]}
    with pytest.raises(Unavailable, match="attempt 1, after 0 s"):
        run(steward.url, steward.authority.root_pem)


def test_a_handshake_that_ends_is_a_steward_that_goes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            plain, _ = listener.accept()
            plain.recv(1 << 14)
            plain.shutdown(socket.SHUT_WR)
            plain.recv(1 << 14)
            plain.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        client = StewardClient(
            f"https://localhost:{listener.getsockname()[1]}", Authority().root_pem
        )
        with pytest.raises(Away, match="ended the connection"):
            client.challenge()
        thread.join(_SECONDS)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_a_signal_ends_the_wait_at_once(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """It would end by itself with 69."""
    (tmp_path / "main.wasm").write_bytes(WASM)
    (tmp_path / "root.pem").write_text(Authority().root_pem)
    process = subprocess.Popen(
        [
            sys.executable, "-P", "-m", "garrison", "run",
            "--steward", f"https://localhost:{free_port()}",
            "--steward-root", str(tmp_path / "root.pem"), str(tmp_path / "main.wasm"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "cannot be reached" in line
        assert "trying again for 60 s" in line
        process.send_signal(number)
        assert process.wait(_SECONDS) == code


def test_the_wait_doubles_and_the_steward_s_own_is_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 0.0)
    backoff = Backoff(1, 5)
    away = Away("away")
    assert [backoff.after(away) for _ in range(5)] == [1, 2, 4, 5, 5]
    away.retry_after = 7
    assert backoff.after(away) == 12
    assert Backoff(1, 5).after(Unavailable("of something else")) == 1

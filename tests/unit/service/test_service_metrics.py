"""What a service counts, and what it says of itself to those who watch over it."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from tests.unit.service.sample import Server, running

from garrison.cli.drawbridge import command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.service.conftest import Pki

WATCHED: dict[str, Any] = {"metrics": ["127.0.0.1", 0], "json_output": True}


@pytest.fixture
def server(pki: Pki) -> Iterator[Server]:
    with running(pki, **WATCHED) as started:
        yield started


def ask(server: Server, method: str, path: str, body: bytes | None = None) -> int:
    with contextlib.closing(server.connect()) as connection:
        connection.request(method, path, body)
        with connection.getresponse() as response:
            response.read()
            return response.status


def test_requests_are_counted_by_route_method_and_status(server: Server) -> None:
    for _ in range(3):
        assert ask(server, "GET", "/") == 200
    assert ask(server, "POST", "/large", b"x" * 10) == 200
    assert ask(server, "POST", "/large", b"x" * 11) == 413
    for path in ("/a", "/b?token=s3cret"):
        assert ask(server, "BREW" if path == "/a" else "GET", path) in {400, 404}
    counted = server.counted()
    assert counted['garrison_requests_total{method="GET",route="/",status="200"}'] == 3
    assert counted['garrison_requests_total{method="POST",route="other",status="413"}'] == 1
    assert counted['garrison_request_seconds_count{method="GET",route="/"}'] == 3
    assert counted['garrison_received_bytes_total{route="other"}'] == 10
    assert counted['garrison_sent_bytes_total{route="/"}'] > 60
    assert counted["garrison_requests_in_flight"] == 0
    # No client makes series, and none tells a secret.
    text = server.watch("/metrics")[1]
    assert "s3cret" not in text
    assert "BREW" not in text
    assert "/b" not in text


def test_connections_and_failed_handshakes_are_counted(server: Server, pki: Pki) -> None:
    with server.raw(), server.raw():
        assert server.counted()["garrison_connections"] == 2
    with (
        socket.create_connection(("localhost", server.port)) as plain,
        contextlib.suppress(ConnectionError),
    ):
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while plain.recv(4096):
            continue
    with (
        contextlib.closing(server.connect(pki.stranger)) as stranger,
        contextlib.suppress(ssl.SSLError, ConnectionError),
    ):
        stranger.request("GET", "/")
        stranger.getresponse()
    counted = server.counted()
    assert counted["garrison_tls_handshake_failures_total"] == 2
    with server.raw() as tls:
        tls.sendall(b"\x00\r\n\r\n")
        assert tls.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert server.counted()['garrison_heads_refused_total{status="400"}'] == 1


def test_live_and_ready(server: Server, pki: Pki) -> None:
    assert server.watch("/live")[0] == 200
    assert server.watch("/ready")[0] == 200
    assert server.watch("/other")[0] == 404
    code, _, err = server.end()
    assert code == 0
    (line,) = [json.loads(text) for text in err.splitlines() if '"metrics"' in text]
    assert line["url"] == server.metrics


def test_not_ready_says_why_and_checks_once_for_many(pki: Pki) -> None:
    trouble = pki.directory.parent / "trouble"
    trouble.touch()
    try:
        with running(pki, **WATCHED) as server:
            answers = [server.watch("/ready") for _ in range(5)]
            assert server.watch("/live")[0] == 200
            _, _, err = server.end()
    finally:
        trouble.unlink()
    assert {status for status, _ in answers} == {503}
    for _, text in answers:
        (check,) = json.loads(text)["checks"]
        assert (check["check"], check["found"]) == ("sample: told not to be", "1")
    assert err.count('"not ready"') == 1


@pytest.mark.parametrize(
    ("given", "reason"),
    [("localhost", "no port"), ("a b:1", "--metrics"), ("h:99999", "--metrics")],
)
def test_address_without_a_port_is_refused(given: str, reason: str) -> None:
    done = CliRunner().invoke(
        command, ["serve", "--store", "memory://", "--metrics", given], standalone_mode=False
    )
    assert reason in str(done.exception)

"""A drawbridge of several workers, told to end while an upload is under way."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import time
from typing import TYPE_CHECKING

from garrison.testing.stack import USER, Stack

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 60.0


def start(stack: Stack) -> int:
    """Start a drawbridge over the stack's store, and return its pid."""
    process = stack.start(
        "the drawbridge", "drawbridge", "serve", "--insecure-dev", "--port", "0",
        "--store", str(stack.directory / "drawbridge"), "--workers", "2",
        "--drain-timeout", str(SECONDS),
    )  # fmt: skip
    url = process.expect("listening on https://").rpartition(" ")[2]
    stack.registry = f"localhost:{url.rpartition(':')[2]}"
    return process.pid


def test_upload_under_way_is_stored_before_the_end(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    body = b'{"public":true}'
    with Stack(tmp_path) as stack:
        pid = start(stack)
        stack.login()
        tokens = json.loads((tmp_path / "home/.config/garrison/tokens.json").read_text())
        head = (
            f"PUT /api/v0.1.0/{USER}/chat HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: application/json\r\nAuthorization: Bearer {tokens[stack.registry]}\r\n"
            "Expect: 100-continue\r\n\r\n"
        )
        context = ssl.create_default_context(cafile=str(stack.registry_ca))
        address = ("localhost", int(stack.registry.rpartition(":")[2]))
        with (
            socket.create_connection(address, timeout=SECONDS) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            tls.sendall(head.encode())
            # It is said when the body is waited for.
            assert _read_to(tls, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
            tls.sendall(body[:5])
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + SECONDS
            while _listens(address):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            tls.sendall(body[5:])
            answer = _read_to(tls, b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 201 ")
        assert stack.processes[0].finish(SECONDS) == 0
        start(stack)
        # Another process, the same store; the development issuer's keys are new.
        stack.login()
        assert "public" in stack.command(
            "repo", "info", *stack.registry_options, stack.slug("chat")
        )


def _read_to(connection: ssl.SSLSocket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    return data


def _listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=SECONDS).close()
    except OSError:
        return False
    return True

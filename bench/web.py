"""The Go example's HTTP server in a keep under `wrk`, beside Go's own TLS and no WebAssembly.

python bench/web.py
"""

from __future__ import annotations

import http.client
import os
import re
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

import peers

from garrison.testing.stack import free_port

_EXAMPLE = Path(__file__).parents[1] / "examples" / "languages" / "go"
_CONNECTIONS = (1, 32)
_SECONDS = 4


def built(source: Path, out: Path, environment: dict[str, str]) -> Path:
    """Build a Go program."""
    command = [peers.installed("go"), "build", "-o", str(out), "."]
    subprocess.run(command, cwd=source, env={**os.environ, **environment}, check=True)
    return out


def requests(port: int, connections: int) -> float:
    """How many requests a second are answered."""
    done = subprocess.run(
        [
            peers.installed("wrk"), "-t1", f"-c{connections}", f"-d{_SECONDS}s",
            f"https://127.0.0.1:{port}/",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if found is None or "Non-2xx" in done.stdout or not float(found[1]):
        raise RuntimeError(done.stdout)
    return float(found[1])


def wait_for_answer(port: int) -> None:
    """Wait until the server answers: a keep listens before its guest is compiled."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=120, context=context)
    connection.request("GET", "/")
    connection.getresponse().read()
    connection.close()


def main() -> int:
    """Measure and print a table; there is no goal."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            peers.installed("wrk")
            guest = built(
                _EXAMPLE / "server", folder / "go.wasm", {"GOOS": "wasip1", "GOARCH": "wasm"}
            )
        except peers.MissingPeerError as missing:
            print(f"left out: {missing}")
            return 0
        # A program of one file outside any module.
        alone = {"GO111MODULE": "off"}
        native = built(peers.PROGRAMS / "http_native", folder / "native", alone)
        identity = peers.certificate(folder)
        port, other = free_port(), free_port()
        with (
            peers.stack(folder) as made,
            peers.running(peers.keep_command(made, guest, port, folder), port),
            peers.running([str(native), str(other), *identity], other),
        ):
            wait_for_answer(port)
            found = [(n, requests(port, n), requests(other, n)) for n in _CONNECTIONS]
    print("| connections | garrison, requests/s | native Go, requests/s | ratio |")
    print("|---|---|---|---|")
    for connections, ours, theirs in found:
        print(f"| {connections} | {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

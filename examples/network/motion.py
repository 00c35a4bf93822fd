"""The part of the demonstration in which keeps run on while things change around them.

An echo server in two versions, and a client that admits both and never stops.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from garrison.testing.configs import server_config
from garrison.testing.stack import free_port

if TYPE_CHECKING:
    from garrison.testing.stack import Process, Stack

HERE = Path(__file__).resolve().parent
_SOURCES = {"echo": HERE.parent / "languages" / "c" / "server.c", "steady": HERE / "steady.c"}
_CLIENT = """
args = {targets}

[stdout]
kind = "host"

[stderr]
kind = "host"

[network.outgoing.default]
peers = ["{server}:>=0.1.0, <0.3.0"]
"""


class Motion:
    """Publishes both programs, and starts keeps of them.

    Attributes:
        ports: where each version of the server listens.
    """

    def __init__(self, stack: Stack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory
        self.ports = {"0.1.0": free_port(), "0.2.0": free_port()}
        server, client = stack.slug("echo"), stack.slug("steady")
        programs = {name: self._built(name) for name in _SOURCES}
        for name in programs:
            stack.register_repo(name)
        for version, port in self.ports.items():
            config = server_config(port, more=f'peers = ["{client}:^1.0"]')
            self._publish(programs["echo"], config, f"echo:{version}")
        targets = json.dumps([f"localhost:{port}" for port in self.ports.values()])
        config = _CLIENT.format(targets=targets, server=server)
        self._publish(programs["steady"], config, "steady:1.0.0")

    def server(self, version: str) -> Process:
        """Start a server, and wait until it listens."""
        keep = self._stack.deploy(f"echo:{version}", f"the echo server {version}")
        keep.expect("listening")
        return keep

    def client(self) -> Process:
        """Start a client."""
        keep = self._stack.deploy("steady:1.0.0", "a client that never stops")
        keep.expect("steady")
        return keep

    def cut_off(self, version: str, clients: list[Process]) -> tuple[float, str]:
        """Have the steward deny a version of the server, to which `clients` are connected.

        Returns:
            How many seconds it took until the last was cut off, and what its keep says.
        """
        started = time.monotonic()
        slug = self._stack.slug(f"echo:{version}")
        self._stack.deny(f'poll_seconds = 1\nslugs = ["{slug}"]')
        for client in clients:
            line = client.expect("ended a connection")
        return time.monotonic() - started, line

    def _built(self, name: str) -> Path:
        out = self._directory / f"{name}.wasm"
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s"]
        environment = {"ZIG_GLOBAL_CACHE_DIR": str(Path(sys.prefix) / "zig-cache"), **os.environ}
        subprocess.run(
            [*compiler, str(_SOURCES[name]), "-o", str(out)], check=True, env=environment
        )
        return out

    def _publish(self, wasm: Path, config: str, name: str) -> None:
        package = self._directory / name.replace(":", "-")
        package.mkdir()
        (package / "main.wasm").write_bytes(wasm.read_bytes())
        (package / "Enarx.toml").write_text(config)
        self._stack.publish(package, name)

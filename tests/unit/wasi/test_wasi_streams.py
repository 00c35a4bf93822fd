"""Standard streams that are closed, full or gone: what a workload says goes nowhere else."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from garrison.keep.engine.library import wat2wasm

if TYPE_CHECKING:
    from pathlib import Path

_CODE = """(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") %s))"""

_SPEAK = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\08\\00\\00\\00\\06\\00\\00\\00secret")
  (func (export "_start")
    (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 32)))))"""


def _run(environment: dict[str, str], redirected: str, *args: str) -> int:
    command = [
        "sh",
        "-c",
        f'exec "$@" {redirected}',
        "sh",
        sys.executable,
        "-I",
        "-m",
        "garrison",
        *args,
    ]
    return subprocess.run(command, env=environment, timeout=60, check=False).returncode


@pytest.mark.parametrize("redirected", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
@pytest.mark.parametrize("options", [[], ["--limit", "tmp=1MiB"]], ids=["short", "usual"])
@pytest.mark.parametrize(
    ("body", "code"), [("(call $exit (i32.const 5))", 5), ("unreachable", 134)], ids=["5", "trap"]
)
def test_the_code_is_the_guest_s_whatever_the_streams(
    environment: dict[str, str],
    tmp_path: Path,
    redirected: str,
    options: list[str],
    body: str,
    code: int,
) -> None:
    guest = tmp_path / "guest.wasm"
    guest.write_bytes(wat2wasm(_CODE % body))
    assert _run(environment, redirected, "run", *options, str(guest)) == code


def test_what_is_said_to_a_closed_stream_goes_to_no_connection(
    environment: dict[str, str], tmp_path: Path
) -> None:
    guest, config = tmp_path / "guest.wasm", tmp_path / "Enarx.toml"
    guest.write_bytes(wat2wasm(_SPEAK))
    with socket.create_server(("127.0.0.1", 0)) as server:
        config.write_text(
            f"""[[files]]
            kind = "connect"
            host = "127.0.0.1"
            port = {server.getsockname()[1]}
            prot = "tcp"
            [[files]]
            kind = "stdout"
            [[files]]
            kind = "stderr"
            """
        )
        options = ["--wasmcfgfile", str(config)]
        assert _run(environment, "2>&-", "run", *options, str(guest)) == 0
        server.settimeout(60)
        peer, _ = server.accept()
        with peer:
            peer.settimeout(60)
            assert peer.recv(100) == b""


@pytest.mark.parametrize(
    ("redirected", "args", "code"),
    [("2>/dev/full", ["run", "/nonexistent"], 2), (">/dev/full", ["run", "--help"], 73)],
)
def test_a_full_stream_changes_no_code(
    environment: dict[str, str], redirected: str, args: list[str], code: int
) -> None:
    assert _run(environment, redirected, *args) == code

"""What a keep logs is lines of its own, whoever's words are in it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from garrison.keep.engine.library import wat2wasm

if TYPE_CHECKING:
    from pathlib import Path

# Clears the screen, sets the title, and begins a line that looks like the keep's.
_NAME = "net/con/a b\x1b[2J\x1b]0;owned\x07\u202e\ngarrison.keep: certified as somebody else"


def test_a_workload_cannot_forge_lines_of_the_log_or_steer_a_terminal(tmp_path: Path) -> None:
    name = _NAME.encode()
    escaped = "".join(f"\\{byte:02x}" for byte in name)
    wasm = tmp_path / "main.wasm"
    wasm.write_bytes(
        wat2wasm(f"""(module
          (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (data (i32.const 0) "{escaped}")
          (func (export "_start")
            (call $exit (call $open (i32.const 3) (i32.const 0) (i32.const 0)
              (i32.const {len(name)}) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0)
              (i32.const 1024)))))""")
    )
    done = subprocess.run(
        [sys.executable, "-m", "garrison", "run", wasm],
        capture_output=True,
        check=False,
        env={"XDG_CACHE_HOME": str(tmp_path)},
        text=True,
    )
    # INVAL: that is no host.
    assert done.returncode == 28
    lines = done.stderr.splitlines()
    assert lines[0].startswith("refused to the workload: a b")
    assert all(line.isprintable() for line in lines)
    assert lines[1].startswith("  garrison.keep: certified as somebody else")


_REFUSED = r"""
from garrison.errors import Rejected
from garrison.keep.bare import LateNetwork
from garrison.keep.net.listener import log_refusal
LateNetwork().check_outgoing("peer.test")
log_refusal(Rejected("no", field="a rule", found="CN=\x1b[2J\ngarrison.keep: x"), "1.2.3.4:5")
"""


def test_nor_can_a_peer_of_a_module_that_is_run_alone() -> None:
    """The shortest way to run one sets nothing up before there is something to say."""
    done = subprocess.run(
        [sys.executable, "-c", _REFUSED], capture_output=True, check=True, text=True
    )
    lines = done.stderr.splitlines()
    assert lines[0] == "refused a peer: rule a rule; at 1.2.3.4:5; presented CN=?[2J"
    assert lines[1].startswith("  garrison.keep: x; wanted")

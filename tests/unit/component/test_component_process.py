"""Components in processes of their own: signals, exit codes, and what a start imports."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from garrison.testing.component import command

if TYPE_CHECKING:
    from pathlib import Path

_FUNCTIONS = {
    "out": ("wasi:cli/stdout", "get-stdout"),
    "write": ("wasi:io/streams", "[method]output-stream.blocking-write-and-flush"),
    "read": ("wasi:io/streams", "[method]input-stream.blocking-read"),
    "in": ("wasi:cli/stdin", "get-stdin"),
    "now": ("wasi:clocks/monotonic-clock", "now"),
    "after": ("wasi:clocks/monotonic-clock", "subscribe-duration"),
    "block": ("wasi:io/poll", "[method]pollable.block"),
}
_WAYS = {
    "spin": "(loop $l (br $l))",
    "calls": "(loop $l (drop (call $now)) (br $l))",
    "sleep": "(call $block (call $after (i64.const 3600000000000)))",
    "read": "(call $read (call $in) (i64.const 1) (i32.const 64))",
}


def _component(folder: Path, body: str) -> Path:
    wasm = folder / "guest.wasm"
    ready = """(call $write (call $out) (i32.const 0) (i32.const 6) (i32.const 64))"""
    text = f'(data (i32.const 0) "ready\\n") (func (export "run") (result i32) {ready} {body}'
    wasm.write_bytes(command(f"{text} (i32.const 0))", _FUNCTIONS))
    return wasm


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        pytest.param(signal.SIGINT, 130, b"interrupted", id="int"),
        pytest.param(signal.SIGTERM, 143, b"terminated", id="term"),
    ],
)
@pytest.mark.parametrize("way", _WAYS)
def test_a_signal_ends_it_wherever_it_is(
    way: str, number: signal.Signals, code: int, word: bytes, tmp_path: Path
) -> None:
    wasm = _component(tmp_path, _WAYS[way])
    with subprocess.Popen(
        [sys.executable, "-m", "garrison", "run", wasm],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"XDG_CACHE_HOME": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            # Not `communicate`: the end of standard input would end the one that reads, too.
            assert process.wait(timeout=60) == code
            assert process.stderr.read() == b"error: " + word + b"\n"
        finally:
            process.kill()


def test_a_trap_is_told_and_has_its_exit_code(tmp_path: Path) -> None:
    body = "(call $write (i32.const 77) (i32.const 0) (i32.const 0) (i32.const 64))"
    done = subprocess.run(
        [sys.executable, "-m", "garrison", "run", _component(tmp_path, body)],
        capture_output=True,
        check=False,
        env={"XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 134
    assert done.stdout == b"ready\n"
    assert done.stderr == (
        b"error: the guest failed: it has no handle 77, used as wasi:io/streams output-stream\n"
    )


# Each costs a start more than a millisecond.
_SLOW = {
    "click", "contextlib", "ctypes", "dataclasses", "enum", "hashlib", "inspect", "json",
    "logging", "pathlib", "re", "socket", "ssl", "subprocess", "threading", "typing", "wasmtime",
}  # fmt: skip
_SHOW = """
import posix, sys
sys.path += sys.argv[2:]
sys.argv = ["garrison", "run", sys.argv[1]]
before = set(sys.modules)
posix._exit = lambda code: None
import garrison.__main__
garrison.__main__.main()
print("loaded", *sorted(set(sys.modules) - before))
"""


def test_a_start_imports_next_to_nothing(tmp_path: Path) -> None:
    # As tools/launcher.py starts it; to a file, for what waits for a pipe imports `select`.
    out = tmp_path / "out"
    with out.open("w") as written:
        subprocess.run(
            [sys.executable, "-IS", "-c", _SHOW, _component(tmp_path, ""), *filter(None, sys.path)],
            env={"XDG_CACHE_HOME": str(tmp_path)},
            stdout=written,
            check=True,
        )
    first, second = out.read_text().splitlines()
    assert first == "ready"
    assert "garrison.keep.component.run" in second
    assert not _SLOW & set(second.split())

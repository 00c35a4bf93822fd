"""The time of a call from the guest into its host, beside the same guest in wasmtime.

python bench/hostcalls.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import least
from start import native_wasmtime

from garrison.keep.engine.library import wat2wasm
from garrison.keep.engine.runtime import Engine, Instance, Module

# Microseconds that a call may take: what a prototype was measured to take.
GOALS = {
    "clock_time_get": 0.53,
    "random_get 32 B": 1.24,
    "fd_write 100 B to /dev/null": 0.83,
    "open, read 1 KiB, close in /tmp": 4.0,
}
_RUNS = 5
_EMPTY_CALLS = 200_000
_EMPTY = f"""(module
  (import "host" "nothing" (func $nothing (param i32 i32 i32) (result i32)))
  (func (export "_start") (local i32)
    (loop
      (drop (call $nothing (i32.const 0) (i32.const 0) (i32.const 0)))
      (local.set 0 (i32.add (local.get 0) (i32.const 1)))
      (br_if 0 (i32.lt_u (local.get 0) (i32.const {_EMPTY_CALLS}))))))"""
_SOURCE = Path(__file__).parent / "programs" / "hostcalls.c"


def compiled(source: Path, folder: Path) -> Path:
    """Build a guest."""
    out = folder / f"{source.stem}.wasm"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s"]
    subprocess.run([*compiler, str(source), "-o", str(out)], check=True)
    return out


def microseconds(command: list[str], folder: Path) -> dict[str, float]:
    """Run the guest once, and return its times."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = (line.rpartition(" ") for line in done.stdout.splitlines())
    return {name: int(nanoseconds) / 1000 for name, _, nanoseconds in lines}


def empty_call() -> float:
    """Microseconds from WebAssembly into a Python function that does nothing, and back.

    The machine's own share of the figures above. The least that reads parameters, does the work
    and writes a result, without any check, is `least.microseconds`.
    """
    engine = Engine()
    module = Module.compile(engine, wat2wasm(_EMPTY))
    instance = Instance(engine, module, memory=1 << 16, table_elements=1)
    instance.define("host", "nothing", "III", "I", lambda _environment, _caller, _values: 0)
    instance.link()
    times = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        instance.call("_start")
        times.append((time.perf_counter() - start) / _EMPTY_CALLS * 1e6)
    instance.close()
    module.close()
    engine.close()
    return statistics.median(times)


def main() -> int:
    """Measure, print a table, and return 1 if a goal is missed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        guest = str(compiled(_SOURCE, folder))
        (folder / "tmp").mkdir()
        mapped = ["--dir", f"{folder}/tmp::/tmp", "--dir", "/dev::/dev"]  # noqa: S108  (the guest's)
        ours = [str(Path(sys.executable).parent / "garrison"), "run", guest, "200000"]
        theirs = [str(native_wasmtime(folder)), "run", *mapped, guest, "20000"]
        least_of = Path(guest).read_bytes()
        found = [
            (
                microseconds(ours, folder),
                microseconds(theirs, folder),
                least.microseconds(least_of, [guest, "200000"]),
            )
            for _ in range(_RUNS)
        ]
    print("| call | garrison µs | wasmtime µs | ratio | the least in Python µs | ratio | goal µs |")
    print("|---|---|---|---|---|---|---|")
    missed = False
    for call, goal in GOALS.items():
        mine, peer, floor = (statistics.median(run[who][call] for run in found) for who in range(3))
        missed = missed or mine > goal
        print(
            f"| {call} | {mine:.2f} | {peer:.2f} | {mine / peer:.2f} | {floor:.2f}"
            f" | {mine / floor:.2f} | {goal} |"
        )
    print(f"| an empty function of Python's | | | | {empty_call():.2f} | | |")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

"""The time of a call from the guest into its host, beside the same guest in wasmtime.

python bench/hostcalls.py

The goals are what a prototype was measured to take, on a machine of which is known what wasmtime's
library of today, in the same process, took there: `THEN`. The same is measured here, and a goal is
as much larger as that call takes longer; of calls that cannot be compared, by the smaller factor.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import least
import wasmtime
from start import native_wasmtime

from garrison.keep.engine.library import wat2wasm
from garrison.keep.engine.runtime import Engine, Instance, Module

# Microseconds that a call took the prototype.
GOALS = {
    "clock_time_get": 0.53,
    "random_get 32 B": 1.24,
    "fd_write 100 B to /dev/null": 0.83,
    "open, read 1 KiB, close in /tmp": 4.0,
}
# What wasmtime's own took beside it. The other two calls are none to compare by: they go to the
# host's files, through threads, and differ by three times between runs.
THEN = {"clock_time_get": 0.09, "random_get 32 B": 0.15}
# The least of so many counts, for each column: a machine that others use for a moment is no slower.
_RUNS = 7
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


def library(guest: Path, folder: Path) -> dict[str, float]:
    """Run the guest once on the WASI of wasmtime's library, as `microseconds` does."""
    config, output = wasmtime.WasiConfig(), folder / "library"
    config.argv = [str(guest), "5000"]
    config.preopen_dir(str(folder / "tmp"), "/tmp")  # noqa: S108  (the guest's)
    config.preopen_dir("/dev", "/dev")
    config.stdout_file = str(output)
    engine = wasmtime.Engine()
    store, linker = wasmtime.Store(engine), wasmtime.Linker(engine)
    store.set_wasi(config)
    linker.define_wasi()
    instance = linker.instantiate(store, wasmtime.Module.from_file(engine, str(guest)))
    start = instance.exports(store)["_start"]
    assert isinstance(start, wasmtime.Func)
    start(store)
    return _read(output.read_text())


def _read(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines())
    return {name: int(nanoseconds) / 1000 for name, _, nanoseconds in lines}


def microseconds(command: list[str], folder: Path) -> dict[str, float]:
    """Run the guest once, and return its times."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return _read(done.stdout)


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
    return min(times)


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
                library(Path(guest), folder),
            )
            for _ in range(_RUNS)
        ]
    slower = {call: min(run[3][call] for run in found) / then for call, then in THEN.items()}
    least_slower = min(slower.values())
    print(
        "| call | garrison µs | wasmtime µs | ratio | the least in Python µs | ratio"
        " | prototype µs | goal µs |"
    )
    print("|---|---|---|---|---|---|---|---|")
    missed = False
    for call, goal in GOALS.items():
        mine, peer, floor = (min(run[who][call] for run in found) for who in range(3))
        here = goal * slower.get(call, least_slower)
        missed = missed or mine > here
        print(
            f"| {call} | {mine:.2f} | {peer:.2f} | {mine / peer:.2f} | {floor:.2f}"
            f" | {mine / floor:.2f} | {goal} | {here:.2f} |"
        )
    print(f"| an empty function of Python's | | | | {empty_call():.2f} | | | |")
    factors = " and ".join(f"{factor:.2f}" for factor in slower.values())
    print(f"\nThe first two of the library's own take {factors} times what they took beside it.")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

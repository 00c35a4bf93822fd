"""The time of a call from the guest into its host, beside the same guest in wasmtime.

python bench/hostcalls.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from start import native_wasmtime

# Microseconds that a call may take: what a prototype was measured to take.
GOALS = {
    "clock_time_get": 0.53,
    "random_get 32 B": 1.24,
    "fd_write 100 B to /dev/null": 0.83,
    "open, read 1 KiB, close in /tmp": 4.0,
}
_RUNS = 5
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


def main() -> int:
    """Measure, print a table, and return 1 if a goal is missed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        guest = str(compiled(_SOURCE, folder))
        (folder / "tmp").mkdir()
        mapped = ["--dir", f"{folder}/tmp::/tmp", "--dir", "/dev::/dev"]  # noqa: S108  (the guest's)
        ours = [str(Path(sys.executable).parent / "garrison"), "run", guest, "200000"]
        theirs = [str(native_wasmtime(folder)), "run", *mapped, guest, "20000"]
        found = [(microseconds(ours, folder), microseconds(theirs, folder)) for _ in range(_RUNS)]
    print("| call | garrison µs | wasmtime µs | ratio | goal µs |\n|---|---|---|---|---|")
    missed = False
    for call, goal in GOALS.items():
        mine = statistics.median(run[call] for run, _ in found)
        peer = statistics.median(run[call] for _, run in found)
        missed = missed or mine > goal
        print(f"| {call} | {mine:.2f} | {peer:.2f} | {mine / peer:.2f} | {goal} |")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

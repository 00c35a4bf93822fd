"""How long a large module takes to start, cold and warm, beside `wasmtime run`: Ruby's 16.7 MB.

Its package comes from npm, and is left out where that cannot be had. It imports functions of
JavaScript, so that both refuse it in the end; but only after they have compiled it, or found it
compiled, and that is what is measured here. Cold is with an empty cache; warm the median.

    python bench/large.py [RUNS]
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from start import native_wasmtime

_PACKAGE = "@ruby/3.4-wasm-wasi@2.10.1"
_MEMBER = "package/dist/ruby.wasm"
# The most that a warm start may take, as a multiple of wasmtime's; both compile with the same.
GOAL = 3.0


def ruby(folder: Path) -> Path | None:
    """Get the module; None if that cannot be."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    done = subprocess.run(
        [npm, "pack", "--silent", _PACKAGE], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return None
    module = folder / "ruby.wasm"
    with tarfile.open(folder / done.stdout.strip()) as archive:
        member = archive.extractfile(_MEMBER)
        if member is None:
            return None
        with member, module.open("wb") as file:
            shutil.copyfileobj(member, file)
    return module


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """Run `command` once, which ends with a refusal, and say how long that took."""
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    took = time.perf_counter() - start
    if done.returncode == 0 or "rb-js-abi-host" not in done.stderr:
        sys.exit(f"error: expected a refusal of rb-js-abi-host, got {done.stderr[:200]}")
    return took


def main() -> int:
    """Measure, print a table, and return 1 if the goal is missed."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        module = ruby(folder)
        if module is None:
            print(f"left out: {_PACKAGE} cannot be had from npm here")
            return 0
        environment = {"PATH": os.environ["PATH"], "HOME": name}
        commands = {
            "wasmtime run": [str(native_wasmtime(folder)), "run", "-C", "cache=y", str(module)],
            "garrison run": [str(Path(sys.executable).parent / "garrison"), "run", str(module)],
        }
        cold = {label: seconds(command, environment) for label, command in commands.items()}
        warm: dict[str, list[float]] = {label: [] for label in commands}
        for _ in range(runs):
            for label, command in commands.items():
                warm[label].append(seconds(command, environment))
    medians = {label: statistics.median(found) for label, found in warm.items()}
    print("| Ruby, 16.7 MB | cold, s | warm, ms |")
    print("|---|---|---|")
    for label in commands:
        print(f"| {label} | {cold[label]:.1f} | {medians[label] * 1000:.0f} |")
    ratio = medians["garrison run"] / medians["wasmtime run"]
    print(f"| ratio | {cold['garrison run'] / cold['wasmtime run']:.2f} | {ratio:.2f} |")
    return int(ratio > GOAL)


if __name__ == "__main__":
    sys.exit(main())

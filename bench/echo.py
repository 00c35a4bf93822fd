"""An echo over TLS 1.3: a keep, and what else one would run.

The load comes from one thread in C with OpenSSL, on the same machine; `native C` shows how much
of it the rest could bear. Connections are kept; no client certificate; AES-256-GCM throughout.

    python bench/echo.py [SECONDS]     of each turn
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import peers

from garrison.testing.stack import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

# Messages of so many bytes, over so many connections.
CELLS = ((64, 1), (64, 64), (16384, 1), (16384, 64), (65536, 4))
PAIRS = ("wasmtime and nginx", "wasmtime and stunnel")
PAIR_GOAL, UVLOOP_GOAL = 1.5, 0.85
# Short ones, and many, so that a busy moment of the machine meets all, and few of them.
_TURNS = 11


def main() -> int:
    """Measure, print a table, and return 1 if a goal is missed."""
    seconds = sys.argv[1] if len(sys.argv) > 1 else "0.2"
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as running:
        folder = Path(name)
        try:
            load = peers.native("load", folder)
        except peers.MissingPeerError as missing:
            print(f"left out: the load: {missing}")
            return 0
        guest = peers.compiled(peers.PROGRAMS / "echo.c", folder)
        identity = peers.certificate(folder)
        made = running.enter_context(peers.stack(folder))

        def keep() -> int:
            port = free_port()
            running.enter_context(
                peers.running(peers.keep_command(made, guest, port, folder), port)
            )
            return port

        def native() -> int:
            port = free_port()
            program = str(peers.native("native", folder))
            running.enter_context(peers.running([program, str(port), *identity], port))
            return port

        def uvloop() -> int:
            port = free_port()
            script = str(peers.PROGRAMS / "uvloop_echo.py")
            command = [sys.executable, script, str(port), *identity]
            running.enter_context(peers.running(command, port))
            return port

        def pair(terminator: str) -> Callable[[], int]:
            return lambda: running.enter_context(peers.behind(terminator, guest, folder, identity))

        # Those that are compared most narrowly are measured one after the other.
        starters = {
            PAIRS[0]: pair("nginx"),
            PAIRS[1]: pair("stunnel4"),
            "native C": native,
            "uvloop": uvloop,
            "garrison": keep,
        }
        ports: dict[str, int] = {}
        left_out = []
        for label, start in starters.items():
            try:
                ports[label] = start()
            except peers.MissingPeerError as missing:
                left_out.append(f"left out: {label}: {missing}")
        found: dict[tuple[str, int, int], list[float]] = {}
        for size, connections in CELLS:
            with contextlib.ExitStack() as loads:
                shape = [str(connections), str(size), seconds, "again"]
                waiting = {
                    label: loads.enter_context(
                        subprocess.Popen(
                            [str(load), str(port), *shape],
                            stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE,
                            text=True,
                        )
                    )
                    for label, port in ports.items()
                }
                for _ in range(_TURNS):
                    for label, process in waiting.items():
                        found.setdefault((label, size, connections), []).append(turn(process))
    code = report(found, list(ports))
    print(*(f"\n{line}" for line in left_out), sep="\n")
    return code


def turn(load: subprocess.Popen[str]) -> float:
    """How many messages came back in a second of one turn; 0 if the load has failed."""
    assert load.stdin is not None
    assert load.stdout is not None
    try:
        load.stdin.write("\n")
        load.stdin.flush()
    except BrokenPipeError:
        return 0.0
    return float(load.stdout.readline() or 0)


def report(found: dict[tuple[str, int, int], list[float]], labels: list[str]) -> int:
    """Print the medians of the turns, rates and ratios, and return 1 if a goal is missed."""
    columns = [*labels, "to the best pair", "to uvloop"]
    print("| message, connections | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    missed = False
    for size, connections in CELLS:
        cells = []
        for label in labels:
            value = statistics.median(found[label, size, connections])
            text = f"{value:,.0f}/s" if size < 1024 else f"{value * size / 1e6:,.0f} MB/s"
            cells.append(text if value else "failed")
        ours = found["garrison", size, connections]
        pair_goal = PAIR_GOAL if size < 65536 else 1.0
        for others, goal in ((PAIRS, pair_goal), (("uvloop",), UVLOOP_GOAL)):
            ratios = [
                statistics.median(
                    mine / its
                    for mine, its in zip(ours, found[other, size, connections], strict=True)
                    if its
                )
                for other in others
                if any(found.get((other, size, connections), ()))
            ]
            cells.append(f"{min(ratios):.2f}" if ratios else "?")
            missed = missed or min(ratios, default=goal) < goal
        print(f"| {size} B, {connections} | " + " | ".join(cells) + " |")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

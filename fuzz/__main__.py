"""Fuzz the parsers, one after the other: `make fuzz SECONDS=60`, or:

    python fuzz [--seconds N] [--runs N] [--corpus DIR] [TARGET...]

Each target has a process of its own, niced, with bounds on memory and on the time of one input.
The corpus begins with what the simulators make and with `corpus.tar.xz`, and goes on growing in DIR
(by default `.fuzz/corpus`), of which `python fuzz/corpus.py DIR` has that file hold what is there.
What fails is written beside it as `TARGET-crash-...`, and ends this with 1. A line for each target
tells how often it was run.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import atheris

# Before anything of ours is imported: what is instrumented tells where inputs lead.
with atheris.instrument_imports(include=["garrison"]):
    from targets import TARGETS

from corpus import kept

if TYPE_CHECKING:
    from targets import Target

_CORPUS = Path(__file__).parents[1] / ".fuzz" / "corpus"
_MAX_LENGTH = 32 * 1024
_MEMORY_MEGABYTES = 1500
# For one input, instrumented and on a loaded machine.
_INPUT_SECONDS = 20
_DONE = re.compile(rb"stat::number_of_executed_units: (\d+)")


def run(name: str, target: Target, asked: argparse.Namespace) -> tuple[int, int]:
    """Fuzz `name` in a process of its own: its exit code, and how often it ran."""
    corpus: Path = asked.corpus / name
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        begin = {"seed": target.seeds(), "kept": kept().get(name, ())}
        for kind, inputs in begin.items():
            for number, data in enumerate(inputs):
                (corpus / f"{kind}-{number}").write_bytes(data)
    said = asked.corpus / f"{name}.log"
    pid = os.fork()
    if pid == 0:
        with said.open("wb") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        options = [
            f"-max_total_time={asked.seconds}",
            f"-runs={asked.runs}",
            f"-max_len={_MAX_LENGTH}",
            f"-rss_limit_mb={_MEMORY_MEGABYTES}",
            f"-timeout={_INPUT_SECONDS}",
            f"-artifact_prefix={asked.corpus}/{name}-",
            "-print_final_stats=1",
            str(corpus),
        ]
        atheris.Setup([sys.argv[0], *options], target.check)
        # It ends the process.
        atheris.Fuzz()
    _, status = os.waitpid(pid, 0)
    found = _DONE.findall(said.read_bytes())
    return os.waitstatus_to_exitcode(status), int(found[-1]) if found else 0


def main() -> int:
    """Fuzz what is asked for; 1 if anything failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=60, help="for each target, at most")
    parser.add_argument("--runs", type=int, default=1_000_000, help="of each target, at most")
    parser.add_argument("--corpus", type=Path, default=_CORPUS)
    parser.add_argument("targets", nargs="*")
    asked = parser.parse_args()
    unknown = sorted(set(asked.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    os.nice(10)
    failed = []
    for name in asked.targets or TARGETS:
        code, runs = run(name, TARGETS[name], asked)
        print(f"{name:24} {runs:>9,} runs{'' if code == 0 else f'  FAILED ({code})'}", flush=True)
        if code:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}: see the logs in {asked.corpus}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

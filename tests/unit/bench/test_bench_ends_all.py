"""`python bench` leaves nothing running: not of a script that takes too long, nor at Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

BENCH = Path(__file__).parents[3] / "bench" / "__main__.py"
_SECONDS = 60.0
# A service that has a session of its own and ends at no signal that can be left to it; the script
# that started it. Both hold the pipe, which thus ends when both have.
_SERVICE = """
import os, signal, sys, time
for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(each, signal.SIG_IGN)
os.write(int(sys.argv[1]), b"up")
time.sleep(200)
"""
_SCRIPT = f"""
import os, subprocess, sys, time
pipe = os.open({{pipe!r}}, os.O_WRONLY)
subprocess.Popen(
    [sys.executable, "-c", {_SERVICE!r}, str(pipe)], start_new_session=True, pass_fds=(pipe,)
)
{{then}}
"""
_WAIT = "time.sleep(600)"
_STUBBORN = f"""
while True:
    try:
        {_WAIT}
    except KeyboardInterrupt:
        pass
"""
# The program, with less time for a script.
_PROGRAM = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("bench", sys.argv.pop(1))
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
bench._TIMEOUT_SECONDS, bench._GRACE_SECONDS = float(sys.argv.pop(1)), 1
sys.exit(bench.main())
"""


class Pipe:
    """What the script and its service hold the other end of."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> bytes:
        """What is said next; nothing once all have ended that could say something."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._number, selectors.EVENT_READ)
            assert selector.select(_SECONDS), "neither a word nor an end"
        return os.read(self._number, 100)

    def close(self) -> None:
        os.close(self._number)


@contextlib.contextmanager
def running(
    folder: Path, then: str, seconds: float = 600
) -> Iterator[tuple[subprocess.Popen[bytes], Pipe]]:
    """`python bench start`, whose script starts a service and goes on as `then` says."""
    folder.mkdir()
    program = Path(shutil.copy(BENCH, folder))
    pipe = Pipe(folder / "pipe")
    script = _SCRIPT.format(pipe=str(folder / "pipe"), then=textwrap.dedent(then))
    (folder / "start.py").write_text(script)
    (folder / "RESULTS.md").write_text(
        "# Measurements\n## Start of a hello world, whole process, warm cache\n\nnothing\n"
    )
    command = [sys.executable, "-c", _PROGRAM, str(program), str(seconds), "start"]
    with subprocess.Popen(command, start_new_session=True) as bench:
        try:
            yield bench, pipe
        finally:
            bench.kill()
            pipe.close()


def results(folder: Path) -> str:
    return (folder / "RESULTS.md").read_text()


@pytest.mark.parametrize("then", [_WAIT, _STUBBORN], ids=["interrupted", "killed"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_interrupted_it_ends_all(number: signal.Signals, then: str, tmp_path: Path) -> None:
    with running(tmp_path / "bench", then) as (bench, pipe):
        assert pipe.read() == b"up"
        bench.send_signal(number)
        assert pipe.read() == b""
        assert bench.wait(_SECONDS) != 0
    assert "nothing" in results(tmp_path / "bench")


def test_a_script_that_takes_too_long_ends_with_all_that_it_started(tmp_path: Path) -> None:
    # On a busy machine a service may take longer to come up than its script has time.
    for seconds in (2, 8, 32):
        folder = tmp_path / str(seconds)
        with running(folder, _WAIT, seconds) as (bench, pipe):
            was_up = pipe.read() == b"up"
            if was_up:
                assert pipe.read() == b""
            assert bench.wait(_SECONDS) == 0
        assert f"**Took over {seconds} s.**" in results(folder)
        if was_up:
            return
    pytest.fail("the service did not come up")


def test_a_script_that_ends_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "bench", "print('| a |')") as (bench, pipe):
        assert pipe.read() in (b"up", b"")
        assert bench.wait(_SECONDS) == 0
        deadline = time.monotonic() + _SECONDS
        while pipe.read():
            assert time.monotonic() < deadline
    assert "| a |" in results(tmp_path / "bench")

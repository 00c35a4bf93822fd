"""The demonstration itself, and what it leaves when it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"
pytestmark = [pytest.mark.xdist_group("demonstration")]


def _environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}


def _alive(tmp_path: Path) -> list[str]:
    """Processes whose environment or command line names the demonstration's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f"{tmp_path}/garrison-demo-".encode() in text and state != "Z":
                found.append(f"{entry.name}: {text[:200]!r}")
    return found


def test_two_demonstrations_at_once_pass_and_leave_nothing(tmp_path: Path) -> None:
    demos = [
        subprocess.Popen(
            [sys.executable, str(DEMO)],
            env=_environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    for demo in demos:
        output, _ = demo.communicate(timeout=300)
        assert demo.returncode == 0, output
        for step in range(1, 12):
            assert f"✔ {step}." in output
    assert _alive(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", ["✔ 1.", "✔ 3.", "✔ 5."])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_leaves_nothing(
    after: str, number: signal.Signals, tmp_path: Path
) -> None:
    demo = subprocess.Popen(
        [sys.executable, str(DEMO)],
        env=_environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith(after):
            break
    # As a terminal does it: to every process of the group.
    os.killpg(demo.pid, number)
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 130, errors
    assert "interrupted in step" in errors
    assert "Traceback" not in errors
    deadline = time.monotonic() + 60
    while (alive := _alive(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive == []
    assert list(tmp_path.iterdir()) == []

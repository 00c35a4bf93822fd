"""Files that commands write: whole, or not at all."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from garrison import disk
from garrison.cli import options

if TYPE_CHECKING:
    from pathlib import Path

# What is written must not be longer than this, as where a disk is full.
_LEAST = 4096
_PROGRAM = f"""
import resource, signal, sys
from pathlib import Path
from garrison.cli.options import write_new
from garrison.terminal import report

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({_LEAST}, {_LEAST}))
try:
    write_new(Path(sys.argv[1]), bytes({_LEAST} * 2))
except Exception as error:
    sys.exit(report(error))
"""


class _Interrupted(io.FileIO):
    """A file at which Ctrl-C comes half-way."""

    def write(self, data: Any, /) -> int:
        written = super().write(bytes(data)[:3])
        signal.raise_signal(signal.SIGINT)
        return written


def test_a_new_file_that_cannot_be_written_whole_is_not_there(tmp_path: Path) -> None:
    target = tmp_path / "keep.efi"
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(target)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_no_half_of_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "id-key.pem"
    monkeypatch.setattr(disk, "open", _Interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        options.write_new(target, b"secret", secret=True)
    assert not target.exists()
    monkeypatch.undo()
    options.write_new(target, b"secret", secret=True)
    assert target.stat().st_mode & 0o777 == 0o600

"""The short way of `garrison run` does what the long one does, and imports next to nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from garrison.formats.enarx_toml import Config
from garrison.keep import bare
from garrison.keep.net.network import Network
from garrison.keep.workload import descriptors

if TYPE_CHECKING:
    from pathlib import Path

# Each costs a start more than a millisecond.
_SLOW = {
    "__future__", "click", "contextlib", "ctypes", "dataclasses", "enum", "hashlib", "inspect",
    "json", "logging", "os", "pathlib", "re", "select", "signal", "site", "socket", "ssl", "struct",
    "subprocess", "tempfile", "threading", "typing", "wasmtime",
}  # fmt: skip

_SHOW = """
import posix, sys
sys.path += sys.argv[2:]
sys.argv = ["garrison", "run", sys.argv[1]]
# What site-packages preload (.pth files) is not ours.
before = set(sys.modules)
posix._exit = lambda code: None
import garrison.__main__
garrison.__main__.main()
print("loaded", *sorted(set(sys.modules) - before))
"""


def test_it_gives_what_an_empty_configuration_gives() -> None:
    config = Config.default()
    assert tuple(descriptors(config, Network(config, None, []))) == bare.STREAMS
    assert config.environment() == bare.ENV


def test_it_imports_next_to_nothing(
    probe: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w+") as out:
        # As tools/launcher.py starts it.
        command = [sys.executable, "-IS", "-c", _SHOW, str(probe), *filter(None, sys.path)]
        subprocess.run(command, env=environment, stdout=out, check=True)
        out.seek(0)
        lines = out.read().splitlines()
    assert lines[0] == "hello"
    assert "garrison.keep.execute" in lines[1]
    assert not _SLOW & set(lines[1].split())
    assert len(lines[1].split()) < 40

"""A guest built from C, and ways to run it: in a process of its own, and in this one."""

from __future__ import annotations

import os
import posix
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from garrison.formats.limits import Limits
from garrison.keep.execute import execute

_GUESTS = Path(__file__).parents[2] / "guests"


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ziglang", reason="builds the guest")
    out = tmp_path_factory.mktemp("guests") / "probe.wasm"
    source = _GUESTS / "probe.c"
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", source, "-o", out],
        check=True,
        capture_output=True,
    )
    return out


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a command is run with: a cache of its own, and no options by variables."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GARRISON_", "ENARX_"))}
    return {**kept, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


class Guest:
    """Runs the probe inside this process; standard output comes by a pipe."""

    def __init__(self, wasm: bytes, capfd: pytest.CaptureFixture[str]) -> None:
        self._wasm = wasm
        self._capfd = capfd

    def run(self, *args: str, code: int = 0, **given: Any) -> list[str]:
        limits = given.pop("limits", Limits())
        files = given.pop("files", {"main.wasm": self._wasm})
        found = execute(
            given.pop("wasm", self._wasm),
            args=["main.wasm", *args],
            env=given.pop("env", {}),
            descriptors=[("", None), ("", 1), ("", 2), *given.pop("preopened", ())],
            files=files,
            network=given.pop("network", None),
            limits=limits,
            cached=True,
        )
        assert not given
        lines = self._capfd.readouterr().out.splitlines()
        assert found == code, lines
        return lines


@pytest.fixture
def guest(
    probe: Path,
    environment: dict[str, str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Guest:
    monkeypatch.setitem(posix.environ, b"XDG_CACHE_HOME", environment["XDG_CACHE_HOME"].encode())
    return Guest(probe.read_bytes(), capfd)

"""Runs components inside this process; what they print comes by a pipe."""

from __future__ import annotations

import posix
from typing import Any

import pytest

from garrison.formats.limits import Limits
from garrison.keep.execute import execute


class Runner:
    """Runs a component."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def run(self, wasm: bytes, *args: str, **given: Any) -> tuple[int, str]:
        """Its exit code, and what it printed."""
        code = execute(
            wasm,
            args=["main.wasm", *args],
            env=given.pop("env", {}),
            descriptors=given.pop("descriptors", [("", None), ("", 1), ("", 2)]),
            files=given.pop("files", {}),
            network=given.pop("network", None),
            limits=given.pop("limits", Limits()),
            directories=given.pop("directories", None),
            cached=given.pop("cached", True),
        )
        assert not given
        return code, self._capfd.readouterr().out


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return str(tmp_path_factory.mktemp("cache")).encode()


@pytest.fixture
def runner(
    cache: bytes, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Runner:
    monkeypatch.setitem(posix.environ, b"XDG_CACHE_HOME", cache)
    return Runner(capfd)

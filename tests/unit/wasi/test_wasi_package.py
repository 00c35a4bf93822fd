"""`garrison run` of a package's directory, and of what is no module."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_CONFIG = 'args = ["cat", "/pkg/data/{name}"]\n[stdout]\nkind = "host"\n'


@pytest.fixture
def package(probe: Path, tmp_path: Path) -> Path:
    path = tmp_path / "package"
    (path / "data").mkdir(parents=True)
    (path / "main.wasm").write_bytes(probe.read_bytes())
    (path / "Enarx.toml").write_text(_CONFIG.format(name="one"))
    for name in ("one", "two"):
        (path / "data" / name).write_text(name)
    return path


def _run(
    environment: dict[str, str], *arguments: str | Path, stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "garrison", "run", *map(str, arguments)],
        env=environment,
        input=stdin.decode("latin-1"),
        encoding="latin-1",
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_the_files_of_a_package_are_the_workload_s(
    package: Path, environment: dict[str, str]
) -> None:
    done = _run(environment, package)
    assert (done.returncode, done.stdout) == (0, "one"), done.stderr


def test_another_configuration_takes_the_place_of_the_package_s(
    package: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(_CONFIG.format(name="two"))
    done = _run(environment, "--wasmcfgfile", other, package)
    assert (done.returncode, done.stdout) == (0, "two"), done.stderr


def test_a_directory_without_a_module_is_no_package(
    package: Path, environment: dict[str, str]
) -> None:
    (package / "main.wasm").unlink()
    done = _run(environment, package)
    assert done.returncode == 65
    assert done.stderr.startswith(f"error: {package}/main.wasm: no such file")


def test_a_module_comes_through_a_pipe_too(probe: Path, environment: dict[str, str]) -> None:
    done = _run(environment, "/dev/stdin", stdin=probe.read_bytes())
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


def test_what_never_ends_is_not_read_to_its_end(environment: dict[str, str]) -> None:
    done = _run(environment, "/dev/zero")
    assert done.returncode == 65
    assert "too large" in done.stderr


def test_text_is_to_be_made_binary(environment: dict[str, str], tmp_path: Path) -> None:
    text = tmp_path / "program.wat"
    text.write_text('(module (func (export "_start")))')
    done = _run(environment, text)
    assert done.returncode == 65
    assert "hint: make its binary form" in done.stderr

"""The module cache runs nothing but what this user wrote, and never stands in the way."""

from __future__ import annotations

import os
import posix
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from garrison.errors import Malformed
from garrison.keep.engine import cache
from garrison.keep.engine.library import wat2wasm
from garrison.keep.engine.runtime import Engine, Module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ONE = wat2wasm('(module (func (export "_start")))')
OTHER = wat2wasm('(module (func (export "_start") unreachable))')


class Watch:
    """Counts what is compiled."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self._engine = engine
        self.compiled = 0
        compile_it = Module.compile

        def counted(engine: Engine, wasm: bytes) -> Module:
            self.compiled += 1
            return compile_it(engine, wasm)

        monkeypatch.setattr(Module, "compile", counted)

    def get(self, wasm: bytes = ONE) -> bytes:
        module = cache.compiled_module(self._engine, wasm)
        code = module.compiled()
        module.close()
        return code


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    monkeypatch.setitem(posix.environ, b"XDG_CACHE_HOME", bytes(tmp_path))
    engine = Engine()
    yield Watch(engine, monkeypatch)
    engine.close()


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    return tmp_path / "garrison" / "modules"


def _entry(modules: Path) -> Path:
    [found] = [path for path in modules.iterdir() if path.name != "key"]
    return found


def test_the_second_time_nothing_is_compiled(watch: Watch, modules: Path) -> None:
    first = watch.get()
    assert watch.get() == first
    assert watch.compiled == 1
    assert modules.stat().st_mode & 0o777 == 0o700
    for path in modules.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_other_modules_have_other_entries(watch: Watch, modules: Path) -> None:
    assert watch.get(ONE) != watch.get(OTHER)
    assert len(list(modules.iterdir())) == 3


def _flip(position: int) -> Callable[[Path, Path], None]:
    def attack(entry: Path, _other: Path) -> None:
        data = bytearray(entry.read_bytes())
        data[position] ^= 1
        entry.write_bytes(data)

    return attack


def _swap(entry: Path, other: Path) -> None:
    shutil.copy(other, entry)


def _link(entry: Path, other: Path) -> None:
    entry.unlink()
    entry.hardlink_to(other)


def _symlink(entry: Path, _other: Path) -> None:
    moved = entry.rename(entry.parent.parent / "elsewhere")
    entry.symlink_to(moved)


def _truncate(entry: Path, _other: Path) -> None:
    os.truncate(entry, entry.stat().st_size - 1)


def _extend(entry: Path, _other: Path) -> None:
    with entry.open("ab") as file:
        file.write(b"\0")


def _empty(entry: Path, _other: Path) -> None:
    entry.write_bytes(b"")


def _readable(entry: Path, _other: Path) -> None:
    entry.chmod(0o644)


def _pipe(entry: Path, _other: Path) -> None:
    entry.unlink()
    os.mkfifo(entry, 0o600)


@pytest.mark.parametrize(
    "attack",
    [
        _flip(0),
        _flip(31),
        _flip(32),
        _flip(1000),
        _flip(-1),
        _swap,
        _link,
        _symlink,
        _truncate,
        _extend,
        _empty,
        _readable,
        _pipe,
    ],
)
def test_an_entry_that_is_not_as_written_is_made_again(
    attack: Callable[[Path, Path], None], watch: Watch, modules: Path
) -> None:
    expected = watch.get(ONE)
    entry = _entry(modules)
    watch.get(OTHER)
    [other] = [path for path in modules.iterdir() if path not in {entry, modules / "key"}]
    attack(entry, other)
    assert watch.get(ONE) == expected
    assert watch.compiled == 3
    # And it is whole again.
    assert watch.get(ONE) == expected
    assert watch.compiled == 3
    assert not entry.is_symlink()
    assert entry.stat().st_nlink == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_an_entry_of_another_owner_is_made_again(watch: Watch, modules: Path) -> None:
    watch.get()
    os.chown(_entry(modules), 65534, 65534)
    watch.get()
    assert watch.compiled == 2
    assert _entry(modules).stat().st_uid == 0


def test_an_entry_under_another_key_is_made_again(watch: Watch, modules: Path) -> None:
    watch.get()
    (modules / "key").write_bytes(bytes(32))
    watch.get()
    assert watch.compiled == 2


def _not_used(watch: Watch, capsys: pytest.CaptureFixture[str], why: str) -> None:
    watch.get()
    watch.get()
    assert watch.compiled == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # one for each time
    assert lines[0].startswith("warning: the module cache is not used: ")
    assert why in lines[0]


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o722])
@pytest.mark.parametrize("name", ["garrison", "garrison/modules"])
def test_a_directory_that_others_can_write_is_not_used(
    name: str, mode: int, watch: Watch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "garrison" / "modules").mkdir(parents=True, mode=0o700)
    (tmp_path / "garrison").chmod(0o700)
    (tmp_path / name).chmod(mode)
    _not_used(watch, capsys, f"mode {mode:o}")


@pytest.mark.parametrize("name", ["garrison", "modules"])
def test_a_symbolic_link_for_a_directory_is_not_followed(
    name: str, watch: Watch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    place = tmp_path if name == "garrison" else tmp_path / "garrison"
    place.mkdir(exist_ok=True)
    (place / name).symlink_to(tmp_path / "elsewhere")
    _not_used(watch, capsys, "Not a directory")


@pytest.mark.parametrize("key", [b"", bytes(31)])
def test_a_key_of_another_length_is_not_used(
    key: bytes, watch: Watch, modules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    modules.mkdir(parents=True)
    modules.parent.chmod(0o700)
    (modules / "key").write_bytes(key)
    (modules / "key").chmod(0o600)
    _not_used(watch, capsys, f"its key has {len(key)} bytes, expected 32")


def test_a_key_that_others_can_read_is_not_used(
    watch: Watch, modules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    modules.mkdir(parents=True)
    (modules / "key").write_bytes(bytes(32))
    (modules / "key").chmod(0o644)
    _not_used(watch, capsys, "its key is not ours alone")


def test_a_full_disk_is_done_without(
    watch: Watch,
    modules: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = os.write

    def full(descriptor: int, data: memoryview) -> int:
        if len(data) > 32:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    watch.get(OTHER)
    monkeypatch.setattr(posix, "write", full)
    watch.compiled = 0
    _not_used(watch, capsys, "No space left on device")
    # Nothing half written is left.
    assert len(list(modules.iterdir())) == 2


def test_no_home_is_done_without(
    watch: Watch, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(posix.environ, b"HOME", raising=False)
    monkeypatch.setitem(posix.environ, b"XDG_CACHE_HOME", b"relative")
    _not_used(watch, capsys, "neither XDG_CACHE_HOME nor HOME names a directory")


def test_home_is_used_where_nothing_else_is_named(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(posix.environ, b"XDG_CACHE_HOME")
    monkeypatch.setitem(posix.environ, b"HOME", bytes(tmp_path / "home"))
    watch.get()
    assert (tmp_path / "home" / ".cache" / "garrison" / "modules" / "key").exists()


def test_what_is_no_module_is_not_kept(watch: Watch, modules: Path) -> None:
    with pytest.raises(Malformed, match="not WebAssembly"):
        watch.get(b"\0as")
    assert [path.name for path in modules.iterdir()] == ["key"]


def test_many_writers_at_once_agree(tmp_path: Path) -> None:
    module = tmp_path / "one.wasm"
    module.write_bytes(ONE)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "garrison", "run", str(module)]
    started = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(8)]
    for process in started:
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said) == (0, b"")
    assert len(list((tmp_path / "cache" / "garrison" / "modules").iterdir())) == 2

"""What a hostile guest may try: wild pointers and numbers to every function, imports of nothing."""

from __future__ import annotations

import posix
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from garrison.errors import Malformed
from garrison.formats.limits import Limits
from garrison.keep.engine.failures import Trap
from garrison.keep.engine.library import wat2wasm
from garrison.keep.execute import execute
from garrison.keep.vfs import errno
from garrison.keep.wasi import abi

if TYPE_CHECKING:
    from pathlib import Path

_TYPES = {"I": "i32", "Q": "i64", "q": "i64"}
# What ends the guest is tried by itself.
_CALLED = sorted(set(abi.SIGNATURES) - {"proc_exit"})
_EDGE = 65536
_WILD = [0xFFFFFFFF, 0x80000000, _EDGE, _EDGE - 1, _EDGE - 3]

# They take no pointer, or write one byte only ("/"): with the root they can do no harm.
_WITHOUT_POINTER = {
    "fd_advise",
    "fd_allocate",
    "fd_datasync",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_prestat_dir_name",
    "fd_renumber",
    "fd_sync",
    "proc_raise",
    "sched_yield",
    "sock_shutdown",
}


def _import(name: str) -> str:
    parameters = " ".join(_TYPES[letter] for letter in abi.SIGNATURES[name])
    result = "" if name in abi.NO_RESULT else "(result i32)"
    return f'(import "{abi.MODULE}" "{name}" (func ${name} (param {parameters}) {result}))'


def _call(name: str, fd: int, wild: int) -> str:
    values = []
    for index, letter in enumerate(abi.SIGNATURES[name]):
        is_descriptor = index == 0 and name.startswith(("fd_", "path_", "sock_"))
        values.append(f"({_TYPES[letter]}.const {fd if is_descriptor else wild})")
    return f"(call ${name} {' '.join(values)})"


def _module(calls: list[str]) -> bytes:
    """A program that makes `calls`, and writes their errnos, a byte each, to standard output."""
    stores = "\n".join(
        f"(i32.store8 (i32.const {256 + index}) {call})" for index, call in enumerate(calls)
    )
    imports = "\n".join(_import(name) for name in sorted(abi.SIGNATURES))
    return wat2wasm(f"""(module {imports} (memory (export "memory") 1)
      (func (export "_start")
        {stores}
        (i32.store (i32.const 0) (i32.const 256)) (i32.store (i32.const 4)
          (i32.const {len(calls)}))
        (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))""")


def _run(wasm: bytes, tmp_path: Path, environment: dict[str, str]) -> bytes:
    path = tmp_path / "guest.wasm"
    path.write_bytes(wasm)
    found = subprocess.run(
        [sys.executable, "-m", "garrison", "run", str(path)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=environment,
        timeout=30,
        check=False,
    )
    assert found.returncode == 0, found
    assert found.stderr == b""
    return found.stdout


@pytest.mark.parametrize("wild", _WILD)
@pytest.mark.parametrize("fd", [0, 3, 99, 0xFFFFFFFF])
def test_wild_values_to_every_function_give_an_errno(
    fd: int, wild: int, tmp_path: Path, environment: dict[str, str]
) -> None:
    names = [name for name in _CALLED if name != "fd_close"]
    numbers = _run(_module([_call(name, fd, wild) for name in names]), tmp_path, environment)
    assert len(numbers) == len(names)
    failed = dict(zip(names, numbers, strict=True))
    succeeded = {name for name, number in failed.items() if number == 0}
    # Three bytes before the end there is room for nothing that any function writes.
    assert succeeded <= _WITHOUT_POINTER
    for name in ("args_sizes_get", "clock_time_get", "fd_fdstat_get", "environ_get", "random_get"):
        if name not in {"environ_get", "random_get"} or wild > _EDGE:
            assert failed[name] in {errno.FAULT, errno.BADF}, name


def test_vectors_that_point_outside_are_refused(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    def write(address: int, size: int, count: int = 1) -> str:
        return f"""(block (result i32)
          (i32.store (i32.const 16) (i32.const {address}))
          (i32.store (i32.const 20) (i32.const {size}))
          (call $fd_write (i32.const 2) (i32.const 16) (i32.const {count}) (i32.const 8)))"""

    calls = [
        write(0, _EDGE + 1),
        write(_EDGE, 1),
        write(0xFFFFFFFF, 0xFFFFFFFF),
        write(0, 0, count=0xFFFFFFFF),
        write(0, 0, count=1025),
        write(0, 0, count=20),
        write(_EDGE, 0),
    ]
    fault, invalid = errno.FAULT, errno.INVAL
    numbers = _run(_module(calls), tmp_path, environment)
    # The memory that the 20 vectors lie in holds zeros.
    assert list(numbers) == [fault, fault, fault, invalid, invalid, 0, 0]


def test_without_a_memory_every_pointer_is_wild(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    wasm = wat2wasm(f"""(module {_import("args_sizes_get")} {_import("proc_exit")}
      (func (export "_start") (call $proc_exit
        (i32.ne (i32.const {errno.FAULT})
          (call $args_sizes_get (i32.const 0) (i32.const 4))))))""")
    assert _run(wasm, tmp_path, environment) == b""


def _execute(text: str, **limits: int) -> int:
    return execute(
        wat2wasm(text),
        args=["main.wasm"],
        env={},
        descriptors=[("", None)] * 3,
        files={},
        network=None,
        limits=Limits(**limits),
    )


@pytest.fixture(autouse=True)
def _cache(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(posix.environ, b"XDG_CACHE_HOME", environment["XDG_CACHE_HOME"].encode())


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('(import "env" "system" (func))', "env system"),
        (f'(import "{abi.MODULE}" "fd_ioctl" (func))', f"{abi.MODULE} fd_ioctl"),
        (f'(import "{abi.MODULE}" "fd_read" (memory 1))', f"{abi.MODULE} fd_read"),
        ('(import "wasi_unstable" "fd_write" (func))', "wasi_unstable fd_write"),
    ],
)
def test_an_import_that_no_keep_has_is_named(line: str, named: str) -> None:
    with pytest.raises(Malformed, match="imports what no keep has") as caught:
        _execute(f'(module {line} (func (export "_start")))')
    assert caught.value.found == named


def test_an_import_of_another_type_is_refused() -> None:
    with pytest.raises(Malformed, match="does not fit its host"):
        _execute(f'(module (import "{abi.MODULE}" "fd_read" (func)) (func (export "_start")))')


@pytest.mark.parametrize(
    "body",
    [
        '(func (export "start"))',
        '(memory (export "_start") 1)',
        '(func (export "_start") (param i32))',
        '(func (export "_start") (result i64) (i64.const 1))',
    ],
)
def test_what_is_no_program_is_refused(body: str) -> None:
    with pytest.raises(Malformed, match="not a program"):
        _execute(f"(module {body})")


def test_an_exit_in_the_module_s_own_start_counts() -> None:
    assert (
        _execute(f"""(module {_import("proc_exit")} (start $s) (func (export "_start"))
          (func $s (call $proc_exit (i32.const 5))))""")
        == 5
    )


def test_a_trap_in_the_module_s_own_start_is_told() -> None:
    with pytest.raises(Trap, match="unreachable"):
        _execute('(module (start $s) (func $s unreachable) (func (export "_start")))')


def test_descriptors_end_at_the_limit() -> None:
    # Opens "." below the root again and again; exits with the errno that ends it.
    opened = (
        "(call $path_open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0)"
    )
    code = _execute(
        f"""(module {_import("path_open")} {_import("proc_exit")}
          (memory (export "memory") 1) (data (i32.const 0) ".")
          (func (export "_start") (local $e i32)
            (loop $again
              (local.set $e {opened} (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 8)))
              (br_if $again (i32.eqz (local.get $e))))
            (call $proc_exit (local.get $e))))""",
        descriptors=50,
    )
    assert code == errno.MFILE


def test_calls_from_many_depths_of_the_stack_work() -> None:
    code = _execute(f"""(module {_import("sched_yield")} {_import("proc_exit")}
      (func $down (param $n i32)
        (drop (call $sched_yield))
        (if (local.get $n) (then (call $down (i32.sub (local.get $n) (i32.const 1))))))
      (func (export "_start") (call $down (i32.const 500)) (call $proc_exit (i32.const 3))))""")
    assert code == 3


def test_without_being_asked_nothing_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(posix.environ, b"XDG_CACHE_HOME", bytes(tmp_path))
    assert _execute('(module (func (export "_start")))') == 0
    assert list(tmp_path.iterdir()) == []

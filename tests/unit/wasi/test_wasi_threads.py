"""A module that wants threads gets an error that says so, and does not run (ADR 0014).

One that has atomic instructions only does run: compilers write them where no thread is.
"""

from __future__ import annotations

import pytest

from garrison.errors import Malformed
from garrison.keep.engine.failures import Trap
from garrison.keep.engine.library import wat2wasm
from garrison.keep.execute import execute

_SPAWN = '(import "wasi" "thread-spawn" (func (param i32) (result i32)))'
# It would trap, were it run.
_START = '(func (export "_start") unreachable)'


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        pytest.param(f'{_SPAWN} (memory (export "memory") 1)', "wasi thread-spawn", id="spawn"),
        pytest.param(
            '(import "env" "memory" (memory 1 2 shared))', "env memory", id="imported-memory"
        ),
        pytest.param('(memory (export "memory") 1 2 shared)', "a shared memory", id="own-memory"),
    ],
)
def test_a_module_for_threads_is_refused(parts: str, said: str) -> None:
    wasm = wat2wasm(f"(module {parts} {_START})")
    with pytest.raises(Malformed, match=said) as caught:
        execute(wasm, args=["main.wasm"], env={}, descriptors=[], files={}, network=None)
    assert "threads" in (caught.value.hint or "")


def _run(body: str) -> int:
    wasm = wat2wasm(f'(module (memory (export "memory") 1) (func (export "_start") {body}))')
    return execute(wasm, args=["main.wasm"], env={}, descriptors=[], files={}, network=None)


def test_atomic_instructions_are_as_others() -> None:
    # What it adds up is found there, or it traps.
    add = "(drop (i32.atomic.rmw.add (i32.const 4) (i32.const 3)))"
    found = "(if (i32.ne (i32.load (i32.const 4)) (i32.const 6)) (then unreachable))"
    wake = "(if (memory.atomic.notify (i32.const 4) (i32.const 1)) (then unreachable))"
    assert _run(f"atomic.fence {add} {add} {wake} {found}") == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("(i32.atomic.rmw.add (i32.const 2) (i32.const 1))", "unaligned atomic"),
        ("(i32.atomic.rmw.add (i32.const 65536) (i32.const 1))", "out of bounds"),
        # Nobody could wake it.
        ("(memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1))", "atomic wait"),
    ],
)
def test_what_atomic_instructions_cannot_do_is_a_trap(body: str, said: str) -> None:
    with pytest.raises(Trap, match=said):
        _run(f"(drop {body})")

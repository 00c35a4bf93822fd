"""A module that wants threads gets an error that says so, and does not run (ADR 0014)."""

from __future__ import annotations

import pytest

from garrison.errors import Malformed
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
            '(import "env" "memory" (memory 1 2 shared))', "shared memories", id="imported-memory"
        ),
        pytest.param('(memory (export "memory") 1 2 shared)', "shared memories", id="own-memory"),
    ],
)
def test_a_module_for_threads_is_refused(parts: str, said: str) -> None:
    wasm = wat2wasm(f"(module {parts} {_START})")
    with pytest.raises(Malformed, match=said) as caught:
        execute(wasm, args=["main.wasm"], env={}, descriptors=[], files={}, network=None)
    assert "threads" in (caught.value.hint or "")

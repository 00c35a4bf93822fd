"""The official WASI programs, where WASI_TESTSUITE names a checkout of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.conformance.wasi_testsuite import PROGRAMS, failure, programs

_CHECKOUT = os.environ.get("WASI_TESTSUITE")
_FOUND = programs(Path(_CHECKOUT)) if _CHECKOUT else []

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not _CHECKOUT,
        reason="WASI_TESTSUITE names no checkout of WebAssembly/wasi-testsuite"
        " (branch prod/testsuite-base)",
    ),
]


def test_all_programs_are_there() -> None:
    assert len(_FOUND) >= PROGRAMS


@pytest.mark.parametrize("program", _FOUND, ids=lambda path: path.stem)
def test_program(program: Path) -> None:
    why = failure(program)
    assert why is None, why

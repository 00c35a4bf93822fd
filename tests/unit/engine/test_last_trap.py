"""A host function that fails, and cannot even say so, ends the process and does not go on."""

from __future__ import annotations

import subprocess
import sys

import pytest

_GUEST = """
from types import SimpleNamespace
from garrison.keep.engine import c, runtime

def nothing_left(_message):
    raise MemoryError

def failing(*_):
    raise ValueError

runtime.new_trap = nothing_left
memory = (c.Byte * 64)()
"""
_PREVIEW_1 = """
from garrison.keep.wasi.host import Host, Table
host = Host([], {}, Table(1), None)
host._callback("any", SimpleNamespace(__get__=lambda _: failing), "I")(None, 0, c.addressof(memory))
"""
_COMPONENT = """
from garrison.keep.component.callbacks import State, _callback
from garrison.keep.engine.store import values
_callback(State(), failing, values("I"))(None, 0, c.addressof(memory))
"""


@pytest.mark.parametrize("call", [_PREVIEW_1, _COMPONENT], ids=["preview 1", "component"])
def test_the_process_ends(call: str) -> None:
    """Attack: a guest leaves the host no memory. What it would go on with is not ours to know."""
    program = f"{_GUEST}{call}\nprint('went on')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (70, "", "")

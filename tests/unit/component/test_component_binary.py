"""Reading and linking components: anything that is not one is `Malformed`, and nothing else."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.keep.component import interfaces
from garrison.keep.component.binary import MAX_DEPTH, MAX_NAME, parse
from garrison.keep.component.link import link
from garrison.testing.component import PREAMBLE, Encoder, command, name, number, section, vector

if TYPE_CHECKING:
    from garrison.keep.component.link import Program
    from garrison.keep.engine.runtime import Module

_HELLO = command(
    """(func (export "run") (result i32)
        (call $write (call $out) (i32.const 0) (i32.const 0) (i32.const 64))
        (i32.load8_u (i32.const 64)))""",
    {
        "out": ("wasi:cli/stdout", "get-stdout"),
        "write": ("wasi:io/streams", "[method]output-stream.write"),
        "open": ("wasi:filesystem/types", "[method]descriptor.open-at"),
    },
    drops={"drop": ("wasi:io/streams", "output-stream")},
)


class _Compiled:
    """A core module that was not compiled; it imports nothing."""

    imports: tuple[()] = ()


def _compiled(_wasm: bytes) -> Module:
    return _Compiled()  # type: ignore[return-value]  # what `link` looks at


def _linked(wasm: bytes) -> Program:
    return link(parse(wasm), interfaces.find, _compiled)


def test_a_component_has_its_parts() -> None:
    program = _linked(_HELLO)
    assert len(program.steps) == 2
    assert list(program.exports) == ["wasi:cli/run"]
    assert program.exports["wasi:cli/run"]["run"].kind.parameters == ()


@pytest.mark.parametrize("tail", [b"\0", b"\x0a\1\0\0", b"\xff\0"])
def test_a_tail_is_refused_or_is_a_section(tail: bytes) -> None:
    with pytest.raises(Malformed):
        parse(_HELLO + tail)


def test_truncated_anywhere_it_is_malformed_or_lacks_what_it_lost() -> None:
    whole = _linked(_HELLO)
    for size in range(len(_HELLO)):
        try:
            found = _linked(_HELLO[:size])
        except Malformed:
            continue
        # Cut between two sections: the export comes last.
        assert found.exports != whole.exports


@given(st.integers(0, len(_HELLO) - 1), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_is_malformed_at_worst(at: int, byte: int) -> None:
    changed = bytearray(_HELLO)
    changed[at] = byte
    with contextlib.suppress(Malformed):
        _linked(bytes(changed))


@given(st.lists(st.tuples(st.integers(0, 13), st.binary(max_size=40)), max_size=6))
@settings(max_examples=200, deadline=None)
def test_sections_of_anything_are_malformed_at_worst(parts: list[tuple[int, bytes]]) -> None:
    data = b"".join(bytes([kind]) + number(len(body)) + body for kind, body in parts)
    with contextlib.suppress(Malformed):
        _linked(PREAMBLE + data)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_types_of_anything_are_malformed_at_worst(data: st.DataObject) -> None:
    forms = st.sampled_from([*range(0x3E, 0x44), *range(0x63, 0x80)])
    items = [
        bytes([data.draw(forms)]) + data.draw(st.binary(max_size=12))
        for _ in range(data.draw(st.integers(1, 4)))
    ]
    with contextlib.suppress(Malformed):
        _linked(PREAMBLE + b"".join(section(7, [item]) for item in items))


def _deep(kind: int, body: bytes) -> bytes:
    for _ in range(MAX_DEPTH + 2):
        body = PREAMBLE + bytes([kind]) + number(len(body)) + body
    return body


@pytest.mark.parametrize(
    ("wasm", "message"),
    [
        pytest.param(b"", "ends too early", id="nothing"),
        pytest.param(b"\0asm\1\0\0\0", "not a component", id="a-module"),
        pytest.param(PREAMBLE + b"\x09\0", "a start function", id="start"),
        pytest.param(PREAMBLE + b"\x0c\0", "a value", id="value"),
        pytest.param(_deep(4, b""), "nested too deep", id="deep"),
        pytest.param(PREAMBLE + section(8, [b"\5\0"]), "asynchronous", id="async-canon"),
        pytest.param(PREAMBLE + section(7, [b"\x66\0"]), "a stream or future", id="stream"),
        pytest.param(PREAMBLE + section(7, [b"\x43\0\1\0"]), "asynchronous", id="async-function"),
        pytest.param(PREAMBLE + section(8, [b"\1\0\0" + vector([b"\1"])]), "not UTF-8", id="utf16"),
        pytest.param(
            PREAMBLE + section(8, [b"\1\0\0" + vector([b"\6"])]), "asynchronous", id="async-lower"
        ),
        pytest.param(PREAMBLE + b"\7\5" + b"\xff" * 5, "more than 32 bits", id="leb"),
        pytest.param(PREAMBLE + b"\7\2\x80\1", "longer than what holds it", id="vector"),
        pytest.param(PREAMBLE + b"\7\x7f", "ends too early", id="section"),
        pytest.param(
            PREAMBLE + section(10, [b"\0" + name("a" * (MAX_NAME + 1)) + b"\1\0"]),
            "a name is too long",
            id="name",
        ),
        pytest.param(PREAMBLE + section(10, [b"\0\2\xff\xff\1\0"]), "not UTF-8", id="name-utf8"),
        pytest.param(PREAMBLE + section(7, [b"\x6d\0"]), "labels of a enum", id="empty-enum"),
        pytest.param(
            PREAMBLE + section(7, [b"\x6e" + vector([b"\1a", b"\1a"])]), "labels", id="twice"
        ),
    ],
)
def test_what_cannot_be_read_or_run_is_told(wasm: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        parse(wasm)


def test_a_component_of_several_is_refused() -> None:
    inner = PREAMBLE + b"\1\x08\0asm\1\0\0\0"
    nested = PREAMBLE + b"\4" + number(len(inner)) + inner + section(5, [b"\0\0\0"])
    with pytest.raises(Malformed, match="a component composed of several"):
        _linked(nested)


def test_components_inside_cannot_be_instantiated_without_end() -> None:
    """Each level instantiates the one below twice: 2 to the 16th, and each definition counts."""
    body = PREAMBLE + section(7, [b"\x6d\1\1a"] * 64)
    for _ in range(MAX_DEPTH - 1):
        inner = b"\4" + number(len(body)) + body
        body = PREAMBLE + inner + section(5, [b"\0\0\0"] * 2)
    with pytest.raises(Malformed, match="too many definitions"):
        _linked(body)


def test_a_type_that_doubles_at_each_step_is_no_work() -> None:
    """A tuple of two of the last one, 10,000 times: nobody goes through it."""
    items = [b"\x6f\2\x7d\x7d"]
    for index in range(10_000):
        # A signed number, in two bytes or three.
        ref = (
            number(index)
            if number(index)[-1] < 0x40
            else number(index)[:-1] + bytes([number(index)[-1] | 0x80, 0])
        )
        items.append(b"\x6f\2" + ref * 2)
    out = Encoder()
    out.out += section(7, items)
    assert _linked(bytes(out.out)).exports == {}

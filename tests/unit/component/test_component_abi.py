"""The canonical ABI: every value comes back as it went, and no memory makes it do anything else."""

from __future__ import annotations

import contextlib
import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from garrison.keep.component import types as t
from garrison.keep.component.abi import codec, fields
from garrison.keep.component.boundary import Boundary
from garrison.keep.component.handles import Handles
from garrison.keep.engine.failures import Trap

_SIZE = 1 << 16
_LABELS = st.lists(st.text("abc-", min_size=1, max_size=3), min_size=1, max_size=12, unique=True)
_RESOURCE = t.Resource("a thing")
_OTHER = t.Resource("another thing")


class _Memory:
    """A linear memory of 64 KiB, whose allocator gives one room after the other."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data.ljust(_SIZE, b"\0")[:_SIZE])
        self.next = 8

    def view(self, address: int, size: int) -> memoryview:
        if address + size > _SIZE:
            raise Trap("out of bounds")
        return memoryview(self.data)[address : address + size]

    def allocate(self, size: int, align: int) -> int:
        address = -(-self.next // align) * align
        self.next = address + size
        return address


def _boundary(memory: _Memory, **given: Any) -> Boundary:
    return Boundary(memory, Handles(), memory.allocate, **given)


_INTEGERS = {
    "u8": (0, 1 << 8), "u16": (0, 1 << 16), "u32": (0, 1 << 32), "u64": (0, 1 << 64),
    "s8": (-128, 128), "s16": (-(1 << 15), 1 << 15), "s32": (-(1 << 31), 1 << 31),
    "s64": (-(1 << 63), 1 << 63),
}  # fmt: skip


def _types() -> st.SearchStrategy[t.Type]:
    names = ["bool", "char", "string", "f32", "f64", *_INTEGERS]
    leaves: st.SearchStrategy[t.Type] = st.one_of(
        st.sampled_from(names).map(t.Primitive),
        _LABELS.map(lambda labels: t.Enum(tuple(labels))),
        _LABELS.map(lambda labels: t.Flags(tuple(labels))),
        st.just(t.Own(_RESOURCE)),
        st.just(t.Listed(t.Primitive("u8"))),
    )

    def more(inner: st.SearchStrategy[t.Type]) -> st.SearchStrategy[t.Type]:
        optional = st.none() | inner
        return st.one_of(
            st.lists(inner, min_size=1, max_size=4).map(lambda parts: t.Tuple(tuple(parts))),
            st.lists(inner, min_size=1, max_size=4).map(
                lambda parts: t.Record(tuple((f"f{i}", part) for i, part in enumerate(parts)))
            ),
            st.lists(optional, min_size=1, max_size=4).map(
                lambda parts: t.Variant(tuple((f"c{i}", part) for i, part in enumerate(parts)))
            ),
            inner.map(t.Listed),
            inner.filter(lambda part: not isinstance(part, t.Option)).map(t.Option),
            st.builds(t.Result, optional, optional),
        )

    return st.recursive(leaves, more, max_leaves=8)


def _values(kind: t.Type | None) -> st.SearchStrategy[Any]:
    match kind:
        case None:
            return st.none()
        case t.Primitive("bool"):
            return st.booleans()
        case t.Primitive("char"):
            return st.characters(exclude_categories=["Cs"])
        case t.Primitive("string"):
            return st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
        case t.Primitive("f32"):
            return st.floats(width=32, allow_nan=False)
        case t.Primitive("f64"):
            return st.floats(allow_nan=False)
        case t.Primitive(name):
            low, high = _INTEGERS[name]
            return st.integers(low, high - 1)
        case t.Enum(labels):
            return st.sampled_from(labels)
        case t.Flags(labels):
            return st.frozensets(st.sampled_from(labels))
        case t.Own():
            return st.builds(object)
        case t.Listed(t.Primitive("u8")):
            return st.binary(max_size=16)
        case t.Listed(part):
            return st.lists(_values(part), max_size=4)
        case t.Tuple(parts):
            return st.tuples(*map(_values, parts))
        case t.Record(items):
            return st.tuples(*(_values(part) for _, part in items))
        case t.Option(part):
            return st.none() | _values(part)
        case t.Result(ok, err):
            return st.one_of(
                st.tuples(st.just("ok"), _values(ok)), st.tuples(st.just("err"), _values(err))
            )
        case t.Variant(cases):
            return st.one_of([st.tuples(st.just(n), _values(part)) for n, part in cases])
    raise AssertionError(kind)


@given(_types().flatmap(lambda kind: st.tuples(st.just(kind), _values(kind))))
@settings(max_examples=150, deadline=None)
def test_what_goes_in_comes_out_by_memory_and_flat(case: tuple[t.Type, Any]) -> None:
    kind, value = case
    memory = _Memory()
    cx = _boundary(memory)
    cx.begin()
    way = codec(kind)
    assert way.size % way.align == 0
    room = memory.view(memory.allocate(way.size, way.align), way.size)
    way.store(cx, value, room, 0)
    assert way.load(cx, room, 0) == value
    flat = way.lower(cx, value)
    assert len(flat) == len(way.flat)
    # As it crosses: in the engine's own layout.
    layout = struct.Struct("<" + way.flat)
    assert way.lift(cx, layout.unpack(layout.pack(*flat)), 0) == value
    assert len(cx.handles) == 0


@given(
    _types(),
    st.binary(max_size=512),
    st.lists(st.integers(0, (1 << 64) - 1), min_size=64, max_size=64),
)
@settings(max_examples=150, deadline=None)
def test_malformed_memory_and_values_only_ever_trap(
    kind: t.Type, data: bytes, flat: list[int]
) -> None:
    memory = _Memory(data * 8)
    cx = _boundary(memory, budget=1 << 16)
    cx.begin()
    way = codec(kind)
    with contextlib.suppress(Trap):
        way.load(cx, memory.view(0, way.size), 0)
    masks = {"I": 0xFFFFFFFF, "Q": (1 << 64) - 1}
    core = [
        value & masks[letter] if letter in masks else float(value)
        for value, letter in zip(flat, way.flat, strict=False)
    ]
    if len(core) == len(way.flat):
        cx.begin()
        with contextlib.suppress(Trap):
            way.lift(cx, core, 0)


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        pytest.param(t.Primitive("char"), struct.pack("<I", 0xD800), "no character", id="half"),
        pytest.param(t.Primitive("char"), struct.pack("<I", 0x110000), "no character", id="high"),
        pytest.param(t.Primitive("string"), struct.pack("<II", 0, 9), "not UTF-8", id="utf8"),
        pytest.param(t.Primitive("string"), struct.pack("<II", 0, 1 << 31), "more than", id="long"),
        pytest.param(
            t.Primitive("string"), struct.pack("<II", _SIZE - 1, 2), "bounds", id="beyond"
        ),
        pytest.param(
            t.Listed(t.Primitive("u32")), struct.pack("<II", 2, 1), "multiple of 4", id="unaligned"
        ),
        pytest.param(
            t.Listed(t.Primitive("u16")), struct.pack("<II", 0, 1 << 30), "more than", id="many"
        ),
        pytest.param(t.Enum(("a", "b")), b"\2", "case 2 of 2", id="case"),
        pytest.param(t.Option(t.Primitive("u8")), b"\2", "case 2 of 2", id="neither"),
        pytest.param(t.Own(_RESOURCE), struct.pack("<I", 7), "no handle 7", id="handle"),
        pytest.param(t.Borrow(_RESOURCE), struct.pack("<I", 0), "no handle 0", id="no-handle"),
    ],
)
def test_each_violation_is_told(kind: t.Type, data: bytes, message: str) -> None:
    memory = _Memory(data.ljust(8, b"\0") + b"\xff" * 8)
    cx = _boundary(memory)
    cx.begin()
    if message == "not UTF-8":
        memory.data[0:8], data = b"\xff" * 8, struct.pack("<II", 0, 8)
        memory.data[100:108] = data
    with pytest.raises(Trap, match=message):
        codec(kind).load(cx, memory.view(100 if message == "not UTF-8" else 0, 8), 0)


def test_a_handle_of_another_kind_is_refused() -> None:
    memory = _Memory()
    cx = _boundary(memory)
    number = cx.handles.add(_OTHER, object())
    for kind in (t.Own(_RESOURCE), t.Borrow(_RESOURCE)):
        with pytest.raises(Trap, match="handle 1 is another thing, used as a thing"):
            codec(kind).lift(cx, [number], 0)
    assert len(cx.handles) == 1


def test_what_is_lent_is_not_given_away() -> None:
    cx = _boundary(_Memory())
    number = cx.handles.add(_RESOURCE, object())
    cx.lent = []
    both = fields([t.Borrow(_RESOURCE), t.Own(_RESOURCE)])
    with pytest.raises(Trap, match="away while it is lent"):
        both.lift(cx, [number, number], 0)


def test_a_free_number_is_used_again_and_a_full_table_traps() -> None:
    dropped: list[object] = []
    kind = t.Resource("counted")
    kind.drop = dropped.append
    handles = Handles(limit=2)
    first, second = object(), object()
    assert (handles.add(kind, first), handles.add(kind, second)) == (1, 2)
    with pytest.raises(Trap, match="more than 2 handles"):
        handles.add(kind, third := object())
    assert dropped == [third]
    assert handles.take(1, kind) is first
    assert handles.add(kind, first) == 1
    handles.close()
    assert dropped[1:] == [first, second]
    with pytest.raises(Trap, match="no handle 1"):
        handles.get(1, kind)


@pytest.mark.parametrize("address", [3, _SIZE - 2, 1 << 31])
def test_an_allocator_that_lies_traps(address: int) -> None:
    memory = _Memory()
    cx = Boundary(memory, Handles(), lambda _size, _align: address)
    with pytest.raises(Trap, match=r"multiple of 4|bounds"):
        codec(t.Listed(t.Primitive("u32"))).lower(cx, [1, 2])


def test_without_memory_or_allocator_nothing_is_written() -> None:
    with pytest.raises(Trap, match="given no allocator"):
        codec(t.Primitive("string")).lower(Boundary(_Memory(), Handles()), "a")
    with pytest.raises(Trap, match="needs memory was given none"):
        codec(t.Primitive("string")).lift(Boundary(None, Handles()), [0, 1], 0)


def test_nested_bytes_count_against_the_budget() -> None:
    memory = _Memory(struct.pack("<II", 0, _SIZE) * 100)
    cx = _boundary(memory, budget=1 << 20)
    cx.begin()
    with pytest.raises(Trap, match="take more than 1048576 bytes"):
        codec(t.Listed(t.Listed(t.Primitive("u8")))).lift(cx, [0, 100], 0)


def test_layout_is_that_of_the_specification() -> None:
    """CanonicalABI.md, "Alignment", "Element Size" and "Flattening", worked by hand."""
    kind = t.Variant(
        (
            ("a", t.Primitive("f32")),
            ("b", t.Primitive("u64")),
            ("c", None),
            ("d", t.Primitive("s8")),
        )
    )
    way = codec(kind)
    assert (way.size, way.align, way.flat) == (16, 8, "IQ")
    assert codec(t.Variant((("a", t.Primitive("f32")), ("b", t.Primitive("u8"))))).flat == "II"
    record = t.Record((("x", t.Primitive("u8")), ("y", t.Primitive("u32")), ("z", kind)))
    assert (codec(record).size, codec(record).flat) == (24, "IIIQ")
    assert codec(t.Flags(tuple(map(str, range(9))))).size == 2
    assert codec(t.Enum(tuple(map(str, range(257))))).size == 2
    assert math.isnan(codec(t.Primitive("f64")).lift(_boundary(_Memory()), [math.nan], 0))


@pytest.mark.parametrize("wrong", [0, 3, 1 << 31])
def test_each_handle_of_a_list_is_looked_at(wrong: int) -> None:
    memory = _Memory()
    handles = Handles()
    mine, other = t.Resource("mine"), t.Resource("other")
    numbers = [handles.add(mine, "a"), handles.add(mine, "b"), handles.add(other, "c")]
    listed = codec(t.Listed(t.Borrow(mine)))
    boundary = Boundary(memory, handles, memory.allocate)
    memory.view(0, 8)[:] = struct.pack("<II", *numbers[:2])
    assert listed.lift(boundary, [0, 2], 0) == ["a", "b"]
    memory.view(0, 8)[:] = struct.pack("<II", numbers[0], wrong)
    with pytest.raises(Trap, match="handle"):
        listed.lift(boundary, [0, 2], 0)
    with pytest.raises(Trap, match="multiple of 4"):
        listed.lift(boundary, [2, 1], 0)

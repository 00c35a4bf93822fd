"""What a component can have the keep hold, or do in one call, is bounded by the keep alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from garrison.errors import Malformed, Unavailable
from garrison.formats.limits import Limits
from garrison.keep.component import definitions as d
from garrison.keep.component import interfaces
from garrison.keep.component import types as t
from garrison.keep.component.callbacks import Failed
from garrison.keep.component.handles import Handles
from garrison.keep.component.host import MAX_HELD, Host
from garrison.keep.component.http.exchange import Exchange
from garrison.keep.component.http.message import Head
from garrison.keep.component.http.wire import ROOM, Sink
from garrison.keep.component.instance import Instance
from garrison.keep.component.link import MAX_EVALUATED, HandleFunction, Program, link
from garrison.keep.component.wasi import filesystem as files
from garrison.keep.component.wasi import http, names, streams
from garrison.keep.component.wasi.http_bodies import OutgoingBody
from garrison.keep.component.wasi.http_fields import Fields
from garrison.keep.component.wasi.http_messages import OutgoingResponse
from garrison.keep.component.wasi.opened import Opened
from garrison.keep.engine import c
from garrison.keep.engine.failures import Trap
from garrison.keep.engine.library import wat2wasm
from garrison.keep.engine.runtime import Engine, Module, trapped
from garrison.keep.engine.store import Imports, Store, instance_words
from garrison.keep.vfs import descriptor as descriptors
from garrison.keep.vfs.root import root_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class _Watch:
    """Nothing ends a wait."""

    def check(self) -> None:
        return

    def wait(self, _events: list[tuple[int, int]], _seconds: float | None) -> Mapping[int, int]:
        return {}


def _host() -> Host:
    return Host([], {}, [], [], None, _Watch(), 100)


def _chunk(size: int = 4096) -> memoryview:
    return memoryview(bytes(size))


def test_names_that_were_looked_up_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_MAX_NAMES", 10)
    host, network = _host(), names.Network()
    for number in range(10):
        names.ip_name_lookup_resolve_addresses(host, network, f"host{number}.test")
    for number in (10, 11, 12, 10):
        with pytest.raises(Failed, match="temporary-resolver-failure"):
            names.ip_name_lookup_resolve_addresses(host, network, f"host{number}.test")
    assert len(host.numbers) == len(host.names) == 10
    # What is known stays so.
    found = names.ip_name_lookup_resolve_addresses(host, network, "host9.test")
    assert found.take() == ("ipv4", (198, 18, 0, 10))


def test_a_body_that_goes_nowhere_is_kept_up_to_a_bound() -> None:
    host, sink = _host(), Sink(None)
    output = http.outgoing_body_write(host, OutgoingBody(sink, "HTTP-response-body-size"))
    for _ in range(ROOM // 4096):
        streams.output_stream_blocking_write_and_flush(host, output, _chunk())
    with pytest.raises(Failed) as caught:
        streams.output_stream_blocking_write_and_flush(host, output, _chunk())
    case, error = cast("Any", caught.value.value)
    assert (case, error.code[0]) == ("last-operation-failed", "internal-error")
    assert len(sink._kept) == 0


class _Taker:
    """A request that is on its way, and connected after some waits."""

    def __init__(self, sink: Sink, wire: Any) -> None:
        self._sink, self._wire = sink, wire
        self.asked = 0

    def takes(self, sink: Sink) -> bool:
        return sink is self._sink

    def ready(self) -> bool:
        self.asked += 1
        if self.asked == 3:
            self._sink.attach(self._wire, lambda _: b"head;", chunks=False, silent=False)
        return False

    def events(self) -> None:
        return

    def timeout(self) -> float:
        return 0.0


def test_a_body_waits_for_the_connection_that_it_goes_by() -> None:
    host, sink, sent = _host(), Sink(None), bytearray()
    wire = SimpleNamespace(waiting=b"", failure=None, send=sent.extend, push=lambda: False)
    taker = _Taker(sink, wire)
    host.background.append(cast("Any", taker))
    output = http.outgoing_body_write(host, OutgoingBody(sink, "HTTP-request-body-size"))
    for _ in range(2 * ROOM // 4096):
        streams.output_stream_blocking_write_and_flush(host, output, _chunk())
    assert taker.asked == 3
    assert len(sent) == len(b"head;") + 2 * ROOM


class _Looked(list[tuple[str, bytes]]):
    """Entries that tell how often somebody looked through all of them."""

    looks = 0

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        self.looks += 1
        return super().__iter__()


def test_to_add_a_field_nobody_looks_through_those_that_are_there() -> None:
    """Or a thousand took a million looks, and four thousand sixteen."""
    host = _host()
    fields = http.fields_new(host)
    fields.entries = looked = _Looked()
    for number in range(1000):
        http.fields_append(host, fields, "name", memoryview(b"%d" % number))
    assert looked.looks <= 1
    assert fields.entries is looked
    assert host.held == sum(len("name") + len(value) + 128 for _, value in looked)


def test_what_fields_hold_is_counted_through_every_change() -> None:
    host = _host()
    fields = http.fields_from_list(host, [("a", memoryview(b"12")), ("B", memoryview(b"345"))])

    def counts() -> bool:
        taken = sum(len(name) + len(value) + 128 for name, value in fields.entries)
        return host.held == taken

    assert counts()
    http.fields_append(host, fields, "b", memoryview(b"6"))
    assert counts()
    http.fields_set(host, fields, "b", [memoryview(b"789"), memoryview(b"")])
    assert counts()
    with pytest.raises(Failed):
        http.fields_set(host, fields, "a", [memoryview(b"\n")])
    assert counts()
    http.fields_append(host, fields, "c", memoryview(b"c"))
    assert counts()
    http.fields_delete(host, fields, "B")
    assert counts()
    assert fields.entries == [("a", b"12"), ("c", b"c")]
    copy = http.fields_clone(host, fields)
    assert host.held == 2 * (len("a12") + len("cc") + 2 * 128)
    del copy
    half = memoryview(b"x" * (1 << 19))
    http.fields_append(host, fields, "a", half)
    with pytest.raises(Trap, match="too many bytes"):
        http.fields_append(host, fields, "a", half)


def test_fields_are_bounded_all_together() -> None:
    host, value = _host(), memoryview(b"x" * (1 << 19))
    most = MAX_HELD // ((1 << 19) + 1 + 128)
    made = [http.fields_from_list(host, [("a", value)]) for _ in range(most)]
    with pytest.raises(Trap, match="hold more than"):
        http.fields_from_list(host, [("a", value)])
    # A copy, and what is added, count as much.
    with pytest.raises(Trap, match="hold more than"):
        http.fields_clone(host, made[0])
    del made[-1]
    fields = http.fields_clone(host, made[0])
    with pytest.raises(Trap, match="hold more than"):
        http.fields_append(host, fields, "b", value[:500_000])
    # A message that they are given to has them; what is dropped is given back.
    fields = made.pop()
    message = http.outgoing_response_new(host, fields)
    del fields
    held = host.held
    message.drop()
    del message
    made.clear()
    assert host.held < held
    assert host.held <= 2 * ((1 << 19) + 200)


def test_the_names_of_directories_are_bounded_all_together() -> None:
    host = _host()
    root = root_directory({}, None, {}, Limits(), lambda _events, _seconds: {})
    opened = Opened(root.open(read=True, write=False), frozenset(("read", "mutate-directory")))
    count = 20_000
    for number in range(count):
        files.descriptor_create_directory_at(host, opened, f"tmp/{number}")
    folder = files.descriptor_open_at(
        host, opened, frozenset(), "tmp", frozenset(), frozenset(("read",))
    )
    most = MAX_HELD // (descriptors.NAME_COST * (count + 2))
    listed = [files.descriptor_read_directory(host, folder) for _ in range(most)]
    with pytest.raises(Trap, match="hold more than"):
        files.descriptor_read_directory(host, folder)
    assert listed[0].take() == ("directory", "0")
    listed.clear()
    assert host.held == 0


def test_all_is_dropped_though_much_of_it_fails() -> None:
    handles, resource, dropped = Handles(), t.Resource("a thing"), []

    def drop(thing: object) -> None:
        dropped.append(thing)
        raise Trap(f"thing {thing}")

    resource.drop = drop
    for number in range(5000):
        handles.add(resource, number)
    with pytest.raises(Trap, match="thing 4999"):
        handles.close()
    assert dropped == list(range(4999, -1, -1))
    assert not len(handles)


def _linked(*definitions: d.Definition) -> None:
    link(d.Component(definitions), interfaces.find, lambda _: cast("Any", None))


def test_what_definitions_list_is_bounded_each_time_that_it_is_gone_through() -> None:
    """A component inside is as small as a megabyte, and instantiated ten thousand times."""
    many = MAX_EVALUATED // 8
    bundle = d.Bundle(tuple((f"n{number}", "instance", 0) for number in range(many)))
    record = d.TypeSection(
        d.ValueDefinition("record", tuple(map(str, range(many))), ("u8",) * many)
    )
    for large in (bundle, record):
        inner = d.Nested(d.Component((d.Bundle(()), large)))
        _linked(inner, d.Instantiation(0, ()))
        with pytest.raises(Malformed, match="too many definitions"):
            _linked(inner, *[d.Instantiation(0, ())] * 10_000)


def test_a_type_that_is_imported_again_and_again_is_bounded() -> None:
    many = MAX_EVALUATED // 4
    declared = d.Declaration("pollable", d.External("type", None))
    kind = d.TypeSection(d.ScopeDefinition((declared,) * many))
    imported = d.Import("wasi:io/poll@0.2.0", d.External("instance", 0))
    _linked(kind, imported)
    with pytest.raises(Malformed, match="too many definitions"):
        _linked(kind, *[imported] * 1000)


@pytest.mark.parametrize(("module", "most"), [("(table 1 funcref)", 64), ("", 256)])
def test_instances_and_tables_of_a_component_are_bounded(module: str, most: int) -> None:
    engine = Engine()
    store = Store(engine, memory=1 << 16, table_elements=1)
    compiled = Module.compile(engine, wat2wasm(f"(module {module})"))
    instances = [instance_words() for _ in range(most + 1)]
    try:
        for words in instances[:-1]:
            store.instantiate(compiled, Imports(0), words)
        with pytest.raises(Unavailable, match="count too high"):
            store.instantiate(compiled, Imports(0), instances[-1])
    finally:
        store.close()
        compiled.close()
        engine.close()


@pytest.mark.parametrize(
    ("method", "status", "lengths", "sent"),
    [
        (b"GET", 200, [b"5"], 500),
        (b"GET", 200, [b"5", b"7"], 500),
        (b"GET", 200, [b"x"], 500),
        (b"GET", 200, [b"0"], 200),
        (b"GET", 304, [b"5"], 304),
        (b"HEAD", 200, [b"5"], 200),
        (b"HEAD", 200, [b"5", b"7"], 500),
    ],
)
def test_a_response_without_its_body_is_not_sent(
    method: bytes, status: int, lengths: list[bytes], sent: int
) -> None:
    """What comes next on the connection would be taken for that body."""
    out = bytearray()
    wire = SimpleNamespace(waiting=b"", failure=None, send=out.extend, push=lambda: False)
    head = Head([("host", b"a")])
    head.method, head.target = method, b"/"
    exchange = Exchange(cast("Any", wire), head, [], last=False)
    response = OutgoingResponse(Fields([("content-length", length) for length in lengths]))
    response.status = status
    exchange.respond(response)
    assert exchange.finish()
    assert bytes(out).startswith(b"HTTP/1.1 %d " % sent)
    if sent == 500:
        assert b"\r\ncontent-length: 0\r\n" in out


def test_destructors_in_destructors_are_bounded(capfd: pytest.CaptureFixture[str]) -> None:
    """Else the calls of ours come to an end, and an error leaves where none may."""
    instance = Instance(cast("Any", None), Program((), {}), cast("Any", None), Limits())
    resource, traps, depth = t.Resource("its own"), [], 0
    dropped = cast("Any", instance)._host_function(
        HandleFunction("drop", resource, cast("Any", "its destructor"))
    )
    value = bytearray(16)
    at = c.addressof((c.Byte * 16).from_buffer(value))

    def destructor(*_: object) -> None:
        """Drops the next."""
        nonlocal depth
        depth += 1
        value[:4] = (depth + 1).to_bytes(4, "little")
        trap = dropped.callback(0, 0, at, 1)
        if trap:
            # As the engine does with a trap of the host's.
            traps.append(trapped(trap))
            raise Trap("the guest failed")

    cast("Any", instance)._typed = lambda *_: None
    cast("Any", instance)._store = SimpleNamespace(call=destructor)
    for number in range(1000):
        instance.handles.add(resource, number)
    value[:4] = (1).to_bytes(4, "little")
    assert "ended by the host" in str(trapped(dropped.callback(0, 0, at, 1)))
    assert depth == 64
    assert len(traps) == 64
    assert "too deep" in str(instance.state.failure)
    assert "ignored" not in capfd.readouterr().err
    dropped.close()

"""What becomes of a guest that reaches a limit: an errno or a trap, and one line in the log."""

from __future__ import annotations

import gc
import resource
import struct
import sys
import threading
from typing import TYPE_CHECKING, cast

import pytest

from garrison.errors import Rejected, Unavailable
from garrison.formats.limits import Limits
from garrison.keep.engine import c
from garrison.keep.engine.failures import OutOfTime, Trap
from garrison.keep.engine.library import wat2wasm
from garrison.keep.execute import execute
from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.nodes import File, Quota
from garrison.keep.vfs.streams import ListeningSocket, Random, Socket, Zero
from garrison.keep.wasi import abi
from garrison.keep.wasi.descriptors import fd_pwrite
from garrison.keep.wasi.host import Host, Table
from garrison.keep.wasi.sockets import sock_accept, sock_recv

if TYPE_CHECKING:
    from typing import Any

    from garrison.keep.vfs.descriptor import Room
    from garrison.keep.wasi.interrupts import Interrupts

_TYPES = {"I": "i32", "Q": "i64", "q": "i64"}
_OPEN = "(call $path_open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const %d) (i32.const %d)"


def _import(name: str) -> str:
    parameters = " ".join(_TYPES[letter] for letter in abi.SIGNATURES[name])
    result = "" if name in abi.NO_RESULT else "(result i32)"
    return f'(import "{abi.MODULE}" "{name}" (func ${name} (param {parameters}) {result}))'


def _module(body: str, data: str = "", *, calls: tuple[str, ...] = (), extra: str = "") -> bytes:
    """A program whose `body` leaves its exit code."""
    imports = "\n".join(_import(name) for name in {*calls, "proc_exit"})
    return wat2wasm(f"""(module {imports} (memory (export "memory") 1 100) {extra}
      (data (i32.const 0) "{data}")
      (func (export "_start") (local $e i32) (call $proc_exit {body})))""")


def _execute(wasm: bytes, **limits: float) -> int:
    return execute(
        wasm,
        args=["main.wasm"],
        env={},
        descriptors=[("", None)] * 3,
        files={"a": bytes(5000)},
        network=None,
        limits=Limits(**limits),
    )


def _told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_memory_that_may_not_grow() -> None:
    wasm = _module("(memory.grow (i32.const 1))")
    assert _execute(wasm) == 1
    assert _execute(wasm, memory=1 << 17) == 1
    # -1, of which an exit code is the lowest byte or the whole.
    assert _execute(wasm, memory=1 << 16) & 0xFF == 0xFF


def test_a_table_that_may_not_grow() -> None:
    table = "(table $t 1 1000000 funcref)"
    wasm = _module("(table.grow $t (ref.null func) (i32.const 999))", extra=table)
    assert _execute(wasm) == 1
    assert _execute(wasm, table_elements=1000) == 1
    assert _execute(wasm, table_elements=999) & 0xFF == 0xFF


@pytest.mark.parametrize(
    "extra",
    ["(table 2000000 funcref)", "(table 1 funcref)" * 9, "(memory 1) (memory 1)"],
    ids=["elements", "tables", "memories"],
)
def test_a_module_that_starts_with_too_much(extra: str) -> None:
    with pytest.raises(Unavailable, match="cannot be started") as caught:
        _execute(_module("(i32.const 0)", extra=extra))
    assert "[limits]" in str(caught.value.hint)


def test_the_stack_is_as_deep_as_it_may_be() -> None:
    def deepest(**limits: int) -> int:
        """The depth, in thousands, at which the guest still comes back."""
        down = """(func $down (param $n i32) (result i32)
          (if (result i32) (local.get $n)
            (then (i32.add (i32.const 1) (call $down (i32.sub (local.get $n) (i32.const 1)))))
            (else (i32.const 0))))"""
        for thousands in (1, 4, 16, 64):
            body = f"(i32.ne (call $down (i32.const {thousands}000)) (i32.const {thousands}000))"
            try:
                assert _execute(_module(body, extra=down), **limits) == 0
            except Trap as trap:
                said = str(trap)
            else:
                continue
            assert "call stack exhausted" in said
            return thousands
        return 256

    assert deepest(stack=1 << 16) < deepest() <= deepest(stack=4 << 20)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("clock_time_get", "(i32.const 1) (i64.const 1) (i32.const 64)"),
        ("random_get", "(i32.const 64) (i32.const 32)"),
        ("fd_write", "(i32.const 1) (i32.const 8) (i32.const 1) (i32.const 64)"),
        ("fd_read", "(i32.const 0) (i32.const 8) (i32.const 1) (i32.const 64)"),
        ("fd_fdstat_get", "(i32.const 0) (i32.const 64)"),
    ],
)
def test_calls_allocate_nothing_that_stays(name: str, call: str) -> None:
    collections = []

    def collected(phase: str, _: dict[str, int]) -> None:
        collections.append(phase)

    def blocks(count: int) -> int:
        body = f"""(loop $l
          (local.set $e (i32.or (local.get $e) (call ${name} {call})))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $l (i32.lt_u (local.get $n) (i32.const {count})))) (local.get $e)"""
        wasm = wat2wasm(f"""(module {_import(name)} {_import("proc_exit")}
          (memory (export "memory") 1) (data (i32.const 8) "\\00\\10\\00\\00\\64\\00\\00\\00")
          (func (export "_start") (local $e i32) (local $n i32) (call $proc_exit {body})))""")
        assert _execute(wasm) == 0
        gc.collect()
        before = sys.getallocatedblocks()
        gc.callbacks.append(collected)
        try:
            assert _execute(wasm) == 0
        finally:
            gc.callbacks.remove(collected)
        return sys.getallocatedblocks() - before

    few = blocks(10)
    collections.clear()
    many = blocks(20_000)
    assert many - few < 100
    # None for the calls: one for all else that a run makes would be fine.
    assert len(collections) <= 2


def test_a_stack_that_the_thread_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    there, _ = resource.getrlimit(resource.RLIMIT_STACK)
    assert c.stack_limit() == there % (1 << 64)
    monkeypatch.setattr(c, "stack_limit", lambda: 1 << 20)
    with pytest.raises(Unavailable, match="stack is too small") as caught:
        _execute(_module("(i32.const 0)"))
    assert caught.value.field == "limits.stack"


_FOREVER = "(loop $l (br $l)) (i32.const 0)"
# One subscription to the monotonic clock, a day from now.
_DAY = "\\00" * 16 + "\\01" + "\\00" * 7 + "\\00\\00\\00\\00\\00\\80\\4e\\00"
_SLEEP = "(call $poll_oneoff (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))"


@pytest.mark.parametrize(
    ("body", "data"),
    [(f"(block (result i32) {_FOREVER})", ""), (_SLEEP, _DAY)],
    ids=["loop", "sleep"],
)
@pytest.mark.parametrize("main", [True, False], ids=["main-thread", "thread"])
def test_the_time_is_over(body: str, data: str, *, main: bool) -> None:
    wasm = _module(body, data, calls=("poll_oneoff",))
    caught: list[BaseException] = []

    def run() -> None:
        with pytest.raises(OutOfTime) as info:
            _execute(wasm, run_seconds=1)
        caught.append(info.value)

    if main:
        run()
    else:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(60)
    [error] = caught
    assert isinstance(error, OutOfTime)
    assert (error.exit_code, error.field) == (124, "limits.run_seconds")
    assert error.expected == "an end within 1 seconds"


def test_a_guest_that_ends_in_time_is_left_alone() -> None:
    assert _execute(_module("(i32.const 3)"), run_seconds=3600) == 3


def test_descriptors_that_run_out_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    opened = _OPEN % (1, 0) + "(i64.const 0) (i64.const 0) (i32.const 0) (i32.const 8))"
    code = _execute(
        _module(
            f"""(block (result i32) (loop $l (br_if $l (i32.eqz {opened})))
              (drop {opened}) {opened})""",
            ".",
            calls=("path_open",),
        ),
        descriptors=50,
    )
    assert code == errno.MFILE
    assert _told(caplog) == [
        "the workload has reached a limit: limits.descriptors is 50; it is refused more"
    ]


def test_what_was_written_before_the_room_ended_is_told() -> None:
    file = File(Quota(10))
    table = Table(1)
    table.insert(file.open(read=True, write=True))
    host = Host([], {}, table, cast("Interrupts", None))
    host.memory.be(memoryview(bytearray(64)))
    # Two buffers of eight bytes.
    host.memory.all[:16] = struct.pack("<IIII", 16, 8, 24, 8)
    fd_pwrite(host, 0, 0, 2, 0, 60)
    assert host.memory.all[60] == file.size() == 8
    with pytest.raises(Errno) as caught:
        fd_pwrite(host, 0, 0, 2, 8, 60)
    assert caught.value.number == errno.NOSPC


def test_who_can_have_no_more_descriptors_loses_no_connection() -> None:
    class Listening:
        def accept(self) -> None:
            raise AssertionError("a connection was taken")

    table = Table(1)
    table.insert(ListeningSocket(cast("Any", Listening())))
    host = Host([], {}, table, cast("Interrupts", None))
    host.memory.be(memoryview(bytearray(64)))
    with pytest.raises(Errno) as caught:
        sock_accept(host, 0, 0, 0)
    assert caught.value.number == errno.MFILE


_WRITE_ALL = (
    _OPEN % (5, 1)
    + """(i64.const 0x40) (i64.const 0) (i32.const 0) (i32.const 8))
    (local.set $e) (if (i32.eqz (local.get $e)) (then
      (loop $l (local.set $e (call $fd_write
          (i32.load (i32.const 8)) (i32.const 16) (i32.const 1) (i32.const 24)))
        (br_if $l (i32.eqz (local.get $e))))))
    (local.get $e)"""
)


@pytest.mark.parametrize(
    ("limits", "name"),
    [({"tmp": 100_000}, "tmp"), ({"files": 100_000}, "files"), ({"tmp": 511}, "tmp")],
    ids=["tmp", "files", "name"],
)
def test_files_that_run_out_are_told_once(
    limits: dict[str, int], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Writes 4 KiB again and again; the vector stands at 16.
    wasm = _module(
        f"(block (result i32) {_WRITE_ALL})",
        "tmp/a" + "\\00" * 11 + "\\00\\10\\00\\00\\00\\10\\00\\00",
        calls=("path_open", "fd_write"),
    )
    assert _execute(wasm, **limits) == errno.NOSPC
    assert _told(caplog) == [
        f"the workload has reached a limit: limits.{name} is {limits[name]}; it is refused more"
    ]


@pytest.mark.parametrize(
    ("limits", "field"),
    [({"files": 4999}, "files"), ({"descriptors": 3}, "descriptors")],
    ids=["files", "descriptors"],
)
def test_what_starts_with_more_than_it_may_have_does_not_start(
    limits: dict[str, int], field: str
) -> None:
    with pytest.raises(Rejected, match="starts with more than it may ever have") as caught:
        _execute(_module("(i32.const 0)"), **limits)
    assert caught.value.field == f"limits.{field}"


_ALL_OF_IT = """
  (loop $l
    (i32.store (i32.add (i32.const 1024) (local.get $e)) (i32.const 0))
    (i32.store (i32.add (i32.const 1028) (local.get $e)) (i32.const 0x10000000))
    (local.set $e (i32.add (local.get $e) (i32.const 8)))
    (br_if $l (i32.lt_u (local.get $e) (i32.const 8192))))
"""


def _of_all_memory(call: str, name: str, count: int) -> bytes:
    """What reads or writes all of 256 MiB of memory so often in one call; the errno."""
    return wat2wasm(f"""(module {_import("path_open")} {_import(call)} {_import("proc_exit")}
      (memory (export "memory") 4096)
      (data (i32.const 0) "{name}")
      (func (export "_start") (local $e i32)
        (drop {_OPEN % (len(name), 0)} (i64.const 66) (i64.const 0) (i32.const 0) (i32.const 64)))
        {_ALL_OF_IT}
        (call $proc_exit
          (call ${call} (i32.load (i32.const 64)) (i32.const 1024) (i32.const {count})
            (i32.const 72)))))""")


@pytest.mark.parametrize("device", [Zero(), Random()])
def test_a_device_without_end_is_read_in_pieces(device: Zero | Random) -> None:
    """Nobody can end a guest in the middle of a call: none takes minutes, whatever it asks for."""
    room = bytearray(b"x" * (4 << 20))
    count = device.read(memoryview(room))
    assert 1 << 16 <= count <= 1 << 20
    assert room[:count] != b"x" * count
    assert room[count:] == b"x" * (len(room) - count)


@pytest.mark.parametrize("call", ["fd_read", "fd_write"])
def test_buffers_of_more_bytes_than_can_be_told_are_refused(call: str) -> None:
    assert _execute(_of_all_memory(call, "dev/null", 15)) == 0
    assert _execute(_of_all_memory(call, "dev/null", 16)) == errno.INVAL


class _Talkative:
    """A connection that always has a byte more."""

    restless = False
    read = 0

    def read_into(self, view: memoryview) -> int:
        self.read += 1
        view[:1] = b"x"
        return 1

    def write(self, view: memoryview) -> int:
        return len(view)

    def read_at(self, memory: Room, start: int, end: int) -> int:
        return self.read_into(memory.all[start:end])

    def write_at(self, _memory: Room, start: int, end: int) -> int:
        return end - start


class _Ending:
    """The run is to end at the third time that it is asked."""

    asked = 0

    def check(self) -> None:
        self.asked += 1
        if self.asked == 3:
            raise OutOfTime(1)


def test_who_waits_for_all_of_what_comes_can_be_ended_meanwhile() -> None:
    table, stream = Table(4), _Talkative()
    table.insert(Socket(cast("Any", stream)))
    host = Host([], {}, table, cast("Interrupts", _Ending()))
    host.memory.be(memoryview(bytearray(4096)))
    # One buffer of a thousand bytes; RECV_WAITALL.
    host.memory.all[0:8] = (1024).to_bytes(4, "little") + (1000).to_bytes(4, "little")
    with pytest.raises(OutOfTime):
        sock_recv(host, 0, 0, 1, 2, 64, 72)
    assert stream.read == 3

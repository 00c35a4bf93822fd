"""Data over a TLS stream: all of it, in order, to its announced end, and never other data."""

from __future__ import annotations

import errno
import gc
import hashlib
import random
import select
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from OpenSSL import SSL

from garrison.formats.enarx_toml import Config, Rule
from garrison.keep.net import tls_stream
from garrison.keep.net.network import Network
from garrison.keep.net.openssl import context_handle, ffi, lib
from garrison.keep.vfs.descriptor import Room
from garrison.testing.tls import Authority, workload
from garrison.testing.tls_pair import (
    connected,
    identity,
    read_all,
    read_exactly,
    wait,
    write_all,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from garrison.keep.net.stream import Stream

AUTHORITY = Authority()
LEAF = AUTHORITY.issue(workload(), hosts=("localhost",))
SIZE = 10_000_000
DATA = random.Random(1).randbytes(SIZE)  # noqa: S311  (test data)


@contextmanager
def pair(prot: str = "tls") -> Iterator[tuple[Stream, Stream]]:
    rule = Rule("tcp") if prot == "tcp" else Rule(trust="steward")
    config = Config(
        incoming={"default": Rule("tcp")} if prot == "tcp" else {}, outgoing={"default": rule}
    )
    network = Network(config, identity(LEAF), [AUTHORITY.root])
    with connected(network, network) as (a, b):
        yield a, b


def fill(stream: Stream, data: bytes = b"x" * 100_000) -> int:
    """Write until the peer, which does not read, must be waited for; how much was taken."""
    taken = 0
    while True:
        try:
            taken += stream.write(memoryview(data)[taken % len(data) :])
        except BlockingIOError:
            return taken


@pytest.mark.parametrize("prot", ["tls", "tcp"])
def test_ten_megabytes_both_ways_at_once(prot: str) -> None:
    digests = []

    def send(stream: Stream) -> None:
        view, chance = memoryview(DATA), random.Random(2)  # noqa: S311  (test data)
        while view:
            taken = wait(stream, stream.write, view[: chance.randrange(1, 300_000)])
            view = view[taken:]
        stream.shutdown(socket.SHUT_WR)

    for forth in (True, False):
        with pair(prot) as ends:
            source, sink = ends if forth else ends[::-1]
            thread = threading.Thread(target=send, args=(source,))
            thread.start()
            digests.append(hashlib.sha256(read_all(sink, size=77_777)).digest())
            thread.join()
    assert digests == [hashlib.sha256(DATA).digest()] * 2


def test_both_directions_of_one_stream_interleave() -> None:
    with pair() as (a, b):
        got: dict[int, bytearray] = {0: bytearray(), 1: bytearray()}
        left = [memoryview(DATA)[: 3 << 20], memoryview(DATA)[: 3 << 20]]
        view = memoryview(bytearray(50_000))
        deadline = time.monotonic() + 20
        while (left[0] or left[1] or len(got[0]) + len(got[1]) < 6 << 20) and (
            time.monotonic() < deadline
        ):
            for index, stream in enumerate((a, b)):
                with suppress(BlockingIOError):
                    left[index] = left[index][stream.write(left[index][:40_000]) :]
                with suppress(BlockingIOError):
                    got[index] += view[: stream.read_into(view)]
        assert bytes(got[0]) == bytes(got[1]) == DATA[: 3 << 20]


def test_a_read_fills_the_view_over_full_records() -> None:
    with pair() as (a, b):
        write_all(a, DATA[:16384])
        write_all(a, DATA[16384:32768])
        write_all(a, DATA[32768:40000])
        time.sleep(0.05)
        view = memoryview(bytearray(65536))
        assert wait(b, b.read_into, view) == 40000
        assert view[:40000] == DATA[:40000]


def test_whole_records_that_come_alone_are_not_looked_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    read = tls_stream._read

    def counted(ssl: object, place: object, size: int) -> int:
        calls.append(size)
        return int(read(ssl, place, size))

    view = memoryview(bytearray(1 << 18))
    with pair() as (a, b):
        # The library's own words after the handshake are a record each, and no data.
        write_all(a, b"first")
        assert read_exactly(b, 5) == b"first"
        monkeypatch.setattr(tls_stream, "_read", counted)
        for _ in range(200):
            write_all(a, DATA[:16384])
            select.select([b], [], [], 30)
            assert b.read_into(view) == 16384
            assert view[:16384] == DATA[:16384]
            assert not b.restless
            assert not b.pending()
        # One look for the 1st, 3rd, 7th, 15th, 31st and 63rd, and for each 64th after that.
        assert len(calls) < 200 + 12
        # Those that come together are read together again, once that was seen.
        got: list[int] = []
        while len(got) < 200:
            write_all(a, DATA[:65536])
            left = 65536
            while left:
                select.select([b], [], [], 30)
                got.append(b.read_into(view))
                assert view[: got[-1]] == DATA[65536 - left :][: got[-1]]
                left -= got[-1]
        assert 65536 in got
        assert len([size for size in got if size == 16384]) < 80


def test_data_goes_to_the_guests_memory_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    # What OpenSSL is called with is the guest's own buffer: the one copy is OpenSSL's.
    memory = bytearray(1 << 20)
    with ffi.from_buffer(memory) as whole:
        base = int(ffi.cast("uintptr_t", whole))
    asked: list[tuple[str, int, int]] = []

    def seen(name: str, function: Callable[..., int]) -> Callable[..., int]:
        def call(ssl: object, place: object, size: int) -> int:
            asked.append((name, int(ffi.cast("uintptr_t", place)) - base, size))
            return function(ssl, place, size)

        return call

    view = memoryview(memory)
    view[:300_000] = DATA[:300_000]
    with pair() as (a, b):
        monkeypatch.setattr(tls_stream, "_read", seen("read", tls_stream._read))
        monkeypatch.setattr(tls_stream, "_write", seen("write", tls_stream._write))
        tracemalloc.start()
        try:
            sent = got = 0
            while got < 300_000:
                with suppress(BlockingIOError):
                    sent += a.write(view[sent:300_000]) if sent < 300_000 else 0
                with suppress(BlockingIOError):
                    got += b.read_into(view[500_000 + got : 800_000])
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert view[500_000:800_000] == view[:300_000]
    assert len(asked) > 2 * 300_000 // 16384
    for name, place, size in asked:
        if name == "write" and not 0 <= place < 1 << 20:
            # A record that blocked halfway, which is kept aside.
            assert size <= 16384
            continue
        start = {"read": 500_000, "write": 0}[name]
        assert start <= place
        assert place + size == start + 300_000
    # One record may be kept aside, and what is `asked` takes some room.
    assert most < 100_000


def test_pending_tells_of_data_that_poll_does_not_see() -> None:
    with pair() as (a, b):
        assert not b.pending()
        write_all(a, b"0123456789")
        assert read_exactly(b, 4) == b"0123"
        assert b.pending()
        assert not select.select([b], [], [], 0)[0]
        assert read_exactly(b, 6) == b"456789"
        assert not b.pending()
        assert not b.wants_write()


@pytest.mark.parametrize("prot", ["tls", "tcp"])
def test_what_was_peeked_at_is_read_again(prot: str) -> None:
    with pair(prot) as (a, b):
        with pytest.raises(BlockingIOError):
            a.peek_into(memoryview(bytearray(3)))
        write_all(b, b"good morning")
        for _ in range(2):
            view = memoryview(bytearray(4))
            assert wait(a, a.peek_into, view) == 4
            assert bytes(view) == b"good"
        if prot == "tls":
            # Decrypted, and so not to be seen by poll(2).
            assert a.restless
            assert a.pending()
        assert read_exactly(a, 12) == b"good morning"
        with pytest.raises(BlockingIOError):
            a.peek_into(memoryview(bytearray(3)))
        b.shutdown(socket.SHUT_WR)
        assert wait(a, a.peek_into, memoryview(bytearray(1))) == 0


@pytest.mark.parametrize("prot", ["tls", "tcp"])
def test_nothing_yet_is_no_end(prot: str) -> None:
    with pair(prot) as (a, b):
        with pytest.raises(BlockingIOError):
            b.read_into(memoryview(bytearray(1)))
        if prot == "tls":
            assert b.read_into(memoryview(bytearray())) == 0
            assert b.write(memoryview(b"")) == 0
        write_all(a, b"x")
        assert read_exactly(b, 1) == b"x"


@pytest.mark.parametrize("prot", ["tls", "tcp"])
def test_the_end_of_one_direction_leaves_the_other(prot: str) -> None:
    with pair(prot) as (a, b):
        write_all(a, b"question")
        a.shutdown(socket.SHUT_WR)
        assert read_all(b) == b"question"
        with pytest.raises(BrokenPipeError):
            a.write(memoryview(b"more"))
        write_all(b, b"answer")
        b.shutdown(socket.SHUT_WR)
        assert read_all(a) == b"answer"
        a.close()
        a.close()


def test_an_end_of_reading_is_an_end() -> None:
    with pair() as (a, b):
        write_all(a, b"unread")
        b.shutdown(socket.SHUT_RD)
        assert b.read_into(memoryview(bytearray(10))) == 0
        assert b.restless
        assert b.pending()
        write_all(b, b"still")
        assert read_exactly(a, 5) == b"still"


def test_a_closed_stream_ends() -> None:
    with pair() as (a, b):
        write_all(a, b"bye")
        a.close()
        assert read_all(b) == b"bye"
        assert read_all(b) == b""


def test_a_stream_that_is_cut_off_is_an_error_and_no_end() -> None:
    """The truncation attack: the host closes the connection, TLS did not announce an end."""
    with pair() as (a, b):
        write_all(a, b"half of")
        a._socket.shutdown(socket.SHUT_WR)
        assert read_exactly(b, 7) == b"half of"
        for _ in range(2):
            with pytest.raises(ConnectionResetError) as caught:
                wait(b, b.read_into, memoryview(bytearray(10)))
            assert "cut off" in str(caught.value)


def test_data_before_a_cut_is_given_first() -> None:
    with pair() as (a, b):
        write_all(a, DATA[:16384])
        a._socket.shutdown(socket.SHUT_WR)
        time.sleep(0.05)
        assert wait(b, b.read_into, memoryview(bytearray(65536))) == 16384
        with pytest.raises(ConnectionResetError):
            b.read_into(memoryview(bytearray(10)))


@pytest.mark.parametrize("foreign", [False, True])
def test_data_that_was_tampered_with_is_an_error(*, foreign: bool) -> None:
    with pair() as (a, b):
        write_all(a, b"first")
        assert read_exactly(b, 5) == b"first"
        a._socket.send(b"\x17\x03\x03\x00\x20" + b"\0" * 32)
        # Genuine data comes after it, which must not be had.
        write_all(a, b"second")
        select.select([b], [], [], 30)
        why = "TLS failed: decryption failed or bad record mac"
        if foreign:
            leave_an_error()
        for _ in range(2):
            with pytest.raises(ConnectionAbortedError, match=why):
                b.read_into(memoryview(bytearray(10)))
        with pytest.raises(ConnectionAbortedError):
            b.write(memoryview(b"x"))


def leave_an_error() -> None:
    """Queue an error, as another use of the library in the same thread may leave it."""
    context = SSL.Context(SSL.TLS_METHOD)
    assert lib.SSL_CTX_set_cipher_list(context_handle(context), b"nonsense") == 0
    assert lib.ERR_peek_error()


def test_an_error_of_another_s_is_none_of_the_stream_s() -> None:
    with pair() as (a, b):
        leave_an_error()
        with pytest.raises(BlockingIOError):
            b.read_into(memoryview(bytearray(1)))
        assert not lib.ERR_peek_error()
        leave_an_error()
        write_all(a, b"data")
        leave_an_error()
        assert read_exactly(b, 4) == b"data"
        leave_an_error()
        taken = fill(a)
        rest = (b"x" * 100_000)[taken % 100_000 :]
        leave_an_error()

        def finish() -> None:
            write_all(a, rest)
            a.close()

        thread = threading.Thread(target=finish)
        thread.start()
        assert len(read_all(b)) == taken + len(rest)
        thread.join()
        leave_an_error()
        assert read_all(b) == b""


def test_a_cut_is_told_whatever_another_left() -> None:
    for first in (True, False):
        with pair() as (a, b):
            if not first:
                # With nothing of TLS itself to be passed over before it is met.
                write_all(a, b"first")
                assert read_exactly(b, 5) == b"first"
            a._socket.shutdown(socket.SHUT_WR)
            select.select([b], [], [], 30)
            leave_an_error()
            with pytest.raises(ConnectionResetError, match="cut off"):
                wait(b, b.read_into, memoryview(bytearray(10)))


@contextmanager
def reset() -> Iterator[Stream]:
    """A stream that its peer has reset, and that met an error of another's before that."""
    with pair() as (a, b):
        write_all(a, b"first")
        assert read_exactly(b, 5) == b"first"
        # It must not be taken for what happens later.
        leave_an_error()
        with pytest.raises(BlockingIOError):
            b.read_into(memoryview(bytearray(1)))
        write_all(b, b"unread")
        select.select([a], [], [], 30)
        a._socket.close()
        select.select([b], [], [], 30)
        yield b


def test_a_reset_is_told_whatever_another_left() -> None:
    view = memoryview(bytearray(10))
    for foreign in (True, False):
        for operation in ("read_into", "write", "peek_into"):
            with reset() as b:
                if foreign and operation != "peek_into":
                    leave_an_error()
                for _ in range(2):
                    with pytest.raises((ConnectionResetError, BrokenPipeError)):
                        getattr(b, operation)(view)


def corked(stream: Stream) -> int:
    return stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK)


def segments(stream: Stream) -> int:
    """How many segments with data were sent: linux/tcp.h, struct tcp_info, tcpi_data_segs_out."""
    info = stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    return int.from_bytes(info[156:160], "little")


def test_several_records_go_together_and_at_once() -> None:
    with pair() as (a, b):
        write_all(a, b"first")
        assert read_exactly(b, 5) == b"first"
        before = segments(a)
        assert a.write(memoryview(DATA)[:50_000]) == 50_000
        assert not corked(a)
        assert segments(a) - before < 4
        assert read_exactly(b, 50_000) == DATA[:50_000]
        fill(a)
        assert not corked(a)


def test_a_reset_is_a_reset() -> None:
    with pair() as (a, b):
        write_all(b, b"unread")
        select.select([a], [], [], 5)
        a._socket.close()
        select.select([b], [], [], 5)
        with pytest.raises(ConnectionResetError):
            b.read_into(memoryview(bytearray(10)))
    with pair() as (a, b):
        write_all(b, b"unread")
        select.select([a], [], [], 5)
        a._socket.close()
        select.select([b], [], [], 5)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            b.write(memoryview(b"x"))


def test_a_write_that_would_block_can_come_again_with_more() -> None:
    with pair() as (a, b):
        taken = fill(a)
        again = (b"x" * 100_000)[taken % 100_000 :] + b"y" * 50_000

        def finish() -> None:
            write_all(a, again)
            a.close()

        thread = threading.Thread(target=finish)
        thread.start()
        got = read_all(b)
        thread.join()
        assert got == b"x" * taken + again


@pytest.mark.parametrize("piece", [1, 100, 16384, 16385])
def test_a_write_that_would_block_can_come_again_with_less(piece: int) -> None:
    """The record on its way holds more than what is handed over now; nothing is sent twice."""
    with pair() as (a, b):
        block = b"".join(number.to_bytes(4, "big") for number in range(25_000))
        taken = fill(a, block)
        rest = memoryview(block)[taken % len(block) :]

        def finish() -> None:
            left = rest[:50_000]
            while left:
                left = left[wait(a, a.write, left[:piece]) :]
            a.close()

        thread = threading.Thread(target=finish)
        thread.start()
        got = read_all(b)
        thread.join()
        whole = block * (taken // len(block) + 2)
        assert got == whole[: taken + len(rest[:50_000])]


def test_other_data_after_a_write_that_would_block_is_an_error() -> None:
    with pair() as (a, b):
        taken = fill(a)
        with pytest.raises(ConnectionAbortedError, match="other data"):
            a.write(memoryview(b"z"))
        with pytest.raises(ConnectionAbortedError):
            a.write(memoryview(b"x"))
        a.close()
        with pytest.raises(ConnectionResetError):
            read_exactly(b, taken + 20_000)


def test_an_abandoned_write_is_not_an_end() -> None:
    with pair() as (a, b):
        fill(a)
        a.close()
        with pytest.raises(ConnectionResetError):
            read_all(b)


def small_buffers(a: Stream, b: Stream) -> None:
    a._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 50_000)
    b._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)
    # The kernel has the last word of the handshake to acknowledge.
    time.sleep(0.05)


def wire_capacity() -> int:
    """How many bytes fit between the two ends while the peer does not read."""
    with pair() as (a, b):
        small_buffers(a, b)
        fill(a, b"x" * 16384)
        held = 0
        while select.select([b], [], [], 0.1)[0]:
            held += len(b._socket.recv(1 << 20))
        return held


def fill_exactly(stream: Stream, wire: int) -> int:
    """Write records that take `wire` bytes in all, of which each has 22 that are no data."""
    sent = 0
    while wire > 0:
        size = 16384 if wire >= 2 * 16406 else (wire if wire <= 16406 else wire // 2) - 22
        sent += stream.write(memoryview(b"x" * size))
        wire -= size + 22
    return sent


@contextmanager
def brimming() -> Iterator[tuple[Stream, Stream, int]]:
    """A pair between which not one byte more fits, and how much data is on its way."""
    for _ in range(20):
        capacity = wire_capacity()
        with pair() as (a, b):
            small_buffers(a, b)
            try:
                sent = fill_exactly(a, capacity)
            except BlockingIOError:
                # The kernel's accounts differ a little now and then.
                continue
            yield a, b, sent
            return
    raise TimeoutError("the socket cannot be filled to the brim")


@pytest.mark.parametrize("patience", [120.0, 0.0])
def test_close_does_not_wait_for_a_slow_reader(
    patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket is full to the brim: the end of TLS is sent when the peer reads, or never."""
    monkeypatch.setattr("garrison.keep.net.tls_stream._LINGER_SECONDS", patience)
    with brimming() as (a, b, sent):
        started = time.monotonic()
        a.close()
        a.close()
        assert time.monotonic() - started < 30
        assert a.fileno() == -1
        with pytest.raises(OSError, match="Bad file descriptor"):
            a.write(memoryview(b"x"))
        if patience:
            assert len(read_all(b)) == sent
        else:
            with pytest.raises(ConnectionResetError, match="cut off"):
                read_all(b)


@pytest.mark.parametrize("operation", ["read_into", "peek_into"])
def test_an_end_of_writing_waits_for_a_slow_reader(operation: str) -> None:
    with brimming() as (a, b, sent):
        a.shutdown(socket.SHUT_WR)
        assert a.wants_write()
        got = read_exactly(b, sent)
        with pytest.raises(BlockingIOError):
            getattr(a, operation)(memoryview(bytearray(1)))
        assert not a.wants_write()
        assert read_all(b) == b""
        assert got == b"x" * sent


def test_an_error_keeps_nothing_of_the_guests_memory() -> None:
    """Also where somebody keeps the error, and with it the frames that it went through."""
    with pair() as (a, _):
        view = memoryview(bytearray(1 << 20))
        fill(a, bytes(1 << 20))
        with pytest.raises(BlockingIOError) as reading:
            a.read_into(view)
        with pytest.raises(BlockingIOError) as writing:
            a.write(view)
        a._socket.shutdown(socket.SHUT_RDWR)
        with pytest.raises(BrokenPipeError) as failed:
            a.write(view)
        # An export that is left over would make this an error.
        view.release()
        assert [caught.value.errno for caught in (reading, writing, failed)] == [
            errno.EAGAIN,
            errno.EAGAIN,
            errno.EPIPE,
        ]


def test_streams_leave_nothing_behind() -> None:
    with pair() as (a, b):
        descriptors = {a.fileno(), b.fileno()}
    gc.collect()
    assert a.fileno() == b.fileno() == -1
    assert len(descriptors) == 2


@pytest.mark.parametrize("prot", ["tls", "tcp"])
def test_parts_of_a_memory_are_read_and_written_where_they_are(prot: str) -> None:
    with pair(prot) as (a, b):
        memories = [memoryview(bytearray(DATA[:4096])), memoryview(bytearray(DATA[4096:8192]))]
        room = Room(memories[0])
        # As after each growth of a guest's memory.
        for memory in (*memories, *memories):
            room.be(memory)
            before = bytes(memory)
            for place in (1000, 2000, 1000):
                assert wait(a, a.write_at, room, 100, 200) == 100
                assert wait(b, b.read_at, room, place, place + 1000) == 100
                assert memory[place : place + 100] == before[100:200]
                memory[place : place + 100] = before[place : place + 100]
                assert memory == before


def test_no_part_reaches_beyond_its_memory() -> None:
    with pair() as (a, b):
        memory = Room(memoryview(bytearray(4096)))
        with pytest.raises(BlockingIOError):
            b.read_at(memory, 100, 200)
        write_all(a, DATA[:16384])
        select.select([b], [], [], 30)
        for start, end in ((4000, 5000), (5000, 6000), (-1, 10), (4096, 1 << 33)):
            with pytest.raises(IndexError):
                b.read_at(memory, start, end)
            with pytest.raises(IndexError):
                b.write_at(memory, start, end)
        assert bytes(memory.all) == bytes(4096)
        assert read_exactly(b, 16384) == DATA[:16384]
        assert b.read_at(memory, 5, 5) == b.write_at(memory, 9999, 9999) == 0


def test_what_is_written_from_may_be_read_only_and_what_is_read_into_may_not() -> None:
    with pair() as (a, b):
        assert wait(a, a.write, memoryview(b"read-only")) == 9
        select.select([b], [], [], 30)
        fixed = bytes(9)
        with pytest.raises(BufferError):
            b.read_into(memoryview(fixed))
        with pytest.raises(BufferError):
            b.read_at(Room(memoryview(fixed)), 0, 9)
        assert fixed == bytes(9)
        assert read_exactly(b, 9) == b"read-only"


_COLLECTED = """
import gc
from garrison.keep.net import tls_stream
from garrison.keep.vfs.descriptor import Room
class Host: pass
host = Host()
host.itself, host.memory = host, Room(memoryview(bytearray(4096)))
tls_stream._place(host.memory, 0, 100)
del host
assert gc.collect()
"""


def test_a_memory_is_collected_with_what_the_library_saw_of_it() -> None:
    """As when a keep ends; a buffer that was held would be given back too late, and crash."""
    subprocess.run([sys.executable, "-c", _COLLECTED], check=True)


def test_a_stream_keeps_nothing_of_the_memory_it_was_given() -> None:
    with pair() as (a, b):
        memory = bytearray(4096)
        room = Room(memoryview(memory))
        assert wait(a, a.write_at, room, 0, 10) == 10
        assert wait(b, b.read_at, room, 100, 200) == 10
        with pytest.raises(BlockingIOError):
            b.read_at(room, 100, 200)
        assert wait(a, a.write, memoryview(memory)[:10]) == 10
        assert wait(b, b.read_into, memoryview(memory)[:10]) == 10
        room.be(memoryview(b""))
        memory.append(0)

"""wasi:filesystem and wasi:io by their functions: what they do to the keep's files."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from garrison.keep.component.callbacks import Failed
from garrison.keep.component.host import Host
from garrison.keep.component.waiting import Connection, Moment
from garrison.keep.component.wasi import filesystem as fs
from garrison.keep.component.wasi import streams as io
from garrison.keep.engine.failures import Trap
from garrison.keep.net.policy import ANONYMOUS
from garrison.keep.net.stream import Stream
from garrison.keep.vfs.descriptor import Descriptor
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.nodes import Directory, File, Quota
from garrison.keep.vfs.streams import Socket
from garrison.keep.wasi.interrupts import Interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from garrison.keep.component.wasi.opened import Opened

_NO: frozenset[str] = frozenset()
_READ = frozenset({"read"})
_BOTH = frozenset({"read", "write"})
_CREATE = frozenset({"create"})
_FOLLOW = frozenset({"symlink-follow"})


@pytest.fixture
def host() -> Iterator[Host]:
    with Interrupts(lambda: None) as interrupts:
        tree = Directory(
            None,
            [
                ("pkg", Directory(None, [("a", File(None, b"abcdef"))])),
                ("tmp", Directory(Quota(1 << 16))),
            ],
        )
        root = tree.open(read=True, write=False)
        yield Host([], {}, [], [("/", root)], None, interrupts, 64)


@pytest.fixture
def root(host: Host) -> Opened:
    ((found, name),) = fs.preopens_get_directories(host)
    assert name == "/"
    return found


def _code(call: Callable[..., Any], *args: Any) -> object:
    with pytest.raises(Failed) as caught:
        call(*args)
    return caught.value.value


def test_who_can_open_no_more_changes_nothing_by_trying(
    host: Host, root: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    opened = fs.descriptor_open_at(host, root, _NO, "tmp/a", _CREATE, _BOTH)
    fs.descriptor_write(host, opened, memoryview(b"hello"), 0)
    while True:
        try:
            host.count()
        except Errno:
            break
    cut = frozenset({"truncate"})
    assert _code(fs.descriptor_open_at, host, root, _NO, "tmp/a", cut, _BOTH) == "quota"
    assert fs.descriptor_stat(host, opened)[2] == 5
    assert _code(fs.descriptor_open_at, host, root, _NO, "tmp/b", _CREATE, _BOTH) == "quota"
    assert _code(fs.descriptor_stat_at, host, root, _NO, "tmp/b") == "no-entry"
    assert [record.getMessage() for record in caplog.records] == [
        "the workload has reached a limit: limits.descriptors is 64; it is refused more"
    ]


def test_a_file_is_made_written_read_and_told_about(host: Host, root: Opened) -> None:
    opened = fs.descriptor_open_at(host, root, _NO, "tmp/a", _CREATE, _BOTH)
    assert fs.descriptor_write(host, opened, memoryview(b"hello"), 2) == 5
    data, ended = fs.descriptor_read(host, opened, 100, 1)
    assert (bytes(data), ended) == (b"\0hello", True)
    data, ended = fs.descriptor_read(host, opened, 3, 0)
    assert (bytes(data), ended) == (b"\0\0h", False)
    fs.descriptor_set_size(host, opened, 4)
    kind, links, size, *times = fs.descriptor_stat(host, opened)
    assert (kind, links, size, len(times)) == ("regular-file", 1, 4, 3)
    fs.descriptor_set_times(host, opened, ("no-change", None), ("timestamp", (5, 6)))
    assert fs.descriptor_stat_at(host, root, _NO, "tmp/a")[4] == (5, 6)
    assert fs.descriptor_get_type(host, opened) == "regular-file"
    assert fs.descriptor_get_flags(host, opened) == _BOTH
    again = fs.descriptor_open_at(host, root, _NO, "tmp/a", _NO, _READ)
    assert fs.descriptor_is_same_object(host, opened, again)
    assert not fs.descriptor_is_same_object(host, opened, root)
    here = fs.descriptor_metadata_hash(host, opened)
    assert here == fs.descriptor_metadata_hash_at(host, root, _NO, "tmp/a")
    fs.descriptor_open_at(host, root, _NO, "tmp/a", frozenset({"truncate"}), _BOTH)
    assert fs.descriptor_stat(host, opened)[2] == 0


def test_names_are_made_moved_linked_and_removed(host: Host, root: Opened) -> None:
    fs.descriptor_create_directory_at(host, root, "tmp/d")
    fs.descriptor_open_at(host, root, _NO, "tmp/d/f", _CREATE, _BOTH)
    fs.descriptor_link_at(host, root, _NO, "tmp/d/f", root, "tmp/g")
    fs.descriptor_symlink_at(host, root, "d/f", "tmp/s")
    assert fs.descriptor_readlink_at(host, root, "tmp/s") == "d/f"
    assert fs.descriptor_stat_at(host, root, _FOLLOW, "tmp/s")[:2] == ("regular-file", 2)
    assert fs.descriptor_stat_at(host, root, _NO, "tmp/s")[0] == "symbolic-link"
    fs.descriptor_rename_at(host, root, "tmp/g", root, "tmp/h")
    folder = fs.descriptor_open_at(host, root, _NO, "tmp", _NO, _READ)
    entries = fs.descriptor_read_directory(host, folder)
    found = []
    while (entry := fs.directory_entry_stream_read_directory_entry(host, entries)) is not None:
        found.append(entry)
    assert sorted(found) == [
        ("directory", "d"), ("regular-file", "h"), ("symbolic-link", "s"),
    ]  # fmt: skip
    assert _code(fs.descriptor_remove_directory_at, host, root, "tmp/d") == "not-empty"
    assert _code(fs.descriptor_unlink_file_at, host, root, "tmp/d") == "is-directory"
    fs.descriptor_unlink_file_at(host, root, "tmp/d/f")
    fs.descriptor_remove_directory_at(host, root, "tmp/d")
    assert _code(fs.descriptor_stat_at, host, root, _NO, "tmp/d") == "no-entry"


@pytest.mark.parametrize(
    ("path", "open_flags", "flags", "code"),
    [
        ("pkg/a", _NO, _BOTH, "read-only"),
        ("pkg/b", _CREATE, _BOTH, "read-only"),
        ("pkg/b", _NO, _READ, "no-entry"),
        ("../a", _NO, _READ, "not-permitted"),
        ("/pkg/a", _NO, _READ, "not-permitted"),
        ("pkg/a/b", _NO, _READ, "not-directory"),
        ("pkg/a", frozenset({"directory"}), _READ, "not-directory"),
        ("pkg", _NO, _BOTH, "is-directory"),
        ("pkg/a", frozenset({"create", "exclusive"}), _READ, "exist"),
        ("", _NO, _READ, "no-entry"),
        ("a\0b", _NO, _READ, "invalid"),
        ("a" * 5000, _NO, _READ, "name-too-long"),
    ],
    ids=lambda value: "-".join(sorted(value)) if isinstance(value, frozenset) else value[:9],
)
def test_what_cannot_be_opened(
    host: Host, root: Opened, path: str, open_flags: Any, flags: Any, code: str
) -> None:
    assert _code(fs.descriptor_open_at, host, root, _NO, path, open_flags, flags) == code


def test_a_directory_opened_to_read_changes_nothing(host: Host, root: Opened) -> None:
    root.flags = _READ
    folder = fs.descriptor_open_at(host, root, _NO, "tmp", _NO, _READ)
    assert _code(fs.descriptor_create_directory_at, host, folder, "d") == "read-only"
    assert _code(fs.descriptor_open_at, host, folder, _NO, "f", _CREATE, _BOTH) == "read-only"
    assert _code(fs.descriptor_read, host, folder, 1, 0) == "is-directory"
    file = fs.descriptor_open_at(host, root, _NO, "pkg/a", _NO, _READ)
    assert _code(fs.descriptor_write, host, file, memoryview(b"x"), 0) == "bad-descriptor"
    assert _code(fs.descriptor_read_via_stream, host, file, 1 << 63) == "invalid"
    assert _code(fs.descriptor_set_size, host, file, 1) == "invalid"


def test_streams_of_files_have_places_of_their_own(host: Host, root: Opened) -> None:
    file = fs.descriptor_open_at(host, root, _NO, "tmp/a", _CREATE, _BOTH)
    first = fs.descriptor_write_via_stream(host, file, 0)
    last = fs.descriptor_append_via_stream(host, file)
    for stream, text in ((first, b"one"), (last, b"two"), (first, b"TT"), (last, b"x")):
        io.output_stream_blocking_write_and_flush(host, stream, memoryview(text))
    reading = fs.descriptor_read_via_stream(host, file, 1)
    file.drop()
    assert io.input_stream_skip(host, reading, 1) == 1
    assert bytes(io.input_stream_read(host, reading, 3)) == b"eTT"
    assert io.output_stream_splice(host, last, reading, 100) == 2
    assert bytes(io.input_stream_blocking_read(host, reading, 100)) == b"ox"
    assert _code(io.input_stream_blocking_read, host, reading, 100) == ("closed", None)
    for used in (first, last, reading):
        used.drop()


class _Slow(Descriptor):
    """Takes three bytes at a time, every other time; notes what it got and whether it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.got = b""
        self.closed = False
        self._turn = False
        self._writable = os.eventfd(0)

    def events(self, *, write: bool) -> tuple[int, int]:
        return self._writable, 4  # POLLOUT

    def write(self, view: memoryview) -> int:
        self._turn = not self._turn
        if self._turn:
            raise BlockingIOError
        self.got += bytes(view[:3])
        return min(3, len(view))

    def close(self) -> None:
        self.closed = True
        os.close(self._writable)


def test_what_is_not_taken_at_once_goes_later_and_whole(host: Host) -> None:
    slow = _Slow()
    stream = io.OutputStream(host, io.Shared(slow, host))
    assert io.output_stream_check_write(host, stream) == 1 << 16
    data = bytearray(b"abcdefghij")
    io.output_stream_write(host, stream, memoryview(data))
    # The component's memory changes; what it wrote does not.
    data[:] = b"-" * 10
    assert io.output_stream_check_write(host, stream) == 0
    with pytest.raises(Trap, match="more to a stream"):
        io.output_stream_write(host, stream, memoryview(b"x"))
    io.output_stream_blocking_flush(host, stream)
    assert slow.got == b"abcdefghij"
    assert io.output_stream_check_write(host, stream) == 1 << 16
    io.output_stream_write_zeroes(host, stream, 5)
    stream.drop()
    assert slow.got == b"abcdefghij" + bytes(5)
    assert slow.closed


class _Broken(Descriptor):
    def write(self, view: memoryview) -> int:
        raise OSError(28, "no space")

    def read(self, view: memoryview) -> int:
        raise ConnectionResetError(104, "reset")


def test_a_failed_stream_says_why_once_and_is_closed(host: Host) -> None:
    stream = io.OutputStream(host, io.Shared(_Broken()))
    io.output_stream_check_write(host, stream)
    with pytest.raises(Failed) as caught:
        io.output_stream_write(host, stream, memoryview(b"x"))
    value: Any = caught.value.value
    kind, error = value
    assert kind == "last-operation-failed"
    assert fs.types_filesystem_error_code(host, error) == "insufficient-space"
    assert io.error_to_debug_string(host, error) == "nospc"
    assert _code(io.output_stream_check_write, host, stream) == ("closed", None)
    reading = io.InputStream(io.Shared(_Broken()))
    with pytest.raises(Failed):
        io.input_stream_read(host, reading, 1)
    assert _code(io.input_stream_read, host, reading, 1) == ("closed", None)


def test_a_stream_that_only_waits_is_not_ready_and_a_time_comes(host: Host) -> None:
    over, late = Moment(1), Moment(1 << 63)
    assert io.pollable_ready(host, over)
    assert not io.pollable_ready(host, late)
    assert io.poll_poll(host, [late, over, late, over]) == [1, 3]


def test_who_waits_for_a_connection_that_was_closed_is_told(host: Host) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    connection = Socket(Stream(ours, ANONYMOUS))
    stream = io.InputStream(io.Shared(connection))
    waiting = io.input_stream_subscribe(host, stream)
    assert isinstance(waiting, Connection)
    assert not io.pollable_ready(host, waiting)
    theirs.send(b"x")
    assert io.poll_poll(host, [Moment(1 << 63), waiting]) == [1]
    stream.drop()
    assert io.poll_poll(host, [waiting]) == [0]
    theirs.close()


def test_a_directory_that_is_found_in_one_can_be_changed_as_that(host: Host, root: Opened) -> None:
    """Preview 1's adapter never asks for it: so Rust's `remove_dir_all` does."""
    fs.descriptor_create_directory_at(host, root, "tmp/a")
    fs.descriptor_create_directory_at(host, root, "tmp/a/b")
    found = fs.descriptor_open_at(host, root, _NO, "tmp/a", frozenset({"directory"}), _READ)
    assert fs.descriptor_get_flags(host, found) == _READ | {"mutate-directory"}
    fs.descriptor_remove_directory_at(host, found, "b")
    fs.descriptor_open_at(host, found, _NO, "c", _CREATE, _BOTH).drop()
    assert fs.descriptor_stat_at(host, root, _NO, "tmp/a/c")[0] == "regular-file"
    # What is read-only stays so, and what was opened to be read only is no way to change it.
    package = fs.descriptor_open_at(host, root, _NO, "pkg", frozenset({"directory"}), _READ)
    assert _code(fs.descriptor_create_directory_at, host, package, "d") == "read-only"
    found.flags = _READ
    below = fs.descriptor_open_at(host, found, _NO, ".", frozenset({"directory"}), _READ)
    assert fs.descriptor_get_flags(host, below) == _READ
    assert _code(fs.descriptor_unlink_file_at, host, below, "c") == "read-only"
    for opened in (found, package, below):
        opened.drop()

"""What changes names does as Linux does, in memory and in a directory of the host."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from garrison.formats.limits import Limits
from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.host_directory_insecure import host_directory
from garrison.keep.vfs.nodes import Directory, Symlink
from garrison.keep.vfs.root import root_directory
from garrison.keep.wasi import abi, paths
from garrison.keep.wasi.descriptors import fd_close, fd_read, fd_write
from garrison.keep.wasi.host import Host, Table
from garrison.keep.wasi.interrupts import Interrupts
from garrison.keep.wasi.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_TOP = 0
_MOST = 16
_RESULT = 8192
_FOLLOW = 1


class Guest:
    """A host without an engine, whose one directory has a file, a directory and links to each."""

    def __init__(self, top: Directory) -> None:
        self.top = top
        table = Table(_MOST)
        table.insert(top.open(read=True, write=False))
        self.host = Host([], {}, table, Interrupts(lambda: None))
        self.host.memory.be(memoryview(bytearray(16384)))
        top.create_file("file")
        top.create_directory("folder")
        top.create_symlink("to-file", "file")
        top.create_symlink("to-folder", "folder")
        top.create_symlink("to-nothing", "nothing")

    def text(self, text: str, place: int) -> tuple[int, int]:
        data = text.encode()
        self.host.memory.all[place : place + len(data)] = data
        return place, len(data)

    def on(self, function: Callable[..., None], *names: str, last: int = _TOP) -> int:
        """Call a function on names below the directory (the last below `last`); give the errno."""
        given: list[int] = []
        for index, name in enumerate(names):
            folder = last if index == len(names) - 1 else _TOP
            given += (folder, *self.text(name, index * 1024))
        try:
            function(self.host, *given)
        except Errno as error:
            return error.number
        except OSError as error:
            return errno.of_host(error)
        return 0

    def open(self, name: str, oflags: int, folder: int = _TOP) -> int:
        rights = d.FD_READ | d.FD_WRITE if not oflags & abi.DIRECTORY else d.FD_READ
        try:
            paths.path_open(
                self.host, folder, _FOLLOW, *self.text(name, 0), oflags, rights, 0, 0, _RESULT
            )
        except Errno as error:
            return error.number
        except OSError as error:
            return errno.of_host(error)
        fd_close(self.host, int.from_bytes(self.host.memory.all[_RESULT : _RESULT + 4], "little"))
        return 0

    def hold(self, name: str) -> int:
        """Open what is there, and leave it open; give its number."""
        rights = d.FILE_RIGHTS if name == "file" else d.FOLDER_RIGHTS
        paths.path_open(self.host, _TOP, _FOLLOW, *self.text(name, 0), 0, rights, d.ALL, 0, _RESULT)
        return int.from_bytes(self.host.memory.all[_RESULT : _RESULT + 4], "little")

    def symlink(self, target: str, name: str, last: int = _TOP) -> int:
        def make(host: Host, fd: int, path: int, size: int) -> None:
            paths.path_symlink(host, *self.text(target, 2048), fd, path, size)

        return self.on(make, name, last=last)

    def link(self, old: str, new: str, last: int = _TOP) -> int:
        def make(host: Host, fd: int, path: int, size: int, *to: int) -> None:
            paths.path_link(host, fd, 0, path, size, *to)

        return self.on(make, old, new, last=last)

    def unchanged(self) -> bool:
        kinds = {name: kind for name, _, kind in self.top.listing()}
        return kinds == {
            "file": d.REGULAR,
            "folder": d.FOLDER,
            "to-file": d.SYMLINK,
            "to-folder": d.SYMLINK,
            "to-nothing": d.SYMLINK,
        }


@pytest.fixture(params=["memory", "host"])
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Guest:
    if request.param == "host":
        return Guest(host_directory(str(tmp_path), read_only=False).node())
    top = root_directory({"x": b"1"}, None, {}, Limits(), lambda *_: {}).lookup("tmp")
    assert isinstance(top, Directory)
    return Guest(top)


@pytest.mark.parametrize("name", ["to-file", "to-folder", "to-nothing"])
def test_a_link_is_a_name_that_is_taken(guest: Guest, name: str) -> None:
    assert guest.open(name, abi.CREATE | abi.EXCLUSIVE) == errno.EXIST
    assert guest.unchanged()


def test_without_exclusive_a_link_to_nothing_says_what_to_make(guest: Guest) -> None:
    assert guest.open("to-nothing", abi.CREATE) == 0
    assert guest.top.lookup("nothing") is not None
    assert isinstance(guest.top.lookup("to-nothing"), Symlink)


@pytest.mark.parametrize("name", ["folder", "folder/", "to-folder", "."])
def test_what_would_make_a_file_opens_no_directory(guest: Guest, name: str) -> None:
    assert guest.open(name, abi.CREATE) == errno.ISDIR
    assert guest.open(name, 0) == errno.ISDIR
    assert guest.open(name, abi.DIRECTORY) == 0


@pytest.mark.parametrize("name", ["to-folder/", "to-file/", "to-nothing/"])
def test_a_slash_after_a_link_changes_nothing_behind_it(guest: Guest, name: str) -> None:
    assert guest.on(paths.path_remove_directory, name) == errno.NOTDIR
    assert guest.on(paths.path_unlink_file, name) == errno.NOTDIR
    assert guest.on(paths.path_create_directory, name) == errno.EXIST
    assert guest.on(paths.path_rename, name, "other") == errno.NOTDIR
    assert guest.on(paths.path_rename, "folder", name) == errno.NOTDIR
    assert guest.on(paths.path_rename, "file", name) == errno.NOTDIR
    assert guest.symlink("file", name) == errno.EXIST
    assert guest.link("file", name) == errno.EXIST
    assert guest.unchanged()


def test_a_slash_after_a_directory_is_as_none(guest: Guest) -> None:
    assert guest.on(paths.path_create_directory, "new/") == 0
    assert guest.on(paths.path_rename, "new/", "newer//") == 0
    assert guest.on(paths.path_remove_directory, "newer/") == 0
    assert guest.unchanged()


@pytest.mark.parametrize("name", [".", "folder/.", "folder/.."])
def test_what_has_no_last_name_is_not_moved(guest: Guest, name: str) -> None:
    assert guest.on(paths.path_rename, name, "other") == errno.BUSY
    assert guest.on(paths.path_rename, "folder", name) == errno.BUSY
    assert guest.unchanged()


def test_who_can_open_no_more_changes_nothing_by_trying(guest: Guest) -> None:
    held = guest.hold("file")
    # One buffer, of 4 bytes at 0.
    guest.host.memory.all[1024:1032] = struct.pack("<II", 0, 4)
    fd_write(guest.host, held, 1024, 1, _RESULT)
    while len(guest.host.descriptors) < _MOST:
        guest.hold("folder")
    assert guest.open("file", abi.TRUNCATE) == errno.MFILE
    assert guest.host.descriptors[held].stat().size == 4
    assert guest.open("new", abi.CREATE) == errno.MFILE
    assert guest.unchanged()


def test_a_directory_that_was_removed_takes_no_names(guest: Guest) -> None:
    gone = guest.hold("folder")
    assert guest.on(paths.path_remove_directory, "folder") == 0
    assert guest.open("new", abi.CREATE, gone) == errno.NOENT
    assert guest.on(paths.path_create_directory, "new", last=gone) == errno.NOENT
    assert guest.symlink("file", "new", gone) == errno.NOENT
    assert guest.link("file", "new", gone) == errno.NOENT
    assert guest.on(paths.path_rename, "file", "new", last=gone) == errno.NOENT
    assert guest.on(paths.path_create_directory, "folder") == 0
    assert guest.unchanged()


def test_a_file_that_has_no_name_any_more_says_so(guest: Guest) -> None:
    held = guest.host.descriptors[guest.hold("file")]
    assert guest.link("file", "other") == 0
    assert held.stat().links == 2
    assert guest.on(paths.path_unlink_file, "other") == 0
    assert held.stat().links == 1
    assert guest.on(paths.path_unlink_file, "file") == 0
    assert held.stat().links == 0


def test_a_path_is_as_long_as_on_linux(guest: Guest) -> None:
    def found(length: int) -> int:
        path = "./" * 2000 + "/" * (length - 4004) + "file"
        assert len(path) == length

        def stat(host: Host, fd: int, place: int, size: int) -> None:
            paths.path_filestat_get(host, fd, 0, place, size, _RESULT)

        return guest.on(stat, path)

    assert found(4095) == 0
    assert found(4096) == errno.NAMETOOLONG


@pytest.mark.parametrize("count", [1, 2])
def test_nobody_looks_where_an_empty_buffer_points(
    guest: Guest, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is no engine to ask whether the memory has grown.
    monkeypatch.setattr(Memory, "_refresh", lambda _: None)
    paths.path_open(
        guest.host, _TOP, 0, *guest.text("file", 0), 0, d.FD_READ | d.FD_WRITE, 0, 0, _RESULT
    )
    memory = guest.host.memory.all
    number = int.from_bytes(memory[_RESULT : _RESULT + 4], "little")
    vectors = (0xAAAAAAAA.to_bytes(4, "little") + bytes(4)) * count
    memory[: len(vectors)] = vectors
    for function in (fd_write, fd_read):
        memory[_RESULT : _RESULT + 4] = b"\xff" * 4
        function(guest.host, number, 0, count, _RESULT)
        assert memory[_RESULT : _RESULT + 4] == bytes(4)

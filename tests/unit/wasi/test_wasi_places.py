"""Where a path led is kept, until it could lead elsewhere."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, cast

import pytest

from garrison.formats.limits import Limits
from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs.errno import NOENT, Errno
from garrison.keep.vfs.nodes import Directory, File, FileDescriptor, Quota
from garrison.keep.vfs.root import root_directory
from garrison.keep.wasi import paths
from garrison.keep.wasi.descriptors import fd_close
from garrison.keep.wasi.host import Host, Table

if TYPE_CHECKING:
    from garrison.keep.vfs.nodes import Node
    from garrison.keep.wasi.interrupts import Interrupts

_ROOT = 0
_RIGHTS = d.FD_READ | d.FD_FILESTAT_GET


class Guest:
    """A host without an engine: its memory is ours."""

    def __init__(self, root: Directory) -> None:
        table = Table(8)
        table.insert(root.open(read=True, write=False))
        self.host = Host([], {}, table, cast("Interrupts", None))
        self.host.memory.all = memoryview(bytearray(4096))
        self.host.memory.size = 4096

    def path(self, name: str, place: int = 0) -> tuple[int, int]:
        data = name.encode()
        self.host.memory.all[place : place + len(data)] = data
        return place, len(data)

    def node(self, name: str) -> Node:
        paths.path_open(self.host, _ROOT, 1, *self.path(name), 0, _RIGHTS, 0, 0, 1024)
        number = int.from_bytes(self.host.memory.all[1024:1028], "little")
        node = cast("FileDescriptor", self.host.descriptors[number])._node
        fd_close(self.host, number)
        return node

    def missing(self, name: str) -> bool:
        with pytest.raises(Errno) as caught:
            self.node(name)
        return caught.value.number == NOENT


@pytest.fixture
def root() -> Directory:
    return root_directory({"x": b"1"}, None, {}, Limits(), lambda *_: {})


@pytest.fixture
def tmp(root: Directory) -> Directory:
    found = root.lookup("tmp")
    assert isinstance(found, Directory)
    return found


def test_what_was_found_is_found_again(root: Directory, tmp: Directory) -> None:
    guest = Guest(root)
    made = tmp.create_file("a")
    assert guest.node("tmp/a") is guest.node("tmp/a") is guest.node("tmp/../tmp/a") is made
    assert len(guest.host.places) == 2


def test_what_was_taken_away_is_not_found(root: Directory, tmp: Directory) -> None:
    guest = Guest(root)
    assert guest.missing("tmp/a")
    first = tmp.create_file("a")
    assert guest.node("tmp/a") is first
    paths.path_unlink_file(guest.host, _ROOT, *guest.path("tmp/a"))
    assert guest.missing("tmp/a")
    second = tmp.create_file("a")
    assert guest.node("tmp/a") is second is not first


def test_what_was_moved_is_found_where_it_is(root: Directory, tmp: Directory) -> None:
    guest = Guest(root)
    tmp.create_directory("d")
    folder = tmp.lookup("d")
    assert isinstance(folder, Directory)
    inner, other = folder.create_file("a"), tmp.create_file("b")
    assert guest.node("tmp/d/a") is inner
    assert guest.node("tmp/b") is other
    moved = (*guest.path("tmp/d"), _ROOT, *guest.path("tmp/e", 64))
    paths.path_rename(guest.host, _ROOT, *moved)
    assert guest.missing("tmp/d/a")
    assert guest.node("tmp/e/a") is inner
    over = (*guest.path("tmp/e/a"), _ROOT, *guest.path("tmp/b", 64))
    paths.path_rename(guest.host, _ROOT, *over)
    assert guest.node("tmp/b") is inner


def test_a_removed_directory_leads_nowhere(root: Directory, tmp: Directory) -> None:
    guest = Guest(root)
    tmp.create_directory("d")
    paths.path_filestat_get(guest.host, _ROOT, 1, *guest.path("tmp/d"), 2048)
    paths.path_remove_directory(guest.host, _ROOT, *guest.path("tmp/d"))
    assert guest.missing("tmp/d")


def test_nothing_that_was_removed_is_kept(root: Directory, tmp: Directory) -> None:
    guest = Guest(root)
    gone = weakref.ref(tmp.create_file("a"))
    assert guest.node("tmp/a") is gone()
    paths.path_unlink_file(guest.host, _ROOT, *guest.path("tmp/a"))
    gc.collect()
    assert gone() is None


def test_what_another_class_finds_is_asked_again() -> None:
    class Moody(Directory):
        def lookup(self, name: str) -> Node | None:
            super().lookup(name)
            return File(None, name.encode())

    guest = Guest(Directory(None, [("moody", Moody(None)), ("steady", Directory(Quota(0)))]))
    assert guest.node("moody/a") is not guest.node("moody/a")
    assert guest.host.places == {}


def test_only_so_many_are_kept(root: Directory, tmp: Directory) -> None:
    guest = Guest(root)
    tmp.create_file("a")
    for count in range(600):
        guest.node("./" * count + "tmp/a")
    assert len(guest.host.places) <= 256

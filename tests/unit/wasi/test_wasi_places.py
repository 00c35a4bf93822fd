"""Where a path led is kept, until it could lead elsewhere."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, cast

import pytest

from garrison.formats.limits import Limits
from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs.errno import EXIST, NOENT, NOTCAPABLE, Errno
from garrison.keep.vfs.nodes import Directory, File, FileDescriptor, Folder, Quota
from garrison.keep.vfs.root import root_directory
from garrison.keep.wasi import abi, paths
from garrison.keep.wasi.descriptors import fd_close, fd_fdstat_set_rights, fd_readdir
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
        self.host.memory.be(memoryview(bytearray(4096)))

    def path(self, name: str, place: int = 0) -> tuple[int, int]:
        data = name.encode()
        self.host.memory.all[place : place + len(data)] = data
        return place, len(data)

    def open(self, name: str, oflags: int = 0, rights: int = _RIGHTS, flags: int = 0) -> int:
        paths.path_open(self.host, _ROOT, 1, *self.path(name), oflags, rights, 0, flags, 1024)
        return int.from_bytes(self.host.memory.all[1024:1028], "little")

    def opened(self, number: int) -> FileDescriptor:
        return cast("FileDescriptor", self.host.descriptors[number])

    def node(self, name: str) -> Node:
        number = self.open(name)
        node = self.opened(number)._node
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
    assert len(guest.host.openings) <= 256


def test_each_opening_is_one_of_its_own(root: Directory, tmp: Directory) -> None:
    guest = Guest(root)
    made = tmp.create_file("a")
    made.open(read=True, write=True).write(memoryview(b"abc"))
    before = made.opens
    first, second = guest.open("tmp/a"), guest.open("tmp/a", flags=abi.APPEND)
    third = guest.open("tmp/a")
    assert len({first, second, third}) == 3
    assert len(guest.host.openings) == 2
    view = memoryview(bytearray(2))
    assert [guest.opened(number).read(view) for number in (first, second, third)] == [2, 2, 2]
    assert [guest.opened(number).flags for number in (first, second, third)] == [0, abi.APPEND, 0]
    assert {guest.opened(number).rights for number in (first, third)} == {_RIGHTS}
    assert made.opens == before + 3


def test_what_was_opened_needs_its_rights_again(root: Directory, tmp: Directory) -> None:
    guest = Guest(root)
    tmp.create_file("a")
    fd_close(guest.host, guest.open("tmp/a"))
    outer = guest.opened(_ROOT)
    fd_fdstat_set_rights(guest.host, _ROOT, outer.rights, d.ALL & ~d.FD_READ)
    with pytest.raises(Errno) as caught:
        guest.open("tmp/a")
    assert caught.value.number == NOTCAPABLE
    fd_close(guest.host, guest.open("tmp/a", rights=d.FD_FILESTAT_GET))
    fd_fdstat_set_rights(guest.host, _ROOT, outer.rights & ~d.PATH_OPEN, outer.inheriting)
    with pytest.raises(Errno) as caught:
        guest.open("tmp/a", rights=d.FD_FILESTAT_GET)
    assert caught.value.number == NOTCAPABLE


@pytest.mark.parametrize(
    ("rights", "cut"),
    [
        (_RIGHTS, False),
        (_RIGHTS | d.FD_WRITE, False),
        (_RIGHTS | d.FD_FILESTAT_SET_SIZE, False),
        (_RIGHTS | d.FD_WRITE | d.FD_FILESTAT_SET_SIZE, True),
    ],
)
def test_who_may_cut_what_is_opened_may_open_it_cut(
    root: Directory, tmp: Directory, rights: int, *, cut: bool
) -> None:
    guest = Guest(root)
    made = tmp.create_file("a")
    made.open(read=True, write=True).write(memoryview(b"abc"))
    outer = guest.opened(_ROOT)
    kept = outer.rights & ~d.PATH_FILESTAT_SET_SIZE
    fd_fdstat_set_rights(guest.host, _ROOT, kept, outer.inheriting)
    if cut:
        guest.open("tmp/a", abi.TRUNCATE, rights)
    else:
        with pytest.raises(Errno) as caught:
            guest.open("tmp/a", abi.TRUNCATE, rights)
        assert caught.value.number == NOTCAPABLE
    assert made.size() == (0 if cut else 3)
    # The right is not had by asking for it.
    fd_fdstat_set_rights(guest.host, _ROOT, kept, outer.inheriting & ~d.FD_FILESTAT_SET_SIZE)
    with pytest.raises(Errno) as caught:
        guest.open("tmp/a", abi.TRUNCATE, rights | d.FD_FILESTAT_SET_SIZE)
    assert caught.value.number == NOTCAPABLE


def test_what_was_opened_is_cut_and_refused_again(root: Directory, tmp: Directory) -> None:
    guest = Guest(root)
    made = tmp.create_file("a")
    for _ in range(3):
        made.open(read=True, write=True).write(memoryview(b"abc"))
        fd_close(guest.host, guest.open("tmp/a"))
        assert made.size() == 3
        fd_close(guest.host, guest.open("tmp/a", abi.TRUNCATE, _RIGHTS | d.FD_WRITE))
        assert made.size() == 0
        with pytest.raises(Errno) as caught:
            guest.open("tmp/a", abi.CREATE | abi.EXCLUSIVE)
        assert caught.value.number == EXIST


def test_what_was_opened_and_removed_is_not_opened(root: Directory, tmp: Directory) -> None:
    guest = Guest(root)
    first = tmp.create_file("a")
    assert guest.node("tmp/a") is guest.node("tmp/a") is first
    paths.path_unlink_file(guest.host, _ROOT, *guest.path("tmp/a"))
    assert guest.host.openings == {}
    number = guest.open("tmp/a", abi.CREATE)
    assert guest.opened(number)._node is not first


def test_the_names_of_many_open_directories_are_held_up_to_a_bound(
    root: Directory, tmp: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("garrison.keep.wasi.host._MAX_LISTED", 250)
    for number in range(98):
        tmp.create_file(f"file{number}")
    guest = Guest(root)
    opened = [guest.open("tmp", abi.DIRECTORY, d.FD_READDIR) for _ in range(5)]
    folders = [cast("Folder", guest.host.descriptors[number]) for number in opened]

    def first(number: int, cookie: int = 0) -> bytes:
        fd_readdir(guest.host, number, 2048, 64, cookie, 1024)
        return bytes(guest.host.memory.all[2048 + 24 : 2048 + 30])

    for number in opened:
        assert first(number)[:1] == b"."
    # Two of a hundred names each, as they were when they were read from their start.
    assert [len(folder._names) for folder in folders] == [0, 0, 0, 100, 100]
    tmp.remove("file97")
    assert first(opened[4], 99) == b"file97"
    # Another goes on, with the names that there are now.
    assert first(opened[0], 98) == b"file96"
    assert [len(folder._names) for folder in folders] == [99, 0, 0, 0, 100]
    for number in opened:
        fd_close(guest.host, number)
    assert not guest.host.listings
    assert guest.host._listed == 0

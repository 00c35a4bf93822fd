"""Paths are found as on any system, and never outside the directory that they start from."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.nodes import Directory, File, Node, Quota, Symlink
from garrison.keep.vfs.paths import MAX_PATH, decode, resolve


def _link(target: str) -> Symlink:
    return Symlink(None, target)


INNER = File(None, b"inner")
DEEP = Directory(None, [("file", INNER), ("up", _link("../..")), ("out", _link("../../.."))])
SUB = Directory(None, [("deep", DEEP)])
ROOT = Directory(
    None,
    [
        ("sub", SUB),
        ("file", File(None, b"")),
        ("to-sub", _link("sub")),
        ("to-file", _link("sub/deep/file")),
        ("to-nothing", _link("sub/new")),
        ("absolute", _link("/sub")),
        ("loop", _link("loop")),
        ("a", _link("b")),
        ("b", _link("a")),
        ("to-slash", _link("file/")),
    ],
)


@pytest.mark.parametrize(
    ("path", "node"),
    [
        (".", ROOT),
        ("sub", SUB),
        ("sub/", SUB),
        ("sub//deep/.", DEEP),
        ("sub/deep/file", INNER),
        ("sub/deep/..", SUB),
        ("sub/../sub/deep", DEEP),
        ("to-sub", SUB),
        ("to-sub/deep", DEEP),
        ("to-file", INNER),
        ("sub/deep/up/sub/deep/file", INNER),
        ("sub/deep/up", ROOT),
    ],
)
def test_paths_lead_where_they_say(path: str, node: Node) -> None:
    assert resolve(ROOT, path, follow=True).existing() is node


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("", errno.NOENT),
        ("missing", errno.NOENT),
        ("missing/x", errno.NOENT),
        ("to-nothing", errno.NOENT),
        ("file/", errno.NOTDIR),
        ("to-slash", errno.NOTDIR),
        ("file/x", errno.NOTDIR),
        ("file/..", errno.NOTDIR),
        ("..", errno.PERM),
        ("sub/../..", errno.PERM),
        ("/", errno.PERM),
        ("/sub", errno.PERM),
        ("absolute", errno.PERM),
        ("absolute/deep", errno.PERM),
        ("sub/deep/out", errno.PERM),
        ("loop", errno.LOOP),
        ("a/x", errno.LOOP),
        ("x" * 256, errno.NAMETOOLONG),
    ],
)
def test_paths_that_lead_nowhere_or_out_are_refused(path: str, number: int) -> None:
    with pytest.raises(Errno) as caught:
        resolve(ROOT, path, follow=True).existing()
    assert caught.value.number == number


def test_a_link_at_the_end_is_followed_only_if_asked() -> None:
    assert isinstance(resolve(ROOT, "to-sub", follow=False).existing(), Symlink)
    # A slash asks.
    assert resolve(ROOT, "to-sub/", follow=False).existing() is SUB


def test_a_link_to_nothing_says_where_something_could_be_made() -> None:
    place = resolve(ROOT, "to-nothing", follow=True)
    assert (place.parent, place.name, place.node) == (SUB, "new", None)


def test_a_place_without_a_name_cannot_be_removed() -> None:
    with pytest.raises(Errno):
        resolve(ROOT, "sub/.", follow=False).parent.remove("x")
    with pytest.raises(Errno):
        resolve(ROOT, "sub/..", follow=False).named()


@pytest.mark.parametrize(
    ("path", "number"),
    [
        (b"\xff", errno.ILSEQ),
        (b"a\0b", errno.INVAL),
        (b"x" * (MAX_PATH + 1), errno.NAMETOOLONG),
    ],
)
def test_what_is_no_path_is_refused(path: bytes, number: int) -> None:
    with pytest.raises(Errno) as caught:
        decode(path)
    assert caught.value.number == number


_NAMES = ["sub", "deep", "file", "to-sub", "up", "out", "loop", "absolute", "..", ".", "", "new"]


@given(st.lists(st.sampled_from(_NAMES), max_size=12), st.booleans())
def test_no_path_leads_out(parts: list[str], follow: bool) -> None:
    inside = {id(node) for node in (ROOT, SUB, DEEP)}
    try:
        place = resolve(ROOT, "/".join(parts), follow=follow)
    except Errno:
        return
    assert id(place.parent) in inside


@given(st.binary(max_size=64))
def test_any_bytes_are_a_path_or_an_errno(data: bytes) -> None:
    with contextlib.suppress(Errno):
        resolve(ROOT, decode(data), follow=True)


def _tmp(size: int = 1 << 16) -> tuple[Directory, Quota]:
    quota = Quota(size)
    return Directory(quota), quota


def test_what_is_removed_gives_its_room_back() -> None:
    folder, quota = _tmp()
    before = quota.left
    file = File(quota)
    folder.add("f", file)
    file.write(memoryview(b"x" * 1000), 500)
    folder.add("l", Symlink(quota, "f" * 100))
    folder.add("d", Directory(quota))
    assert quota.left < before - 1600
    for name in ("f", "l", "d"):
        folder.remove(name)
    assert quota.left == before


def test_an_open_file_without_a_name_keeps_its_room_until_it_is_closed() -> None:
    folder, quota = _tmp()
    before = quota.left
    file = File(quota)
    folder.add("f", file)
    opened = file.open(read=True, write=True)
    opened.write(memoryview(b"x" * 100))
    folder.remove("f")
    assert quota.left == before - 100
    assert opened.pread(memoryview(bytearray(5)), 0) == 5
    opened.close()
    assert quota.left == before


def test_a_name_that_is_taken_over_gives_room_back_once() -> None:
    folder, quota = _tmp()
    before = quota.left
    for name in ("a", "b"):
        file = File(quota)
        folder.add(name, file)
        file.write(memoryview(b"x" * 100), 0)
    folder.move("a", folder, "b")
    assert [name for name, _, _ in folder.listing()] == ["b"]
    folder.remove("b")
    assert quota.left == before


def test_a_second_name_of_a_link_costs_no_second_target() -> None:
    folder, quota = _tmp()
    before = quota.left
    link = Symlink(quota, "f" * 100)
    for name in ("a", "b"):
        folder.add(name, link)
    for name in ("a", "b"):
        folder.remove(name)
    assert quota.left == before


def test_a_second_name_costs_no_second_content() -> None:
    folder, quota = _tmp()
    before = quota.left
    file = File(quota)
    folder.add("a", file)
    file.write(memoryview(b"x" * 100), 0)
    folder.add("b", file)
    folder.remove("a")
    assert file.size() == 100
    folder.remove("b")
    assert quota.left == before


@pytest.mark.parametrize("size", [1 << 40, (1 << 63) - 1])
def test_a_gigantic_file_takes_no_memory(size: int) -> None:
    folder, quota = _tmp()
    file = File(quota)
    folder.add("f", file)
    for action in (
        lambda: file.resize(size),
        lambda: file.write(memoryview(b"x"), size - 1),
        lambda: file.open(read=True, write=True).allocate(0, size),
    ):
        with pytest.raises(Errno) as caught:
            action()
        assert caught.value.number == errno.NOSPC
    assert file.size() == 0


def test_endless_names_end_at_the_quota() -> None:
    folder, quota = _tmp(10_000)

    def fill() -> None:
        for index in range(1000):
            folder.add(str(index), File(quota))

    with pytest.raises(Errno) as caught:
        fill()
    assert caught.value.number == errno.NOSPC


def test_read_only_things_stay_so() -> None:
    file = File(None, b"data")
    folder = Directory(None, [("f", file)])
    for action in (
        lambda: file.write(memoryview(b"x"), 0),
        lambda: file.resize(0),
        lambda: file.set_times(1, 1),
        lambda: file.open(read=True, write=True),
        lambda: file.open(read=True, write=False).write(memoryview(b"x")),
        lambda: folder.add("n", File(None)),
        lambda: folder.remove("f"),
        lambda: folder.move("f", folder, "g"),
    ):
        with pytest.raises(Errno) as caught:
            action()
        assert caught.value.number == errno.ROFS
    assert file.data == b"data"


def test_deep_directories_do_not_exhaust_our_stack() -> None:
    folder, quota = _tmp(1 << 24)
    innermost = folder
    for _ in range(5000):
        below = Directory(quota)
        innermost.add("d", below)
        innermost = below
    assert folder.contains(innermost)
    assert not innermost.contains(folder)


def test_host_errors_have_their_number() -> None:
    assert errno.of_host(ConnectionResetError(104, "x")) == errno.NAMES.index("CONNRESET")
    assert errno.of_host(TimeoutError("x")) == errno.TIMEDOUT
    assert errno.of_host(OSError("x")) == errno.IO


def test_numbers_are_those_of_their_names() -> None:
    assert len(errno.NAMES) == 77
    for name, number in vars(errno).items():
        if isinstance(number, int):
            assert errno.NAMES[number] == name


@pytest.mark.parametrize("path", ["to-sub/", "to-sub//", "sub/../to-sub/"])
def test_a_name_that_is_to_be_changed_means_itself_though_a_slash_follow(path: str) -> None:
    place = resolve(ROOT, path, follow=False, name_itself=True)
    assert (place.parent, place.name, place.slash) == (ROOT, "to-sub", True)
    assert isinstance(place.node, Symlink)
    with pytest.raises(Errno) as caught:
        place.existing()
    assert caught.value.number == errno.NOTDIR
    # On the way it is followed as ever.
    assert resolve(ROOT, "to-sub/deep/", follow=False, name_itself=True).node is DEEP

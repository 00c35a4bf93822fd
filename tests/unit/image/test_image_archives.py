"""The archives of an image: cpio written, packages read, kernel modules put in order."""

from __future__ import annotations

import contextlib
import hashlib
import io
import lzma
import struct
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.image import contents, cpio, deb, elf, modules
from garrison.image.cpio import Entry
from garrison.image.fetch import Inputs
from garrison.image.lock import Input, Lock

if TYPE_CHECKING:
    from pathlib import Path


def _read(archive: bytes) -> list[tuple[str, int, bytes]]:
    """A reader of our own: name, mode, content, in order, without the trailer."""
    found: list[tuple[str, int, bytes]] = []
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        assert fields[2:4] == [0, 0]  # root's
        assert fields[5] == 0  # no time
        name = archive[at + 110 : at + 110 + length - 1].decode()
        at += (110 + length + 3) // 4 * 4
        content = archive[at : at + size]
        at += (size + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert at == len(archive)
            return found
        found.append((name, mode, content))


def test_an_archive_says_what_the_tree_does() -> None:
    tree = {
        "usr/bin/python": Entry.file(b"program", executable=True),
        "lib": Entry.link("usr/lib"),
        "tmp": Entry.directory(),
    }
    assert _read(cpio.archive(tree)) == [
        ("lib", 0o120777, b"usr/lib"),
        ("tmp", 0o040555, b""),
        ("usr", 0o040555, b""),
        ("usr/bin", 0o040555, b""),
        ("usr/bin/python", 0o100555, b"program"),
    ]


@given(st.dictionaries(st.sampled_from(["a", "b/c", "b/d", "e/f/g"]), st.binary(max_size=9)))
def test_the_order_of_a_tree_makes_no_difference(files: dict[str, bytes]) -> None:
    tree = {path: Entry.file(content) for path, content in files.items()}
    other = dict(reversed(tree.items()))
    assert cpio.archive(tree) == cpio.archive(other)
    read = {name: content for name, mode, content in _read(cpio.archive(tree)) if mode & 0o100000}
    assert read == files


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../b", "a//b", "./a", "a\0b", "", "."])
def test_paths_that_are_not_plain_are_refused(path: str) -> None:
    with pytest.raises(Malformed, match="plain and relative"):
        cpio.archive({path: Entry.file(b"")})


def test_nothing_lies_below_a_file() -> None:
    with pytest.raises(Malformed, match="below what is not a directory"):
        cpio.archive({"a": Entry.link("/"), "a/b": Entry.file(b"")})


def _package(members: list[tuple[tarfile.TarInfo, bytes]], name: str = "data.tar.xz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return _ar([("debian-binary", b"2.0\n"), (name, lzma.compress(out.getvalue()))])


def _ar(members: list[tuple[str, bytes]]) -> bytes:
    parts = [b"!<arch>\n"]
    for name, content in members:
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
        parts.append(content + b"\n" * (len(content) % 2))
    return b"".join(parts)


def _member(name: str, mode: int = 0o644, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode, info.type = mode, kind
    return info


def test_a_package_gives_its_files_and_links() -> None:
    link = _member("./usr/lib/b.so", kind=tarfile.SYMTYPE)
    link.linkname = "a.so"
    # Its owner could become root by it; an image has no such files.
    setuid = _member("./usr/bin/p", 0o4755)
    root = _member("./", kind=tarfile.DIRTYPE)
    library = _member("./usr/lib/a.so")
    found = deb.files(
        _package([(root, b""), (library, b"library"), (link, b""), (setuid, b"program")])
    )
    assert found == {
        "usr/lib/a.so": Entry.file(b"library"),
        "usr/lib/b.so": Entry.link("a.so"),
        "usr/bin/p": Entry.file(b"program", executable=True),
    }
    assert not found["usr/bin/p"].mode & 0o7222


@pytest.mark.parametrize("name", ["../up", "usr/../../up", "/etc/passwd"])
def test_a_package_cannot_leave_its_root(name: str) -> None:
    with pytest.raises(Malformed, match="plain and relative"):
        deb.files(_package([(_member(name), b"")]))


def test_a_package_has_no_devices() -> None:
    with pytest.raises(Malformed, match="neither file, link nor directory"):
        deb.files(_package([(_member("./dev/mem", kind=tarfile.CHRTYPE), b"")]))


def _hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    link = _member(name, kind=tarfile.LNKTYPE)
    link.linkname = target
    return link, b""


@pytest.mark.parametrize(
    "members",
    [
        [_hard_link("./a", "./gone")],
        [_hard_link("./a", "./a")],
        [_hard_link("./a", "./b"), _hard_link("./b", "./a")],
        [(_member("./\udcff"), b"")],
    ],
    ids=["nothing", "itself", "circle", "no text"],
)
def test_links_that_lead_nowhere_are_malformed(
    members: list[tuple[tarfile.TarInfo, bytes]],
) -> None:
    with pytest.raises(Malformed, match="no Debian package"):
        deb.files(_package(members))


def test_many_links_to_one_file_are_as_large_as_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    links = [_hard_link(f"./{index}", "./a") for index in range(20)]
    package = _package([(_member("./a"), bytes(10_000)), *links])
    assert len(deb.files(package)) == 21
    monkeypatch.setattr(deb, "MAX_UNPACKED", 100_000)
    with pytest.raises(Malformed, match="files of a Debian package are too large"):
        deb.files(package)


@given(st.integers(0, 3), st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255))))
def test_any_header_gives_files_or_malformed(which: int, changes: list[tuple[int, int]]) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        members = [(_member("./a"), b"content"), _hard_link("./h", "./a"), (_member("./b"), b"b")]
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    data = bytearray(out.getvalue())
    starts = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    start = starts[which % len(starts)]
    for place, value in changes:
        data[start + place] = value
    # The header's own checksum: a sum of its bytes, with spaces in its place.
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    with contextlib.suppress(Malformed):
        deb.files(_ar([("data.tar.xz", lzma.compress(bytes(data), preset=0))]))


def _zip(compression: int, name: str = "a/b.py", content: bytes = b"x = 1\n" * 99) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr(name, content)
    return out.getvalue()


def test_a_wheel_has_two_compressions_and_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        found = contents.wheel(_zip(compression), "a.whl")
        assert found == {"wheels/a/b.py": Entry.file(b"x = 1\n" * 99)}
    with pytest.raises(Malformed, match="compression 14"):
        contents.wheel(_zip(zipfile.ZIP_LZMA), "a.whl")
    with pytest.raises(Malformed, match="plain and relative"):
        contents.wheel(_zip(zipfile.ZIP_STORED, "../up"), "a.whl")
    unnamed = bytearray(_zip(zipfile.ZIP_STORED, "Q").replace(b"Q", b"\0"))
    unnamed[unnamed.index(b"PK\1\2") + 8] |= 1  # encrypted, says the directory at the end
    with pytest.raises(Malformed, match="no wheel of ours"):
        contents.wheel(bytes(unnamed), "a.whl")
    monkeypatch.setattr(deb, "MAX_UNPACKED", 500)
    with pytest.raises(Malformed, match="594 bytes, compression 8"):
        contents.wheel(_zip(zipfile.ZIP_DEFLATED), "a.whl")


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_zip_is_a_wheel_or_malformed(changes: list[tuple[int, int]]) -> None:
    data = bytearray(_zip(zipfile.ZIP_DEFLATED))
    for place, value in changes:
        data[place % len(data)] = value
    with contextlib.suppress(Malformed):
        contents.wheel(bytes(data), "a.whl")


@pytest.mark.parametrize("path", ["link", "link/profile", "usr/a", "usr/a/b"])
def test_no_input_writes_through_another_one_s_link_or_over_its_files(
    tmp_path: Path, path: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = _member("./link", kind=tarfile.SYMTYPE)
    link.linkname = str(elsewhere / "profile" if path == "link" else elsewhere)
    first = _package([(link, b""), (_member("./usr/a"), b"a")])
    second = _package([(_member(f"./{path}"), b"b")])
    items = [Input(str(i), "1", "p", hashlib.sha256(d).hexdigest(), len(d), "why")
             for i, d in enumerate((first, second))]  # fmt: skip
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for item, data in zip(items, (first, second), strict=True):
        (inputs / item.sha256).write_bytes(data)
    stage = tmp_path / "stage"
    stage.mkdir()
    with pytest.raises(Malformed, match=f"1: {path}: an input writes where another one did"):
        contents.Stage(stage, Lock("trixie", 1, tuple(items), ()), Inputs(inputs), {})
    assert list(elsewhere.iterdir()) == []
    assert (stage / "usr/a").read_bytes() == b"a"


def test_a_package_with_another_compression_is_refused() -> None:
    with pytest.raises(Malformed, match=r"without data\.tar\.xz; found debian-binary, data\.tar"):
        deb.files(_package([], "data.tar.zst"))


def test_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deb, "MAX_UNPACKED", 1 << 16)
    with pytest.raises(Malformed, match="has no end; found 65536 bytes and more"):
        deb.files(_package([(_member("./zeros"), bytes(1 << 20))]))


def test_a_package_is_refused_at_every_cut() -> None:
    whole = _package([(_member("./a"), b"content")])
    for size in range(0, len(whole) - 1, 7):
        with pytest.raises(Malformed):
            deb.files(whole[:size])


@given(st.binary(max_size=200))
def test_anything_else_is_no_package(data: bytes) -> None:
    with pytest.raises(Malformed):
        deb.files(b"!<arch>\n" + data)


def _module(depends: str) -> Entry:
    return Entry.file(lzma.compress(b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0"))


_KERNEL = {
    "usr/lib/modules/6/kernel/a.ko.xz": _module("b-part,c"),
    "usr/lib/modules/6/kernel/b-part.ko.xz": _module("c"),
    "usr/lib/modules/6/kernel/c.ko.xz": _module(""),
    "usr/lib/modules/6/kernel/unwanted.ko.xz": _module(""),
    "usr/lib/modules/6/kernel/broken.ko.xz": _module("gone"),
    "usr/lib/modules/6/kernel/silent.ko.xz": Entry.file(lzma.compress(b"\x7fELF")),
    "usr/lib/modules/6/kernel/text.ko.xz": Entry.file(b"text"),
    "usr/lib/modules/6/kernel/itself.ko.xz": _module("itself"),
    "usr/lib/modules/6/kernel/one.ko.xz": _module("c,other"),
    "usr/lib/modules/6/kernel/other.ko.xz": _module("one"),
    "usr/lib/modules/6/kernel/cut.ko.xz": Entry.file(_module("").content[:-20]),
}


def test_modules_come_after_what_they_depend_on() -> None:
    assert list(modules.ordered(_KERNEL, ["a", "c"])) == ["c", "b_part", "a"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("missing", "image: the kernel has no such module; found no missing.ko.xz"),
        ("broken", "broken: the kernel has no such module; found no gone.ko.xz"),
        ("silent", "silent: a kernel module does not say what it depends on"),
        ("text", "text: a kernel module is no XZ file"),
        ("itself", "itself: kernel modules in a circle; found needs itself"),
        ("one", "other: kernel modules in a circle; found needs one"),
        ("cut", "cut: a kernel module has no end"),
    ],
)
def test_a_module_that_cannot_load_is_refused(wanted: str, message: str) -> None:
    with pytest.raises(Malformed) as refused:
        modules.ordered(_KERNEL, [wanted])
    assert str(refused.value).startswith(message)


def _program(size: int, *, phentsize: int = 56, length: int = 8) -> bytes:
    header = b"\x7fELF\x02\x01" + bytes(26) + struct.pack("<QQ", 64, 128) + bytes(6)
    header += struct.pack("<HHHHH", phentsize, 1, 64, 3, 2)
    return (header + struct.pack("<IIQQQQQQ", 1, 5, 120, 0, 0, length, 0, 0)).ljust(size, b"s")


def test_a_program_keeps_what_is_loaded() -> None:
    stripped = elf.strip(_program(4096))
    assert len(stripped) == 128
    assert stripped[120:] == b"s" * 8
    assert stripped[40:48] == bytes(8)  # no sections
    assert elf.strip(stripped) == stripped


@pytest.mark.parametrize(
    "program",
    [b"", b"\x7fELF\x01\x01" + bytes(99), _program(4096, phentsize=32), _program(4096, length=9999),
     _program(4096)[:100]],
    ids=["nothing", "32 bits", "headers", "segments", "cut"],
)  # fmt: skip
def test_another_program_is_refused(program: bytes) -> None:
    with pytest.raises(Malformed, match="ELF: "):
        elf.strip(program)


@given(st.binary(max_size=100))
def test_no_program_is_anything_but_malformed(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        elf.strip(b"\x7fELF\x02\x01" + data)

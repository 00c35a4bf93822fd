"""An image as a folder for Gramine: what is in it, what is measured, what is refused."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import os
import tomllib
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed, Misuse
from garrison.image import cpio, gramine
from garrison.image.cpio import Entry
from garrison.image.folder import Image

if TYPE_CHECKING:
    from pathlib import Path

TREE = {
    "init": Entry.file(b"#!", executable=True),
    "lib": Entry.link("usr/lib"),
    "etc/garrison/entry": Entry.file(b"garrison.guest.__main__\n"),
    "usr/lib/modules/tun.ko": Entry.file(b"a module"),
    "usr/bin/python3.13": Entry.file(b"python", executable=True),
    "usr/lib/python3.13/os.pyc": Entry.file(b"os" * 1000),
    "usr/lib/python3": Entry.link("python3.13"),
}


def compressed(data: bytes) -> bytes:
    """As `garrison.image.squeeze` does it, in small blocks."""
    library = ctypes.CDLL("liblz4.so.1")
    out = b"\x02\x21\x4c\x18"
    for start in range(0, len(data), 1000):
        block = data[start : start + 1000]
        room = ctypes.create_string_buffer(len(block) + 100)
        size = library.LZ4_compress_default(block, room, len(block), len(room))
        out += size.to_bytes(4, "little") + room.raw[:size]
    return out


def image(folder: Path, tree: dict[str, Entry] | None = None, raw: bytes | None = None) -> Image:
    folder.mkdir()
    data = compressed(cpio.archive(TREE if tree is None else tree)) if raw is None else raw
    (folder / "initrd").write_bytes(data)
    return Image(folder, "quiet", "sha256:0", "sha256:0", {})


def test_the_files_and_their_digests(tmp_path: Path) -> None:
    folder = tmp_path / "sgx"
    size = gramine.export(image(tmp_path / "image"), folder)
    root = folder / gramine.ROOT
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}
    # A link to a folder that is not there is one all the same.
    assert found | {"usr/lib/python3"} == {
        "usr/bin/python3.13", "usr/lib/python3.13/os.pyc", "usr/lib/python3",
    }  # fmt: skip
    assert (root / "usr/bin/python3.13").stat().st_mode & 0o777 == 0o755
    assert size == 6 + 2000
    manifest = tomllib.loads((folder / gramine.TEMPLATE).read_text())
    assert manifest["libos"]["entrypoint"] == "/usr/bin/python3.13"
    assert manifest["sgx"]["debug"] is False
    assert manifest["sgx"]["remote_attestation"] == "dcap"
    assert manifest["sgx"]["allowed_files"] == [f"file:{gramine.REQUEST}"]
    named = {each["uri"]: each["sha256"] for each in manifest["sgx"]["trusted_files"][2:]}
    assert named == {
        f"file:root/{path}": hashlib.sha256(TREE[path].content).hexdigest()
        for path in ("usr/bin/python3.13", "usr/lib/python3.13/os.pyc")
    }
    assert "sys.insecure" not in (folder / gramine.TEMPLATE).read_text()


def test_the_same_image_gives_the_same_manifest_and_another_does_not(tmp_path: Path) -> None:
    changed = TREE | {"usr/lib/python3.13/os.pyc": Entry.file(b"ot" * 1000)}
    texts = []
    for index, tree in enumerate((TREE, TREE, changed)):
        folder = tmp_path / f"sgx{index}"
        gramine.export(image(tmp_path / f"image{index}", tree), folder)
        texts.append((folder / gramine.TEMPLATE).read_text())
    assert texts[0] == texts[1] != texts[2]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    made = image(tmp_path / "image")
    with pytest.raises(Misuse, match="is there already"):
        gramine.export(made, tmp_path)
    with pytest.raises(Malformed, match="has no such file"):
        gramine.export(image(tmp_path / "empty", {}), tmp_path / "sgx")


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"", "is not what an image has"),
        (b"070701", "is not what an image has"),
        (compressed(cpio.archive(TREE))[:-3], "cannot be decompressed"),
        (b"\x02\x21\x4c\x18\x04\0\0\0\xff\xff\xff\xff", "cannot be decompressed"),
        (compressed(b"x" * 4000), "not a newc archive"),
        (compressed(cpio.archive(TREE)[:700]), "archive"),
    ],
)
def test_what_is_no_file_system(tmp_path: Path, raw: bytes, match: str) -> None:
    with pytest.raises(Malformed, match=match):
        gramine.export(image(tmp_path / "image", raw=raw), tmp_path / "sgx")


def test_an_archive_is_read_as_it_was_written() -> None:
    read = cpio.unpacked(cpio.archive(TREE))
    assert {path: entry for path, entry in read.items() if path in TREE} == TREE


@given(st.integers(0, 3000), st.integers(0, 255))
def test_any_byte_changed_gives_an_archive_or_malformed(place: int, value: int) -> None:
    data = bytearray(cpio.archive(TREE))
    data[place % len(data)] = value
    try:
        read = cpio.unpacked(bytes(data))
    except Malformed:
        return
    cpio.check_paths(read)


def _archive(entries: list[tuple[str, Entry]]) -> bytes:
    """What `cpio.archive` refuses to write, too."""
    out = io.BytesIO()
    for path, entry in [*entries, ("TRAILER!!!", Entry(0))]:
        cpio._write(out, path, entry, 1)
    return out.getvalue()


def test_an_archive_takes_no_more_memory_than_its_size(tmp_path: Path) -> None:
    """All that a deep path needs is as long as the square of it."""
    longest = "a/" * (cpio.MAX_PATH // 2 - 1) + "b"
    assert longest in cpio.unpacked(_archive([(longest, Entry.file(b""))]))
    with pytest.raises(Malformed, match="no name of a file; found 4096 bytes"):
        cpio.unpacked(_archive([(f"c{longest}", Entry.file(b""))]))
    many = [(f"{index:05}/{longest[10:]}", Entry.file(b"")) for index in range(2000)]
    tracemalloc.start()
    try:
        assert len(cpio.unpacked(_archive(many))) == 2000
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(Malformed, match="too many entries"):
        cpio.unpacked(_archive([(f"{i}", Entry(0)) for i in range(cpio.MAX_ENTRIES + 1)]))


@pytest.mark.parametrize("target", [b"", b"a\0b", b"\xff", b"a" * 5000])
def test_a_link_leads_to_a_name_or_is_refused(tmp_path: Path, target: bytes) -> None:
    tree = {**TREE, "usr/link": Entry(Entry.link("x").mode, target)}
    with pytest.raises(Malformed, match="no name of a file"):
        gramine.export(image(tmp_path / "image", tree), tmp_path / "sgx")


def test_what_lies_below_a_link_is_found_among_its_neighbours() -> None:
    tree = [("a", Entry.link("/")), ("a-b", Entry.file(b"")), ("a/b", Entry.file(b""))]
    with pytest.raises(Malformed, match=r"a/b: it lies below .*found a$"):
        cpio.unpacked(_archive(tree))
    tree[2] = ("a!/b", Entry.file(b""))
    assert len(cpio.unpacked(_archive(tree))) == 3


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a folder would be in the way of the next try."""
    made = image(tmp_path / "image")
    with pytest.raises(Malformed, match="has no such file"):
        gramine.export(image(tmp_path / "empty", {"usr/a": Entry.file(b"")}), tmp_path / "sgx")

    def full(_files: dict[str, bytes]) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gramine, "manifest", full)
    with pytest.raises(OSError, match="No space"):
        gramine.export(made, tmp_path / "sgx")
    monkeypatch.undo()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["empty", "image"]
    before = os.umask(0o027)
    try:
        gramine.export(made, tmp_path / "sgx")
    finally:
        os.umask(before)
    assert (tmp_path / "sgx").stat().st_mode & 0o777 == 0o750
    with pytest.raises(OSError, match="nowhere"):
        gramine.export(made, tmp_path / "nowhere" / "sgx")


def test_a_link_in_an_image_leads_nothing_out_of_the_folder(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    entries = [
        ("usr/bin/python3.13", TREE["usr/bin/python3.13"]),
        ("usr/x", Entry.link(str(elsewhere))),
        ("usr/x/profile", Entry.file(b"of the image's maker")),
    ]
    out = io.BytesIO()
    for path, entry in [*entries, ("TRAILER!!!", Entry(0))]:
        cpio._write(out, path, entry, 1)  # what `archive` refuses to write
    with pytest.raises(Malformed, match="below what is not a directory"):
        gramine.export(image(tmp_path / "image", raw=compressed(out.getvalue())), tmp_path / "sgx")
    assert list(elsewhere.iterdir()) == []
    # One place as a link, and then as a directory: the latter alone would be looked at.
    twice = io.BytesIO()
    entries.insert(2, ("usr/x", Entry.directory()))
    for path, entry in [*entries, ("TRAILER!!!", Entry(0))]:
        cpio._write(twice, path, entry, 1)
    with pytest.raises(Malformed, match="twice"):
        cpio.unpacked(twice.getvalue())

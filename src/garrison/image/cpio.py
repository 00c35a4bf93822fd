"""A writer, and a reader, of newc archives, which is what Linux unpacks as its first file system.

Format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst. Rules: the same tree
gives the same bytes. Entries are sorted, their time is zero, their owner is root, their inode
is their place in the archive, and directories that a path needs are made.

It refuses paths that are not plain relative ones, and anything below what is not a directory; and
reads no more entries, and no longer names, than an image could have.
"""

from __future__ import annotations

import contextlib
import io
import re
import stat
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from garrison.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAGIC = b"070701"
_ALIGNMENT = 4
# The magic, and thirteen numbers of eight digits.
_HEADER = 6 + 13 * 8
_HEAD = re.compile(_MAGIC + rb"[0-9A-Fa-f]{104}")
_TRAILER = "TRAILER!!!"
_BELOW = "it lies below what is not a directory"
#: The format has 32 bits for a size.
MAX_FILE = 2**32 - 1
#: Linux, include/uapi/linux/limits.h, PATH_MAX, with the zero that ends it.
MAX_PATH = 4096
#: An image has some 500; each costs memory beside its content.
MAX_ENTRIES = 1 << 14


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, link or directory: its mode with type bits, and its content or the link's target."""

    mode: int
    content: bytes = b""

    @classmethod
    def file(cls, content: bytes, *, executable: bool = False) -> Entry:
        """Make a regular file that nobody may write."""
        return cls(stat.S_IFREG | (0o555 if executable else 0o444), content)

    @classmethod
    def link(cls, target: str) -> Entry:
        """Make a symbolic link."""
        return cls(stat.S_IFLNK | 0o777, target.encode())

    @classmethod
    def directory(cls) -> Entry:
        """Make a directory."""
        return cls(stat.S_IFDIR | 0o555)


def archive(tree: dict[str, Entry]) -> bytes:
    """Write a tree as a newc archive.

    Args:
        tree: from a relative path to what is there.

    Raises:
        Malformed: for a path that is absolute, has `..` or lies below a file.
    """
    out = io.BytesIO()
    whole = _with_directories(tree)
    for inode, path in enumerate(sorted(whole), start=1):
        _write(out, path, whole[path], inode)
    _write(out, _TRAILER, Entry(0), 0)
    return out.getvalue()


def unpacked(data: bytes) -> dict[str, Entry]:
    """Read what `archive` wrote.

    Raises:
        Malformed: it is something else.
    """
    tree: dict[str, Entry] = {}
    at = 0
    while True:
        head = data[at : at + _HEADER]
        if _HEAD.fullmatch(head) is None:
            raise Malformed(
                "not a newc archive", field=f"byte {at}", found=head[:6].hex() or "its end"
            )
        fields = [int(head[start : start + 8], 16) for start in range(6, _HEADER, 8)]
        mode, size, named = fields[1], fields[6], fields[11]
        name = data[at + _HEADER : at + _HEADER + named]
        start = _aligned(at + _HEADER + named)
        content = data[start : start + size]
        if len(content) != size or name[-1:] != b"\0":
            raise Malformed("the archive ends too early", field=f"byte {at}")
        path = _text(name[:-1], at)
        if path == _TRAILER:
            _check_below_directories(tree)
            return tree
        check_paths([path])
        if path in tree:
            raise Malformed("twice in one archive", field=path)
        if len(tree) == MAX_ENTRIES:
            raise Malformed("too many entries", field=f"byte {at}", expected=f"at most {len(tree)}")
        if stat.S_ISLNK(mode):
            _text(content, at)
        tree[path] = Entry(mode, content)
        at = _aligned(start + size)


def _text(name: bytes, at: int) -> str:
    """A name, or a link's target: not empty, UTF-8, and no longer than Linux takes."""
    if 0 < len(name) < MAX_PATH and b"\0" not in name:
        with contextlib.suppress(UnicodeDecodeError):
            return name.decode()
    raise Malformed(
        "no name of a file",
        field=f"byte {at}",
        found=f"{len(name)} bytes, {name[:40]!a}",
        expected=f"UTF-8, shorter than {MAX_PATH} bytes",
    )


def _check_below_directories(tree: dict[str, Entry]) -> None:
    """Check that nothing lies below what is no directory.

    Whoever writes these files somewhere must not be led elsewhere by a link among them. What a
    path needs is not written out here: of a hostile archive that would be gigabytes.
    """
    above = ""
    # With a slash before all other characters, what lies below a path comes right behind it.
    for path in sorted(tree, key=lambda each: each.replace("/", "\0")):
        if above and path.startswith(above):
            raise Malformed(_BELOW, field=path, found=above.removesuffix("/"))
        if not stat.S_ISDIR(tree[path].mode):
            above = f"{path}/"


def _aligned(offset: int) -> int:
    return offset + -offset % _ALIGNMENT


def check_paths(tree: Iterable[str]) -> None:
    """Check that all paths stay below the root, and have one way to be written.

    Raises:
        Malformed: one does not.
    """
    for path in tree:
        plain = PurePosixPath(path)
        wrong = plain.is_absolute() or ".." in plain.parts or not plain.parts
        if wrong or str(plain) != path or "\0" in path:
            raise Malformed("a path in an image is plain and relative", found=repr(path))


def _with_directories(tree: dict[str, Entry]) -> dict[str, Entry]:
    """Add the directories that the paths need."""
    check_paths(tree)
    whole = dict(tree)
    for path in tree:
        for parent in list(PurePosixPath(path).parents)[:-1]:
            entry = whole.setdefault(str(parent), Entry.directory())
            if not stat.S_ISDIR(entry.mode):
                raise Malformed(_BELOW, field=path, found=parent)
    return whole


def _write(out: io.BytesIO, path: str, entry: Entry, inode: int) -> None:
    if len(entry.content) > MAX_FILE:
        raise Malformed("too large for the archive", field=path, found=len(entry.content))
    name = path.encode() + b"\0"
    # ino, mode, uid, gid, nlink, mtime, filesize, dev and rdev (major, minor), namesize, check
    fields = (inode, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
    out.write(_MAGIC + b"".join(b"%08X" % field for field in fields) + name)
    _pad(out)
    out.write(entry.content)
    _pad(out)


def _pad(out: io.BytesIO) -> None:
    out.write(bytes(-out.tell() % _ALIGNMENT))

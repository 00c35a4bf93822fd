"""Trees of files: entries, directories, and the packages that they make.

An entry says what stands at a place: `{"digest": {"sha-256": B64, ...}, "length": n, "type":
media type, ...custom}`. A directory is a map of names to entries, and its content is that map as
minified JSON with sorted keys, in exactly one spelling. A tag's content is the entry of its root
directory, so the tag's entry pins every byte below it.

The digest of a workload is the SHA-256 of the content of its root directory, which is the
`sha-256` in the tag's entry. (The original computes it the same way: it is the `Content-Digest`
of the root of the tree.) So it depends on every name, byte and media type of a package, and not
on the tag, the repository or the drawbridge that holds it.

What is refused: a directory that is spelled in another way, an entry that says something twice,
names beyond the original's characters, `.` and `..`, symbolic links, and whatever is larger than
the limits below.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from garrison.errors import Malformed, Misuse
from garrison.formats.content_digest import ContentDigest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ENTRY_TYPE = "application/vnd.drawbridge.entry.v1+json"
DIRECTORY_TYPE = "application/vnd.drawbridge.directory.v1+json"
WASM_TYPE = "application/wasm"
TOML_TYPE = "application/toml"
OTHER_TYPE = "application/octet-stream"

MAIN = "main.wasm"
CONFIG = "Enarx.toml"

# The original's limits for a module, and for a directory or a configuration.
MAX_FILE = 100_000_000
MAX_DIRECTORY = 1_000_000
# Without custom members an entry is 400 bytes.
MAX_ENTRY = 10_000
# A package is held in a keep's memory: its files and directories together, their number, and how
# deep they lie.
MAX_PACKAGE = 200_000_000
MAX_FILES = 10_000
MAX_DEPTH = 16
# How deep custom members may nest. The original's reader (serde_json) takes 127 levels in all;
# Python's own bound differs with its version, and what one reads all must read.
MAX_NESTING = 100

# Lists and objects in a directory, told by their opening brackets, also those in text: a name takes
# two. Of a megabyte of nothing else a reader of JSON makes half a million, in up to a second, and
# nobody else of its process goes on meanwhile.
MAX_BRACKETS = 50_000

# Drawbridge, crates/type/src/tree/name.rs; `.` and `..` are not names here.
NAME_PATTERN = r"(?!\.{1,2}(?:/|$))[0-9A-Za-z\-_.:]{1,255}"
_NAME = re.compile(NAME_PATTERN)
_TYPE = re.compile(r"[!-~]{1,40}/[ -~]{1,87}")


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands at one place in a tree.

    Attributes:
        digest: of the content.
        length: of the content, bytes.
        type: the content's media type.
        custom: further members, kept as they are.
    """

    digest: ContentDigest
    length: int
    type: str
    custom: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, content: bytes, media_type: str) -> Entry:
        """The entry of `content`."""
        return cls(ContentDigest.of(content), len(content), media_type)

    @classmethod
    def from_json(cls, value: object, where: str) -> Entry:
        """Read one, called `where` in errors, from parsed JSON.

        Raises:
            Malformed: a member is missing or of another type.
        """
        if not isinstance(value, dict):
            raise Malformed("not an object", field=where)
        known = dict(value)
        digest = ContentDigest.from_json(known.pop("digest", None), f"{where}: digest")
        length, media_type = known.pop("length", None), known.pop("type", None)
        if type(length) is not int or not 0 <= length < 1 << 63:
            raise Malformed("not a length", field=f"{where}: length", found=repr(length)[:40])
        if known:
            _check_nesting(known, where)
            # Lone surrogates and numbers beyond all bounds, which other readers refuse.
            _dump(known, where)
        return cls(digest, length, check_media_type(media_type, f"{where}: type"), known)

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "entry") -> Entry:
        """Read a tag's content.

        Raises:
            Malformed: it is not an entry.
        """
        if len(data) > MAX_ENTRY:
            raise Malformed("too long", field=where, expected=f"at most {MAX_ENTRY} bytes")
        return cls.from_json(_parse(data, where), where)

    def to_json(self) -> dict[str, Any]:
        """Write it for JSON."""
        return {
            **self.custom,
            "digest": self.digest.to_json(),
            "length": self.length,
            "type": self.type,
        }

    def to_bytes(self) -> bytes:
        """Write it as a tag's content: minified JSON with sorted keys."""
        return _dump(self.to_json())

    @property
    def workload_digest(self) -> bytes:
        """The digest (32 bytes) of the workload whose root this is.

        Raises:
            Malformed: it has no SHA-256.
        """
        digest = self.digest.values.get("sha-256")
        if digest is None:
            raise Malformed("no sha-256", field="digest of the tag's entry")
        return digest


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory: names to entries, in the order of the names."""

    entries: Mapping[str, Entry]

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "directory") -> Directory:
        """Read a directory's content.

        Raises:
            Malformed: it is not a directory, or not in its one spelling.
        """
        if len(data) > MAX_DIRECTORY:
            raise Malformed("too long", field=where, expected=f"at most {MAX_DIRECTORY} bytes")
        brackets = data.count(b"[") + data.count(b"{")
        if brackets > MAX_BRACKETS:
            raise Malformed(
                "too many lists and objects",
                field=where,
                found=f"{brackets} brackets",
                expected=f"at most {MAX_BRACKETS}",
            )
        value = _parse(data, where)
        if not isinstance(value, dict):
            raise Malformed("not an object", field=where)
        for name in value:
            check_name(name, where)
        directory = cls(
            {name: Entry.from_json(item, f"{where}/{name}") for name, item in value.items()}
        )
        try:
            canonical = directory.to_bytes() == data
        except UnicodeEncodeError:
            canonical = False
        if not canonical:
            raise Malformed("not minified JSON with sorted keys, each once", field=where)
        return directory

    def to_bytes(self) -> bytes:
        """Write its content."""
        return _dump({name: entry.to_json() for name, entry in self.entries.items()})


@dataclass(frozen=True, slots=True)
class Package:
    """The files of a workload: path (`/` between names) to content, `main.wasm` among them.

    They must not change: their digests, which take long, are computed once.
    """

    files: Mapping[str, bytes]
    _nodes: dict[str, tuple[Entry, bytes]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if MAIN not in self.files:
            raise Malformed("no such file", field=MAIN, expected="a package holds main.wasm")
        total = 0
        for path, content in self.files.items():
            parts = parse_path(path)
            above = ("/".join(parts[:depth]) for depth in range(len(parts)))
            if not parts or any(name in self.files for name in above):
                raise Malformed("both a file and a directory", field=repr(path[:80]))
            total += len(content)
            check_size(path, len(content), total, len(self.files))

    @classmethod
    def from_directory(cls, directory: Path) -> Package:
        """Read the package in `directory`.

        Raises:
            Misuse: it is not a directory.
            Malformed: `main.wasm` is missing, a name is not allowed, something is neither a
                file nor a directory (symbolic links are not followed), or it is too large.
        """
        if not directory.is_dir():
            raise Misuse("not a directory", field=str(directory))
        files: dict[str, bytes] = {}
        total = 0
        for path, size in _walk(directory, "", 0):
            # Before it is read: the limits are there for memory, too.
            total += size
            check_size(path, size, total, len(files) + 1)
            files[path] = (directory / path).read_bytes()
        return cls(files)

    def nodes(self) -> Mapping[str, tuple[Entry, bytes]]:
        """Every node of the tree in path order: path (the root is "") to entry and content.

        Raises:
            Malformed: a directory, or all nodes together, are too large to be fetched.
        """
        if not self._nodes:
            self._nodes.update(self._digested())
        return MappingProxyType(self._nodes)

    def _digested(self) -> dict[str, tuple[Entry, bytes]]:
        children: dict[str, dict[str, Entry]] = {"": {}}
        found: dict[str, tuple[Entry, bytes]] = {}
        for path, content in self.files.items():
            found[path] = (Entry.of(content, media_type(path)), content)
            parent = path
            while parent:
                parent = parent.rpartition("/")[0]
                children.setdefault(parent, {})
        # The deepest first: a directory's entry needs its content, which needs those below.
        for path in sorted([*found, *children], key=lambda path: -_depth(path)):
            if path in children:
                content = Directory(children[path]).to_bytes()
                if len(content) > MAX_DIRECTORY:
                    raise Malformed(
                        "too many files in one directory",
                        field=path or "root directory",
                        found=f"{len(children[path])} names, listed in {len(content)} bytes",
                        expected=f"at most {MAX_DIRECTORY} bytes",
                    )
                found[path] = (Entry.of(content, DIRECTORY_TYPE), content)
            if path:
                parent, _, name = path.rpartition("/")
                children[parent][name] = found[path][0]
        check_tree(len(found), sum(entry.length for entry, _ in found.values()), "package")
        return dict(sorted(found.items()))

    @property
    def entry(self) -> Entry:
        """The entry of the root: what a tag holds; raises as `nodes`."""
        return self.nodes()[""][0]

    @property
    def digest(self) -> bytes:
        """The workload's digest, 32 bytes; raises as `nodes`."""
        return self.entry.workload_digest


def media_type(path: str) -> str:
    """The media type of the file at `path`: the original demands these two."""
    return {MAIN: WASM_TYPE, CONFIG: TOML_TYPE}.get(path, OTHER_TYPE)


def parse_path(text: str) -> tuple[str, ...]:
    """Read a path in a tree, names with `/` between them; the empty text is the root.

    Raises:
        Malformed: a name is not allowed, or there are too many.
    """
    names = tuple(check_name(name, "tree path") for name in text.split("/")) if text else ()
    if len(names) > MAX_DEPTH:
        raise Malformed(
            "too deep", field="tree path", found=len(names), expected=f"at most {MAX_DEPTH} names"
        )
    return names


def max_length(path: str, media_type: str) -> int:
    """The most bytes that the content at `path` may have."""
    small = media_type == DIRECTORY_TYPE or path == CONFIG
    return MAX_DIRECTORY if small else MAX_FILE


def check_size(path: str, size: int, total: int, count: int) -> None:
    """Check a file against the limits of a package.

    Args:
        path: the file's path.
        size: its bytes.
        total: the bytes of all files so far, this one among them.
        count: their number.

    Raises:
        Malformed: one of the limits is exceeded.
    """
    limit = max_length(path, media_type(path))
    if size > limit or total > MAX_PACKAGE or count > MAX_FILES:
        raise Malformed(
            "too large",
            field=path,
            found=f"{size} bytes, {total} in all, {count} files",
            expected=f"at most {limit} bytes, {MAX_PACKAGE} in all, {MAX_FILES} files",
        )


def check_tree(count: int, total: int, where: str) -> None:
    """Check all nodes of a tree against the limits of a package.

    Directories count: a registry that lies must not keep its reader busy for ever. So what is
    published is measured in the same way, or it could be published and not be fetched.

    Args:
        count: the number of files and directories, the root among them.
        total: the bytes of all of them.
        where: what errors call it.

    Raises:
        Malformed: one of the limits is exceeded.
    """
    if count > MAX_FILES or total > MAX_PACKAGE:
        raise Malformed(
            "too large a package",
            field=where,
            found=f"{count} files and directories or more, {total} bytes",
            expected=f"at most {MAX_FILES}, {MAX_PACKAGE} bytes",
        )


def check_media_type(value: object, where: str) -> str:
    """Return `value` if it is a media type.

    Raises:
        Malformed: it is not.
    """
    if not isinstance(value, str) or _TYPE.fullmatch(value) is None:
        raise Malformed("not a media type", field=where, found=repr(value)[:80])
    return value


def check_name(name: str, where: str) -> str:
    """Return `name` if a directory may hold it.

    Raises:
        Malformed: it may not.
    """
    if _NAME.fullmatch(name) is None:
        raise Malformed(
            "not a valid entry name",
            field=where,
            found=repr(name[:80]),
            expected="1 to 255 of letters, digits, '-', '_', '.' and ':'",
        )
    return name


def _walk(root: Path, prefix: str, depth: int) -> Iterator[tuple[str, int]]:
    if depth > MAX_DEPTH:
        raise Malformed("too deep", field=str(root / prefix), expected=f"{MAX_DEPTH} levels")
    with os.scandir(root / prefix) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            check_name(entry.name, str(root / prefix))
            status = entry.stat(follow_symlinks=False)
            path = f"{prefix}/{entry.name}" if prefix else entry.name
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(root, path, depth + 1)
            elif stat.S_ISREG(status.st_mode):
                yield path, status.st_size
            else:
                raise Malformed("neither a file nor a directory", field=str(root / path))


def _depth(path: str) -> int:
    return path.count("/") + 1 if path else 0


def _check_nesting(members: dict[str, Any], where: str) -> None:
    level: list[Any] = [members]
    for _ in range(MAX_NESTING + 1):
        inside = (item.values() if isinstance(item, dict) else item for item in level)
        level = [each for items in inside for each in items if isinstance(each, dict | list)]
        if not level:
            return
    raise Malformed("nested too deep", field=where, expected=f"at most {MAX_NESTING} levels")


def _dump(value: object, where: str = "tree") -> bytes:
    try:
        return json.dumps(
            value, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False
        ).encode()
    except (ValueError, RecursionError) as error:  # a lone surrogate; an infinite number
        raise Malformed("text or number that JSON cannot carry", field=where) from error


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON, with each name once in an object", field=where) from error


def _no_constant(text: str) -> None:
    # Python's reader takes NaN and Infinity, which are not JSON.
    raise ValueError(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return value

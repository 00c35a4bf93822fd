"""wasi:filesystem: the keep's virtual file system, by the nodes that preview 1 uses too.

Opening a path under `/net` gives a descriptor of the type `unknown`, whose streams are the
connection's.
"""

from __future__ import annotations

import time
from _blake2 import blake2b  # `hashlib` loads OpenSSL

from garrison.keep.component.host import CHUNK
from garrison.keep.component.wasi.opened import Opened, told, types_filesystem_error_code
from garrison.keep.component.wasi.streams import FileInput, FileOutput, InputStream, OutputStream
from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno, paths
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.nodes import Directory, File, Folder
from garrison.keep.vfs.paths import Place, decode, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from garrison.keep.component.host import Host
    from garrison.keep.vfs.descriptor import Stat

    Time = tuple[str, tuple[int, int] | None]

# A function of this package that stands in `opened`.
__all__ = ["types_filesystem_error_code"]

WIT = """
package wasi:filesystem;
interface types {
    use wasi:io/streams.{input-stream, output-stream, error};
    use wasi:clocks/wall-clock.{datetime};
    type filesize = u64;
    type link-count = u64;
    enum descriptor-type {
        unknown, block-device, character-device, directory, fifo, symbolic-link, regular-file,
        socket,
    }
    flags descriptor-flags {
        read, write, file-integrity-sync, data-integrity-sync, requested-write-sync,
        mutate-directory,
    }
    record descriptor-stat {
        %type: descriptor-type,
        link-count: link-count,
        size: filesize,
        data-access-timestamp: option<datetime>,
        data-modification-timestamp: option<datetime>,
        status-change-timestamp: option<datetime>,
    }
    flags path-flags { symlink-follow }
    flags open-flags { create, directory, exclusive, truncate }
    variant new-timestamp { no-change, now, timestamp(datetime) }
    record directory-entry { %type: descriptor-type, name: string }
    enum error-code {
        access, would-block, already, bad-descriptor, busy, deadlock, quota, exist,
        file-too-large, illegal-byte-sequence, in-progress, interrupted, invalid, io,
        is-directory, loop, too-many-links, message-size, name-too-long, no-device, no-entry,
        no-lock, insufficient-memory, insufficient-space, not-directory, not-empty,
        not-recoverable, unsupported, no-tty, no-such-device, overflow, not-permitted, pipe,
        read-only, invalid-seek, text-file-busy, cross-device,
    }
    enum advice { normal, sequential, random, will-need, dont-need, no-reuse }
    record metadata-hash-value { lower: u64, upper: u64 }
    resource directory-entry-stream {
        read-directory-entry: func() -> result<option<directory-entry>, error-code>;
    }
    resource descriptor {
        read-via-stream: func(offset: filesize) -> result<input-stream, error-code>;
        write-via-stream: func(offset: filesize) -> result<output-stream, error-code>;
        append-via-stream: func() -> result<output-stream, error-code>;
        advise: func(offset: filesize, length: filesize, advice: advice)
            -> result<_, error-code>;
        sync-data: func() -> result<_, error-code>;
        get-flags: func() -> result<descriptor-flags, error-code>;
        get-type: func() -> result<descriptor-type, error-code>;
        set-size: func(size: filesize) -> result<_, error-code>;
        set-times: func(
            data-access-timestamp: new-timestamp, data-modification-timestamp: new-timestamp
        ) -> result<_, error-code>;
        read: func(length: filesize, offset: filesize)
            -> result<tuple<list<u8>, bool>, error-code>;
        write: func(buffer: list<u8>, offset: filesize) -> result<filesize, error-code>;
        read-directory: func() -> result<directory-entry-stream, error-code>;
        sync: func() -> result<_, error-code>;
        create-directory-at: func(path: string) -> result<_, error-code>;
        stat: func() -> result<descriptor-stat, error-code>;
        stat-at: func(path-flags: path-flags, path: string)
            -> result<descriptor-stat, error-code>;
        set-times-at: func(
            path-flags: path-flags, path: string,
            data-access-timestamp: new-timestamp, data-modification-timestamp: new-timestamp
        ) -> result<_, error-code>;
        link-at: func(
            old-path-flags: path-flags, old-path: string,
            new-descriptor: borrow<descriptor>, new-path: string
        ) -> result<_, error-code>;
        open-at: func(
            path-flags: path-flags, path: string, open-flags: open-flags,
            %flags: descriptor-flags
        ) -> result<descriptor, error-code>;
        readlink-at: func(path: string) -> result<string, error-code>;
        remove-directory-at: func(path: string) -> result<_, error-code>;
        rename-at: func(
            old-path: string, new-descriptor: borrow<descriptor>, new-path: string
        ) -> result<_, error-code>;
        symlink-at: func(old-path: string, new-path: string) -> result<_, error-code>;
        unlink-file-at: func(path: string) -> result<_, error-code>;
        is-same-object: func(other: borrow<descriptor>) -> bool;
        metadata-hash: func() -> result<metadata-hash-value, error-code>;
        metadata-hash-at: func(path-flags: path-flags, path: string)
            -> result<metadata-hash-value, error-code>;
    }
    filesystem-error-code: func(err: borrow<error>) -> option<error-code>;
}
interface preopens {
    use types.{descriptor};
    get-directories: func() -> list<tuple<descriptor, string>>;
}
"""

# Connections and listeners are `unknown`: asked for a `socket`, the adapter from preview 1 traps.
_TYPES = {
    d.CHARACTER: "character-device",
    d.FOLDER: "directory",
    d.REGULAR: "regular-file",
    d.SYMLINK: "symbolic-link",
}
# The files' offsets are signed on every host.
_MAX_OFFSET = (1 << 63) - 1
_MAX_NANOSECONDS = (1 << 63) - 1


def preopens_get_directories(host: Host) -> list[tuple[Opened, str]]:
    """Give the directories that it has from the start."""
    flags = frozenset(("read", "mutate-directory"))
    return [(Opened(descriptor, flags), name) for name, descriptor in host.directories]


def _offset(offset: int) -> int:
    if offset > _MAX_OFFSET:
        raise Errno(errno.INVAL)
    return offset


@told
def descriptor_read_via_stream(_host: Host, opened: Opened, offset: int) -> InputStream:
    """Give a stream that reads from a place on; what has no places is read as it comes."""
    descriptor = opened.need("read", errno.BADF)
    if descriptor.filetype != d.REGULAR:
        return InputStream(opened.shared)
    return FileInput(opened.shared, _offset(offset))


@told
def descriptor_write_via_stream(host: Host, opened: Opened, offset: int) -> OutputStream:
    """Give a stream that writes from a place on."""
    descriptor = opened.need("write", errno.BADF)
    if descriptor.filetype != d.REGULAR:
        return OutputStream(host, opened.shared)
    return FileOutput(host, opened.shared, _offset(offset))


@told
def descriptor_append_via_stream(host: Host, opened: Opened) -> OutputStream:
    """Give a stream that writes at the end."""
    descriptor = opened.need("write", errno.BADF)
    if descriptor.filetype != d.REGULAR:
        return OutputStream(host, opened.shared)
    return FileOutput(host, opened.shared, None)


@told
def descriptor_advise(_host: Host, opened: Opened, _at: int, _size: int, _advice: str) -> None:
    """Take note of nothing: memory is as fast in any order."""
    if opened.descriptor.filetype != d.REGULAR:
        raise Errno(errno.BADF)


def descriptor_sync(_host: Host, _opened: Opened) -> None:
    """Do nothing: memory needs no disk."""


descriptor_sync_data = descriptor_sync


def descriptor_get_flags(_host: Host, opened: Opened) -> frozenset[str]:
    """Tell what it was opened for."""
    return opened.flags


def descriptor_get_type(_host: Host, opened: Opened) -> str:
    """Tell what it is."""
    return _TYPES.get(opened.descriptor.filetype, "unknown")


@told
def descriptor_set_size(_host: Host, opened: Opened, size: int) -> None:
    """Cut it or fill it with zeros."""
    opened.need("write", errno.INVAL).set_size(_offset(size))


@told
def descriptor_set_times(_host: Host, opened: Opened, accessed: Time, modified: Time) -> None:
    """Set its times."""
    opened.descriptor.set_times(_chosen(accessed), _chosen(modified))


def _chosen(wanted: Time) -> int | None:
    kind, given = wanted
    if kind == "now":
        return time.time_ns()
    if given is None:
        return None
    nanoseconds = given[0] * 1_000_000_000 + given[1]
    if given[1] >= 1_000_000_000 or nanoseconds > _MAX_NANOSECONDS:
        raise Errno(errno.INVAL)
    return nanoseconds


@told
def descriptor_read(
    host: Host, opened: Opened, length: int, offset: int
) -> tuple[memoryview, bool]:
    """Read at a place, and tell whether the end is there."""
    view = host.scratch.all[: min(length, CHUNK)]
    count = opened.need("read", errno.BADF).pread(view, _offset(offset))
    return view[:count], count < len(view)


@told
def descriptor_write(_host: Host, opened: Opened, data: memoryview, offset: int) -> int:
    """Write at a place."""
    return opened.need("write", errno.BADF).pwrite(data, _offset(offset))


class Entries:
    """The names in a directory, one after the other."""

    def __init__(self, names: list[tuple[str, int, int]], held: object) -> None:
        self._held = held
        self._left = [name for name in names if name[0] not in (".", "..")][::-1]

    def take(self) -> tuple[str, str] | None:
        """The next one's type and name; None after the last."""
        if not self._left:
            return None
        name, _, filetype = self._left.pop()
        return _TYPES.get(filetype, "unknown"), name

    def drop(self) -> None:
        """End it."""


@told
def descriptor_read_directory(host: Host, opened: Opened) -> Entries:
    """Give the names in it, as they are now."""
    names = opened.descriptor.names(again=True)
    # They are the stream's.
    opened.descriptor.forget_names()
    return Entries(names, host.hold(d.NAME_COST * len(names)))


def directory_entry_stream_read_directory_entry(
    _host: Host, entries: Entries
) -> tuple[str, str] | None:
    """Give the next name."""
    return entries.take()


def _place(opened: Opened, path: str, *, follow: bool) -> Place:
    return resolve(opened.descriptor.node(), decode(path.encode()), follow=follow)


def _changeable(opened: Opened, path: str) -> Place:
    """A place whose name shall be made or removed."""
    _check_changeable(opened)
    node = opened.descriptor.node()
    return resolve(node, decode(path.encode()), follow=False, name_itself=True)


_MUTABLE = frozenset({"mutate-directory"})


def _check_changeable(opened: Opened) -> None:
    if "mutate-directory" not in opened.flags:
        raise Errno(errno.ROFS)


@told
def descriptor_open_at(
    host: Host,
    opened: Opened,
    path_flags: frozenset[str],
    path: str,
    open_flags: frozenset[str],
    flags: frozenset[str],
) -> Opened:
    """Open what is there, or make a file and open that."""
    # As in preview 1: nothing is done for somebody who cannot have it.
    host.expect_room()
    # As POSIX: a link is a name that is taken, wherever it leads.
    new = open_flags >= {"create", "exclusive"}
    place = _place(opened, path, follow="symlink-follow" in path_flags and not new)
    if flags & {"write", "mutate-directory"} or open_flags & {"truncate", "create"}:
        _check_changeable(opened)
    node = paths.found_or_made(
        place,
        create="create" in open_flags,
        exclusive="exclusive" in open_flags,
        directory="directory" in open_flags,
    )
    if isinstance(node, Directory) and ("write" in flags or "truncate" in open_flags):
        raise Errno(errno.ISDIR)
    if "truncate" in open_flags and isinstance(node, File):
        node.resize(0)
    found = node.open(read="read" in flags, write="write" in flags)
    if isinstance(found, Folder):
        found.parent = place.parent.ino
        # Though nobody asked: the adapter of preview 1, and so Rust's `remove_dir_all`, never asks
        # and then changes what is in it. It holds the outer directory, by which it may as well.
        flags |= opened.flags & _MUTABLE
    return Opened(found, flags, host)


def _stat(found: Stat) -> tuple[Any, ...]:
    times = [divmod(when, 1_000_000_000) for when in (found.atim, found.mtim, found.ctim)]
    return (_TYPES.get(found.filetype, "unknown"), found.links, found.size, *times)


@told
def descriptor_stat(_host: Host, opened: Opened) -> tuple[Any, ...]:
    """Tell all about it."""
    return _stat(opened.descriptor.stat())


@told
def descriptor_stat_at(
    _host: Host, opened: Opened, flags: frozenset[str], path: str
) -> tuple[Any, ...]:
    """Tell all about what is there."""
    return _stat(_place(opened, path, follow="symlink-follow" in flags).existing().stat())


@told
def descriptor_set_times_at(
    _host: Host,
    opened: Opened,
    flags: frozenset[str],
    path: str,
    accessed: Time,
    modified: Time,
) -> None:
    """Set the times of what is there."""
    _check_changeable(opened)
    node = _place(opened, path, follow="symlink-follow" in flags).existing()
    node.set_times(_chosen(accessed), _chosen(modified))


@told
def descriptor_create_directory_at(_host: Host, opened: Opened, path: str) -> None:
    """Make a directory."""
    paths.make_directory(_changeable(opened, path))


@told
def descriptor_link_at(
    _host: Host, opened: Opened, flags: frozenset[str], path: str, other: Opened, new: str
) -> None:
    """Give a file another name."""
    if flags:
        # As other hosts: a link to what a link means is not offered.
        raise Errno(errno.INVAL)
    _check_changeable(opened)
    paths.link(_place(opened, path, follow=False), _changeable(other, new))


@told
def descriptor_readlink_at(_host: Host, opened: Opened, path: str) -> str:
    """Give a symbolic link's target."""
    return paths.target_of(_place(opened, path, follow=False))


@told
def descriptor_remove_directory_at(_host: Host, opened: Opened, path: str) -> None:
    """Remove an empty directory."""
    paths.remove_directory(_changeable(opened, path))


@told
def descriptor_rename_at(_host: Host, opened: Opened, path: str, other: Opened, new: str) -> None:
    """Give another name."""
    paths.rename(_changeable(opened, path), _changeable(other, new))


@told
def descriptor_symlink_at(_host: Host, opened: Opened, target: str, path: str) -> None:
    """Make a symbolic link."""
    paths.symlink(_changeable(opened, path), decode(target.encode()))


@told
def descriptor_unlink_file_at(_host: Host, opened: Opened, path: str) -> None:
    """Remove the name of what is no directory."""
    paths.unlink(_changeable(opened, path))


def descriptor_is_same_object(_host: Host, opened: Opened, other: Opened) -> bool:
    """Whether both are open on the same."""
    if opened.descriptor is other.descriptor:
        return True
    first, second = opened.descriptor.stat(), other.descriptor.stat()
    return bool(first.ino) and (first.dev, first.ino) == (second.dev, second.ino)


def _hash(found: Stat) -> tuple[int, int]:
    # What it is, by device and number: what a file holds is in no way part of who it is.
    who = found.dev.to_bytes(8, "little") + found.ino.to_bytes(8, "little")
    data = blake2b(who, digest_size=16).digest()
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")


@told
def descriptor_metadata_hash(_host: Host, opened: Opened) -> tuple[int, int]:
    """Give a number by which it is known again."""
    return _hash(opened.descriptor.stat())


@told
def descriptor_metadata_hash_at(
    _host: Host, opened: Opened, flags: frozenset[str], path: str
) -> tuple[int, int]:
    """Give a number by which what is there is known again."""
    return _hash(_place(opened, path, follow="symlink-follow" in flags).existing().stat())

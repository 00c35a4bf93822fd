"""The `path_` functions: finding, making and removing names."""

from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno, paths
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.nodes import Directory, File, FileDescriptor, Folder
from garrison.keep.vfs.paths import MAX_PATH, Place, decode, resolve
from garrison.keep.wasi import abi
from garrison.keep.wasi.descriptors import chosen_times, put_stat
from garrison.keep.wasi.memory import U32, put_u32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from garrison.keep.vfs.descriptor import Descriptor
    from garrison.keep.wasi.host import Host
    from garrison.keep.wasi.memory import Memory

    _Key = TypeVar("_Key")
    _Value = TypeVar("_Value")

_STAT_SIZE = 64
# Paths of which is kept where they lead, and of which what opening them came to.
_MAX_KNOWN = 256
# What every opening asks, found without looking for it in a module.
_PATH_OPEN, _ALL = d.PATH_OPEN, d.ALL
_CUT = d.FD_WRITE | d.FD_FILESTAT_SET_SIZE


def _found(host: "Host", fd: int, path: int, size: int, right: int, follow: int) -> Place:
    """Find a path as `_place` does, to look at what is there: as fast as it was found before."""
    memory = host.memory
    end = path + size
    if size > MAX_PATH or end > memory.size:
        _check_path(memory, path, size)
    folder = host.descriptors.having(fd)
    directory = folder.node()
    if not folder.rights & right:
        raise Errno(errno.NOTCAPABLE)
    return _known(host, directory, bytes(memory.all[path:end]), follow)


def _check_path(memory: "Memory", path: int, size: int) -> None:
    """Make sure that a path is not too long, and is in the memory."""
    if size > MAX_PATH:
        raise Errno(errno.NAMETOOLONG)
    memory.expect(path, size)


def _known(host: "Host", directory: Directory, path: bytes, follow: int) -> Place:
    """Where a path leads from a directory: as it did before, if it cannot lead elsewhere now."""
    key = (directory, path, follow)
    place = host.places.get(key)
    if place is None:
        place = resolve(directory, decode(path), follow=bool(follow))
        if place.steady and place.node is not None:
            _keep(host.places, key, place)
    return place


def _keep(known: "dict[_Key, _Value]", key: "_Key", value: "_Value") -> None:
    if len(known) >= _MAX_KNOWN:
        known.clear()
    known[key] = value


def _place(
    host: "Host",
    fd: int,
    path: int,
    size: int,
    right: int,
    *,
    follow: bool = False,
    name_itself: bool = False,
) -> Place:
    """Find a path below the directory `fd`, which must have the `right`, as `resolve` does."""
    if size > MAX_PATH:
        raise Errno(errno.NAMETOOLONG)
    text = decode(bytes(host.memory.view(path, size)))
    folder = host.descriptors.having(fd)
    directory = folder.node()
    if not folder.rights & right:
        raise Errno(errno.NOTCAPABLE)
    return resolve(directory, text, follow=follow, name_itself=name_itself)


def path_open(
    host: "Host",
    fd: int,
    lookup: int,
    path: int,
    size: int,
    oflags: int,
    rights: int,
    inheriting: int,
    flags: int,
    result: int,
) -> None:
    """Open what is there, or make a file and open that."""
    memory = host.memory
    if result + 4 > memory.size:
        memory.expect(result, 4)
    end = path + size
    if size > MAX_PATH or end > memory.size:
        _check_path(memory, path, size)
    outer = host.descriptors.get(fd)
    if outer is None:
        raise Errno(errno.BADF)
    key = (outer.node(), memory.all[path:end].tobytes(), lookup, oflags, rights, flags)
    if not outer.rights & _PATH_OPEN:
        raise Errno(errno.NOTCAPABLE)
    opening = host.openings.get(key)
    # What was opened before is opened again with the same rights, if the directory has them still.
    if opening is None or (rights | inheriting) & ~outer.inheriting & _ALL:
        opened = _opened(host, outer, key, inheriting)
    else:
        opened = FileDescriptor(opening[0], opening[1], flags)
    put_u32(memory.all, result, host.descriptors.insert(opened))


def _opened(
    host: "Host",
    outer: "Descriptor",
    key: "tuple[Directory, bytes, int, int, int, int]",
    inheriting: int,
) -> "Descriptor":
    """Open what `path_open` is asked for, in `key` as `Host.openings` has it."""
    directory, path, lookup, oflags, rights, flags = key
    # As Linux: nothing is made, cut, connected to or taken for somebody who cannot have it.
    host.descriptors.expect_room()
    new = oflags & abi.CREATE and oflags & abi.EXCLUSIVE
    # As POSIX: a link is a name that is taken, wherever it leads.
    place = _known(host, directory, path, 0 if new else lookup & abi.FOLLOW)
    if oflags & ~abi.OFLAGS or flags & ~abi.FDFLAGS:
        raise Errno(errno.INVAL)
    if (rights | inheriting) & ~outer.inheriting & d.ALL:
        raise Errno(errno.NOTCAPABLE)
    there = place.node
    if oflags & abi.CREATE and there is None and not outer.rights & d.PATH_CREATE_FILE:
        raise Errno(errno.NOTCAPABLE)
    node = paths.found_or_made(
        place,
        create=bool(oflags & abi.CREATE),
        exclusive=bool(oflags & abi.EXCLUSIVE),
        directory=bool(oflags & abi.DIRECTORY),
    )
    # Not the rights to a file's size: Go asks for them to read.
    write = bool(rights & d.FD_WRITE)
    if isinstance(node, Directory):
        if rights & d.FD_WRITE or oflags & abi.TRUNCATE:
            raise Errno(errno.ISDIR)
        # Libraries ask for every other right.
        write = False
    if oflags & abi.TRUNCATE and isinstance(node, File):
        # Who gets a descriptor that can cut the file needs no other right to. Go opens its
        # directories without that to cut by path, and makes files through them.
        if not outer.rights & d.PATH_FILESTAT_SET_SIZE and ~rights & _CUT:
            raise Errno(errno.NOTCAPABLE)
        node.resize(0)
    opened = node.open(read=bool(rights & d.FD_READ), write=write)
    if not write:
        # As POSIX: who does not open to write does not cut or lengthen either.
        rights &= ~(d.FD_ALLOCATE | d.FD_FILESTAT_SET_SIZE)
    opened.rights = opened.possible & rights
    opened.inheriting &= inheriting
    opened.flags = flags
    if isinstance(opened, Folder):
        opened.parent = place.parent.ino
    elif type(node) is File and node is there and place.steady and not oflags & abi.TRUNCATE:
        _keep(host.openings, key, (node, opened.rights))
    return opened


def path_create_directory(host: "Host", fd: int, path: int, size: int) -> None:
    """Make a directory."""
    place = _place(host, fd, path, size, d.PATH_CREATE_DIRECTORY, name_itself=True)
    paths.make_directory(place)


def path_filestat_get(
    host: "Host", fd: int, lookup: int, path: int, size: int, result: int
) -> None:
    """Tell all about what is there."""
    out = host.memory.view(result, _STAT_SIZE)
    place = _found(host, fd, path, size, d.PATH_FILESTAT_GET, lookup & abi.FOLLOW)
    put_stat(out, place.existing().stat())


def path_filestat_set_times(
    host: "Host", fd: int, lookup: int, path: int, size: int, atim: int, mtim: int, flags: int
) -> None:
    """Set the times of what is there."""
    times = chosen_times(atim, mtim, flags)
    follow = bool(lookup & abi.FOLLOW)
    place = _place(host, fd, path, size, d.PATH_FILESTAT_SET_TIMES, follow=follow)
    place.existing().set_times(*times)


def path_link(
    host: "Host", fd: int, lookup: int, path: int, size: int, to_fd: int, to_path: int, to_size: int
) -> None:
    """Give a file another name."""
    if lookup & abi.FOLLOW:
        # As other hosts: a link to what a link means is not offered.
        raise Errno(errno.INVAL)
    source = _place(host, fd, path, size, d.PATH_LINK_SOURCE)
    target = _place(host, to_fd, to_path, to_size, d.PATH_LINK_TARGET, name_itself=True)
    paths.link(source, target)


def path_readlink(
    host: "Host", fd: int, path: int, size: int, buffer: int, room: int, result: int
) -> None:
    """Give a symbolic link's target, cut where the buffer ends."""
    host.memory.expect(result, 4)
    view = host.memory.view(buffer, room)
    place = _place(host, fd, path, size, d.PATH_READLINK)
    target = paths.target_of(place).encode()[:room]
    view[: len(target)] = target
    U32.pack_into(host.memory.all, result, len(target))


def path_remove_directory(host: "Host", fd: int, path: int, size: int) -> None:
    """Remove an empty directory."""
    place = _place(host, fd, path, size, d.PATH_REMOVE_DIRECTORY, name_itself=True)
    host.forget_places()
    paths.remove_directory(place)


def path_unlink_file(host: "Host", fd: int, path: int, size: int) -> None:
    """Remove the name of what is no directory."""
    place = _place(host, fd, path, size, d.PATH_UNLINK_FILE, name_itself=True)
    host.forget_places()
    paths.unlink(place)


def path_rename(
    host: "Host", fd: int, path: int, size: int, to_fd: int, to_path: int, to_size: int
) -> None:
    """Give another name, in place of what has it now if that is alike and, a directory, empty."""
    source = _place(host, fd, path, size, d.PATH_RENAME_SOURCE, name_itself=True)
    target = _place(host, to_fd, to_path, to_size, d.PATH_RENAME_TARGET, name_itself=True)
    host.forget_places()
    paths.rename(source, target)


def path_symlink(
    host: "Host", target: int, target_size: int, fd: int, path: int, size: int
) -> None:
    """Make a symbolic link."""
    if target_size > MAX_PATH:
        raise Errno(errno.NAMETOOLONG)
    text = decode(bytes(host.memory.view(target, target_size)))
    place = _place(host, fd, path, size, d.PATH_SYMLINK, name_itself=True)
    paths.symlink(place, text)

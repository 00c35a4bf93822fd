"""The `path_` functions: finding, making and removing names."""

from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.nodes import Directory, File, Folder, Symlink
from garrison.keep.vfs.paths import MAX_PATH, Place, decode, resolve
from garrison.keep.wasi import abi
from garrison.keep.wasi.descriptors import chosen_times, put_stat
from garrison.keep.wasi.memory import U32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.vfs.nodes import Node
    from garrison.keep.wasi.host import Host

_STAT_SIZE = 64


def _place(host: "Host", fd: int, path: int, size: int, right: int, *, follow: bool) -> Place:
    """Find a path below the directory `fd`, which must have the `right`."""
    if size > MAX_PATH:
        raise Errno(errno.NAMETOOLONG)
    text = decode(bytes(host.memory.view(path, size)))
    folder = host.descriptors.having(fd)
    directory = folder.node()
    if not folder.rights & right:
        raise Errno(errno.NOTCAPABLE)
    return resolve(directory, text, follow=follow)


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
    host.memory.expect(result, 4)
    place = _place(host, fd, path, size, d.PATH_OPEN, follow=bool(lookup & abi.FOLLOW))
    if oflags & ~abi.OFLAGS or flags & ~abi.FDFLAGS:
        raise Errno(errno.INVAL)
    outer = host.descriptors.having(fd)
    if (rights | inheriting) & ~outer.inheriting & d.ALL:
        raise Errno(errno.NOTCAPABLE)
    node = _found_or_made(place, oflags, outer.rights)
    # Not the rights to a file's size: Go asks for them to read.
    write = bool(rights & d.FD_WRITE)
    if isinstance(node, Directory):
        if rights & d.FD_WRITE or oflags & abi.TRUNCATE:
            raise Errno(errno.ISDIR)
        # Libraries ask for every other right.
        write = False
    if oflags & abi.TRUNCATE and isinstance(node, File):
        if not outer.rights & d.PATH_FILESTAT_SET_SIZE:
            raise Errno(errno.NOTCAPABLE)
        node.resize(0)
    opened = node.open(read=bool(rights & d.FD_READ), write=write)
    opened.rights = opened.possible & rights
    opened.inheriting &= inheriting
    opened.flags = flags
    if isinstance(opened, Folder):
        opened.parent = place.parent.ino
    U32.pack_into(host.memory.all, result, host.descriptors.insert(opened))


def _found_or_made(place: Place, oflags: int, rights: int) -> "Node":
    if oflags & abi.CREATE:
        if oflags & abi.DIRECTORY:
            raise Errno(errno.INVAL)
        if place.node is None:
            if place.slash:
                raise Errno(errno.ISDIR)
            if not rights & d.PATH_CREATE_FILE:
                raise Errno(errno.NOTCAPABLE)
            return place.parent.create_file(place.named())
        if oflags & abi.EXCLUSIVE:
            raise Errno(errno.EXIST)
    node = place.existing()
    if isinstance(node, Symlink):
        raise Errno(errno.NOTDIR if oflags & abi.DIRECTORY else errno.LOOP)
    if oflags & abi.DIRECTORY and not isinstance(node, Directory):
        raise Errno(errno.NOTDIR)
    return node


def path_create_directory(host: "Host", fd: int, path: int, size: int) -> None:
    """Make a directory."""
    place = _place(host, fd, path, size, d.PATH_CREATE_DIRECTORY, follow=False)
    if place.node is not None:
        raise Errno(errno.EXIST)
    place.parent.create_directory(place.named())


def path_filestat_get(
    host: "Host", fd: int, lookup: int, path: int, size: int, result: int
) -> None:
    """Tell all about what is there."""
    out = host.memory.view(result, _STAT_SIZE)
    follow = bool(lookup & abi.FOLLOW)
    place = _place(host, fd, path, size, d.PATH_FILESTAT_GET, follow=follow)
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
    source = _place(host, fd, path, size, d.PATH_LINK_SOURCE, follow=False)
    target = _place(host, to_fd, to_path, to_size, d.PATH_LINK_TARGET, follow=False)
    node = source.existing()
    if isinstance(node, Directory):
        raise Errno(errno.PERM)
    if target.node is not None:
        raise Errno(errno.EXIST)
    if target.slash:
        raise Errno(errno.NOENT)
    node.check_writable()
    target.parent.add(target.named(), node)


def path_readlink(
    host: "Host", fd: int, path: int, size: int, buffer: int, room: int, result: int
) -> None:
    """Give a symbolic link's target, cut where the buffer ends."""
    host.memory.expect(result, 4)
    view = host.memory.view(buffer, room)
    place = _place(host, fd, path, size, d.PATH_READLINK, follow=False)
    node = place.existing()
    if not isinstance(node, Symlink):
        raise Errno(errno.INVAL)
    target = node.target.encode()[:room]
    view[: len(target)] = target
    U32.pack_into(host.memory.all, result, len(target))


def path_remove_directory(host: "Host", fd: int, path: int, size: int) -> None:
    """Remove an empty directory."""
    place = _place(host, fd, path, size, d.PATH_REMOVE_DIRECTORY, follow=False)
    node = place.existing()
    if not isinstance(node, Directory):
        raise Errno(errno.NOTDIR)
    name = place.named()
    if not node.empty():
        raise Errno(errno.NOTEMPTY)
    place.parent.remove(name)


def path_unlink_file(host: "Host", fd: int, path: int, size: int) -> None:
    """Remove the name of what is no directory."""
    place = _place(host, fd, path, size, d.PATH_UNLINK_FILE, follow=False)
    node = place.existing()
    if isinstance(node, Directory):
        raise Errno(errno.ISDIR)
    place.parent.remove(place.named())


def path_rename(
    host: "Host", fd: int, path: int, size: int, to_fd: int, to_path: int, to_size: int
) -> None:
    """Give another name, in place of what has it now if that is alike and, a directory, empty."""
    source = _place(host, fd, path, size, d.PATH_RENAME_SOURCE, follow=False)
    target = _place(host, to_fd, to_path, to_size, d.PATH_RENAME_TARGET, follow=False)
    node, there = source.existing(), target.node
    name, new_name = source.named(), target.named()
    if node.same(there):
        return
    if isinstance(node, Directory):
        if there is not None and not isinstance(there, Directory):
            raise Errno(errno.NOTDIR)
        if isinstance(there, Directory) and not there.empty():
            raise Errno(errno.NOTEMPTY)
        if node.contains(target.parent):
            raise Errno(errno.INVAL)
    elif isinstance(there, Directory):
        raise Errno(errno.ISDIR)
    elif target.slash:
        raise Errno(errno.NOTDIR)
    source.parent.move(name, target.parent, new_name)


def path_symlink(
    host: "Host", target: int, target_size: int, fd: int, path: int, size: int
) -> None:
    """Make a symbolic link."""
    if target_size > MAX_PATH:
        raise Errno(errno.NAMETOOLONG)
    text = decode(bytes(host.memory.view(target, target_size)))
    if not text:
        raise Errno(errno.NOENT)
    if text.startswith("/"):
        # It could never be followed.
        raise Errno(errno.PERM)
    place = _place(host, fd, path, size, d.PATH_SYMLINK, follow=False)
    if place.node is not None:
        raise Errno(errno.EXIST)
    if place.slash:
        raise Errno(errno.NOENT)
    place.parent.create_symlink(place.named(), text)

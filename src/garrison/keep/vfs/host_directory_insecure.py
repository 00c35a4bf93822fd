"""A directory of the host in the guest's file system: for development only, never in a TEE.

Whoever owns the host reads and changes what the guest keeps here. So only `garrison run --dir`
makes one, it warns, and a keep with an identity refuses it.

Rules: the guest never leaves the directory. Each name is opened by itself, below the directory
that was opened before it, without following links (O_NOFOLLOW); `..` and links are resolved by
`vfs.paths` and never reach the host, so no race of renames or links can lead out. Only files,
directories and links are opened: what else there is (devices, pipes) is refused. What the host has
as `/dev/null` and its like, under any name, is the keep's own here, and keeps its name.
"""

from __future__ import annotations

import os
import stat as modes

from garrison.errors import Misuse
from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.descriptor import Stat
from garrison.keep.vfs.dynamic import Opened
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.nodes import Directory, File, FileDescriptor, Folder, Node, Quota, Symlink
from garrison.keep.vfs.streams import Null, Random, Zero

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.vfs.descriptor import Descriptor

_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# Linux, Documentation/admin-guide/devices.txt: those of the memory, character devices of major 1.
_DEVICES = {
    os.makedev(1, 3): Null,
    os.makedev(1, 5): Zero,
    os.makedev(1, 8): Random,
    os.makedev(1, 9): Random,
}
_TYPES = {modes.S_IFREG: d.REGULAR, modes.S_IFDIR: d.FOLDER, modes.S_IFLNK: d.SYMLINK}


class _OnHost(Node):
    """What a name on the host stands for, held by a descriptor that can neither read nor write.

    It is closed with the node, that is, as soon as no path and no descriptor needs the node.
    """

    handle = -1

    def hold(self, handle: int) -> None:
        """Hold `handle` until the end."""
        self.handle = handle
        self.ino = os.fstat(handle).st_ino

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)

    def path(self) -> str:
        """A path of the host that means this very node, whatever became of its name."""
        return f"/proc/self/fd/{self.handle}"

    def stat(self) -> Stat:
        """What a guest can know of it."""
        found = os.fstat(self.handle)
        times = (_told(found.st_atime_ns), _told(found.st_mtime_ns), _told(found.st_ctime_ns))
        # Number and device together say what it is: no file of the keep's own is it, nor one of
        # another file system of the host, though their numbers be the same.
        dev = found.st_dev + d.KEEP_DEVICE + 1
        return Stat(self.filetype, found.st_ino, found.st_nlink, found.st_size, times, dev)

    def size(self) -> int:
        """How long its content is."""
        return os.fstat(self.handle).st_size

    def same(self, other: Node | None) -> bool:
        """Whether `other` is the same file of the host."""
        return isinstance(other, _OnHost) and os.path.sameopenfile(self.handle, other.handle)

    def set_times(self, atim: int | None, mtim: int | None) -> None:
        """Set its times, in nanoseconds."""
        self.check_writable()
        found = os.fstat(self.handle)
        chosen = (
            found.st_atime_ns if atim is None else atim,
            found.st_mtime_ns if mtim is None else mtim,
        )
        try:
            os.utime(self.path(), ns=chosen)
        except OverflowError:
            raise Errno(errno.INVAL) from None

    def unused(self) -> None:
        """Do nothing: the room is the host's."""


class HostFile(_OnHost, File):
    """A file of the host."""

    _io = -1

    def __del__(self) -> None:
        if self._io >= 0:
            os.close(self._io)
        super().__del__()

    def open(self, *, read: bool, write: bool) -> Descriptor:
        """Open it."""
        if write:
            self.check_writable()
        self._reach((os.O_RDWR if read else os.O_WRONLY) if write else os.O_RDONLY)
        return _HostFileDescriptor(self)

    def _reach(self, mode: int) -> None:
        if self._io < 0:
            self._io = os.open(self.path(), mode | os.O_CLOEXEC)

    def read(self, view: memoryview, offset: int) -> int:
        """Read what there is at `offset` into `view`."""
        return os.preadv(self._io, [view], offset)

    def write(self, view: memoryview, offset: int) -> int:
        """Write `view` at `offset`."""
        self.check_writable()
        return os.pwritev(self._io, [view], offset)

    def resize(self, size: int) -> None:
        """Cut it or fill it with zeros."""
        self.check_writable()
        os.truncate(self.path(), size)


class _HostFileDescriptor(FileDescriptor):
    """Open on a file of the host."""

    def read(self, view: memoryview) -> int:
        """Read from its place on."""
        count = self._file.read(view, self._offset)
        self._offset += count
        return count


class HostSymlink(_OnHost, Symlink):
    """A symbolic link of the host, to be followed inside the directory only."""


class HostDevice(_OnHost, Opened):
    """A device of the host in name; the keep's own is opened."""


class HostDirectory(_OnHost, Directory):
    """A directory of the host."""

    def _child(self, handle: int) -> Node:
        found = os.fstat(handle)
        kind = modes.S_IFMT(found.st_mode)
        node: HostFile | HostDirectory | HostSymlink | HostDevice
        if kind == modes.S_IFREG:
            node = HostFile(self.quota)
        elif kind == modes.S_IFDIR:
            node = HostDirectory(self.quota)
        elif kind == modes.S_IFLNK:
            node = HostSymlink(self.quota, _text(os.readlink(b"", dir_fd=handle)))
        elif kind == modes.S_IFCHR and found.st_rdev in _DEVICES:
            node = HostDevice(d.CHARACTER, _DEVICES[found.st_rdev])
        else:
            raise Errno(errno.NOTSUP)
        node.hold(handle)
        return node

    def lookup(self, name: str) -> Node | None:
        """What `name` stands for, None if nothing."""
        try:
            handle = os.open(name.encode(), _HANDLE, dir_fd=self.handle)
        except FileNotFoundError:
            return None
        try:
            return self._child(handle)
        except BaseException:
            os.close(handle)
            raise

    def _readable(self) -> int:
        return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.handle)

    def listing(self) -> list[tuple[str, int, int]]:
        """Name, number and type of all that a guest could name: UTF-8 that is."""
        readable = self._readable()
        found = []
        try:
            with os.scandir(readable) as entries:
                for entry in entries:
                    try:
                        name = _text(os.fsencode(entry.name))
                        mode = entry.stat(follow_symlinks=False).st_mode
                    except (Errno, FileNotFoundError):
                        continue
                    kind = _TYPES.get(modes.S_IFMT(mode), d.UNKNOWN)
                    found.append((name, entry.inode(), kind))
        finally:
            os.close(readable)
        return found

    def empty(self) -> bool:
        """Whether it holds nothing."""
        readable = self._readable()
        try:
            with os.scandir(readable) as entries:
                return next(entries, None) is None
        finally:
            os.close(readable)

    def contains(self, other: Directory) -> bool:  # noqa: ARG002  (the host says so by itself)
        """Leave it to the host's rename, which refuses to move a directory into itself."""
        return False

    def create_file(self, name: str) -> Node:
        """Make an empty file."""
        self.check_writable()
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name.encode(), flags, 0o666, dir_fd=self.handle))
        made = self.lookup(name)
        if made is None or isinstance(made, (Directory, Symlink)):
            # Someone on the host took it away again.
            raise Errno(errno.NOENT)
        return made

    def create_directory(self, name: str) -> None:
        """Make an empty directory."""
        self.check_writable()
        os.mkdir(name.encode(), dir_fd=self.handle)

    def create_symlink(self, name: str, target: str) -> None:
        """Make a symbolic link."""
        self.check_writable()
        os.symlink(target.encode(), name.encode(), dir_fd=self.handle)

    def add(self, name: str, node: Node) -> None:
        """Give a file of the same directory another name."""
        if self.check_writable() is not node.quota or not isinstance(node, _OnHost):
            raise Errno(errno.XDEV)
        os.link(node.path(), name.encode(), dst_dir_fd=self.handle, follow_symlinks=True)

    def remove(self, name: str) -> None:
        """Take a name away."""
        self.check_writable()
        _check_no_device(self, name)
        try:
            os.unlink(name.encode(), dir_fd=self.handle)
        except IsADirectoryError:
            os.rmdir(name.encode(), dir_fd=self.handle)

    def move(self, name: str, target: Directory, new_name: str) -> None:
        """Give what has `name` a new name, in place of what had that."""
        if self.check_writable() is not target.quota or not isinstance(target, HostDirectory):
            raise Errno(errno.XDEV)
        _check_no_device(self, name)
        _check_no_device(target, new_name)
        os.rename(
            name.encode(), new_name.encode(), src_dir_fd=self.handle, dst_dir_fd=target.handle
        )


def host_directory(path: str, *, read_only: bool) -> Folder:
    """Open the directory `path` of the host for a guest.

    Raises:
        Misuse: there is none.
    """
    try:
        handle = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Misuse(
            "cannot be opened as a directory", field="--dir", found=f"{path} ({error.strerror})"
        ) from None
    # What can be written has a quota; this one's is the host's disk. It also tells this tree
    # from others: no name is moved from one to another.
    node = HostDirectory(None if read_only else Quota(0))
    node.hold(handle)
    return Folder(node)


def _check_no_device(directory: HostDirectory, name: str) -> None:
    """Refuse what would leave the host without its devices, as `--dir /` would let a guest do."""
    if isinstance(directory.lookup(name), HostDevice):
        raise Errno(errno.PERM)


def _told(time: int) -> int:
    """A time as near as WASI can tell: a file can be older than 1970, or of the year 3000."""
    return min(max(time, 0), (1 << 64) - 1)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise Errno(errno.ILSEQ) from None

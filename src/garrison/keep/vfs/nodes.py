"""Files, directories and symbolic links in memory, and the quota that they share.

What is read-only (the package, the directories of the keep itself) says so by having no quota.
"""

# ruff: noqa: ARG002  (what cannot be done is refused under the same signature)

import time

from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.ceiling import Ceiling
from garrison.keep.vfs.descriptor import Descriptor, Stat
from garrison.keep.vfs.errno import Errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# What a name in a directory costs of the quota, so that empty files are not free.
_NODE_COST = 512
# As many bytes are copied twice in less time than it takes to make a view of them.
_FEW = 1 << 12
# As on Linux (limits.h, NAME_MAX).
_MAX_NAME = 255


class Quota:
    """How many bytes files may still take.

    Args:
        size: as many.
        ceiling: the limit that this comes from, if it is not that of `/tmp`.
    """

    def __init__(self, size: int, ceiling: Ceiling | None = None) -> None:
        self.left = size
        self._ceiling = ceiling or Ceiling("tmp", size)

    def take(self, size: int) -> None:
        """Take `size` bytes; give them back if it is negative.

        Raises:
            Errno: there are not as many.
        """
        if size > self.left:
            self._ceiling.reached()
            raise Errno(errno.NOSPC)
        self.left -= size


class Node:
    """What a name in a directory stands for.

    Attributes:
        ino: a number that no other node has.
        links: how many names it has.
        opens: how many descriptors are open on it.
    """

    filetype = d.UNKNOWN
    _last_ino = 0

    def __init__(self, quota: Quota | None) -> None:
        Node._last_ino += 1
        self.ino = Node._last_ino
        self.quota = quota
        self.links = 0
        self.opens = 0
        self.atim = self.mtim = self.ctim = time.time_ns()

    def size(self) -> int:
        """How long its content is."""
        return 0

    def stat(self) -> Stat:
        """What a guest can know of it."""
        times = (self.atim, self.mtim, self.ctim)
        # What can be changed was given a name when it was made; other nodes need none to be found.
        links = self.links if self.quota is not None else max(self.links, 1)
        return Stat(self.filetype, self.ino, links, self.size(), times)

    def same(self, other: "Node | None") -> bool:
        """Whether `other` is this node."""
        return self is other

    def set_times(self, atim: int | None, mtim: int | None) -> None:
        """Set its times, in nanoseconds.

        Raises:
            Errno: it is read-only.
        """
        self.check_writable()
        self.atim = self.atim if atim is None else atim
        self.mtim = self.mtim if mtim is None else mtim
        self.ctim = time.time_ns()

    def check_writable(self) -> Quota:
        """The quota that it may change within.

        Raises:
            Errno: it is read-only.
        """
        if self.quota is None:
            raise Errno(errno.ROFS)
        return self.quota

    def open(self, *, read: bool, write: bool) -> Descriptor:
        """Open it.

        Raises:
            Errno: that cannot be.
        """
        raise Errno(errno.NOTSUP)

    def unused(self) -> None:
        """Give its room back if it has neither a name nor a descriptor any more."""
        if self.quota is not None and not self.links and not self.opens:
            self.quota.take(-self.size())


class File(Node):
    """A file's content."""

    filetype = d.REGULAR

    def __init__(self, quota: Quota | None, data: bytes = b"") -> None:
        super().__init__(quota)
        self.data: bytes | bytearray = data if quota is None else bytearray(data)

    def size(self) -> int:
        """How long its content is."""
        return len(self.data)

    def open(self, *, read: bool, write: bool) -> Descriptor:
        """Open it.

        Raises:
            Errno: it is read-only.
        """
        if write:
            self.check_writable()
        return FileDescriptor(self)

    def read(self, view: memoryview, offset: int) -> int:
        """Copy what there is at `offset` into `view`."""
        found = memoryview(self.data)[offset : offset + len(view)]
        count = len(found)
        view[:count] = found
        return count

    def write(self, view: memoryview, offset: int) -> int:
        """Copy `view` to `offset`; what lies between is filled with zeros.

        Raises:
            Errno: it is read-only, or there is no room.
        """
        end = offset + len(view)
        if len(view) and end > len(self.data):
            self.resize(end)
        elif self.quota is None:
            raise Errno(errno.ROFS)
        # A file that can be written holds a bytearray.
        self.data[offset:end] = view  # type: ignore[index]
        self.mtim = self.ctim = time.time_ns()
        return len(view)

    def resize(self, size: int) -> None:
        """Cut it or fill it with zeros.

        Raises:
            Errno: it is read-only, or there is no room.
        """
        self.check_writable().take(size - len(self.data))
        assert isinstance(self.data, bytearray)  # noqa: S101  (what can be written holds one)
        if size < len(self.data):
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))
        self.mtim = self.ctim = time.time_ns()


class Symlink(Node):
    """A path to go on with."""

    filetype = d.SYMLINK

    def __init__(self, quota: Quota | None, target: str) -> None:
        super().__init__(quota)
        self.target = target

    def size(self) -> int:
        """How long its target is."""
        return len(self.target.encode())


class Directory(Node):
    """Names and what they stand for.

    Attributes:
        steady: a name that stands for something does so until it is removed or moved. Not so
            where another class finds what a name stands for.
        removed: it has no name any more, and so takes none.
    """

    filetype = d.FOLDER
    steady = True
    removed = False

    def __init_subclass__(cls) -> None:
        cls.steady = False

    def __init__(self, quota: Quota | None, entries: "Iterable[tuple[str, Node]]" = ()) -> None:
        super().__init__(quota)
        self._entries: dict[str, Node] = {}
        for name, node in entries:
            self._entries[name] = node
            node.links += 1

    def open(self, *, read: bool, write: bool) -> Descriptor:
        """Open it for its names.

        Raises:
            Errno: it was to be written.
        """
        if write:
            raise Errno(errno.ISDIR)
        return Folder(self)

    def lookup(self, name: str) -> Node | None:
        """What `name` stands for, None if nothing.

        Raises:
            Errno: it cannot be a name here.
        """
        # Most names are so short that their bytes need not be counted.
        if len(name) * 4 > _MAX_NAME and len(name.encode()) > _MAX_NAME:
            raise Errno(errno.NAMETOOLONG)
        return self._entries.get(name)

    def listing(self) -> list[tuple[str, int, int]]:
        """All names, in the order in which they were made, with number and type of each."""
        return [(name, node.ino, node.filetype) for name, node in self._entries.items()]

    def folders(self) -> "list[Directory]":
        """The directories in it."""
        return [node for node in self._entries.values() if isinstance(node, Directory)]

    def empty(self) -> bool:
        """Whether it holds nothing."""
        return not self._entries

    def create_file(self, name: str) -> Node:
        """Make an empty file, under a name that is free.

        Raises:
            Errno: this is read-only, or there is no room.
        """
        made = File(self.check_writable())
        self.add(name, made)
        return made

    def create_directory(self, name: str) -> None:
        """Make an empty directory, under a name that is free.

        Raises:
            Errno: this is read-only, or there is no room.
        """
        self.add(name, Directory(self.check_writable()))

    def create_symlink(self, name: str, target: str) -> None:
        """Make a symbolic link, under a name that is free.

        Raises:
            Errno: this is read-only, or there is no room.
        """
        self.add(name, Symlink(self.check_writable(), target))

    def add(self, name: str, node: Node) -> None:
        """Give `node` a name that is free.

        Raises:
            Errno: this is read-only or removed, or there is no room, or the node belongs elsewhere.
        """
        quota = self.check_writable()
        self._check_there()
        if node.quota is not quota:
            raise Errno(errno.XDEV)
        quota.take(_NODE_COST)
        try:
            # A file's content was charged as it grew; a link's target never grows, and is charged
            # with the first of its names.
            if isinstance(node, Symlink) and not node.links:
                quota.take(node.size())
        except Errno:
            quota.take(-_NODE_COST)
            raise
        self._entries[name] = node
        node.links += 1
        self.mtim = self.ctim = node.ctim = time.time_ns()

    def remove(self, name: str) -> None:
        """Take a name away, and what it stood for if nothing else holds it.

        Raises:
            Errno: this is read-only.
        """
        quota = self.check_writable()
        node = self._entries.pop(name)
        quota.take(-_NODE_COST)
        node.links -= 1
        if isinstance(node, Directory):
            node.removed = True
        node.unused()
        self.mtim = self.ctim = node.ctim = time.time_ns()

    def _check_there(self) -> None:
        """Refuse what nobody could find or remove again, while its room stayed taken."""
        if self.removed:
            raise Errno(errno.NOENT)

    def contains(self, other: "Directory") -> bool:
        """Whether `other` is this directory, or below it."""
        below = [self]
        # Not by recursion: a guest can nest directories deeper than our stack.
        while below:
            directory = below.pop()
            if directory is other:
                return True
            below += directory.folders()
        return False

    def move(self, name: str, target: "Directory", new_name: str) -> None:
        """Give what has `name` a new name, here or elsewhere, in place of what had that.

        Raises:
            Errno: one of both is read-only, or they are not of one tree, or `target` is removed.
        """
        if self.check_writable() is not target.check_writable():
            raise Errno(errno.XDEV)
        target._check_there()  # noqa: SLF001  (of the same class)
        node = self._entries[name]
        if new_name in target._entries:  # noqa: SLF001  (of the same class)
            target.remove(new_name)
        del self._entries[name]
        target._entries[new_name] = node  # noqa: SLF001  (of the same class)
        self.mtim = target.mtim = node.ctim = time.time_ns()


class _Open(Descriptor):
    """Open on a node."""

    def __init__(self, node: Node) -> None:
        self.rights = self.possible
        self._node = node
        node.opens += 1

    def stat(self) -> Stat:
        """What it is open on."""
        return self._node.stat()

    def set_times(self, atim: int | None, mtim: int | None) -> None:
        """Set the times of what it is open on."""
        self._node.set_times(atim, mtim)

    def close(self) -> None:
        """End it, and the node with it if that has no name any more."""
        node = self._node
        node.opens -= 1
        if not node.links:
            node.unused()


class Folder(_Open):
    """An open directory.

    Attributes:
        parent: the number of the directory that it was found in.
    """

    filetype = d.FOLDER
    possible = d.FOLDER_RIGHTS
    inheriting = d.ALL

    def __init__(self, node: Directory) -> None:
        super().__init__(node)
        self._directory = node
        self.parent = node.ino
        self._names: list[tuple[str, int, int]] = []

    def node(self) -> Directory:
        """The directory."""
        return self._directory

    def names(self, *, again: bool) -> list[tuple[str, int, int]]:
        """What it holds, name, number and type of each, as of the last time `again`."""
        if again or not self._names:
            here = self._directory
            self._names = [(".", here.ino, d.FOLDER), ("..", self.parent, d.FOLDER)]
            self._names += here.listing()
        return self._names

    def forget_names(self) -> None:
        """Hold no names any more."""
        self._names = []

    def read(self, view: memoryview) -> int:
        """Fail: a directory is read by its names."""
        raise Errno(errno.ISDIR)

    def pread(self, view: memoryview, offset: int) -> int:
        """Fail: likewise."""
        raise Errno(errno.ISDIR)

    def seek(self, offset: int, whence: int) -> int:
        """Fail: there are no places in it."""
        raise Errno(errno.BADF)


class FileDescriptor(_Open):
    """An open file, with a place in it."""

    possible = d.FILE_RIGHTS

    filetype = d.REGULAR
    _offset = 0

    def __init__(self, node: File, rights: int = d.FILE_RIGHTS, flags: int = 0) -> None:
        # As `_Open` does, of which nothing is left out: most of what a guest opens is files.
        self.rights = rights
        self.flags = flags
        self._file = self._node = node
        node.opens += 1

    def read(self, view: memoryview) -> int:
        """Read from its place on."""
        # As `File.read` does, without calling it.
        data, place, size = self._file.data, self._offset, len(view)
        found = (data if size <= _FEW else memoryview(data))[place : place + size]
        count = len(found)
        view[:count] = found
        self._offset = place + count
        return count

    def write(self, view: memoryview) -> int:
        """Write from its place on, or at the end if it was opened so."""
        if self.flags & 1:  # APPEND
            self._offset = self._file.size()
        count = self._file.write(view, self._offset)
        self._offset += count
        return count

    def pread(self, view: memoryview, offset: int) -> int:
        """Read at a place."""
        return self._file.read(view, offset)

    def pwrite(self, view: memoryview, offset: int) -> int:
        """Write at a place; at the end if it was opened so (as Linux does)."""
        return self._file.write(view, self._file.size() if self.flags & 1 else offset)

    def seek(self, offset: int, whence: int) -> int:
        """Change the place."""
        if whence > 2:
            raise Errno(errno.INVAL)
        place = offset + (0, self._offset, self._file.size())[whence]
        if not 0 <= place < 1 << 63:
            raise Errno(errno.INVAL)
        self._offset = place
        return place

    def set_size(self, size: int) -> None:
        """Cut it or fill it with zeros."""
        self._file.resize(size)

    def allocate(self, offset: int, length: int) -> None:
        """Fill it with zeros up to there."""
        if offset + length > self._file.size():
            self._file.resize(offset + length)

    def available(self) -> int:
        """How much is left to read."""
        return max(0, self._file.size() - self._offset)

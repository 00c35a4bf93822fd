"""Finding what a path means, never leaving the directory that it starts from; and changing that.

Rules: a path is relative to an open directory; `..` and symbolic links are followed inside it
and refused (PERM) where they would lead out; links are followed a bounded number of times.
"""

from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.nodes import Directory, Symlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.vfs.nodes import Node

# As on Linux (limits.h, PATH_MAX less the zero that it counts, and path_resolution(7)).
MAX_PATH = 4095
_MAX_LINKS = 40


class Place:
    """Where a path leads.

    Attributes:
        parent: the directory that it ends in.
        name: the last name; empty if the path ends in `.` or `..`.
        node: what is there, None if nothing.
        slash: the path ends in a slash, so only a directory will do.
        steady: it stays so, if something is there, until somebody takes a name away.
    """

    __slots__ = ("name", "node", "parent", "slash", "steady")

    def __init__(
        self, parent: Directory, name: str, node: "Node | None", *, slash: bool, steady: bool
    ) -> None:
        self.parent = parent
        self.name = name
        self.node = node
        self.slash = slash
        self.steady = steady

    def existing(self) -> "Node":
        """What is there.

        Raises:
            Errno: nothing is, or it is no directory where only one will do.
        """
        if self.node is None:
            raise Errno(errno.NOENT)
        if self.slash and not isinstance(self.node, Directory):
            raise Errno(errno.NOTDIR)
        return self.node

    def named(self, otherwise: int = errno.INVAL) -> str:
        """The last name, to be removed or made.

        Raises:
            Errno: the path has none, for it ends in `.` or `..`; `otherwise`, then.
        """
        if not self.name:
            raise Errno(otherwise if self.node is not None else errno.NOENT)
        return self.name


def decode(path: bytes) -> str:
    """Read a path as text.

    Raises:
        Errno: it is too long, or not UTF-8, or has a zero in it.
    """
    if len(path) > MAX_PATH:
        raise Errno(errno.NAMETOOLONG)
    try:
        text = path.decode()
    except UnicodeDecodeError:
        raise Errno(errno.ILSEQ) from None
    if "\0" in text:
        raise Errno(errno.INVAL)
    return text


def resolve(base: Directory, path: str, *, follow: bool, name_itself: bool = False) -> Place:
    """Find `path` from `base`.

    Args:
        base: where it begins.
        path: it.
        follow: go on with a symbolic link at its end.
        name_itself: the last name shall be made, moved or removed, so it means itself, though a
            slash be after it: only else does a slash follow a link that would not be followed.

    Raises:
        Errno: it leads out, or through something that is no directory, or nowhere.
    """
    if not path:
        raise Errno(errno.NOENT)
    chain = [base]
    left = _parts(path)
    slash = path[-1] == "/"
    links = 0
    steady = True
    while left:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":
            chain.pop()
            if not chain:
                raise Errno(errno.PERM)
            continue
        here = chain[-1]
        node = here.lookup(name)
        steady = steady and here.steady
        last = not left
        if isinstance(node, Symlink) and (follow or not last or (slash and not name_itself)):
            links += 1
            if links > _MAX_LINKS:
                raise Errno(errno.LOOP)
            left += _parts(node.target)
            slash = slash or (last and node.target[-1] == "/")
            continue
        if last:
            return Place(here, name, node, slash=slash, steady=steady)
        if node is None:
            raise Errno(errno.NOENT)
        if not isinstance(node, Directory):
            raise Errno(errno.NOTDIR)
        chain.append(node)
    parent = chain[-2] if len(chain) > 1 else chain[-1]
    return Place(parent, "", chain[-1], slash=slash, steady=steady)


def _parts(path: str) -> list[str]:
    """The names of a path, last first, without what a slash at its end would add.

    Raises:
        Errno: it is absolute, and so not under any directory.
    """
    if path[0] == "/":
        raise Errno(errno.PERM)
    names = path.rstrip("/").split("/")
    names.reverse()
    return names


def found_or_made(place: Place, *, create: bool, exclusive: bool, directory: bool) -> "Node":
    """What shall be opened: what is there, or with `create` a new file.

    Args:
        place: where.
        create: make a file if there is nothing.
        exclusive: with `create`, fail if there is something.
        directory: fail if it is no directory.

    Raises:
        Errno: it is not there or not to be made, or not of the right kind.
    """
    if create:
        if directory:
            raise Errno(errno.INVAL)
        if place.node is None:
            if place.slash:
                raise Errno(errno.ISDIR)
            return place.parent.create_file(place.named())
        if exclusive:
            raise Errno(errno.EXIST)
        if isinstance(place.node, Directory):
            raise Errno(errno.ISDIR)
    node = place.existing()
    if isinstance(node, Symlink):
        raise Errno(errno.NOTDIR if directory else errno.LOOP)
    if directory and not isinstance(node, Directory):
        raise Errno(errno.NOTDIR)
    return node


def make_directory(place: Place) -> None:
    """Make a directory.

    Raises:
        Errno: there is something, or it is read-only there.
    """
    if place.node is not None:
        raise Errno(errno.EXIST)
    place.parent.create_directory(place.named())


def link(source: Place, target: Place) -> None:
    """Give a file another name.

    Raises:
        Errno: it is none, or the name is not free, or it is read-only there.
    """
    node = source.existing()
    if isinstance(node, Directory):
        raise Errno(errno.PERM)
    if target.node is not None:
        raise Errno(errno.EXIST)
    if target.slash:
        raise Errno(errno.NOENT)
    node.check_writable()
    target.parent.add(target.named(), node)


def target_of(place: Place) -> str:
    """Where a symbolic link leads.

    Raises:
        Errno: there is none.
    """
    node = place.existing()
    if not isinstance(node, Symlink):
        raise Errno(errno.INVAL)
    return node.target


def remove_directory(place: Place) -> None:
    """Remove an empty directory.

    Raises:
        Errno: it is none, or not empty, or read-only there.
    """
    node = place.existing()
    if not isinstance(node, Directory):
        raise Errno(errno.NOTDIR)
    name = place.named()
    if not node.empty():
        raise Errno(errno.NOTEMPTY)
    place.parent.remove(name)


def unlink(place: Place) -> None:
    """Remove the name of what is no directory.

    Raises:
        Errno: it is one, or not there, or it is read-only there.
    """
    node = place.existing()
    if isinstance(node, Directory):
        raise Errno(errno.ISDIR)
    place.parent.remove(place.named())


def rename(source: Place, target: Place) -> None:
    """Give another name, in place of what has it now if that is alike and, a directory, empty.

    Raises:
        Errno: it is not, or it is read-only there.
    """
    node, there = source.existing(), target.node
    name, new_name = source.named(errno.BUSY), target.named(errno.BUSY)
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


def symlink(place: Place, text: str) -> None:
    """Make a symbolic link to `text`.

    Raises:
        Errno: there is something, or it is read-only there, or `text` can lead nowhere.
    """
    if not text:
        raise Errno(errno.NOENT)
    if text.startswith("/"):
        # It could never be followed.
        raise Errno(errno.PERM)
    if place.node is not None:
        raise Errno(errno.EXIST)
    if place.slash:
        raise Errno(errno.NOENT)
    place.parent.create_symlink(place.named(), text)

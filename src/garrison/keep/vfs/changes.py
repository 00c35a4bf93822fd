"""What is done to the names of the file system, whoever asks: a guest of any version of WASI."""

from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.nodes import Directory, Symlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.vfs.nodes import Node
    from garrison.keep.vfs.paths import Place


def found_or_made(place: "Place", *, create: bool, exclusive: bool, directory: bool) -> "Node":
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
    node = place.existing()
    if isinstance(node, Symlink):
        raise Errno(errno.NOTDIR if directory else errno.LOOP)
    if directory and not isinstance(node, Directory):
        raise Errno(errno.NOTDIR)
    return node


def make_directory(place: "Place") -> None:
    """Make a directory.

    Raises:
        Errno: there is something, or it is read-only there.
    """
    if place.node is not None:
        raise Errno(errno.EXIST)
    place.parent.create_directory(place.named())


def link(source: "Place", target: "Place") -> None:
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


def target_of(place: "Place") -> str:
    """Where a symbolic link leads.

    Raises:
        Errno: there is none.
    """
    node = place.existing()
    if not isinstance(node, Symlink):
        raise Errno(errno.INVAL)
    return node.target


def remove_directory(place: "Place") -> None:
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


def unlink(place: "Place") -> None:
    """Remove the name of what is no directory.

    Raises:
        Errno: it is one, or not there, or it is read-only there.
    """
    node = place.existing()
    if isinstance(node, Directory):
        raise Errno(errno.ISDIR)
    place.parent.remove(place.named())


def rename(source: "Place", target: "Place") -> None:
    """Give another name, in place of what has it now if that is alike and, a directory, empty.

    Raises:
        Errno: it is not, or it is read-only there.
    """
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


def symlink(place: "Place", text: str) -> None:
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

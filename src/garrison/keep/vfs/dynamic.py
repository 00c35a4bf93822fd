"""Nodes whose opening does the work, directories that make what is looked up, files that answer."""

from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.descriptor import Descriptor
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.nodes import Directory, Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.keep.keyring import Feed

    Opener = Callable[[], Descriptor]


class Opened(Node):
    """A node whose opening does the work."""

    def __init__(self, filetype: int, opener: "Opener") -> None:
        super().__init__(None)
        self.filetype = filetype
        self._opener = opener

    def open(self, *, read: bool, write: bool) -> Descriptor:  # noqa: ARG002  (both always can)
        """Do it.

        Raises:
            Errno: it was refused.
            OSError: the host's reason.
        """
        return self._opener()


class Dynamic(Directory):
    """A directory in which every name can be looked up, and none is listed."""

    def __init__(self, node: "Callable[[str], Node | None]") -> None:
        super().__init__(None)
        self._node = node

    def lookup(self, name: str) -> Node | None:
        """Make what `name` stands for.

        Raises:
            Errno: it cannot be a name.
        """
        super().lookup(name)
        return self._node(name)


class Exchange(Descriptor):
    """What is written is a question, in as many writes as it takes; the first read ends it.

    Reads give the answer, then the end. The next write begins another question, also after a read
    that failed.

    Args:
        begin: begins to take a question.
        required: whether there must be one; else a read without any write gives an answer too.
    """

    filetype = d.CHARACTER
    possible = d.STREAM_RIGHTS

    def __init__(self, begin: "Callable[[], Feed]", *, required: bool = True) -> None:
        super().__init__()
        self._begin = begin
        self._required = required
        self._feed: Feed | None = None
        self._answer: memoryview | None = None

    def write(self, view: memoryview) -> int:
        """Take a piece of the question.

        Raises:
            Errno: it is too long.
        """
        if self._feed is None:
            self._feed = self._begin()
            self._answer = None
        self._feed.add(view)
        return len(view)

    def read(self, view: memoryview) -> int:
        """Give a piece of the answer.

        Raises:
            Errno: there is no question, or no answer to it.
        """
        if not len(view):
            return 0
        if self._feed is None and self._answer is None and not self._required:
            self._feed = self._begin()
        if self._feed is not None:
            feed, self._feed = self._feed, None
            self._answer = memoryview(feed.answer())
        if self._answer is None:
            raise Errno(errno.INVAL)
        count = min(len(view), len(self._answer))
        view[:count] = self._answer[:count]
        self._answer = self._answer[count:]
        return count

"""How many connections a workload may have, and the places that they take.

A connection takes its place before it is made or accepted, and keeps it through its handshake until
it is closed.
"""

from __future__ import annotations

import errno

from garrison.keep.vfs.ceiling import Ceiling


class Places:
    """The places of one workload.

    Args:
        most: how many there are.
    """

    def __init__(self, most: int) -> None:
        self._ceiling = Ceiling("connections", most)
        self._taken: set[Place] = set()

    def full(self) -> bool:
        """Whether none is left."""
        return len(self._taken) >= self._ceiling.most

    def take(self) -> Place:
        """Take one.

        Raises:
            OSError: none is left.
        """
        if self.full():
            self._ceiling.reached()
            raise OSError(errno.EMFILE, "the workload has as many connections as it may")
        place = Place(self._taken)
        self._taken.add(place)
        return place


class Place:
    """What one connection has taken; freed when it ends.

    Args:
        taken: those that are taken.
    """

    __slots__ = ("_taken",)

    def __init__(self, taken: set[Place]) -> None:
        self._taken = taken

    def free(self) -> None:
        """Give it back; again is nothing."""
        self._taken.discard(self)

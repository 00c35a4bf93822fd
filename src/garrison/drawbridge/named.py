"""What the store has under a name, how it fails, and the names that are kept in memory."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.errors import Rejected, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

# Of names that are kept: records and entries have some hundred bytes, so all are some megabytes.
_MOST_KEPT = 4096
_LONGEST_KEPT = 4096
# By what a file that was read is known to be the same still: inode, size, and both times.
_Mark = tuple[int, int, int, int]


class Exists(Rejected):
    """The name is taken."""


class StorageFailure(Unavailable):
    """The store does not answer, or does not have what was put into it."""


class Damaged(StorageFailure):
    """The store answers, and does not have what was put into it."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a name stands for: a media type and a short body, exactly as they were put."""

    type: str
    body: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Named:
        """Read the object: the media type, a line feed, the body.

        Raises:
            Damaged: `data` was not stored by a drawbridge.
        """
        kind, feed, body = data.partition(b"\n")
        if not feed or not kind.isascii():
            raise damaged("not a media type, a line feed and a body")
        return cls(kind.decode("ascii"), body)

    def to_bytes(self) -> bytes:
        """Write the object."""
        return self.type.encode("ascii") + b"\n" + self.body


def damaged(note: str) -> Damaged:
    """The error where the store has something else; `note` is for the log."""
    error = Damaged("Storage backend failure")
    error.add_note(note)
    return error


class Kept:
    """Names of a folder that were read lately.

    Every request reads names, and the same ones; a look at the file tells whether it is the one
    that was read, at a hundredth of the price. The folder stays the only truth: what is removed,
    replaced or damaged there is seen at once.
    """

    def __init__(self, folder: Path) -> None:
        self._prefix = f"{folder}{os.sep}"
        self._names: OrderedDict[str, tuple[_Mark, Named]] = OrderedDict()

    def mark(self, key: str) -> _Mark | None:
        """What the file of the name `key` looks like, before it is read; None if there is none.

        Raises:
            StorageFailure: it cannot be told.
        """
        try:
            found = os.stat(self._prefix + key)  # noqa: PTH116  (for its price)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            failure = StorageFailure("Storage backend failure")
            failure.add_note(str(error))
            raise failure from error
        return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def get(self, key: str, mark: _Mark) -> Named | None:
        """What was read, if the file looks as it did then."""
        kept = self._names.get(key)
        if kept is None or kept[0] != mark:
            return None
        self._names.move_to_end(key)
        return kept[1]

    def keep(self, key: str, mark: _Mark, named: Named) -> None:
        """Keep what was read of a file that looked so before."""
        if len(named.body) > _LONGEST_KEPT:
            return
        self._names[key] = (mark, named)
        if len(self._names) > _MOST_KEPT:
            self._names.popitem(last=False)

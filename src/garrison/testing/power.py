"""A disk whose power goes: what is then left of a folder, by what fsync(2) promises and no more.

A file has the bytes that it had when it was flushed, or those of any other moment since it was
made; a directory likewise its entries, each for itself. Whenever something is flushed, linked or
renamed, the power goes: what is then left is noted, at its least, at its most, and as chance has
it.
"""

from __future__ import annotations

import os
import random
import threading
from functools import partial
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

# Files by their paths.
Left = dict[str, bytes]


class Disk:
    """What is surely on the disk of a folder, as `os.fsync` of all of this process tells it.

    Attributes:
        flushed: the paths that were flushed, in order.
        moments: what the power's going may leave, and what had been acknowledged before.
        acknowledged: by any name, what a test was told to be there to stay.
        broken: for which paths a flush fails, and how.
    """

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, main_may_wait: bool = True
    ) -> None:
        """Look after `folder`.

        Args:
            folder: is there.
            monkeypatch: ends it.
            main_may_wait: whether the main thread may flush; an event loop's may not.
        """
        self.folder = folder
        self.flushed: list[str] = []
        self.moments: list[tuple[Left, Left]] = []
        self.acknowledged: Left = {}
        self.broken: Callable[[str], int | None] = lambda _: None
        self._main_may_wait = main_may_wait
        # Of what was flushed, by the number of its inode.
        self._entries: dict[int, dict[str, int]] = {}
        self._bytes: dict[int, bytes] = {}
        # Open, so that no other file gets the number of one that was replaced.
        self._files: list[int] = []
        self._chance = random.Random(11)  # noqa: S311  (moments of a test)
        self._lock = threading.Lock()
        monkeypatch.setattr(os, "fsync", self._fsync)
        for name in ("link", "rename", "replace"):
            monkeypatch.setattr(os, name, partial(self._moved, getattr(os, name)))

    def _moved(self, move: Callable[..., None], *args: object, **options: object) -> None:
        self.power_goes()
        move(*args, **options)
        self.power_goes()

    def _fsync(self, descriptor: int) -> None:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and not self._main_may_wait:
            raise AssertionError("the event loop waits")
        found = os.fstat(descriptor)
        # As long as it has no name, the kernel says so.
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink()).removesuffix(" (deleted)")
        if number := self.broken(path):
            raise OSError(number, "on fire", path)
        self.power_goes()
        with self._lock:
            if S_ISDIR(found.st_mode):
                with os.scandir(descriptor) as entries:
                    self._entries[found.st_ino] = {item.name: item.inode() for item in entries}
            else:
                self._bytes[found.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()
            self._files.append(os.dup(descriptor))
            self.flushed.append(path)
        self.power_goes()

    def close(self) -> None:
        """End it."""
        for descriptor in self._files:
            os.close(descriptor)

    def power_goes(self) -> None:
        """Take note of what may be left now."""
        with self._lock:
            for choose in (self._least, self._most, self._any, self._any):
                left = (self._after(choose), dict(self.acknowledged))
                if left not in self.moments[-8:]:
                    self.moments.append(left)

    def least(self) -> Left:
        """What is surely left."""
        with self._lock:
            return self._after(self._least)

    def _least(self) -> bool:
        return False

    def _most(self) -> bool:
        return True

    def _any(self) -> bool:
        return self._chance.random() < 0.5

    def _after(self, choose: Callable[[], bool]) -> Left:
        """What is left where, in doubt, `choose` says whether what was not flushed came to it."""
        now: dict[int, dict[str, int]] = {}
        folders = [(str(self.folder), self.folder.stat().st_ino)]
        while folders:
            place, number = folders.pop()
            # What the entries say by themselves: other threads give names and take them meanwhile.
            with os.scandir(place) as entries:
                found = list(entries)
            now[number] = {item.name: item.inode() for item in found}
            folders += [
                (item.path, item.inode()) for item in found if item.is_dir(follow_symlinks=False)
            ]
        left: Left = {}
        self._walk(self.folder.stat().st_ino, "", now, choose, left)
        return left

    def _walk(
        self, folder: int, below: str, now: dict[int, dict[str, int]],
        choose: Callable[[], bool], left: Left,
    ) -> None:  # fmt: skip
        sure, may_be = self._entries.get(folder, {}), now.get(folder, {})
        for name in {*sure, *may_be}:
            inode = sure.get(name)
            if may_be.get(name) != inode and choose():
                inode = may_be.get(name)
            if inode is None:
                continue
            if inode in now or inode in self._entries:
                self._walk(inode, f"{below}{name}/", now, choose, left)
            else:
                # What was not flushed is as long as it was, or empty.
                left[below + name] = self._bytes.get(inode, b"")


def put_back(left: Left, folder: Path) -> None:
    """Make `folder` as it is after a loss of power."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in left.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)

"""Having on the disk what was written: the kernel writes when it likes, unless it is asked to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# How the name of what is being written begins: not with its later name, which may be as long as a
# name can be. Of whoever was killed meanwhile one stays.
TEMPORARY = ".garrison-"


def flush(path: str | Path) -> None:
    """Wait until the file at `path` is on the disk, or the entries of that directory (fsync(2)).

    Raises:
        OSError: it is not there, cannot be opened, or could not be flushed.
    """
    # What was written through any descriptor is flushed through this one.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make the directory `path`, and those above it, if need be, and wait until they are there.

    Raises:
        OSError: it cannot be made, or could not be flushed.
    """
    made = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for directory in made:
        flush(directory.parent)


def write_new(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file that is not there yet; its name is on the disk when its directory was flushed.

    Raises:
        FileExistsError: it is there, and stays as it is.
        OSError: it cannot be written, and is not there.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  (it is open already)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        # Half an image, or half a key, would pass for a whole one.
        path.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file, in place of one that is there: a loss of power too leaves the old or the new.

    It is the new one for sure when its directory was flushed. Others may write it at once, and
    read it meanwhile.

    Raises:
        OSError: it cannot be written, and what was there stays.
    """
    # A name that nobody foresees: a process of the same number may have been killed, and in a
    # directory of others something else may stand under it.
    temporary = path.with_name(TEMPORARY + os.urandom(8).hex())
    write_new(temporary, data, mode)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

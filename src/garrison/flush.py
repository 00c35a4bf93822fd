"""Having on the disk what was written: the kernel writes when it likes, unless it is asked to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


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

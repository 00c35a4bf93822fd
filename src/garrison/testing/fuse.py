"""File systems in user space: where they can be mounted, and one for as long as a block lasts.

Each is a module of its own in a process of its own, for the library that it is made with looks for
libfuse when it is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from ctypes.util import find_library
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

_SECONDS = 30.0


def mountable() -> bool:
    """Whether this machine can: a reason to skip a test, but not where nothing may be skipped."""
    fuse = find_library("fuse3") or find_library("fuse")
    return bool(os.environ.get("CI")) or (
        fuse is not None and os.access("/dev/fuse", os.R_OK | os.W_OK)
    )


@contextmanager
def mounted(root: Path, module: str, *arguments: str) -> Iterator[Path]:
    """What `module` of `garrison.testing` serves, at `root`, which is made if need be."""
    root.mkdir(exist_ok=True)
    command = [sys.executable, "-m", f"garrison.testing.{module}", str(root), *arguments]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + _SECONDS
        while not root.is_mount():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{module} is not mounted at {root}")
            time.sleep(0.02)
        yield root
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=False)
        process.terminate()
        process.wait(_SECONDS)


def cgroups(
    directory: Path, *pids: int, controllers: str = "cpu,memory,pids"
) -> AbstractContextManager[Path]:
    """A tree of `FakeCgroups` below `directory`, whose root has these processes."""
    return mounted(directory / "cgroup", "cgroups", controllers, *map(str, pids))

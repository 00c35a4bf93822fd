"""A cgroup of version 2, as a file system in user space: the kernel's rules for who divides one.

    python -m garrison.testing.cgroups MOUNTPOINT CONTROLLERS PID...

Its root is a cgroup with these controllers (`cpu,pids`) and processes. As Linux has it
(Documentation/admin-guide/cgroup-v2.rst): a directory made is a cgroup with its files, and no other
file can be made; one that has processes cannot be divided, and one that is divided cannot have
some, nor be removed while it has. It bounds nothing, and children are not born into it.
"""

from __future__ import annotations

import errno
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mfusepy  # type: ignore[import-untyped]  # it has no types

_CORE = ("cgroup.controllers", "cgroup.procs", "cgroup.subtree_control")
_READ_ONLY = _CORE[0]
#: By controller: the file that bounds it, and how many numbers it takes.
_BOUNDS = {"cpu": ("cpu.max", 2), "memory": ("memory.max", 1), "pids": ("pids.max", 1)}


@dataclass
class _Cgroup:
    controllers: list[str]
    processes: list[int] = field(default_factory=list)
    divided: list[str] = field(default_factory=list)
    bounds: dict[str, str] = field(default_factory=dict)


class FakeCgroups(mfusepy.Operations):  # type: ignore[misc]  # the library has no types
    """One mounted tree."""

    use_ns = True

    def __init__(self, controllers: list[str], processes: list[int]) -> None:
        self._groups = {"": _Cgroup(controllers, processes)}

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Directories for cgroups, files for what they have."""
        if path.strip("/") in self._groups:
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        _, name = self._found(path)
        mode = 0o444 if name == _READ_ONLY else 0o644
        return {"st_mode": stat.S_IFREG | mode, "st_nlink": 1, "st_size": 0}

    def readdir(self, path: str, fh: int) -> list[str]:  # noqa: ARG002
        """What there is."""
        group = self._groups[path.strip("/")]
        below = [name for name in self._groups if name] if path == "/" else []
        return [".", "..", *_CORE, *self._bounds(group, path), *below]

    def mkdir(self, path: str, mode: int) -> None:  # noqa: ARG002
        """Make a cgroup, below the root alone."""
        name = path.strip("/")
        if "/" in name:
            raise mfusepy.FuseOSError(errno.EPERM)
        self._groups[name] = _Cgroup(self._groups[""].divided.copy())

    def rmdir(self, path: str) -> None:
        """Remove one that has no process."""
        if self._living(self._groups[path.strip("/")]):
            raise mfusepy.FuseOSError(errno.EBUSY)
        del self._groups[path.strip("/")]

    def open(self, path: str, flags: int) -> int:  # noqa: ARG002
        """Give a handle, which says nothing."""
        self._found(path)
        return 1

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:  # noqa: ARG002
        """Give a file."""
        group, name = self._found(path)
        lines = {
            _CORE[0]: " ".join(group.controllers),
            _CORE[1]: "\n".join(map(str, self._living(group))),
            _CORE[2]: " ".join(group.divided),
        }
        text = lines[name] if name in lines else group.bounds.get(name, "max")
        return f"{text}\n".encode()[offset : offset + size]

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:  # noqa: ARG002
        """Take what is written, whole, or refuse it."""
        group, name = self._found(path)
        text = data.decode().strip()
        if name == "cgroup.procs":
            self._move(int(text), group)
        elif name == "cgroup.subtree_control":
            self._divide(group, text.split())
        elif name == _READ_ONLY:
            raise mfusepy.FuseOSError(errno.EINVAL)
        else:
            _, count = next(bound for bound in _BOUNDS.values() if bound[0] == name)
            words = text.split()
            if text != "max" and not (len(words) == count and all(map(str.isdecimal, words))):
                raise mfusepy.FuseOSError(errno.EINVAL)
            group.bounds[name] = text
        return len(data)

    def _move(self, pid: int, group: _Cgroup) -> None:
        if not Path(f"/proc/{pid}").exists():
            raise mfusepy.FuseOSError(errno.ESRCH)
        if group.divided:
            raise mfusepy.FuseOSError(errno.EBUSY)
        for other in self._groups.values():
            if pid in other.processes:
                other.processes.remove(pid)
        group.processes.append(pid)

    def _divide(self, group: _Cgroup, words: list[str]) -> None:
        names = [word[1:] for word in words]
        if not all(word[0] == "+" and word[1:] in group.controllers for word in words):
            raise mfusepy.FuseOSError(errno.ENOENT)
        if self._living(group):
            raise mfusepy.FuseOSError(errno.EBUSY)
        group.divided += [name for name in names if name not in group.divided]
        for path, other in self._groups.items():
            if path:
                other.controllers = group.divided.copy()

    @staticmethod
    def _living(group: _Cgroup) -> list[int]:
        return [pid for pid in group.processes if Path(f"/proc/{pid}").exists()]

    @staticmethod
    def _bounds(group: _Cgroup, path: str) -> list[str]:
        """The files that bound a cgroup; the root's are its owner's, and not here."""
        return [_BOUNDS[name][0] for name in group.controllers if name in _BOUNDS and path != "/"]

    def _found(self, path: str) -> tuple[_Cgroup, str]:
        directory, _, name = path.strip("/").rpartition("/")
        group = self._groups.get(directory)
        if group is None or name not in (*_CORE, *self._bounds(group, f"/{directory}")):
            raise mfusepy.FuseOSError(errno.ENOENT)
        return group, name


def main() -> None:
    """Serve until the mount point is unmounted."""
    mountpoint, controllers, *pids = sys.argv[1:]
    fake = FakeCgroups(controllers.split(","), list(map(int, pids)))
    # Files have no true size, and change under the reader: the kernel caches nothing.
    mfusepy.FUSE(fake, mountpoint, foreground=True, direct_io=True)


if __name__ == "__main__":
    main()

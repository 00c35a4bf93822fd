"""What the kernel is to hold a tenant to: processors, memory and processes, by cgroup v2.

The agent needs a cgroup of its own to divide, as systemd's `Delegate=` gives one. Below it:

    agent/             the agent itself: a cgroup that is divided has no processes of its own
    tenant-<digest>/   all keeps of one tenant, with their keepers; the digest is of its name

A keep's keeper puts itself there before it does anything else, so all that it ever starts is there
too, and stays when the agent ends. The files are those of the kernel's
Documentation/admin-guide/cgroup-v2.rst.

A bound that cannot be set is an error, and never left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from garrison.errors import Misuse, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The file that a process's number is written to, to have the process there.
PROCESSES = "cgroup.procs"
_OWN = "agent"
_CONTROLLERS = "cgroup.controllers"
_DIVIDED = "cgroup.subtree_control"
# Of `cpu.max`: microseconds, the kernel's own default.
_PERIOD = 100_000
# cgroup-v2.rst, `cpu.max`: the kernel takes no quota below a millisecond.
_LEAST_QUOTA = 1000
_NO_BOUND = "max"
_HINT = (
    "under systemd: Delegate=cpu memory pids, DelegateSubgroup=agent (version 254 or later), and"
    " not ProtectControlGroups=yes"
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What all keeps of a tenant together may take; None for no bound.

    Attributes:
        cpus: processors, such as 1.5.
        memory_mib: memory, of which the kernel's own for them, and files that they read, are part.
        tasks: processes and threads.
    """

    cpus: float | None = None
    memory_mib: int | None = None
    tasks: int | None = None

    def files(self) -> dict[str, str | None]:
        """What is written to which file of a cgroup; None for what is not bounded."""
        cpu = None
        if self.cpus is not None:
            cpu = f"{max(_LEAST_QUOTA, math.ceil(self.cpus * _PERIOD))} {_PERIOD}"
        memory = None if self.memory_mib is None else str(self.memory_mib << 20)
        tasks = None if self.tasks is None else str(self.tasks)
        return {"cpu.max": cpu, "memory.max": memory, "pids.max": tasks}

    def controllers(self) -> list[str]:
        """The kernel's controllers that this takes."""
        return [name.partition(".")[0] for name, value in self.files().items() if value is not None]


class Cgroups:
    """The cgroup that an agent divides among its tenants."""

    def __init__(self, directory: Path, bounds: Bounds) -> None:
        """Divide `directory`.

        Args:
            directory: a cgroup.
            bounds: of each tenant.

        Raises:
            Misuse: it is no cgroup of version 2, lacks what the bounds take, or cannot be divided.
        """
        self._directory = directory
        self._bounds = bounds
        needed = bounds.controllers()
        try:
            there = (directory / _CONTROLLERS).read_text().split()
        except OSError as error:
            raise Misuse(
                f"not a cgroup of version 2: {error.strerror}", field="--cgroup",
                found=directory, hint=_HINT,
            ) from error  # fmt: skip
        if not set(needed) <= set(there):
            raise Misuse(
                "lacks controllers for what tenants are to be held to", field="--cgroup",
                found=f"{directory}: {' '.join(there) or 'none'}", expected=" ".join(needed),
                hint=_HINT,
            )  # fmt: skip
        try:
            self._divide(needed)
        except OSError as error:
            raise Misuse(
                f"cannot be divided: {error.strerror}", field="--cgroup", found=directory,
                expected="a cgroup of the agent's own, with no other process in it", hint=_HINT,
            ) from error  # fmt: skip

    def _divide(self, controllers: list[str]) -> None:
        # An empty cgroup alone can be divided; of those in this one, the agent can move itself.
        if str(os.getpid()) in (self._directory / PROCESSES).read_text().split():
            own = self._directory / _OWN
            own.mkdir(exist_ok=True)
            _write(own / PROCESSES, str(os.getpid()))
        _write(self._directory / _DIVIDED, " ".join(f"+{name}" for name in controllers))

    def of(self, tenant: str) -> Path:
        """The cgroup of a tenant, made and bounded where it is not yet.

        Raises:
            Unavailable: the kernel does not take it.
        """
        # No name of a file comes from a tenant.
        digest = hashlib.sha256(tenant.encode()).hexdigest()[:32]
        directory = self._directory / f"tenant-{digest}"
        try:
            directory.mkdir(exist_ok=True)
            for name, value in self._bounds.files().items():
                if value is not None:
                    _write(directory / name, value)
                elif (directory / name).exists():
                    # An earlier agent had a bound.
                    _write(directory / name, _NO_BOUND)
        except OSError as error:
            raise Unavailable(
                f"the host cannot bound a tenant's keeps: {error.strerror}", field="host"
            ) from error
        return directory

    def take(self, tenant: str, pids: Iterable[int]) -> None:
        """Have processes that run already, and all below them, in the tenant's cgroup.

        Raises:
            Unavailable: the kernel does not take them.
        """
        directory = self.of(tenant)
        for pid in pids:
            taken: set[int] = set()
            new = [pid]
            # Who was taken starts others where it is; so this ends, with all of them there.
            while new:
                for each in new:
                    _take(directory, each)
                taken.update(new)
                new = [each for each in _below(pid) if each not in taken]

    def sweep(self) -> None:
        """Remove the cgroups of tenants who have no process."""
        for directory in self._directory.glob("tenant-*"):
            # The kernel keeps one that is in use (EBUSY).
            with contextlib.suppress(OSError):
                directory.rmdir()


def _take(directory: Path, pid: int) -> None:
    try:
        _write(directory / PROCESSES, str(pid))
    except ProcessLookupError:
        # It ended meanwhile, and bounds nobody any more.
        return
    except OSError as error:
        raise Unavailable(
            f"the host cannot bound a keep that runs: {error.strerror}", field="host"
        ) from error


def own_cgroup(proc: Path = Path("/proc/self")) -> Path:
    """The cgroup that was given to this process to divide.

    Args:
        proc: what the kernel tells of the process.

    Raises:
        Misuse: there is none of version 2.
    """
    mounted = None
    for line in (proc / "mountinfo").read_text().splitlines():
        # proc_pid_mountinfo(5): the type of the file system comes after a lone hyphen.
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2":
            mounted = Path(fields[4])
    for line in (proc / "cgroup").read_text().splitlines():
        # cgroups(7): of version 2 there is one line, with these beginnings.
        if line.startswith("0::/") and mounted is not None:
            found = mounted / line.removeprefix("0::/")
            return found.parent if found.name == _OWN else found
    raise Misuse("missing", field="--cgroup", found="no cgroup of version 2 is mounted", hint=_HINT)


def join(directory: Path) -> None:
    """Put this process, and so all that it starts, into a cgroup.

    Raises:
        OSError: the kernel does not take it.
    """
    _write(directory / PROCESSES, str(os.getpid()))


def _below(pid: int) -> list[int]:
    """The processes that a process started, and those that they did, outermost first."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_below(child)]
    except (FileNotFoundError, ProcessLookupError):
        # It ended meanwhile.
        return found
    return found


def _write(path: Path, value: str) -> None:
    # The kernel's files are there; one of this name that is made here would bound nobody.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)

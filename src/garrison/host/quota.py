"""What one tenant may have on a host."""

from __future__ import annotations

from dataclasses import dataclass

from garrison.host.cgroups import Bounds
from garrison.host.shim import KEEP_BYTES

#: Memory beside a keep's own, in MiB: its keeper, the kernel's part, and QEMU beside its guest.
KEEPER_MIB = 128


@dataclass(frozen=True, slots=True)
class Quota:
    """What one tenant may have on this host.

    Attributes:
        keeps: how many keeps that have not ended.
        memory_mib: of all of them together; a keep must then say how much it wants. None for
            no bound.
        disk_mib: what all its keeps, also those that have ended, may take of the host's disk;
            None for twice what `keeps` of them take.
        cpus: processors, of all of them together; None for no bound.
        tasks: processes and threads, of all of them together; None for no bound.
    """

    keeps: int = 16
    memory_mib: int | None = None
    disk_mib: int | None = None
    cpus: float | None = None
    tasks: int | None = None

    @property
    def disk_bytes(self) -> int:
        """What all its keeps may take of the host's disk."""
        return 2 * self.keeps * KEEP_BYTES if self.disk_mib is None else self.disk_mib << 20

    def bounds(self) -> Bounds | None:
        """What the kernel has to hold a tenant to; None where the agent sees to all of it."""
        if self.cpus is None and self.tasks is None:
            return None
        memory = self.memory_mib
        if memory is not None:
            # Beside what the keeps have themselves, there is their keepers', and QEMU's.
            memory += self.keeps * KEEPER_MIB
        return Bounds(self.cpus, memory, self.tasks)

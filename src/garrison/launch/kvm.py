"""The `kvm` backend: a keep in a machine of its own, which nothing protects from its host.

The same image, channels and network as of a confidential machine, on any computer that has QEMU:
on the processor where that truly runs a guest, else emulated. It gives no evidence.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.errors import Misuse
from garrison.formats.guest_request import GuestRequest
from garrison.launch.acceleration import kvm_runs
from garrison.launch.machine import Place, run_machine
from garrison.launch.qemu_command import QEMU, Guest, kvm_command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.formats.guest_request import Local
    from garrison.formats.launch_request import LaunchRequest
    from garrison.image.folder import Image

log = logging.getLogger("garrison.launch")

# With the image unpacked it leaves 300 MiB to the workload.
DEFAULT_MEMORY = 512
# QEMU's user-mode network: the host's loopback, as the guest sees it.
HOST_ADDRESS = "10.0.2.2"


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """What a person says of the machine.

    Attributes:
        image: what it boots.
        memory: in MiB.
        published: ports of the host's loopback, and the guest's ports that they lead to.
    """

    image: Image
    memory: int = DEFAULT_MEMORY
    published: tuple[tuple[int, int], ...] = ()


def run_kvm(
    what: LaunchRequest | Local,
    options: MachineOptions,
    files: Mapping[str, bytes] | None = None,
    *,
    log_level: str = "info",
) -> int:
    """Run a keep in a machine, and return its exit code.

    Args:
        what: a published workload, or a local one, whose `files` are given.
        options: of the machine.
        files: of a local workload.
        log_level: how much the keep logs.

    Raises:
        Misuse: there is no QEMU, or the machine cannot be.
        Unavailable: the machine does not start, or ended without an exit code.
        Malformed: the guest sent what is not a frame.
    """
    qemu = shutil.which(QEMU)
    if qemu is None:
        raise Misuse(
            "is not installed", field=QEMU, hint="install qemu-system-x86 (Debian), qemu-kvm (RHEL)"
        )
    kvm = kvm_runs(qemu)
    if not kvm:
        log.info("KVM runs no guest here: the machine is emulated, and slower")

    def command(place: Place) -> list[str]:
        return kvm_command(_guest(options, place, qemu), kvm=kvm)

    # The guest's loopback has nobody on it; the host's has whoever is tried out there.
    request = GuestRequest(what, {"localhost": HOST_ADDRESS}, log_level)
    return run_machine(command, request, files or {})


def _guest(options: MachineOptions, place: Place, qemu: str) -> Guest:
    return Guest(
        firmware=None,
        kernel=options.image.kernel,
        initrd=options.image.initrd,
        append=options.image.command_line,
        memory=options.memory,
        vcpus=1,
        console=place.console,
        channels=place.channels,
        forwards=options.published,
        qemu=qemu,
    )

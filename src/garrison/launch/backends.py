"""The backends that are machines: one image, with or without a TEE around it.

`kvm` is a machine that nothing protects from its host, for development: on the processor where
that truly runs a guest, else emulated. It gives no evidence. `snp` and `tdx` are the same machine
with its memory closed to the host, and firmware that is measured with what it boots. What runs and
how it is asked is the same in all three.

It refuses a machine that this host cannot run, and says all that is missing, before it starts one.
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
from garrison.launch.network_card import HOST
from garrison.launch.qemu_command import (
    QEMU,
    VCPUS,
    Guest,
    SnpLaunch,
    TdxLaunch,
    kvm_command,
    snp_command,
    tdx_command,
)
from garrison.measure.snp_policy import DEFAULT_GUEST_POLICY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from garrison.attesters.base import Attester
    from garrison.formats.guest_request import Local
    from garrison.formats.launch_request import LaunchRequest
    from garrison.formats.snp_id_block import IdAuth, IdBlock
    from garrison.image.folder import Image
    from garrison.launch.monitor import Publication

log = logging.getLogger("garrison.launch")

# With the image unpacked it leaves 300 MiB to the workload.
DEFAULT_MEMORY = 512


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """What a person says of the machine.

    Attributes:
        image: what it boots.
        memory: in MiB.
        published: where this host has the ports that the workload listens on; others have their
            own number.
        signatures: snp: the file that `garrison sign` made for this image.
        insecure_simulated: kvm: answers for a TEE, for development.
    """

    image: Image
    memory: int = DEFAULT_MEMORY
    published: tuple[Publication, ...] = ()
    signatures: Path | None = None
    insecure_simulated: Attester | None = None


def run_in_machine(
    backend: str,
    what: LaunchRequest | Local,
    options: MachineOptions,
    files: Mapping[str, bytes] | None = None,
    *,
    log_level: str = "info",
) -> int:
    """Run a keep in a machine, and return its exit code.

    Args:
        backend: kvm, snp or tdx.
        what: a published workload, or a local one, whose `files` are given.
        options: of the machine.
        files: of a local workload.
        log_level: how much the keep logs.

    Raises:
        Misuse: there is no QEMU, or the machine cannot be.
        Unavailable: this host cannot run such machines; or it does not start, or ended without an
            exit code.
        Malformed: the guest sent what is not a frame.
    """
    command = _plan(backend, options)
    # The guest's loopback has nobody on it; the host's has whoever is tried out there.
    request = GuestRequest(what, {"localhost": HOST}, log_level)
    return run_machine(
        command,
        request,
        files or {},
        published=options.published,
        insecure_simulated=options.insecure_simulated,
    )


def _plan(backend: str, options: MachineOptions) -> Callable[[Place], list[str]]:
    if options.signatures is not None and backend != "snp":
        raise Misuse("are for snp", field="signatures", found=f"backend {backend}")
    if backend == "kvm":
        qemu = _qemu()
        kvm = kvm_runs(qemu)
        if not kvm:
            log.info("KVM runs no guest here: the machine is emulated, and slower")
        simulated = options.insecure_simulated
        tee = None if simulated is None else str(simulated.tee)
        return lambda place: kvm_command(_guest(options, place, qemu, None, tee), kvm=kvm)
    # Late: see `garrison.cli.machine_options.run_in_machine`.
    from garrison.launch.host_checks import inspect_host, require
    from garrison.launch.predicted import VCPU_TYPE

    require(backend, inspect_host(image=options.image.folder))
    qemu = _qemu()
    firmware = options.image.firmware(backend)
    if backend == "tdx":
        return lambda place: tdx_command(
            _guest(options, place, qemu, firmware, backend), TdxLaunch()
        )
    launch = SnpLaunch(vcpu_type=VCPU_TYPE, signed=_signed(options))
    return lambda place: snp_command(_guest(options, place, qemu, firmware, backend), launch)


def _signed(options: MachineOptions) -> tuple[IdBlock, IdAuth] | None:
    """What the firmware is to launch nothing but, checked here for the reason to be seen."""
    if options.signatures is None:
        return None
    from garrison.launch.predicted import snp_measurement
    from garrison.measure.signatures import MAX_SIGNATURES, Signatures

    with options.signatures.open("rb") as file:
        signatures = Signatures.from_json(file.read(MAX_SIGNATURES + 1))
    signatures.of_snp(snp_measurement(options.image), DEFAULT_GUEST_POLICY)
    return signatures.sev


def _qemu() -> str:
    found = shutil.which(QEMU)
    if found is None:
        raise Misuse(
            "is not installed", field=QEMU, hint="install qemu-system-x86 (Debian), qemu-kvm (RHEL)"
        )
    return found


def _guest(
    options: MachineOptions, place: Place, qemu: str, firmware: Path | None, tee: str | None
) -> Guest:
    """What boots in a machine of `tee`, or in one that is said to be; None: nobody measures it."""
    kernel = options.image.kernel
    if tee is None:
        # Nobody says what is booted, so it may be what boots faster.
        kernel = options.image.unpacked_kernel
    return Guest(
        firmware=firmware,
        kernel=kernel,
        initrd=options.image.initrd,
        append=options.image.command_line_in(tee),
        memory=options.memory,
        vcpus=VCPUS,
        console=place.console,
        channels=place.channels,
        monitor=place.monitor,
        qemu=qemu,
    )

"""The command line of QEMU for a guest: a plan in, the arguments out.

QEMU, docs/system/i386/amd-memory-encryption.rst and docs/system/i386/tdx.rst; objects
`sev-snp-guest` (QEMU 9.1 and later) and `tdx-guest` (10.1 and later). The guest boots a kernel
directly, with nothing in its firmware to boot from, and has no device but those named here: a
serial console, one network card, and channels to the host. All virtio devices use the guest's
bounce buffers, since its memory is closed to the host. A guest that is not confidential is the
same machine without what makes it so.

It starts nothing and asks nothing of the host: `host_checks.require` says whether it can run what
is planned here. It refuses plans whose measurement nobody could predict: another machine than the
signed one, a guest policy that the signature does not cover.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from garrison.errors import Misuse
from garrison.launch.monitor import NETDEV
from garrison.measure.snp_policy import DEFAULT_GUEST_POLICY

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.formats.snp_id_block import IdAuth, IdBlock

QEMU = "qemu-system-x86_64"
# As all processors with SNP have it (CPUID Fn8000_001F, EBX): where the encryption bit is, and
# how many address bits encryption takes.
_C_BIT = 51
_REDUCED_PHYS_BITS = 1
_HOST_DATA_SIZE = 32
_REGISTER_SIZE = 48
# A kernel and its initrd need this much; a slip of the finger would boot nothing.
_MINIMUM_MEMORY = 256
#: How QEMU runs a machine that no processor runs. With several threads, it has crashed kernels.
EMULATED = "tcg,thread=single"
# What EPYC can, under the name of one that runs nothing before its turn (Saltwell, an Atom).
# Neither does an emulated one: what a kernel does about processors that guess is in vain there, and
# takes longer. With the model `max`, QEMU has crashed kernels.
_EMULATED_CPU = "EPYC,vendor=GenuineIntel,family=6,model=54,stepping=1"
#: Of a keep's machine: how many processors. It is measured; a keep has no use for a second.
VCPUS = 1
QUOTE_SOCKET = "/var/run/tdx-qgs/qgs.socket"


@dataclass(frozen=True, slots=True)
class Guest:
    """What every guest has.

    Attributes:
        firmware: the image of its firmware; None, where nobody measures it: QEMU's own.
        kernel: what it boots.
        initrd: the initial file system.
        append: the kernel's command line.
        memory: in MiB.
        vcpus: how many processors.
        console: where the serial console leads: a socket's descriptor that QEMU inherits.
        channels: the channels to the host: the name in the guest, and a descriptor likewise.
        monitor: where QEMU's monitor leads, likewise; None: there is none.
        qemu: the program.
    """

    firmware: Path | None
    kernel: Path
    initrd: Path
    append: str
    memory: int
    vcpus: int
    console: int
    channels: tuple[tuple[str, int], ...] = ()
    monitor: int | None = None
    qemu: str = QEMU


@dataclass(frozen=True, slots=True)
class SnpLaunch:
    """What an SNP guest has besides.

    Attributes:
        vcpu_type: a model of QEMU's whose signature is known, as `garrison image measure` takes.
        policy: the guest policy.
        signed: the ID block and what authenticates it; None: the guest has none.
        host_data: what the report shall say of the host's wishes, 32 bytes; None: zeros.
    """

    vcpu_type: str = "EPYC-v4"
    policy: int = DEFAULT_GUEST_POLICY
    signed: tuple[IdBlock, IdAuth] | None = None
    host_data: bytes | None = None


@dataclass(frozen=True, slots=True)
class TdxLaunch:
    """What a TD has besides: the host's service that quotes, and three registers of the host's."""

    quote_socket: str = QUOTE_SOCKET
    mr_config_id: bytes | None = None
    mr_owner: bytes | None = None
    mr_owner_config: bytes | None = None


def snp_command(guest: Guest, launch: SnpLaunch) -> list[str]:
    """The command line of an SNP guest.

    Raises:
        Misuse: the plan cannot be, or its measurement could not be predicted.
        Unverified: its ID block is not signed by the key that stands beside it.
    """
    # Late: what is signed or predicted is not for every machine.
    from garrison.measure import sev_keys
    from garrison.measure.snp import vcpu_signature

    vcpu_signature(launch.vcpu_type)
    properties: dict[str, Any] = {
        "qom-type": "sev-snp-guest",
        "id": "tee",
        "cbitpos": _C_BIT,
        "reduced-phys-bits": _REDUCED_PHYS_BITS,
        "policy": launch.policy,
        "kernel-hashes": True,
    }
    if launch.signed is not None:
        block, auth = launch.signed
        sev_keys.check(block, auth)
        if block.policy != launch.policy:
            raise Misuse(
                "not the one that is signed",
                field="guest policy",
                found=hex(launch.policy),
                expected=hex(block.policy),
            )
        properties |= {
            "id-block": _base64(block.to_bytes()),
            "id-auth": _base64(auth.to_bytes()),
            "author-key-enabled": True,
        }
    if launch.host_data is not None:
        properties["host-data"] = _sized(launch.host_data, _HOST_DATA_SIZE, "host data")
    return _command(guest, properties, cpu=launch.vcpu_type, machine="q35,vmport=off,smm=off")


def tdx_command(guest: Guest, launch: TdxLaunch) -> list[str]:
    """The command line of a TD.

    Raises:
        Misuse: the plan cannot be.
    """
    properties: dict[str, Any] = {
        "qom-type": "tdx-guest",
        "id": "tee",
        "quote-generation-socket": {"type": "unix", "path": launch.quote_socket},
    }
    for name, value in (
        ("mrconfigid", launch.mr_config_id),
        ("mrowner", launch.mr_owner),
        ("mrownerconfig", launch.mr_owner_config),
    ):
        if value is not None:
            properties[name] = _sized(value, _REGISTER_SIZE, name)
    return _command(guest, properties, cpu="host", machine="q35,kernel-irqchip=split,smm=off")


def kvm_command(guest: Guest, *, kvm: bool) -> list[str]:
    """The command line of a guest that nothing protects from its host: for development.

    Args:
        guest: what it has.
        kvm: whether the processor runs it; else QEMU emulates one.

    Raises:
        Misuse: the plan cannot be.
    """
    accel, cpu = ("kvm", "host") if kvm else (EMULATED, _EMULATED_CPU)
    return [
        *_processors(guest, accel, "q35,vmport=off,smm=off", cpu),
        *_parts(guest, {"disable-legacy": "on"}),
        # The kernel's seed, where the processor gives none.
        *_device({"driver": "virtio-rng-pci", "disable-legacy": "on"}),
    ]


def _command(guest: Guest, tee: dict[str, Any], *, cpu: str, machine: str) -> list[str]:
    if guest.firmware is None:
        raise Misuse("none is named", field="firmware", expected="one that can be measured")
    machine = f"{machine},confidential-guest-support=tee,memory-backend=ram"
    ram = {
        "qom-type": "memory-backend-memfd",
        "id": "ram",
        "size": guest.memory << 20,
        "share": True,
        "prealloc": False,
    }
    return [
        *_processors(guest, "kvm", machine, cpu),
        *_object(ram),
        *_object(tee),
        # Its memory is closed: devices must not reach into it, nor load code from the host.
        *_parts(guest, {"disable-legacy": "on", "iommu_platform": True}),
    ]


def _processors(guest: Guest, accel: str, machine: str, cpu: str) -> list[str]:
    if guest.memory < _MINIMUM_MEMORY or guest.vcpus < 1:
        raise Misuse(
            "too small",
            field="guest",
            found=f"{guest.memory} MiB, {guest.vcpus} processors",
            expected=f"{_MINIMUM_MEMORY} MiB and one processor at least",
        )
    return [
        guest.qemu,
        *("-accel", accel),
        *("-machine", machine),
        *("-cpu", cpu),
        *("-smp", str(guest.vcpus)),
        *("-m", f"{guest.memory}M"),
    ]


def _parts(guest: Guest, virtio: dict[str, Any]) -> list[str]:
    """What it boots, and its devices, whose properties are those of `virtio` and their own."""
    command = [
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *(() if guest.firmware is None else ("-bios", str(guest.firmware))),
        *("-kernel", str(guest.kernel)),
        *("-initrd", str(guest.initrd)),
        *("-append", guest.append),
        *("-chardev", f"socket,id=console,fd={guest.console}"),
        *("-serial", "chardev:console"),
        # IPv6 would come with addresses that are not fixed.
        *("-netdev", f"user,id={NETDEV},ipv6=off"),
        *_device({"driver": "virtio-net-pci", "netdev": NETDEV, "romfile": "", **virtio}),
    ]
    if guest.channels:
        command += _device({"driver": "virtio-serial-pci", "id": "channels", **virtio})
    for index, (name, descriptor) in enumerate(guest.channels):
        chardev = f"channel{index}"
        command += ["-chardev", f"socket,id={chardev},fd={descriptor}"]
        command += _device({"driver": "virtserialport", "chardev": chardev, "name": name})
    if guest.monitor is not None:
        command += ["-chardev", f"socket,id=monitor,fd={guest.monitor}"]
        command += ["-mon", "chardev=monitor,mode=control"]
    return command


def _object(properties: dict[str, Any]) -> list[str]:
    # JSON, in which no value can become another property.
    return ["-object", json.dumps(properties, separators=(",", ":"))]


def _device(properties: dict[str, Any]) -> list[str]:
    return ["-device", json.dumps(properties, separators=(",", ":"))]


def _sized(value: bytes, size: int, field: str) -> str:
    if len(value) != size:
        raise Misuse(
            "wrong length", field=field, found=f"{len(value)} bytes", expected=f"{size} bytes"
        )
    return _base64(value)


def _base64(value: bytes) -> str:
    return b64encode(value).decode("ascii")

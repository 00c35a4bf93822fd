"""What only asking tells of a host: what its devices and programs answer.

Each is a function of `Probes`, so that checks are tested on hosts that are not this one. Nothing
here judges; a probe that cannot be made says why in an OSError.

Sources: Linux, Documentation/virt/kvm/api.rst (KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES),
include/uapi/linux/psp-sev.h (SEV_ISSUE_CMD, SNP_PLATFORM_STATUS) and AMD 56860, table "Layout of
the STRUCT_PLATFORM_STATUS".
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import selectors
import shutil
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.formats.ovmf import MAX_FIRMWARE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_KVM_CHECK_EXTENSION = 0xAE03
_KVM_CAP_VM_TYPES = 235
_SEV_ISSUE_CMD = 0xC0105300
_SNP_PLATFORM_STATUS = 9
_SNP_STATUS_SIZE = 32
# KVM_X86_*_VM: the bits of KVM_CAP_VM_TYPES.
VM_TYPES = {"snp": 4, "tdx": 5}
# A guest gets there within 0.2 s where KVM works, and within 1 s where it is emulated.
_GUEST_DEADLINE = 5.0
# A boot sector, at 0x7c00 in real mode. It says "GARRISON " on the firmware's debug port (0x402),
# and then "*", half of which a vector unit has doubled: KVM's own emulator of instructions, which
# is all that runs where virtualisation is nested badly, does not know how to.
_BOOT_SECTOR = (
    bytes.fromhex(
        "31c08ed8fcba0204be367c"  # xor ax,ax; mov ds,ax; cld; mov dx,0x402; mov si,text
        "ac84c07403eeebf8"  # next: lodsb; test al,al; jz done; out dx,al; jmp next
        "0f20e0660d000600000f22e0"  # done: mov eax,cr4; or eax,OSFXSR|OSXMMEXCPT; mov cr4,eax
        "66b815151515660f6ec0660ffcc0660f7ec0"  # mov eax,..; movd; paddb xmm0,xmm0; movd
        "eefaf4ebfd"  # out dx,al; cli; stop: hlt; jmp stop
    )
    + b"GARRISON \0"
)
_GUEST_WORD = b"GARRISON *"
# SeaBIOS reads no smaller one.
_DISK_SIZE = 1 << 20
_PROGRAM_DEADLINE = 10.0
# What QEMU prints of itself is a few KiB.
_MAX_OUTPUT = 256 * 1024


@dataclass(frozen=True, slots=True)
class SnpFirmware:
    """What the secure processor says of itself.

    Attributes:
        version: of its ABI: major, minor.
        build: its build number.
        initialized: whether SNP is initialized, so that guests can be launched.
        rmp: whether the table that guards guests' memory is.
        guests: how many run.
    """

    version: tuple[int, int]
    build: int
    initialized: bool
    rmp: bool
    guests: int

    @classmethod
    def from_bytes(cls, data: bytes) -> SnpFirmware:
        """Read the answer, 32 bytes. Fields that the driver does not promise are left alone."""
        major, minor, state, rmp, build, _mask, guests = struct.unpack_from("<BBBBIII", data)
        return cls((major, minor), build, bool(state), bool(rmp & 1), guests)

    def __str__(self) -> str:
        state = "initialized" if self.initialized else "not initialized"
        rmp = "ready" if self.rmp else "not ready"
        version = f"{self.version[0]}.{self.version[1]}"
        return f"ABI {version} build {self.build}, {state}, RMP {rmp}, {self.guests} guests"


def snp_firmware(device: Path) -> SnpFirmware:
    """Ask the secure processor.

    Raises:
        OSError: it does not answer.
    """
    status = ctypes.create_string_buffer(_SNP_STATUS_SIZE)
    command = bytearray(struct.pack("<IQI", _SNP_PLATFORM_STATUS, ctypes.addressof(status), 0))
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _SEV_ISSUE_CMD, command)
    finally:
        os.close(descriptor)
    return SnpFirmware.from_bytes(status.raw)


def vm_types(device: Path) -> int:
    """The kinds of machine that KVM makes here, a bit each.

    Raises:
        OSError: it does not answer.
    """
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(descriptor, _KVM_CHECK_EXTENSION, _KVM_CAP_VM_TYPES)
    finally:
        os.close(descriptor)


def guest_runs(qemu: str, deadline: float = _GUEST_DEADLINE) -> None:
    """Have QEMU boot a disk of one sector with KVM, until the guest says its word.

    That /dev/kvm opens, that it makes a machine, and even that the machine's firmware speaks, says
    nothing: where virtualisation is nested, machines may be made that run no kernel.

    Raises:
        OSError: it said nothing in time.
    """
    with tempfile.NamedTemporaryFile(prefix="garrison-kvm-") as disk:
        disk.write(_BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa")
        disk.truncate(_DISK_SIZE)
        disk.flush()
        _await_guest(qemu, disk.name, deadline)


def _await_guest(qemu: str, disk: str, deadline: float) -> None:
    command = [
        *(qemu, "-accel", "kvm", "-machine", "q35", "-nodefaults", "-display", "none"),
        *("-no-reboot", "-chardev", "stdio,id=log"),
        *("-device", "isa-debugcon,iobase=0x402,chardev=log"),
        *("-drive", f"file={disk},format=raw,if=none,id=disk,readonly=on"),
        *("-device", "virtio-blk-pci,drive=disk"),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None  # noqa: S101  (it is a pipe: see above)
        said = b""
        until = time.monotonic() + deadline
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                while (left := until - time.monotonic()) > 0 and selector.select(left):
                    more = os.read(process.stdout.fileno(), 4096)
                    said = (said + more)[-4096:]
                    if _GUEST_WORD in said:
                        return
                    if not more:
                        raise OSError(errno.EIO, "QEMU ended before the guest ran")
        finally:
            process.kill()
    raise OSError(errno.ETIMEDOUT, f"a guest that KVM made did not run in {deadline:.0f} s")


def output(command: list[str]) -> str:
    """What a program prints.

    Raises:
        OSError: it cannot be run, or fails.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_PROGRAM_DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(errno.ETIMEDOUT, f"{command[0]} does not answer") from error
    if done.returncode != 0:
        raise OSError(errno.EIO, f"{command[0]} failed with {done.returncode}")
    return done.stdout[:_MAX_OUTPUT].decode(errors="replace")


def read_firmware(path: Path) -> bytes:
    """A firmware's image.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(MAX_FIRMWARE + 1)


@dataclass(frozen=True, slots=True)
class Probes:
    """How the host is asked."""

    snp_firmware: Callable[[Path], SnpFirmware] = snp_firmware
    vm_types: Callable[[Path], int] = vm_types
    guest_runs: Callable[[str], None] = guest_runs
    find: Callable[[str], str | None] = shutil.which
    output: Callable[[list[str]], str] = output

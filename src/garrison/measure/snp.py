"""The launch digest of an SNP guest, computed before it boots.

Firmware folds every page that the host adds into a digest (AMD 56860, chapter "SNP_LAUNCH_UPDATE",
table "Layout of the PAGE_INFO structure"), and reports it as MEASUREMENT. What QEMU adds, in this
order: the firmware image; the sections that its SEV metadata names, among them one page with the
hashes of kernel, initrd and command line (`kernel-hashes=on`); the first registers of each virtual
processor (AMD 24593, volume 2, table "VMSA Layout"). So all that runs before user space is in it.

Guest policy, host data and ID block are reported beside the digest and are no part of it.
It refuses a kernel with a firmware that has no page for its hashes: nothing would bind the two.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from garrison.errors import Misuse
from garrison.formats.ovmf import PAGE_SIZE, Firmware, SevSection
from garrison.measure.prediction import command_line

DIGEST_SIZE = 48
_ZEROS = bytes(DIGEST_SIZE)
_PAGE_INFO_SIZE = 0x70
# SNP_LAUNCH_UPDATE, PAGE_TYPE.
_NORMAL, _VMSA, _ZERO, _UNMEASURED, _SECRETS, _CPUID = 1, 2, 3, 4, 5, 6
# Where the first registers are said to lie: Linux, arch/x86/kvm/svm/sev.c, INITIAL_VMSA_GPA. GCE
# says -1, which firmware cuts to the processor's addresses: these 48 bits on Milan, more on later.
_VMSA_ADDRESS = 0xFFFFFFFFF000
_FIRMWARE_HINT = "use an OVMF of the AmdSev kind (EDK II, OvmfPkg/AmdSev), often OVMF.amdsev.fd"
# AMD 24593, volume 2, table "VMSA Layout, Combined": SEV_FEATURES, 64 bits, of which the first is
# set in every SNP guest. Nothing else is, as QEMU has it.
_SNP_ACTIVE = 1
DEFAULT_GUEST_FEATURES = _SNP_ACTIVE
_FEATURES = 1 << 64
# A register of 32 bits.
_SIGNATURES = 1 << 32
# More than any machine has, so that a slip of the finger does not compute for hours.
MAX_VCPUS = 4096
# A guest's initial memory besides its firmware: OVMF has less than 1 MiB. More would take long.
_MAX_INITIAL = 64 << 20
# What firmware fills in itself: one page of each, or it is another layout than is measured here.
_ONE_PAGE = (SevSection.SECRETS, SevSection.CPUID)

# QEMU, target/i386/sev.c, struct PaddedSevHashTable and its GUIDs.
_HASH_TABLE = UUID("9438d606-4f22-4cc9-b479-a793d411fd21")
_HASH_KERNEL = UUID("4de79437-abd2-427f-b835-d5b172d2045b")
_HASH_INITRD = UUID("44baf731-3a2f-4bd7-9af1-41e29169781d")
_HASH_CMDLINE = UUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")

# QEMU, target/i386/cpu.c, builtin_x86_defs: family, model and stepping of each model. All versions
# ("-v2") of a model have the same.
_VCPU_MODELS = {
    "EPYC": (23, 1, 2),
    "EPYC-IBPB": (23, 1, 2),
    "EPYC-Rome": (23, 49, 0),
    "EPYC-Milan": (25, 1, 1),
    "EPYC-Genoa": (25, 17, 0),
    "EPYC-Turin": (26, 0, 0),
}
VCPU_MODELS = tuple(_VCPU_MODELS)


class Vmm(StrEnum):
    """Who launches the guest: the first registers differ."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


@dataclass(frozen=True, slots=True)
class KernelHashes:
    """The SHA-256 of what a guest boots directly."""

    kernel: bytes
    initrd: bytes
    append: bytes

    @classmethod
    def of(cls, kernel: bytes, initrd: bytes, append: str) -> KernelHashes:
        """Hash them; the command line with the zero byte that ends it.

        Raises:
            Misuse: it is no command line.
        """
        return cls(
            hashlib.sha256(kernel).digest(),
            hashlib.sha256(initrd).digest(),
            hashlib.sha256(command_line(append) + b"\0").digest(),
        )

    def page(self, offset: int) -> bytes:
        """The page in which the guest's firmware finds the table at `offset`.

        Raises:
            Misuse: it does not fit into the page.
        """
        entries = b"".join(
            guid.bytes_le + (18 + len(digest)).to_bytes(2, "little") + digest
            for guid, digest in (
                (_HASH_CMDLINE, self.append),
                (_HASH_INITRD, self.initrd),
                (_HASH_KERNEL, self.kernel),
            )
        )
        table = _HASH_TABLE.bytes_le + (18 + len(entries)).to_bytes(2, "little") + entries
        table += bytes(-len(table) % 16)
        if offset + len(table) > PAGE_SIZE:
            raise Misuse("the table of hashes leaves its page", field="--ovmf", found=hex(offset))
        return (bytes(offset) + table).ljust(PAGE_SIZE, b"\0")


def vcpu_signature(model: str) -> int:
    """The CPUID signature (leaf 1, EAX) of a model of QEMU's.

    Raises:
        Misuse: no such model; `host` and `max` are whatever the host is.
    """
    base = re.sub(r"-v[0-9]+$", "", model)
    if base not in _VCPU_MODELS:
        raise Misuse(
            "the signature of this model is not known",
            field="--vcpu-type",
            found=repr(model),
            expected=", ".join(VCPU_MODELS) + ", each with or without a version such as -v2",
            hint="give --vcpu-signature, the EAX of CPUID leaf 1 in the guest",
        )
    return signature_of(*_VCPU_MODELS[base])


def signature_of(family: int, model: int, stepping: int) -> int:
    """The CPUID signature (AMD 25481, function 1, EAX) of a processor."""
    low, high = (0xF, family - 0xF) if family > 0xF else (family, 0)
    return high << 20 | model >> 4 << 16 | low << 8 | (model & 0xF) << 4 | stepping


def launch_digest(
    firmware: Firmware,
    *,
    vcpus: int,
    signature: int,
    kernel: KernelHashes | None,
    guest_features: int = DEFAULT_GUEST_FEATURES,
    vmm: Vmm = Vmm.QEMU,
    firmware_digest: bytes | None = None,
) -> bytes:
    """What an SNP guest will report as MEASUREMENT, 48 bytes.

    Args:
        firmware: its firmware.
        vcpus: how many virtual processors it starts with.
        signature: their CPUID signature, see `vcpu_signature`.
        kernel: what it boots directly; None if its firmware finds something to boot.
        guest_features: SEV_FEATURES of its processors.
        vmm: who launches it.
        firmware_digest: the digest after the firmware's pages, if it is known: then all that
            counts of `firmware` is its size and metadata.

    Raises:
        Misuse: such a guest cannot be launched, or nothing would bind it to its kernel.
    """
    if not 0 < vcpus <= MAX_VCPUS:
        raise Misuse("cannot be", field="--vcpus", found=vcpus, expected=f"1 to {MAX_VCPUS}")
    if not 0 <= signature < _SIGNATURES:
        raise Misuse(
            "cannot be", field="--vcpu-signature", found=signature, expected="32 bits, as 0x800f12"
        )
    if not 0 <= guest_features < _FEATURES or not guest_features & _SNP_ACTIVE:
        raise Misuse(
            "cannot be",
            field="--guest-features",
            found=guest_features,
            expected="64 bits, the first of them set, as in every SNP guest",
        )
    if not firmware.sev:
        raise Misuse(
            "this firmware cannot launch an SNP guest",
            field="--ovmf",
            found="no SEV metadata",
            hint=_FIRMWARE_HINT,
        )
    _check_sections(firmware)
    ld = (
        _pages(_ZEROS, firmware.address, firmware.image)
        if firmware_digest is None
        else (firmware_digest)
    )
    ld = _sections(ld, firmware, kernel, vmm)
    reset = firmware.reset_address
    if vcpus > 1 and not reset:
        raise Misuse("this firmware starts one processor alone", field="--vcpus", found=vcpus)
    for index in range(vcpus):
        address = _BSP_RESET if index == 0 else (reset or 0)
        page = _save_area(address, signature, guest_features, vmm)
        ld = _extend(ld, _VMSA, _VMSA_ADDRESS, hashlib.sha384(page).digest())
    return ld


def firmware_digest(firmware: Firmware) -> bytes:
    """The digest after the firmware's pages alone, 48 bytes."""
    return _pages(_ZEROS, firmware.address, firmware.image)


def _check_sections(firmware: Firmware) -> None:
    if sum(section.size for section in firmware.sev) > _MAX_INITIAL:
        raise Misuse("its initial memory is too large", field="--ovmf", expected="64 MiB at most")
    for section in firmware.sev:
        if section.kind in _ONE_PAGE and section.size != PAGE_SIZE:
            raise Misuse(
                "cannot be launched",
                field=f"--ovmf: section {section.kind.name.lower()}",
                found=f"{section.size} bytes",
                expected=f"one page, {PAGE_SIZE} bytes",
            )


def _extend(ld: bytes, page_type: int, address: int, contents: bytes) -> bytes:
    # DIGEST_CUR, CONTENTS, LENGTH, PAGE_TYPE, IMI_PAGE, three VMPL_PERMS and a reserved byte, GPA.
    info = ld + contents + _PAGE_INFO_SIZE.to_bytes(2, "little") + bytes((page_type, 0, 0, 0, 0, 0))
    return hashlib.sha384(info + address.to_bytes(8, "little")).digest()


def _pages(ld: bytes, address: int, data: bytes) -> bytes:
    for offset in range(0, len(data), PAGE_SIZE):
        contents = hashlib.sha384(data[offset : offset + PAGE_SIZE]).digest()
        ld = _extend(ld, _NORMAL, address + offset, contents)
    return ld


def _sections(ld: bytes, firmware: Firmware, kernel: KernelHashes | None, vmm: Vmm) -> bytes:
    late = []
    bound = False
    for section in firmware.sev:
        pages = range(section.address, section.address + section.size, PAGE_SIZE)
        match section.kind:
            case SevSection.SECRETS:
                ld = _extend(ld, _SECRETS, section.address, _ZEROS)
            case SevSection.CPUID if vmm is Vmm.EC2:
                late.append(section.address)
            case SevSection.CPUID:
                ld = _extend(ld, _CPUID, section.address, _ZEROS)
            case SevSection.KERNEL_HASHES if kernel is not None:
                address = firmware.sev_hashes_address
                if address is None or address // PAGE_SIZE * PAGE_SIZE != section.address:
                    raise _unbound()
                bound = True
                page = kernel.page(address % PAGE_SIZE)
                ld = _pages(ld, section.address, page.ljust(section.size, b"\0"))
            case SevSection.MEMORY if vmm is Vmm.GCE:
                for address in pages:
                    ld = _extend(ld, _UNMEASURED, address, _ZEROS)
            case _:
                for address in pages:
                    ld = _extend(ld, _ZERO, address, _ZEROS)
    for address in late:
        ld = _extend(ld, _CPUID, address, _ZEROS)
    if kernel is not None and not bound:
        raise _unbound()
    return ld


def _unbound() -> Misuse:
    return Misuse(
        "nothing would bind the kernel to the measurement",
        field="--ovmf",
        found="no page for the kernel's hashes",
        hint=_FIRMWARE_HINT,
    )


# Where the first processor begins.
_BSP_RESET = 0xFFFFFFF0

# Offsets in the VMSA (AMD 24593, volume 2, table "VMSA Layout, Combined"). A segment is a selector
# and attributes (2 bytes each), a limit (4) and a base (8).
_ES, _CS, _SS, _DS, _FS, _GS, _GDTR, _LDTR, _IDTR, _TR = range(0, 0xA0, 0x10)
_EFER, _CR4, _CR0, _DR7, _DR6 = 0xD0, 0x148, 0x158, 0x160, 0x168
_RFLAGS, _RIP, _G_PAT, _RDX = 0x170, 0x178, 0x268, 0x310
_SEV_FEATURES, _XCR0, _MXCSR, _FCW = 0x3B0, 0x3E8, 0x408, 0x410
# What differs between those who launch.
_SEGMENTS = {
    Vmm.QEMU: {_CS: 0x9B, _SS: 0x93, _TR: 0x8B},
    Vmm.EC2: {_CS: 0x9B, _SS: 0x92, _TR: 0x83},
    Vmm.GCE: {_CS: 0x9B, _SS: 0x93, _TR: 0x8B},
}


def _save_area(address: int, signature: int, guest_features: int, vmm: Vmm) -> bytes:
    """The page with the first registers of a processor that begins at `address`."""
    page = bytearray(PAGE_SIZE)

    def put(offset: int, value: int, size: int = 8) -> None:
        page[offset : offset + size] = value.to_bytes(size, "little")

    attributes = dict.fromkeys((_ES, _DS, _FS, _GS), 0x93) | {_LDTR: 0x82} | _SEGMENTS[vmm]
    if vmm is Vmm.EC2 and address == _BSP_RESET:
        attributes[_CS] = 0x9A
    for segment in (_ES, _CS, _SS, _DS, _FS, _GS, _GDTR, _LDTR, _IDTR, _TR):
        put(segment + 2, attributes.get(segment, 0), 2)
        put(segment + 4, 0xFFFF, 4)
    put(_CS, 0xF000, 2)
    put(_CS + 8, address & 0xFFFF0000)
    put(_EFER, 0x1000)  # SVME, which KVM sets
    put(_CR4, 0x40)  # MCE, which KVM sets
    put(_CR0, 0x10)
    put(_DR7, 0x400)
    put(_DR6, 0xFFFF0FF0)
    put(_RFLAGS, 2)
    put(_RIP, address & 0xFFFF)
    put(_G_PAT, 0x00070106 if vmm is Vmm.GCE else 0x7040600070406)
    put(_RDX, signature if vmm is Vmm.QEMU else 0x600)
    put(_SEV_FEATURES, guest_features)
    put(_XCR0, 1)
    if vmm is Vmm.QEMU:
        put(_MXCSR, 0x1F80, 4)
        put(_FCW, 0x37F, 2)
    return bytes(page)

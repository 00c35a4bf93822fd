"""What a TD will report: MRTD of its firmware, RTMR1 and RTMR2 of what it boots directly.

MRTD (Intel document 344425, "TDX Module Base Architecture Specification", chapter "Measurement and
Attestation"): every page that the host adds, in the order of the firmware's TDVF descriptor, page
by page as Linux' KVM does it, and the content of those that the descriptor wants measured.

RTMR1 and RTMR2 are what is measured of kernel, command line and initrd when QEMU hands them over
(`-kernel`). RTMR1 is the firmware's: EDK II from 2025.05 with QEMU from 10.1, which hand over the
kernel's file as it is; QEMU changes its header for older ones, and RTMR1 differs. RTMR2 is the
kernel's EFI stub's: see EDK II, OvmfPkg/Library/GenericQemuLoadImageLib, for what it is given, and
Linux, drivers/firmware/efi/libstub/efi-stub-helper.c, for what it does with that. A kernel before
6.9 measures nothing in a TD: RTMR2 of such is zeros, whatever is booted.

RTMR0 has the memory map, the ACPI tables and the boot variables that the host makes up: it cannot
be known from the image, and is taken from the event log of a guest that was looked at
(`garrison.formats.ccel`). RTMR3 is the guest's own.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from garrison.errors import Misuse
from garrison.formats.ccel import extend, read_log, replay
from garrison.formats.evidence import Tee
from garrison.formats.ovmf import PAGE_SIZE, Firmware
from garrison.formats.pe import authenticode, sections
from garrison.measure.prediction import EVALUATION, Prediction, command_line, toml_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_BLOCK = 128
_ADDRESS_OFFSET = 16
_EXTEND_SIZE = 256
# A TD's initial memory: more would be a mistake, and take long.
_MAX_INITIAL = 64 << 20
# TCG, "PC Client Platform Firmware Profile": EV_SEPARATOR and EV_EFI_ACTION.
_SEPARATOR = bytes(4)
_ACTIONS = (
    b"Exit Boot Services Invocation",
    b"Exit Boot Services Returned with Success",
)
# What a unified kernel image has its kernel in.
_UNIFIED = ".linux"
_NOTES = {
    "rtmr1": "for EDK II from 2025.05 and QEMU from 10.1",
    "rtmr2": "for Linux from 6.9",
}
_START = b"Calling EFI Application from Boot Option"


def mrtd(firmware: Firmware) -> bytes:
    """MRTD, 48 bytes.

    Raises:
        Misuse: the firmware cannot launch a TD.
        Malformed: what it says of itself cannot be.
    """
    sections = firmware.tdx()
    if not any(section.measured for section in sections):
        raise Misuse(
            "this firmware cannot launch a TD",
            field="--ovmf",
            found="no TDVF descriptor with measured sections",
            hint="use an OVMF that was built for TDX, without a file of variables beside it",
        )
    if sum(section.size for section in sections if not section.augmented) > _MAX_INITIAL:
        raise Misuse("its initial memory is too large", field="--ovmf", expected="64 MiB at most")
    state = hashlib.sha384()
    for section in sections:
        if section.augmented:
            continue
        for offset in range(0, section.size, PAGE_SIZE):
            state.update(_block(b"MEM.PAGE.ADD", section.address + offset))
            if not section.measured:
                continue
            for start in range(offset, offset + PAGE_SIZE, _EXTEND_SIZE):
                state.update(_block(b"MR.EXTEND", section.address + start))
                state.update(section.data[start : start + _EXTEND_SIZE])
    return state.digest()


def rtmr1(kernel: bytes) -> bytes:
    """RTMR1: that the firmware started this kernel, and left.

    Raises:
        Malformed: the kernel is no EFI application.
    """
    events = (_START, _SEPARATOR, *_ACTIONS)
    digests = [authenticode(kernel, "sha384"), *(hashlib.sha384(item).digest() for item in events)]
    return _folded(digests)


def rtmr2(append: str, initrd: bytes | None) -> bytes:
    """RTMR2: the command line and the initrd, as the kernel's EFI stub measures them.

    What is empty is not handed over, and not measured.

    Raises:
        Misuse: the command line is none, or not ASCII, of which firmware makes something else.
    """
    line = command_line(append)
    if not line.isascii():
        raise Misuse(
            "RTMR2 cannot be predicted",
            field="--append",
            found=ascii(append[:40]),
            expected="ASCII",
        )
    measured = []
    if initrd:
        line += b" initrd=initrd"
    if line:
        measured.append((line + b"\0").decode().encode("utf-16-le"))
    if initrd:
        measured.append(initrd)
    return _folded(hashlib.sha384(each).digest() for each in measured)


def predict(
    firmware: Firmware,
    *,
    kernel: bytes | None = None,
    initrd: bytes | None = None,
    append: str = "",
    event_log: bytes | None = None,
) -> Prediction:
    """Tell what can be known; `event_log` is that of a guest with the same machine.

    Raises:
        Misuse: the firmware cannot launch a TD; or the kernel is a unified image, whose registers
            are those of another boot.
        Malformed: an input is not what it should be.
    """
    if kernel is not None and _UNIFIED in sections(kernel):
        raise Misuse(
            "RTMR2 cannot be predicted of a unified kernel image",
            field="--kernel",
            found=f"a section {_UNIFIED}",
            expected="a kernel, which boots directly",
            hint="what its stub and its kernel measure, a guest's event log says",
        )
    registers = {"mrtd": mrtd(firmware)}
    unknown = {}
    if event_log is None:
        unknown["rtmr0"] = "the host makes up memory map and ACPI tables; give --event-log"
    else:
        registers["rtmr0"] = replay(read_log(event_log))[0]
    if kernel is None:
        unknown["rtmr1"] = unknown["rtmr2"] = "what boots is not given; give --kernel"
    else:
        registers |= {"rtmr1": rtmr1(kernel), "rtmr2": rtmr2(append, initrd)}
    return prediction(registers, unknown, _NOTES if kernel is not None else {})


def prediction(
    registers: Mapping[str, bytes],
    unknown: Mapping[str, str] | None = None,
    details: Mapping[str, str] | None = None,
) -> Prediction:
    """Tell `registers`, and for each that is `unknown` the reason."""
    return Prediction(
        Tee.TDX,
        registers,
        _policy(registers, unknown or {}, details or {}),
        unknown or {},
        details or {},
    )


def _policy(
    registers: Mapping[str, bytes], unknown: Mapping[str, str], details: Mapping[str, str]
) -> str:
    lines = [
        "[tdx]",
        f"mr_td = {toml_list(registers['mrtd'])}",
        'mr_seam = "any"            # the TDX module; that Intel signed it is verified',
        'mr_config_id = "any"',
        'mr_owner = "any"',
        'mr_owner_config = "any"',
        'mr_service_td = "any"',
        'tcb_statuses = ["UpToDate"]',
        "advisories = []",
        EVALUATION,
        "",
        "[tdx.rtmrs]",
    ]
    for index in range(3):
        name = f"rtmr{index}"
        if name in registers:
            note = f"  # {details[name]}" if name in details else ""
            lines.append(f"{index} = {toml_list(registers[name])}{note}")
        else:
            lines.append(f'# {index} = ["<96 hex digits>"]  # {unknown[name]}')
    lines.append('3 = "zero"')
    return "\n".join(lines) + "\n"


def _folded(digests: Iterable[bytes]) -> bytes:
    register = bytes(48)
    for digest in digests:
        register = extend(register, digest)
    return register


def _block(name: bytes, address: int) -> bytes:
    return (name.ljust(_ADDRESS_OFFSET, b"\0") + address.to_bytes(8, "little")).ljust(_BLOCK, b"\0")

"""What hardware will report of an image that is launched here, and a simulator in its place.

The same prediction as `garrison image measure`, from the very files that are booted, for the
machine that `garrison.launch.backends` makes: its firmware, its processors, its command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from garrison.errors import Misuse
from garrison.formats.evidence import Tee
from garrison.formats.ovmf import Firmware
from garrison.image.enclave import enclave_image
from garrison.launch.host_probe import read_firmware
from garrison.launch.qemu_command import VCPUS
from garrison.measure import nitro, snp, tdx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from garrison.attesters.base import Attester
    from garrison.image.folder import Image

VCPU_TYPE = "EPYC-v4"


def snp_measurement(image: Image) -> bytes:
    """The launch digest of an SNP guest that boots `image`.

    Raises:
        Misuse: the image was built without firmware.
        Malformed: its firmware cannot be read.
        OSError: a file cannot be read.
    """
    return snp.launch_digest(
        Firmware.from_bytes(read_firmware(image.firmware("snp"))),
        vcpus=VCPUS,
        signature=snp.vcpu_signature(VCPU_TYPE),
        kernel=snp.KernelHashes.of(
            image.kernel.read_bytes(), image.initrd.read_bytes(), image.command_line_in("snp")
        ),
    )


def _tdx_registers(image: Image) -> Mapping[str, bytes]:
    return tdx.predict(
        Firmware.from_bytes(read_firmware(image.firmware("tdx"))),
        kernel=image.kernel.read_bytes(),
        initrd=image.initrd.read_bytes(),
        append=image.command_line_in("tdx"),
    ).registers


# What of an image the simulator of a TEE reports; what nobody can predict of TDX is zero.
_REGISTERS: Mapping[str, Callable[[Image], Mapping[str, bytes]]] = {
    Tee.SNP: lambda image: {"measurement": snp_measurement(image)},
    Tee.TDX: _tdx_registers,
    Tee.NITRO: lambda image: nitro.predict(enclave_image(image)).registers,
}


def simulated_insecure(tee: str, directory: Path, image: Image) -> Attester:
    """A simulator that reports of `image` what the hardware would.

    Args:
        tee: which TEE.
        directory: where `garrison platform insecure-simulator` put its keys.
        image: what is booted.

    Raises:
        Misuse: this TEE is not simulated in a machine, or the directory cannot be used.
    """
    if tee not in _REGISTERS:
        raise Misuse(
            "is not simulated in a machine",
            field="--insecure-simulate",
            found=tee,
            expected=" | ".join(_REGISTERS),
        )
    from garrison.attesters.simulated_insecure import open_insecure

    return open_insecure(Tee(tee), directory, _REGISTERS[tee](image))

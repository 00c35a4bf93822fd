"""What hardware will report of an image that is launched here, and a simulator in its place.

The same prediction as `garrison image measure`, from the very files that are booted, for the
machine that `garrison.launch.backends` makes: its firmware, its processors, its command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from garrison.errors import Misuse
from garrison.formats.ovmf import Firmware
from garrison.launch.host_probe import read_firmware
from garrison.measure import snp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from garrison.attesters.base import Attester
    from garrison.image.folder import Image

VCPU_TYPE = "EPYC-v4"
#: It is measured; a keep has no use for a second.
VCPUS = 1


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
            image.kernel.read_bytes(), image.initrd.read_bytes(), image.command_line
        ),
    )


def _simulated_snp(directory: Path, image: Image) -> Attester:
    from garrison.attesters.simulated_snp_insecure import SimulatedSnpInsecure

    return SimulatedSnpInsecure.open(directory, measurement=snp_measurement(image))


_SIMULATORS: dict[str, Callable[[Path, Image], Attester]] = {"snp": _simulated_snp}


def simulated_insecure(tee: str, directory: Path, image: Image) -> Attester:
    """A simulator that reports of `image` what the hardware would.

    Args:
        tee: which TEE.
        directory: where `garrison platform insecure-simulator` put its keys.
        image: what is booted.

    Raises:
        Misuse: this TEE is not simulated in a machine, or the directory cannot be used.
    """
    if tee not in _SIMULATORS:
        raise Misuse(
            "is not simulated in a machine",
            field="--insecure-simulate",
            found=tee,
            expected=" | ".join(_SIMULATORS),
        )
    return _SIMULATORS[tee](directory, image)

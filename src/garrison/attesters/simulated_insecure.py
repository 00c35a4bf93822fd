"""Simulators of TEEs: which there are, how each is made, and opened.

INSECURE by nature: see the module of each. A steward believes one only where its policy names the
simulated root, and says so with every certificate.

Azure has none: what its paravisor adds to SNP or TDX is a TPM, for which there are emulators, and
the hardware's part is simulated here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from garrison.attesters.simulator_directory_insecure import SIMULATOR_JSON, read
from garrison.errors import Malformed, Misuse
from garrison.formats.evidence import Tee

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from garrison.attesters.base import Attester

#: Those that can be simulated.
TEES = (Tee.SNP, Tee.TDX, Tee.SGX, Tee.NITRO)
_MAX_ABOUT = 4096


def kind_of(tee: Tee) -> str:
    """What a launch request calls the simulator of `tee`."""
    return f"simulated-{tee}-insecure"


#: What launch requests call them.
KINDS = {kind_of(tee): tee for tee in TEES}


def create_insecure(tee: Tee, directory: Path, *, name: str) -> None:
    """Make a simulator of `tee` in `directory`.

    Raises:
        Misuse: `directory` exists or cannot be made, or there is no simulator of `tee`.
    """
    # Each is imported when it is used: an RSA key or a certificate is not what a start waits for.
    match _simulated(tee):
        case Tee.SNP:
            from garrison.attesters import simulated_snp_insecure

            simulated_snp_insecure.create_insecure(directory, name=name)
        case Tee.NITRO:
            from garrison.attesters import simulated_nitro_insecure

            simulated_nitro_insecure.create_insecure(directory, name=name)
        case _:
            from garrison.attesters import simulated_dcap_insecure

            simulated_dcap_insecure.create_insecure(tee, directory, name=name)


def open_insecure(
    tee: Tee, directory: Path, measured: Mapping[str, bytes] | None = None
) -> Attester:
    """Open the simulator of `tee` that is in `directory`, and warn.

    Args:
        tee: the TEE.
        directory: what `create_insecure` made.
        measured: what it reports: the registers of a `garrison.measure.prediction.Prediction`; None
            for the measurement of Garrison's own code, which a keep on `nil` runs.

    Raises:
        Misuse: the directory cannot be read, or is another TEE's, or there are no such registers.
        Malformed: it holds something else.
    """
    _check(_simulated(tee), directory)
    if measured is None:
        measured = process_registers(tee)
    match tee:
        case Tee.SNP:
            from garrison.attesters.simulated_snp_insecure import SimulatedSnpInsecure
            from garrison.attesters.simulator_directory_insecure import registers
            from garrison.formats.snp import MEASUREMENT_SIZE

            found = registers(measured, ("measurement",), MEASUREMENT_SIZE)
            return SimulatedSnpInsecure.open(directory, measurement=found["measurement"])
        case Tee.NITRO:
            from garrison.attesters.simulated_nitro_insecure import SimulatedNitroInsecure

            return SimulatedNitroInsecure.open(directory, measured)
        case _:
            from garrison.attesters.simulated_dcap_insecure import SimulatedDcapInsecure

            return SimulatedDcapInsecure.open(tee, directory, measured)


def process_registers(tee: Tee) -> dict[str, bytes]:
    """What the simulator of `tee` reports of a keep that is a process, by register.

    Raises:
        Misuse: there is no simulator of `tee`.
    """
    match _simulated(tee):
        case Tee.SNP:
            from garrison.attesters.simulator_directory_insecure import process_measurement

            return {"measurement": process_measurement()}
        case Tee.NITRO:
            from garrison.attesters import simulated_nitro_insecure

            return simulated_nitro_insecure.process_registers()
        case _:
            from garrison.attesters import simulated_dcap_insecure

            return simulated_dcap_insecure.process_registers(tee)


def root_key_sha256(tee: Tee, directory: Path) -> str:
    """SHA-256 of the root's key of the simulator of `tee` in `directory`, as a policy names it.

    Raises:
        Misuse: the directory cannot be read, or is another TEE's.
        Malformed: it holds something else.
    """
    return _check(_simulated(tee), directory)["key_sha256"]


def parse_simulator(text: str, field: str) -> tuple[Tee, str]:
    """Read `TEE=DIR`.

    Raises:
        Misuse: it is something else.
    """
    name, _, directory = text.partition("=")
    if name not in TEES or not directory:
        raise Misuse(
            "no such simulator", field=field, found=repr(text), expected=f"{' | '.join(TEES)}=DIR"
        )
    return Tee(name), directory


def _simulated(tee: Tee) -> Tee:
    if tee not in TEES:
        raise Misuse("cannot be simulated", field="TEE", found=tee, expected=" | ".join(TEES))
    return tee


def _check(tee: Tee, directory: Path) -> dict[str, str]:
    """Read what a directory says of itself."""
    path = directory / SIMULATOR_JSON
    try:
        said = json.loads(read(path, _MAX_ABOUT))
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON", field=str(path)) from error
    match said:
        case {"tee": str(found), "name": str(), "key_sha256": str(key)} if _is_sha256(key):
            pass
        case _:
            raise Malformed(
                "does not describe a simulator", field=str(path), expected="tee, name, key_sha256"
            )
    if found != tee:
        raise Misuse("a simulator of another TEE", field=str(path), found=found, expected=tee)
    return dict(said)


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")

"""The `sgx` backend: a keep in an SGX enclave under Gramine, supervised as a process.

What runs is a folder that `garrison image export --format gramine` wrote and Gramine's tools signed
(`garrison.image.gramine`). Each keep has a folder of its own that points there, with its request
beside. Standard streams, signals and the exit code are those of any process.

It was never run on SGX: see docs/limitations.md.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from garrison.errors import Malformed, Misuse
from garrison.formats.sgx_sigstruct import SIGSTRUCT_SIZE, Sigstruct
from garrison.image.gramine import MANIFEST, NAME, REQUEST, ROOT, SIGSTRUCT
from garrison.launch.host_checks import inspect_host, require
from garrison.launch.process import die_with_us, supervised
from garrison.measure import sgx_keys

if TYPE_CHECKING:
    from garrison.formats.launch_request import LaunchRequest

GRAMINE = "gramine-sgx"


def run_sgx(request: LaunchRequest, enclave: Path | None) -> int:
    """Run a keep in an enclave, and return its exit code (128 + n for a signal n).

    Args:
        request: what it is asked for.
        enclave: the folder.

    Raises:
        Misuse: no folder is named, or it is not signed.
        Malformed: its signature is none.
        Unverified: its signature is wrong.
        Unavailable: this host cannot run enclaves; it says all that is missing.
    """
    if enclave is None:
        raise Misuse(
            "missing",
            field="--image",
            expected="a folder that was exported for Gramine, and signed",
            hint="garrison image export IMAGE --format gramine FOLDER",
        )
    check_enclave(enclave)
    require("sgx", inspect_host())
    return run_enclave(request, enclave)


def check_enclave(enclave: Path) -> None:
    """Check that a folder is whole, and signed, before anything is started.

    Raises:
        Misuse: a part is missing.
        Malformed: its signature is none.
        Unverified: its signature is wrong: the processor would not start it.
    """
    for name in (ROOT, MANIFEST, SIGSTRUCT):
        if not (enclave / name).exists():
            raise Misuse(
                "is missing",
                field=str(enclave / name),
                hint="export the image for Gramine, and sign it as its manifest says",
            )
    with (enclave / SIGSTRUCT).open("rb") as file:
        data = file.read(SIGSTRUCT_SIZE + 1)
    try:
        sigstruct = Sigstruct.from_bytes(data)
    except Malformed as error:
        raise Malformed("no SIGSTRUCT", field=str(enclave / SIGSTRUCT), found=str(error)) from error
    sgx_keys.check(sigstruct)


def run_enclave(request: LaunchRequest, enclave: Path) -> int:
    """The same, without looking at the host and the folder.

    Raises:
        Misuse: Gramine is not installed.
    """
    program = shutil.which(GRAMINE)
    if program is None:
        raise Misuse("is not installed", field=GRAMINE, hint="install Gramine")
    with tempfile.TemporaryDirectory(prefix="garrison-enclave-") as place:
        folder = Path(place)
        for name in (ROOT, MANIFEST, SIGSTRUCT):
            (folder / name).symlink_to((enclave / name).resolve())
        (folder / REQUEST).write_bytes(request.to_json())
        return supervised([program, NAME], folder=folder, before=die_with_us)

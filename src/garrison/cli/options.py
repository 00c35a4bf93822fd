"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from garrison import disk
from garrison.errors import Malformed, Misuse

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

# The order of preference where --backend is not given. Only what is built stands here.
BACKENDS = ("nil", "kvm", "snp", "tdx", "sgx", "nitro", "cvm")
_WITHOUT_TEE = ("nil", "kvm")


def identity_options(function: F) -> F:
    """`--steward`, `--steward-root`, `--insecure-simulate`: who vouches for the keep, and how."""
    for option in (
        click.option(
            "--insecure-simulate",
            metavar="TEE=DIR",
            help="Development only: attest with the simulator whose keys are in DIR (see"
            " `garrison platform insecure-simulator`). TEE is snp, tdx, sgx or nitro.",
        ),
        click.option(
            "--steward-root",
            type=_FILE,
            envvar="GARRISON_STEWARD_ROOT",
            help="PEM file with the roots of the stewards whose certificates count.",
        ),
        click.option(
            "--steward",
            metavar="URL",
            envvar="GARRISON_STEWARD",
            help="The steward to attest to.",
        ),
        click.option(
            "--backend",
            type=click.Choice(BACKENDS),
            default="nil",
            show_default=True,
            envvar=["GARRISON_BACKEND", "ENARX_BACKEND"],
            help="Where to run the keep. nil: in a process, without any protection. kvm: in a"
            " machine, which nothing protects from this host. snp, tdx: in a confidential machine."
            " sgx, nitro: in an enclave."
            " cvm: in a process; this machine is a confidential VM or an enclave, and gives the"
            " evidence.",
        ),
    ):
        function = option(function)
    return function


def attester_spec(backend: str, insecure_simulate: str | None) -> dict[str, str]:
    """Which attester the options ask for.

    Raises:
        Misuse: `--insecure-simulate` is not `TEE=DIR`, or is given where there is a TEE.
    """
    if insecure_simulate is None:
        return {"kind": "nil" if backend in _WITHOUT_TEE else "detect"}
    if backend not in _WITHOUT_TEE:
        raise Misuse(
            "a TEE is not simulated where there is one",
            field="--insecure-simulate",
            found=f"--backend {backend}",
            expected=" | ".join(f"--backend {each}" for each in _WITHOUT_TEE),
        )
    from garrison.attesters.simulated_insecure import kind_of, parse_simulator

    tee, directory = parse_simulator(insecure_simulate, "--insecure-simulate")
    if backend == "kvm":
        # Its directory is this machine's: the host answers.
        return {"kind": "host-simulated-insecure", "tee": str(tee)}
    return {"kind": kind_of(tee), "directory": str(Path(directory).resolve())}


def read_file(path: Path, limit: int) -> bytes:
    """Read a file of at most `limit` bytes.

    Raises:
        Misuse: it cannot be read.
        Malformed: it is larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Misuse(f"cannot be read: {error.strerror}", field=str(path)) from error
    if len(data) > limit:
        raise Malformed("too large", field=str(path), expected=f"at most {limit} bytes")
    return data


def write_new(path: Path, data: bytes, *, secret: bool = False) -> None:
    """Write a file that is not there yet; one that is `secret`, for its owner's eyes alone.

    Raises:
        Misuse: it is there, or cannot be written.
    """
    try:
        disk.write_new(path, data, 0o600 if secret else 0o666)
    except FileExistsError as error:
        raise Misuse("is there already, and is not written over", field=str(path)) from error
    except OSError as error:
        raise Misuse(f"cannot be written: {error.strerror}", field=str(path)) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, in place of one that is there, so that nobody sees half of it.

    What is there and is no file, as `/dev/null` or a pipe, is written to and stays.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        disk.write_whole(path, data, 0o666)


def umask() -> int:
    """The bits of modes that new files of this process do not have."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_pem(path: Path, option: str) -> str:
    """Read a PEM file that an option names.

    Raises:
        Malformed: it holds no certificate.
    """
    text = path.read_text(errors="replace")
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise Malformed("holds no PEM certificate", field=option, found=path)
    return text


def steward_roots(steward: str | None, path: Path | None) -> str:
    """The PEM roots that go with `--steward`.

    Raises:
        Misuse: there are none: a keep must be told whose certificates count.
    """
    if steward is None:
        raise Misuse("missing", field="--steward", expected="URL of the steward to attest to")
    if path is None:
        raise Misuse(
            "missing",
            field="--steward-root",
            expected="PEM file with the steward's root",
            hint="the steward serves it at /bundle; get it over a channel that you trust",
        )
    return read_pem(path, "--steward-root")

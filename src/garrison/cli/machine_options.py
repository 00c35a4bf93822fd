"""The options of `run` and `deploy` for backends that are machines, and what they come to."""

from __future__ import annotations

import ipaddress
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from garrison.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from garrison.formats.guest_request import Local
    from garrison.formats.launch_request import LaunchRequest
    from garrison.image.folder import Image
    from garrison.launch.monitor import Publication

F = TypeVar("F", bound="Callable[..., Any]")

#: The backends that are machines.
MACHINES = ("kvm", "snp", "tdx", "nitro")
_PUBLISH = re.compile(
    r"(?:(?P<address>[0-9.]+):)?(?P<host>[0-9]{1,5}):(?P<guest>[0-9]{1,5})(?P<udp>/udp)?"
)
_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Machine:
    """What the options say.

    Attributes:
        image: the folder of an image, None: the one of this release, in the cache.
        published: see `Publication`.
        signatures: of the image.
        memory: in MiB, None: the backend's default.
    """

    image: Path | None
    published: tuple[str, ...]
    signatures: Path | None
    memory: int | None

    def unused(self, backend: str) -> None:
        """Refuse options for machines where there is none.

        Raises:
            Misuse: there is one.
        """
        given = {
            "--publish": bool(self.published),
            "--image-signatures": self.signatures is not None,
        }
        for option, there in given.items():
            if there:
                raise Misuse(
                    "is for a machine",
                    field=option,
                    found=f"--backend {backend}",
                    expected=f"--backend {' | '.join(MACHINES)}",
                )

    def reached_at(self, ports: Iterable[int]) -> list[int]:
        """Where the host has these ports of the workload, of TCP.

        Raises:
            Misuse: `--publish` names no ports.
        """
        published = map(_publication, self.published)
        there = {each.guest: each.host for each in published if not each.udp}
        return [there.get(port, port) for port in ports]


def machine_options(function: F) -> F:
    """`--image`, `--publish`, `--image-signatures`."""
    for option in (
        click.option(
            "--image-signatures",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="snp: what `garrison sign` made of the image; the firmware launches nothing else.",
        ),
        click.option(
            "--publish",
            metavar="[ADDRESS:]HOST:GUEST[/udp]",
            multiple=True,
            help="Machines: have the workload's port GUEST be port HOST of this one. Without it"
            " what the workload listens on has the same number here, on all addresses, but for an"
            " enclave, which is reached nowhere. Can be given often.",
        ),
        click.option(
            "--image",
            type=click.Path(file_okay=False, path_type=Path),
            envvar="GARRISON_IMAGE",
            help="Machines: the folder of the keep image to boot; default: the one of this"
            " release, once `garrison image build` has made it. sgx: the folder that"
            " `garrison image export --format gramine` wrote, signed.",
        ),
    ):
        function = option(function)
    return function


def run_in_machine(
    backend: str,
    what: LaunchRequest | Local,
    machine: Machine,
    files: Mapping[str, bytes] | None = None,
    *,
    insecure_simulate: str | None,
) -> int:
    """Run a keep in a machine, and return its exit code.

    Raises:
        GarrisonError: it cannot be, or failed.
    """
    # Here and below: what signs, predicts and simulates takes longer to import than QEMU to start.
    from garrison.launch import backends

    image = _image(machine.image)
    simulated = None
    if insecure_simulate is not None:
        from garrison.attesters.simulated_insecure import parse_simulator
        from garrison.launch.predicted import simulated_insecure

        tee, directory = parse_simulator(insecure_simulate, "--insecure-simulate")
        simulated = simulated_insecure(tee, Path(directory), image)
    level = logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()
    level = level if level in _LEVELS else "info"
    published = tuple(map(_publication, machine.published))
    memory = {} if machine.memory is None else {"memory": machine.memory}
    if backend == "nitro":
        if machine.signatures is not None:
            raise Misuse("are for snp", field="--image-signatures", found=f"--backend {backend}")
        from garrison.launch import nitro

        enclave = nitro.EnclaveOptions(image, published=published, **memory)
        return nitro.run_nitro(what, enclave, files, log_level=level)
    options = backends.MachineOptions(
        image,
        published=published,
        signatures=machine.signatures,
        insecure_simulated=simulated,
        **memory,
    )
    return backends.run_in_machine(backend, what, options, files, log_level=level)


def _image(folder: Path | None) -> Image:
    from garrison.image.folder import load

    if folder is not None:
        return load(folder)
    from garrison.image.build import default_folder

    folder = default_folder()
    if not folder.exists():
        raise Misuse(
            "the keep image of this release is not built",
            field="--image",
            found=f"nothing at {folder}",
            hint="build it, once: garrison image build",
        )
    return load(folder)


def _publication(text: str) -> Publication:
    from garrison.launch.monitor import Publication

    found = _PUBLISH.fullmatch(text)
    if found is None or not all(0 < int(found[name]) < 1 << 16 for name in ("host", "guest")):
        raise Misuse(
            "names no ports",
            field="--publish",
            found=repr(text)[:80],
            expected="[ADDRESS:]HOST:GUEST[/udp], ports from 1 to 65535",
        )
    address = "0.0.0.0" if found["address"] is None else found["address"]  # noqa: S104
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        raise Misuse(
            "no IPv4 address", field="--publish", found=repr(address), expected="such as 127.0.0.1"
        ) from None
    udp = found["udp"] is not None
    return Publication(int(found["guest"]), int(found["host"]), address, udp=udp)

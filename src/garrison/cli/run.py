"""`garrison run`: run a local workload, for development.

The form without options does not come here: see `garrison.__main__`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from garrison.cli.machine_options import MACHINES, Machine, machine_options, run_in_machine
from garrison.cli.options import attester_spec, identity_options, read_pem, steward_roots
from garrison.cli.ui import warn
from garrison.errors import Malformed, Misuse

if TYPE_CHECKING:
    from cryptography import x509

    from garrison.formats.guest_request import Local
    from garrison.keep.vfs.descriptor import Descriptor

MAIN = "main.wasm"
CONFIG = "Enarx.toml"

_EPILOG = """\b
The workload sees none of the host's files and none of its environment. Without --steward it has
no identity: its TLS connections are anonymous, and --steward-root alone lets it verify its peers.
With one, peers know it by its digest alone.

\b
Examples:
  garrison run hello.wasm
  garrison run --wasmcfgfile Enarx.toml server.wasm
  garrison run --limit memory=64MiB --limit run_seconds=60 job.wasm
  garrison run ./chat-server
  garrison run server.wasm -- --its-own-option
  garrison run --backend kvm hello.wasm
"""


@click.command(epilog=_EPILOG)
@identity_options
@machine_options
@click.option("--memory-mib", type=click.IntRange(256), help="Machines: the machine's memory.")
@click.option(
    "--wasmcfgfile",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar=["GARRISON_WASMCFGFILE", "ENARX_WASMCFGFILE"],
    help="The workload's configuration, in place of a package's own Enarx.toml.",
)
@click.option(
    "--dir",
    "directories",
    metavar="HOST[::GUEST][:ro]",
    multiple=True,
    help="Development only: give the workload the host's directory HOST under the path GUEST"
    " (the same by default; / takes the place of the virtual root), with :ro to read only."
    " Whoever owns the host reads and changes what is there. Can be given often.",
)
@click.option(
    "--limit",
    "limits",
    metavar="NAME=VALUE",
    multiple=True,
    help="What the workload may take of its keep, in place of [limits] in its Enarx.toml: memory,"
    " run_seconds, tmp, ... (docs/reference/enarx-toml.md); with --steward of both the lower one."
    " Can be given often.",
)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.argument("arguments", nargs=-1)
def command(
    path: Path,
    arguments: tuple[str, ...],
    backend: str,
    steward: str | None,
    steward_root: Path | None,
    insecure_simulate: str | None,
    wasmcfgfile: Path | None,
    directories: tuple[str, ...],
    limits: tuple[str, ...],
    image: Path | None,
    publish: tuple[str, ...],
    image_signatures: Path | None,
    memory_mib: int | None,
) -> int:
    """Run PATH, a WebAssembly file or the directory of a package, with ARGUMENTS.

    A package has main.wasm, perhaps Enarx.toml, and other files; the workload finds all under /pkg.
    """
    from garrison.formats.limits import parse_limit

    most = dict(parse_limit(text, field="--limit") for text in limits)
    files = _package(path)
    if wasmcfgfile is not None:
        files[CONFIG] = wasmcfgfile.read_bytes()
    if steward is None and insecure_simulate is not None:
        raise Misuse("has no use without --steward", field="--insecure-simulate")
    machine = Machine(image, publish, image_signatures, memory_mib)
    if backend in MACHINES:
        if directories:
            raise Misuse(
                "a machine has nothing of the host's", field="--dir", found=f"--backend {backend}"
            )
        return run_in_machine(
            backend,
            _local(backend, arguments, steward, steward_root, insecure_simulate, most),
            machine,
            files,
            insecure_simulate=insecure_simulate,
        )
    if backend == "sgx":
        raise Misuse(
            "runs what is published alone",
            field="--backend",
            found=backend,
            hint="publish the workload, and use garrison deploy",
        )
    machine.unused(backend)
    if memory_mib is not None:
        raise Misuse("is for a machine", field="--memory-mib", found=f"--backend {backend}")
    # Late, and after the options were read: a keep's parts take a while to import.
    from garrison.keep import workload

    if steward is None:
        if backend != "nil":
            raise Misuse("has no use without --steward", field="--backend", found=backend)
        pem = None if steward_root is None else read_pem(steward_root, "--steward-root")
        return workload.run(
            files,
            arguments=arguments,
            roots=_roots(pem),
            directories=_opened(directories),
            limits=most,
        )
    if directories:
        raise Misuse(
            "a keep with an identity has nothing of the host's",
            field="--dir",
            hint="leave --steward out, or put the files into the package",
        )

    from garrison.formats.tree import Package
    from garrison.keep import life
    from garrison.keep.identity import StewardClient

    roots = steward_roots(steward, steward_root)
    return life.run_local(
        files,
        Package(files).digest,
        steward=StewardClient(steward, roots),
        attester=attester_spec(backend, insecure_simulate),
        arguments=arguments,
        limits=most,
    )


def _roots(pem: str | None) -> list[x509.Certificate]:
    if pem is None:
        return []
    from garrison.keep.identity import load_roots

    return load_roots(pem)


def _local(
    backend: str,
    arguments: tuple[str, ...],
    steward: str | None,
    steward_root: Path | None,
    insecure_simulate: str | None,
    limits: dict[str, int],
) -> Local:
    """What a keep in a machine is asked for: it reads the files, and finds out the digest."""
    from garrison.formats.guest_request import Local

    if steward is None:
        roots = "" if steward_root is None else read_pem(steward_root, "--steward-root")
        return Local(arguments, roots, limits=limits)
    roots = steward_roots(steward, steward_root)
    return Local(arguments, roots, steward, attester_spec(backend, insecure_simulate), limits)


def _package(path: Path) -> dict[str, bytes]:
    """The files of the package at `path`, which is a directory, or its `main.wasm`.

    Raises:
        Malformed: it holds no `main.wasm`, or what no package may hold.
    """
    from garrison.formats.tree import MAX_FILE, Package, check_size

    if not path.is_dir():
        # Also a pipe, or a device that never ends.
        with path.open("rb") as file:
            wasm = file.read(MAX_FILE + 1)
        check_size(MAIN, len(wasm), len(wasm), 1)
        return {MAIN: wasm}
    if not (path / MAIN).is_file():
        raise Malformed(
            "no such file", field=str(path / MAIN), expected="a package holds main.wasm"
        )
    return dict(Package.from_directory(path).files)


def _opened(options: tuple[str, ...]) -> dict[str, Descriptor]:
    """The host's directories that `--dir` names, by the guest's path.

    Raises:
        Misuse: one names none, or two are to be at one place.
    """
    from garrison.keep.vfs.host_directory_insecure import host_directory

    opened: dict[str, Descriptor] = {}
    for option in options:
        given = option.removesuffix(":ro")
        host, separator, guest = given.partition("::")
        guest = guest if separator else host
        if not host or not guest:
            raise Misuse(
                "names no directory",
                field="--dir",
                found=repr(option),
                expected="HOST[::GUEST][:ro]",
            )
        if guest in opened:
            raise Misuse("two are to be at one place", field="--dir", found=repr(guest))
        opened[guest] = host_directory(host, read_only=given != option)
        warn(f"insecure: the workload uses {host} of this host, whose owner reads and changes it")
    return opened

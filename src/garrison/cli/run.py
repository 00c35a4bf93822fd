"""`garrison run`: run a local workload, for development.

The form without options does not come here: see `garrison.__main__`.
"""

from __future__ import annotations

from pathlib import Path

import click

from garrison.cli.options import attester_spec, identity_options, read_pem, steward_roots
from garrison.errors import Misuse

_EPILOG = """\b
The workload sees none of the host's files and none of its environment. Without --steward it has
no identity: its TLS connections are anonymous, and --steward-root alone lets it verify its peers.
With one, peers know it by its digest alone.

\b
Examples:
  garrison run hello.wasm
  garrison run --wasmcfgfile Enarx.toml server.wasm
  garrison run server.wasm -- --its-own-option
"""


@click.command(epilog=_EPILOG)
@identity_options
@click.option(
    "--wasmcfgfile",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar=["GARRISON_WASMCFGFILE", "ENARX_WASMCFGFILE"],
    help="The workload's configuration, an Enarx.toml.",
)
@click.argument("module", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("arguments", nargs=-1)
def command(
    module: Path,
    arguments: tuple[str, ...],
    backend: str,
    steward: str | None,
    steward_root: Path | None,
    insecure_simulate: str | None,
    wasmcfgfile: Path | None,
) -> int:
    """Run MODULE, a WebAssembly file, with ARGUMENTS."""
    # Late, and after the options were read: a keep's parts take a while to import.
    from garrison.keep import life
    from garrison.keep.identity import StewardClient, load_roots

    files = {life.MAIN: module.read_bytes()}
    if wasmcfgfile is not None:
        files[life.CONFIG] = wasmcfgfile.read_bytes()
    if steward is None:
        if insecure_simulate is not None:
            raise Misuse("has no use without --steward", field="--insecure-simulate")
        if backend != "nil":
            raise Misuse("has no use without --steward", field="--backend", found=backend)
        pem = None if steward_root is None else read_pem(steward_root, "--steward-root")
        return life.run(files, arguments=arguments, roots=load_roots(pem) if pem else ())

    from garrison.formats.tree import Package

    roots = steward_roots(steward, steward_root)
    return life.run_local(
        files,
        Package(files).digest,
        steward=StewardClient(steward, roots),
        roots_pem=roots,
        attester=attester_spec(backend, insecure_simulate),
        arguments=arguments,
    )

"""`garrison platform`: what this machine can run, and simulators of what it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from garrison import __version__
from garrison.cli import endorsements, ui
from garrison.errors import Misuse
from garrison.terminal import paint


@click.group()
def command() -> None:
    """What this machine can run, and TEE simulators."""


command.add_command(endorsements.command, "endorsements")


@command.command()
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def info(as_json: bool) -> None:
    """Check what each backend needs of this machine."""
    from garrison.image.build import default_folder
    from garrison.launch import host_checks

    try:
        image = default_folder()
    except Misuse:  # There is no home, and no image in it.
        image = None
    reports = host_checks.inspect_host(image=image)
    document = host_checks.as_json(reports, __version__)
    if as_json:
        ui.emit_json(document)
        return
    ui.out(f"Garrison version {__version__}")
    ui.out(f"System: {document['system_info']}")
    for report in reports:
        note = "" if report.started else "  (this version of Garrison does not start it yet)"
        ui.out(f"{_mark(report.available)} Backend: {report.backend}{note}")
        for check in report.checks:
            ui.out(f"  {_mark(check.passed)} {check.name}: {check.found}")
            if check.remedy:
                ui.out(f"      {check.remedy}")


def _mark(passed: bool) -> str:
    return paint("✔", "green", sys.stdout) if passed else paint("✗", "red", sys.stdout)


@command.command("insecure-simulator")
@click.option(
    "--tee",
    type=click.Choice(["snp", "tdx", "sgx", "nitro"]),
    default="snp",
    show_default=True,
    help="Which TEE to simulate.",
)
@click.option("--name", default="local", show_default=True, help="A name for the simulated vendor.")
@click.argument("directory", type=click.Path(path_type=Path))
def insecure_simulator(tee: str, name: str, directory: Path) -> None:
    """Make the keys and certificates of a simulated TEE vendor in DIRECTORY.

    Evidence under them proves nothing: whoever can read DIRECTORY can say anything. A steward
    admits it only where its policy names the simulated root.
    """
    from garrison.attesters.simulated_insecure import create_insecure
    from garrison.formats.evidence import Tee

    create_insecure(Tee(tee), directory, name=name)
    ui.success(f"made an INSECURE simulator of {tee} in {directory}")

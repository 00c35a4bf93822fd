"""`garrison image`: what the hardware will report of a keep."""

from __future__ import annotations

import click

from garrison.cli import ui


@click.group()
def command() -> None:
    """Measure keep images."""


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def measure(as_json: bool) -> None:
    """Print what a simulated TEE reports of a keep on the nil backend.

    It is the SHA-384 of the code of Garrison as it is installed here: what a steward's policy
    lists under `measurements` to admit exactly this version.
    """
    from garrison.attesters.simulated_snp_insecure import process_measurement

    measurement = process_measurement().hex()
    if as_json:
        ui.emit_json({"backend": "nil", "measurement": measurement})
    else:
        ui.out(measurement)

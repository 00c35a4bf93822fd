"""`garrison image`: keep images, and what the hardware will report of them."""

from __future__ import annotations

import click

from garrison.cli import measure


@click.group()
def command() -> None:
    """Measure keep images."""


command.add_command(measure.command, "measure")

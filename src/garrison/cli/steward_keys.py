"""`garrison steward init`, `rollover` and `revoke`: the steward's keys and certificates."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from garrison.cli import ui
from garrison.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.steward.init import Custody

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
_HINT = "send SIGHUP to the stewards that serve from it"

secret_file_option = click.option(
    "--secret-file",
    type=_FILE,
    help="File, mode 0600, with the passphrase of the keys or the PIN of the token; or name a"
    " descriptor in GARRISON_STEWARD_SECRET_FD.",
)


def _custody_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options that say where the keys of a new steward are to be."""
    for option in (
        secret_file_option,
        click.option(
            "--pkcs11",
            "token",
            nargs=3,
            metavar="MODULE TOKEN KEY",
            help="Make the issuing key in a PKCS#11 token: library, token's label, key's label.",
        ),
        click.option(
            "--offline-root",
            metavar="ROOT_DIR",
            type=click.Path(path_type=Path),
            help="Directory of the root, made if it is not there; the steward then has an"
            " intermediate under it.",
        ),
    ):
        function = option(function)
    return function


def _custody(
    offline_root: Path | None, token: tuple[str, str, str] | None, secret_file: Path | None
) -> Custody:
    from garrison.steward.init import Custody
    from garrison.steward.keys import read_secret
    from garrison.steward.token import TokenReference

    reference = None if token is None else TokenReference(*token)
    return Custody(offline_root, reference, read_secret(secret_file, os.environ))


@click.command(
    epilog="""\b
Example:
  garrison steward init /var/lib/steward --trust-domain example.com --host steward.example.com
  garrison steward init ./steward --trust-domain example.com --offline-root /media/safe/root

\b
With --offline-root the steward gets an intermediate; take ROOT_DIR off the network afterwards.
Give DIR/root.pem to tenants (--steward-root) and to drawbridges (--client-ca). Keep the rest.
"""
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--trust-domain", required=True, help="SPIFFE trust domain of the certificates, a DNS name."
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    default=("localhost", "127.0.0.1", "::1"),
    show_default=True,
    help="DNS name or IP address at which the service is reached; may be repeated.",
)
@_custody_options
def init(
    directory: Path,
    trust_domain: str,
    hosts: tuple[str, ...],
    offline_root: Path | None,
    token: tuple[str, str, str] | None,
    secret_file: Path | None,
) -> None:
    """Make the keys of a steward in DIR, which must not exist yet."""
    from garrison.steward.authority import ROOT_PEM
    from garrison.steward.init import create

    create(
        directory,
        trust_domain=trust_domain,
        hosts=hosts,
        now=datetime.now(UTC),
        custody=_custody(offline_root, token, secret_file),
    )
    ui.success(f"made a steward for {trust_domain}; its root is {directory / ROOT_PEM}")


@click.group()
def rollover() -> None:
    """Change the issuer, and perhaps the root, while keeps go on."""


@rollover.command(
    epilog="""\b
Example:
  garrison steward rollover prepare /var/lib/steward

\b
From then on DIR/root.pem and GET /bundle have both roots. Give them to all who trust the steward.
"""
)
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@_custody_options
def prepare(
    directory: Path,
    offline_root: Path | None,
    token: tuple[str, str, str] | None,
    secret_file: Path | None,
) -> None:
    """Make the next issuer, and trust its root beside the one in use."""
    from garrison.steward.rollover import prepare as step

    step(directory, _custody(offline_root, token, secret_file), datetime.now(UTC))
    ui.success(f"prepared; {_HINT}, and hand out {directory / 'root.pem'}")


@rollover.command(
    epilog="""\b
Example:
  garrison steward rollover activate /var/lib/steward
"""
)
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
def activate(directory: Path) -> None:
    """Issue by the next issuer; what the one before issued stays good."""
    from garrison.steward.rollover import activate as step

    step(directory, datetime.now(UTC))
    ui.success(f"activated; {_HINT}, and retire the old issuer after a day")


@rollover.command(
    epilog="""\b
Example:
  garrison steward rollover retire /var/lib/steward
"""
)
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.option("--early", is_flag=True, help="Though certificates that it issued may be good.")
def retire(directory: Path, early: bool) -> None:
    """Trust the old issuer no longer, and remove its keys."""
    from garrison.steward.rollover import retire as step

    step(directory, datetime.now(UTC), early=early)
    ui.success(f"retired; {_HINT}, and hand out {directory / 'root.pem'}")


@rollover.command(
    epilog="""\b
Example:
  garrison steward rollover status /var/lib/steward
"""
)
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
def status(directory: Path) -> None:
    """Say where a rollover is: plain, prepared or active."""
    from garrison.steward.rollover import state

    ui.out(state(directory))


@click.command(
    epilog="""\b
Examples:
  garrison steward revoke /var/lib/steward 5c0a63f1d2 --reason key-compromise
  garrison steward revoke /var/lib/steward --certificate keep.pem

\b
It stands in GET /crl and GET /deny at once. A keep can still get a new certificate: to stop that,
deny its measurement, chip or slug in the policy.
"""
)
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.argument("serial", metavar="[SERIAL]", required=False)
@click.option("--certificate", type=_FILE, help="The certificate, PEM, instead of its number.")
@click.option(
    "--reason",
    type=click.Choice(
        [
            "unspecified",
            "key-compromise",
            "superseded",
            "cessation-of-operation",
            "privilege-withdrawn",
        ]
    ),
    default="unspecified",
    show_default=True,
    help="Why.",
)
def revoke(directory: Path, serial: str | None, certificate: Path | None, reason: str) -> None:
    """Revoke the certificate with the serial number SERIAL (hex)."""
    from garrison.steward import revocation
    from garrison.steward.authority import ROOT_PEM
    from garrison.steward.keys import load_certificates

    if (serial is None) == (certificate is None):
        raise Misuse("give one of them", field="SERIAL, --certificate")
    now = revocation.utc(datetime.now(UTC))
    if certificate is not None:
        found = load_certificates(certificate)[0]
        number, until = found.serial_number, found.not_valid_after_utc
    else:
        number = _serial(serial or "")
        # Nobody knows how long it is good: no longer than the roots.
        until = max(root.not_valid_after_utc for root in load_certificates(directory / ROOT_PEM))
    entry = revocation.Revocation(number, now, until, revocation.Reason(reason))
    revocation.revoke(directory, entry, now)
    ui.success(f"revoked {number:x}, until {until:%FT%TZ}")


def _serial(text: str) -> int:
    digits = text.replace(":", "")
    if re.fullmatch(r"[0-9A-Fa-f]{1,40}", digits) is None:
        raise Misuse("not a serial number", field="SERIAL", expected="at most 40 hex digits")
    return int(digits, 16)

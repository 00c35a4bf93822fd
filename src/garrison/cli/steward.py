"""`garrison steward`: make an attestation service, and run it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from garrison.cli import ui
from garrison.cli.service_options import service_options
from garrison.cli.steward_keys import init, revoke, rollover, secret_file_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.applications import Starlette

    from garrison.cli.service_options import ServiceOptions
    from garrison.steward.issuance import Steward
    from garrison.steward.policy import Policy
    from garrison.steward.registry import Drawbridges

    # Reads keys and policy as they are now.
    Reopen = Callable[[], tuple[Steward, Drawbridges]]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_PATH = click.Path(exists=True, path_type=Path)


@click.group()
def command() -> None:
    """The attestation service: certificates for keeps that prove what they are."""


for _part in (init, rollover, revoke):
    command.add_command(_part)


@command.command(
    epilog="""\b
Examples:
  garrison steward serve --dir /var/lib/steward --policy policy.toml --host ::
  garrison steward serve --dir ./steward --policy policy.toml --port 0 --json

\b
When it is ready it says where it listens, one line on standard output. Each decision is a line
of JSON on standard error. SIGTERM ends it gracefully; SIGHUP reads keys, policy and the TLS files
again, and what cannot be used changes nothing.
"""
)
@click.option(
    "--dir",
    "directory",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The directory that `steward init` made.",
)
@click.option("--policy", required=True, type=_FILE, help="What it admits, TOML.")
@click.option(
    "--issuance-log",
    "issuance_log",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that each decision is chained to before it is answered; see `steward log verify`.",
)
@secret_file_option
@service_options(3000, ", instead of DIR's own")
def serve(
    directory: Path,
    policy: Path,
    issuance_log: Path | None,
    secret_file: Path | None,
    service: ServiceOptions,
) -> None:
    """Serve until told to end."""
    # A service's libraries would slow every other command's start.
    from garrison.errors import GarrisonError, Misuse
    from garrison.service.server import serve as serve_app
    from garrison.service.worker import Hosted
    from garrison.steward.authority import ISSUER_TOKEN, SERVER_KEY, SERVER_PEM, home_of
    from garrison.steward.http import PATHS, application, check_ready, prompt_of
    from garrison.steward.issuance_log import IssuanceLog
    from garrison.steward.keys import read_secret
    from garrison.steward.setup import open_steward

    certificate = service.tls_cert or directory / SERVER_PEM
    secret = read_secret(secret_file, os.environ)

    def reopen() -> tuple[Steward, Drawbridges]:
        return open_steward(directory, policy, certificate, secret)

    if service.workers > 1 and (home_of(directory) / ISSUER_TOKEN).exists():
        # A token's session does not survive the fork that makes a worker.
        raise Misuse("a key in a token has one worker", field="--workers", found=service.workers)
    current = reopen()
    _warn_of_policy(current[0].policy)
    record = None if issuance_log is None else IssuanceLog(issuance_log)

    def renew() -> None:
        nonlocal current
        # Each worker reads them too, and says why where it cannot: then what was stays in force.
        with contextlib.suppress(GarrisonError):
            current = reopen()

    def build() -> Hosted:
        steward, registry = current
        app = application(steward, registry, issuance_log=record)
        return Hosted(
            app,
            ready=lambda: check_ready(app),
            paths=PATHS,
            reload=lambda: _reload(app, reopen),
            prompt=prompt_of(app),
            use_certificate=lambda: _use_certificate(app, certificate),
        )

    key = service.tls_key or directory / SERVER_KEY
    serve_app(build, service.settings("steward", certificate, key), renew)


def _warn_of_policy(policy: Policy) -> None:
    from garrison.steward.openings import openings

    for name in policy.simulated_roots:
        ui.warn(
            f"INSECURE: the policy trusts the simulated TEE vendor {name!r}. Whoever has its keys"
            " can get any certificate. Never use this policy in production."
        )
    _warn_of(openings(policy.tees))


def _warn_of(found: list[str]) -> None:
    for opening in found:
        ui.warn(f"the policy leaves open: {opening}")


def _use_certificate(app: Starlette, certificate: Path) -> None:
    """Serve with the certificate that is there now, if no keep may have its names."""
    from garrison.steward.http import current_steward, replace_steward
    from garrison.steward.setup import with_certificate

    steward, registry = current_steward(app)
    replace_steward(app, with_certificate(steward, certificate), registry)


def _reload(app: Starlette, reopen: Reopen) -> None:
    """Read keys and policy again; what cannot be read leaves the old ones in force."""
    from garrison.errors import GarrisonError
    from garrison.service import log
    from garrison.steward.http import replace_steward

    try:
        renewed, registry = reopen()
    except GarrisonError as error:
        log.record("policy", {"outcome": "refused", "reason": str(error)}, level=logging.ERROR)
        return
    replace_steward(app, renewed, registry)
    log.record("policy", {"outcome": "reloaded"})
    _warn_of_policy(renewed.policy)


@command.group()
def policy() -> None:
    """Check what a steward admits."""


@policy.command(
    epilog="""\b
Examples:
  garrison steward policy check policy.toml
  garrison steward policy check policy.toml evidence.cbor --json
"""
)
@click.argument("policy_file", metavar="POLICY", type=_FILE)
@click.argument("evidence", required=False, type=_PATH)
@click.option(
    "--endorsements",
    type=_PATH,
    multiple=True,
    help="File or directory of the vendor's certificates, revocation lists or collateral; may be"
    " repeated.",
)
@click.option("--collateral", type=_FILE, help="Intel's collateral for a quote, one JSON file.")
@click.option(
    "--trust-anchors",
    type=_FILE,
    help="Keys of CCA platforms to trust: JSON of implementation-id, instance-id, pkey (JWK).",
)
@click.option("--at", metavar="TIME", help="The time to verify at, RFC 3339; now if absent.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def check(
    ctx: click.Context,
    policy_file: Path,
    evidence: Path | None,
    endorsements: tuple[Path, ...],
    collateral: Path | None,
    trust_anchors: Path | None,
    at: str | None,
    as_json: bool,
) -> None:
    """Check that POLICY can be read; with EVIDENCE (a file), whether it would be admitted."""
    from garrison.cli.verify import command as verify
    from garrison.steward.offline import load_policies
    from garrison.steward.openings import openings

    if evidence is not None:
        ctx.invoke(
            verify,
            evidence=evidence,
            policy=policy_file,
            endorsements=endorsements,
            collateral=collateral,
            trust_anchors=trust_anchors,
            at=at,
            as_json=as_json,
        )
        return
    options = {"--at": at, "--collateral": collateral, "--trust-anchors": trust_anchors}
    given = [name for name, value in options.items() if value is not None]
    given += ["--endorsements"] if endorsements else []
    if given:
        from garrison.errors import Misuse

        raise Misuse("given without evidence", field=", ".join(given), expected="both, or neither")
    policies = load_policies(policy_file)[0]
    admitted, left_open = policies.tees(), openings(policies)
    if as_json:
        ui.emit_json({"tees": admitted, "openings": left_open})
    else:
        _warn_of(left_open)
        ui.success(f"{policy_file} is a policy; it speaks of {', '.join(admitted)}")


@policy.command(
    epilog="""\b
Examples:
  garrison steward policy convert steward.toml --trust-domain example.com
  garrison steward policy convert steward.toml --trust-domain example.com \\
      --drawbridge drawbridge.example.com >policy.toml
"""
)
@click.argument("original", metavar="STEWARD_TOML", type=_FILE)
@click.option("--trust-domain", required=True, help="SPIFFE trust domain of the certificates.")
@click.option(
    "--drawbridge",
    "drawbridges",
    multiple=True,
    help="Host whose workloads are certified, and no local ones; may be repeated.",
)
def convert(original: Path, trust_domain: str, drawbridges: tuple[str, ...]) -> None:
    """Print the policy that the original Enarx steward's STEWARD_TOML comes to."""
    from garrison.steward.enarx_policy import convert as to_policy
    from garrison.steward.keys import read_file

    text = to_policy(
        read_file(original), str(original), trust_domain=trust_domain, drawbridges=drawbridges
    )
    ui.out(text.rstrip("\n"))


@policy.command(
    epilog="""\b
Examples:
  garrison steward policy corim vendor.corim
  garrison steward policy corim vendor.corim --json
"""
)
@click.argument("file", metavar="CORIM", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def corim(file: Path, as_json: bool) -> None:
    """Print the reference values in CORIM, an unsigned CoRIM, as lists for a policy.

    Nobody's signature is checked: take it from where you would take the values themselves.
    """
    from garrison.errors import Rejected
    from garrison.formats.corim import Corim
    from garrison.steward.keys import read_file

    document = Corim.from_bytes(read_file(file))
    end, now = document.not_after, datetime.now(UTC)
    if end is not None and end < now:
        raise Rejected(
            "the reference values are out of date",
            field=str(file),
            found=f"good until {end:%FT%TZ}",
            expected=f"good at {now:%FT%TZ}",
        )
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for value in document.values:
        key = (value.vendor, value.model, value.name, value.algorithm)
        groups.setdefault(key, []).append(value.digest.hex())
    if as_json:
        names = ("vendor", "model", "name", "algorithm")
        ui.emit_json(
            [
                dict(zip(names, key, strict=True)) | {"digests": found}
                for key, found in groups.items()
            ]
        )
        return
    for key, found in groups.items():
        ui.out(f"# {', '.join(part for part in key if part)}")
        ui.out("[" + ", ".join(f'"{digest}"' for digest in found) + "]")


@command.group(name="log")
def log_group() -> None:
    """The log of all that a steward issued and refused."""


@log_group.command(
    name="verify",
    epilog="""\b
Examples:
  garrison steward log verify issuance.log
  garrison steward log verify issuance.log --expect-head "$(cat head-of-last-week)"
""",
)
@click.argument("file", type=_FILE)
@click.option(
    "--expect-head",
    metavar="SHA256",
    help="The head that it had before; without it an end that was cut off does not show.",
)
def verify_log(file: Path, expect_head: str | None) -> None:
    """Check the chain of the issuance log FILE, and print its head: keep that elsewhere."""
    from garrison.errors import Misuse
    from garrison.steward.issuance_log import verify

    if expect_head is not None and re.fullmatch(r"[0-9a-f]{64}", expect_head) is None:
        raise Misuse(
            "not a head", field="--expect-head", found=expect_head[:100], expected="64 hex digits"
        )
    end = verify(file, expected_head=expect_head)
    ui.success(f"{file}: {end.lines} lines, unbroken")
    ui.out(end.head)

"""`garrison steward`: make an attestation service, and run it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from garrison.cli import ui

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def command() -> None:
    """The attestation service: certificates for keeps that prove what they are."""


@command.command(
    epilog="""\b
Example:
  garrison steward init /var/lib/steward --trust-domain example.com --host steward.example.com

\b
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
def init(directory: Path, trust_domain: str, hosts: tuple[str, ...]) -> None:
    """Make the keys of a steward in DIR, which must not exist yet."""
    from garrison.steward.authority import ROOT_PEM, create

    create(directory, trust_domain=trust_domain, hosts=hosts, now=datetime.now(UTC))
    ui.success(f"made a steward for {trust_domain}; its root is {directory / ROOT_PEM}")


@command.command(
    epilog="""\b
Examples:
  garrison steward serve --dir /var/lib/steward --policy policy.toml --host ::
  garrison steward serve --dir ./steward --policy policy.toml --port 0 --json

\b
When it is ready it says where it listens, one line on standard output. Each decision is a line
of JSON on standard error. SIGTERM ends it gracefully.
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
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; :: for all."
)
@click.option(
    "--port",
    default=3000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one.",
)
@click.option("--tls-cert", type=_FILE, help="TLS chain, PEM, instead of DIR's own.")
@click.option("--tls-key", type=_FILE, help="Private key of --tls-cert, PEM.")
@click.option("--json", "as_json", is_flag=True, help="Say where it listens in JSON.")
def serve(
    directory: Path,
    policy: Path,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    as_json: bool,
) -> None:
    """Serve until told to end."""
    # A service's libraries would slow every other command's start.
    from garrison.errors import Misuse
    from garrison.service.server import serve as serve_app
    from garrison.steward.authority import SERVER_KEY, SERVER_PEM
    from garrison.steward.http import application
    from garrison.steward.setup import open_steward

    if (tls_cert is None) != (tls_key is None):
        raise Misuse(
            "given without the other", field="--tls-cert, --tls-key", expected="both, or neither"
        )
    steward, registry = open_steward(directory, policy)
    for name in steward.policy.snp.simulated_roots:
        ui.warn(
            f"INSECURE: the policy trusts the simulated TEE vendor {name!r}. Whoever has its keys"
            " can get any certificate. Never use this policy in production."
        )
    serve_app(
        application(steward, registry),
        name="steward",
        host=host,
        port=port,
        certificate=tls_cert or directory / SERVER_PEM,
        key=tls_key or directory / SERVER_KEY,
        client_ca=None,
        json_output=as_json,
    )

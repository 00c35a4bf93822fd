"""`garrison deploy`: run a published workload in an attested keep."""

from __future__ import annotations

from pathlib import Path

import click

from garrison.cli.options import attester_spec, identity_options, read_pem, steward_roots
from garrison.errors import Misuse
from garrison.formats.deployment_policy import DeploymentPolicy
from garrison.formats.launch_request import LaunchRequest
from garrison.formats.slug import Slug
from garrison.launch.process import run_process

_EPILOG = """\b
The keep makes a key, attests to the steward, fetches the workload with the certificate that
it gets, and runs it. Standard streams are the workload's; the keep logs to standard error.
The exit code is the workload's; see docs/reference/exit-codes.md for the others.

\b
Example:
  garrison deploy --steward https://steward.example.com --steward-root root.pem \\
      drawbridge.example.com/jane/chat-server:0.1.0
"""


@click.command(epilog=_EPILOG)
@identity_options
@click.option(
    "--ca-bundle",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar=["GARRISON_CA_BUNDLE", "ENARX_CA_BUNDLE"],
    help="PEM file with the CAs of the drawbridge's TLS; default: the web's roots.",
)
@click.option(
    "--policy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file that narrows the workload's network for this deployment; what it does not"
    " name is denied. Its digest stands in the keep's certificate.",
)
@click.argument("package", metavar="SLUG")
def command(
    package: str,
    backend: str,
    steward: str | None,
    steward_root: Path | None,
    insecure_simulate: str | None,
    ca_bundle: Path | None,
    policy: Path | None,
) -> int:
    """Run the workload SLUG (host[:port]/user/repo:tag, or its URL) in an attested keep."""
    request = LaunchRequest(
        slug=str(slug_of(package)),
        steward=steward,
        steward_roots=steward_roots(steward, steward_root),
        registry_ca=None if ca_bundle is None else read_pem(ca_bundle, "--ca-bundle"),
        attester=attester_spec(backend, insecure_simulate),
        policy=None if policy is None else _policy(policy),
    )
    return run_process(request)


def _policy(path: Path) -> str:
    """The tenant's policy, read here so that its author sees what is wrong with it.

    Raises:
        Malformed: it cannot be read.
    """
    data = path.read_bytes()
    DeploymentPolicy.from_bytes(data, source=str(path))
    return data.decode()


def slug_of(package: str) -> Slug:
    """Read a slug, or the URL of a tag as the original writes it.

    Raises:
        Misuse: it is a URL of another kind.
        Malformed: it is not a slug.
    """
    if "://" not in package:
        return Slug.parse(package)
    # https://HOST/api/vN.N.N/USER/REPO/_tag/TAG
    parts = package.removeprefix("https://").split("/")
    if (
        not package.startswith("https://")
        or len(parts) != 7
        or parts[1] != "api"
        or parts[5] != "_tag"
    ):
        raise Misuse(
            "not the URL of a tag",
            field="SLUG",
            found=repr(package[:300]),
            expected="https://HOST/api/vN.N.N/USER/REPO/_tag/TAG",
            hint="for a local workload use `garrison run`",
        )
    return Slug(parts[0], parts[3], parts[4], parts[6])

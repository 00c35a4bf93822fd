"""What the commands that speak with a drawbridge share: options, and the client they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from garrison.cli.credentials import load_token
from garrison.cli.options import read_pem
from garrison.formats.oci_name import OciName

if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.drawbridge.client import Client, Fetched
    from garrison.drawbridge.oci import OciClient
    from garrison.formats.oci_name import Name

F = TypeVar("F", bound="Callable[..., Any]")


def registry_options(function: F) -> F:
    """`--ca-bundle` and `--insecure-auth-token`."""
    for option in (
        click.option(
            "--insecure-auth-token",
            metavar="TOKEN",
            envvar=["GARRISON_INSECURE_AUTH_TOKEN", "ENARX_INSECURE_AUTH_TOKEN"],
            help="Bearer token to use instead of the stored one. Insecure: other processes can"
            " see it.",
        ),
        click.option(
            "--ca-bundle",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            envvar=["GARRISON_CA_BUNDLE", "ENARX_CA_BUNDLE"],
            help="PEM file with the CAs of the drawbridge's TLS; default: the web's roots.",
        ),
    ):
        function = option(function)
    return function


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def fetch_package(
    name: Name,
    ca_bundle: Path | None,
    insecure_auth_token: str | None,
    progress: Callable[[int], None] = lambda _count: None,
    expect: Callable[[int], None] = lambda _total: None,
) -> Fetched:
    """Fetch a workload from the drawbridge or OCI registry of its name, every byte checked."""
    if isinstance(name, OciName):
        return open_oci_client(name, ca_bundle).fetch(name, progress, expect)
    return open_client(name.host, ca_bundle, insecure_auth_token).fetch(name, progress, expect)


def open_oci_client(name: OciName, ca_bundle: Path | None) -> OciClient:
    """A client of the OCI registry of `name`, with the user's login if docker has one."""
    from garrison.drawbridge.oci import OciClient
    from garrison.drawbridge.oci_auth import docker_login

    ca_pem = None if ca_bundle is None else read_pem(ca_bundle, "--ca-bundle")
    return OciClient(name.host, ca_pem=ca_pem, login=docker_login(name.host))


def open_client(host: str, ca_bundle: Path | None, insecure_auth_token: str | None) -> Client:
    """A client of the drawbridge `host`, with the user's token if there is one."""
    return _client(host, ca_bundle, insecure_auth_token or load_token(host))


def open_anonymously(host: str, ca_bundle: Path | None) -> Client:
    """A client of the drawbridge `host` that sees what everybody does."""
    return _client(host, ca_bundle, None)


def _client(host: str, ca_bundle: Path | None, token: str | None) -> Client:
    # Late: `--help` should not wait for it.
    from garrison.drawbridge.client import Client

    ca_pem = None if ca_bundle is None else read_pem(ca_bundle, "--ca-bundle")
    return Client(host, ca_pem=ca_pem, token=token)

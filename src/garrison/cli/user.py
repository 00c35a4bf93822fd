"""`garrison user`: register, log in and out, inspect."""

from __future__ import annotations

import json
import os
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from garrison.cli import ui
from garrison.cli.credentials import Helper, load_token, store_token
from garrison.cli.options import read_file, read_pem
from garrison.cli.registry import json_option, open_client, registry_options
from garrison.errors import Malformed, Misuse
from garrison.formats.slug import check_host, check_user
from garrison.terminal import plain

if TYPE_CHECKING:
    from garrison.drawbridge.login import DeviceCode

_SECRETS = ("GARRISON_OIDC_CLIENT_SECRET", "ENARX_OIDC_CLIENT_SECRET")
# Of a file: issuers' secrets have tens of bytes, and a signed one some thousand.
_MAX_SECRET = 4096


@click.group()
def command() -> None:
    """Register, log in, and inspect users."""


@command.command(
    epilog="""\b
People log in with a browser: the command shows an address and a code. Machines give the secret of
a client, and nobody is asked: it comes from the variable GARRISON_OIDC_CLIENT_SECRET, or from the
file of --oidc-secret-file, never from the command line, which other processes can see.

\b
Examples:
  garrison user login --oidc-domain https://auth.example.com/ --oidc-client-id garrison \\
      drawbridge.example.com
  garrison user login --oidc-domain https://auth.example.com/ --oidc-client-id builder \\
      --oidc-secret-file secret drawbridge.example.com
"""
)
@click.option(
    "--oidc-domain",
    required=True,
    metavar="URL",
    envvar=["GARRISON_OIDC_DOMAIN", "ENARX_OIDC_DOMAIN"],
    help="The OpenID Connect issuer.",
)
@click.option("--oidc-client-id", required=True, help="Who logs in, as the issuer knows it.")
@click.option(
    "--oidc-secret-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the client's secret; without one, log in with a browser.",
)
@click.option(
    "--ca-bundle",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar=["GARRISON_CA_BUNDLE", "ENARX_CA_BUNDLE"],
    help="PEM file with the CAs of the issuer's TLS; default: the web's roots.",
)
@click.option(
    "--credential-helper",
    metavar="PROGRAM",
    envvar=["GARRISON_CREDENTIAL_HELPER", "ENARX_CREDENTIAL_HELPER"],
    help="Program that keeps the token: `PROGRAM insert ID` reads it, `PROGRAM show ID` prints it."
    " Default: the system's keyring or, where there is none, a file of mode 0600.",
)
@click.argument("host")
def login(
    oidc_domain: str,
    oidc_client_id: str,
    oidc_secret_file: Path | None,
    ca_bundle: Path | None,
    credential_helper: str | None,
    host: str,
) -> None:
    """Log in at the drawbridge HOST (host[:port]): with a browser, or with a client's secret."""
    from garrison.drawbridge.login import client_credentials, device_flow

    check_host(host, field="HOST")
    audience = f"https://{host}/"
    ca_pem = None if ca_bundle is None else read_pem(ca_bundle, "--ca-bundle")
    secret = _secret(oidc_secret_file)
    if secret is None:
        token = device_flow(
            oidc_domain, client_id=oidc_client_id, audience=audience, ca_pem=ca_pem, show=_show
        )
    else:
        token = client_credentials(
            oidc_domain, client_id=oidc_client_id, secret=secret, audience=audience, ca_pem=ca_pem
        )
    # One that names nobody is no token for a drawbridge, and is not kept.
    subject = subject_of(token)
    helper = None
    if credential_helper is not None:
        # The original's name for a token.
        helper = Helper(credential_helper, f"{urlsplit(oidc_domain).hostname}-{host}")
    where = store_token(host, token, helper)
    ui.success(f"logged in at {host} as {plain(subject)}; the token is in {where}")


def _show(code: DeviceCode) -> None:
    ui.note(f"open {plain(code.address)} and type the code {plain(code.user_code)}")
    if code.complete is not None:
        ui.note(f"or open {plain(code.complete)}")


def _secret(path: Path | None) -> str | None:
    if path is not None:
        try:
            secret = read_file(path, _MAX_SECRET).decode().strip()
        except UnicodeDecodeError:
            secret = ""
        if not secret:
            # What it is instead may be one.
            raise Malformed("holds no secret", field="--oidc-secret-file", expected="text in UTF-8")
        return secret
    for name in _SECRETS:
        if os.environ.get(name):
            return os.environ[name]
    return None


@command.command()
@click.argument("host")
def logout(host: str) -> None:
    """Forget the token for the drawbridge HOST."""
    store_token(check_host(host, field="HOST"), None)
    ui.success(f"logged out of {host}")


@command.command()
@registry_options
@click.argument("user", metavar="USER")
def register(user: str, ca_bundle: Path | None, insecure_auth_token: str | None) -> None:
    """Register USER (host[:port]/name) for whom the stored token is."""
    host, name = _host_and_name(user)
    token = insecure_auth_token or load_token(host)
    if token is None:
        raise Misuse("not logged in", field=host, hint=f"garrison user login ... {host}")
    client = open_client(host, ca_bundle, token)
    client.register_user(name, subject_of(token))
    ui.success(f"registered {host}/{name}")


@command.command()
@registry_options
@json_option
@click.argument("user", metavar="USER")
def info(user: str, ca_bundle: Path | None, insecure_auth_token: str | None, as_json: bool) -> None:
    """Show the record of USER (host[:port]/name)."""
    host, name = _host_and_name(user)
    client = open_client(host, ca_bundle, insecure_auth_token)
    record, repositories = client.user(name), client.repositories(name)
    if as_json:
        ui.emit_json({**record, "repositories": repositories})
        return
    ui.out(f"{host}/{name}: subject {plain(record.get('subject'))}")
    for repository in repositories:
        ui.out(f"  {host}/{name}/{plain(repository)}")


def _host_and_name(user: str) -> tuple[str, str]:
    host, slash, name = user.partition("/")
    if not slash:
        raise Malformed("not a user", field="USER", found=repr(user[:300]), expected="host/name")
    return check_host(host), check_user(name)


def subject_of(token: str) -> str:
    """Whom a token names. It is not verified: the drawbridge does that.

    Raises:
        Malformed: it is not a JSON Web Token with a subject.
    """
    parts = token.split(".")
    try:
        claims = json.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        subject = claims["sub"]
    except (IndexError, ValueError, KeyError, TypeError):
        subject = None
    if not isinstance(subject, str):
        raise Malformed("not a token with a subject", field="token")
    return subject

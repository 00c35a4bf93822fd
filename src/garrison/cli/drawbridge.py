"""`garrison drawbridge`: run the registry of workloads, check its store, and tidy it up."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from garrison.cli import ui
from garrison.cli.service_options import service_options
from garrison.terminal import plain

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.routing import Route

    from garrison.cli.service_options import ServiceOptions
    from garrison.drawbridge.store import Store

T = TypeVar("T")

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
# Below the directory of a local store; beside it stand files that are no part of the store.
OBJECTS = "objects"


@click.group()
def command() -> None:
    """The registry of workloads: content-addressed trees under tags that never change."""


@command.command(
    epilog="""\b
Examples:
  garrison drawbridge serve --store ./drawbridge --insecure-dev
  garrison drawbridge serve --store /var/lib/drawbridge --host :: --port 443 \\
      --tls-cert server.pem --tls-key server.key --client-ca steward-root.pem \\
      --oidc-issuer https://auth.example.com/ --oidc-audience https://drawbridge.example.com/

\b
When it is ready it says where it listens, one line on standard output. Each request is a line
of JSON on standard error. SIGTERM ends it gracefully; SIGHUP reads the TLS files again.
"""
)
@click.option(
    "--store",
    required=True,
    metavar="DIR|URL",
    help="Where everything is kept: a directory, or s3://, gs:// or az://, with credentials from"
    " the environment. Any number of drawbridges may share one.",
)
@click.option(
    "--client-ca",
    type=_FILE,
    help="PEM file with the roots of stewards. Keeps that they certify read the private"
    " repositories that admit them.",
)
@click.option(
    "--steward-id",
    "steward_ids",
    multiple=True,
    metavar="SPIFFE-ID",
    help="A steward that may look up the digests of private tags, spiffe://<domain>/steward; may"
    " be repeated. Default: every steward under --client-ca.",
)
@click.option("--oidc-issuer", metavar="URL", help="OpenID Connect issuer of users' tokens.")
@click.option("--oidc-audience", metavar="TEXT", help="The audience of tokens for this drawbridge.")
@click.option("--oidc-ca", type=_FILE, help="CAs of the issuer's TLS; default: the web's roots.")
@click.option(
    "--insecure-oidc-http",
    is_flag=True,
    help="Development only: ask the issuer over plain HTTP, where whoever is on the way can make"
    " tokens.",
)
@click.option(
    "--insecure-dev",
    is_flag=True,
    help="Development only: a built-in issuer, where one secret in DIR logs in as anybody, and a"
    " TLS authority of its own, DIR/tls/ca.pem.",
)
@click.option(
    "--max-blob-bytes",
    default=100_000_000,
    show_default=True,
    type=click.IntRange(1, 100_000_000),
    help="Bytes of a file; more are answered 413.",
)
@click.option(
    "--max-meta-bytes",
    default=1_000_000,
    show_default=True,
    type=click.IntRange(1024, 1_000_000),
    help="Bytes of a directory, a tag or a record; more are answered 413.",
)
@service_options(8080)
def serve(
    store: str,
    client_ca: Path | None,
    steward_ids: tuple[str, ...],
    oidc_issuer: str | None,
    oidc_audience: str | None,
    oidc_ca: Path | None,
    insecure_oidc_http: bool,
    insecure_dev: bool,
    max_blob_bytes: int,
    max_meta_bytes: int,
    service: ServiceOptions,
) -> None:
    """Serve until told to end."""
    # A service's libraries would slow every other command's start.
    from garrison.disk import make_folder
    from garrison.drawbridge import insecure_dev as dev
    from garrison.drawbridge.http import application
    from garrison.drawbridge.issuer import open_verifier
    from garrison.drawbridge.store import Store
    from garrison.errors import Misuse
    from garrison.service.server import serve as serve_app
    from garrison.service.worker import Hosted

    tls_cert, tls_key = service.tls_cert, service.tls_key
    if steward_ids and client_ca is None:
        raise Misuse("has no use without --client-ca", field="--steward-id")
    local = None if "://" in store else Path(store)
    routes: list[Route] = []
    if insecure_dev:
        if oidc_issuer or oidc_audience or oidc_ca or insecure_oidc_http:
            raise Misuse("contradicts --insecure-dev", field="--oidc-issuer, --oidc-audience")
        if local is None:
            raise Misuse("needs a directory", field="--insecure-dev", found=store)
        make_folder(local)
        secret = dev.prepare(local, host=service.host, now=datetime.now(UTC))
        ui.warn(
            "INSECURE: --insecure-dev lets whoever can read"
            f" {local / dev.SECRET} log in as anybody. Never use it in production."
        )
        issuer = dev.InsecureIssuer(secret, local / dev.DEVICES)
        verifier, routes = issuer.verifier(), [*issuer.routes()]
        if tls_cert is None:
            tls_cert, tls_key = local / dev.SERVER_PEM, local / dev.SERVER_KEY
    elif oidc_issuer is None or oidc_audience is None:
        raise Misuse(
            "missing",
            field="--oidc-issuer, --oidc-audience",
            expected="the issuer of users' tokens, and this drawbridge's audience there",
            hint="to try it on your own machine, give --insecure-dev",
        )
    else:
        if insecure_oidc_http:
            ui.warn("INSECURE: --insecure-oidc-http trusts whoever answers for the issuer.")
        verifier = open_verifier(
            oidc_issuer, oidc_audience, oidc_ca, insecure_http=insecure_oidc_http
        )
    if tls_cert is None or tls_key is None:
        raise Misuse(
            "missing", field="--tls-cert, --tls-key", expected="the chain and key of this host"
        )

    def build() -> Hosted:
        opened = Store.open(store if local is None else local / OBJECTS)
        app = application(
            opened,
            verifier,
            steward_ids=frozenset(steward_ids),
            routes=routes,
            max_blob=max_blob_bytes,
            max_meta=max_meta_bytes,
        )
        return Hosted(app, ready=opened.check, paths=["/health"], known=app.known)

    serve_app(build, service.settings("drawbridge", tls_cert, tls_key, client_ca))


_store_option = click.option(
    "--store",
    required=True,
    metavar="DIR|URL",
    help="Where everything is kept, as given to `serve`.",
)


@command.command(
    epilog="""\b
It changes nothing, and may run while drawbridges serve the store. It ends with 0 if all is well,
and with 76 if something is not.

\b
Example:
  garrison drawbridge fsck --store /var/lib/drawbridge
"""
)
@_store_option
@click.option("--json", "as_json", is_flag=True, help="Print the report in JSON.")
def fsck(store: str, as_json: bool) -> None:
    """Check every byte, name and reference in the store, and name what is wrong."""
    from garrison.drawbridge.fsck import check
    from garrison.errors import Unverified

    with ui.progress(f"checking {store}", None) as advance:
        report = _run(check(_open_existing(store), advance), store)
    if as_json:
        ui.emit_json(asdict(report))
    else:
        ui.out(f"users         {report.users}")
        ui.out(f"repositories  {report.repositories}")
        ui.out(f"tags          {report.tags}, {len(report.incomplete)} of them incomplete")
        ui.out(f"nodes         {report.nodes}")
        ui.out(f"contents      {report.contents}, {report.content_bytes} bytes")
        ui.out(f"unnamed       {report.unnamed}")
        ui.out(f"wrong         {len(report.findings)}")
        width = max((len(plain(finding.key)) for finding in report.findings), default=0)
        for finding in report.findings:
            ui.out(f"  {plain(finding.key):{width}}  {plain(finding.problem)}")
    if report.findings:
        raise Unverified(
            "is damaged",
            field=f"store {store}",
            found=f"{len(report.findings)} findings",
            expected="none",
            hint="publishing the same content again mends content that is damaged or missing",
        )


@command.command(
    epilog="""\b
Content that no name stands for is put aside by one run, and erased by a later one, when the grace
period is over: run it daily. It may run while drawbridges serve the store.

\b
Example:
  garrison drawbridge gc --store s3://bucket/drawbridge
"""
)
@_store_option
@click.option(
    "--grace-hours",
    default=24,
    show_default=True,
    type=click.IntRange(1, 24 * 365),
    help="How old content must be before it is put aside, and how long it stays there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done in JSON.")
def gc(store: str, grace_hours: int, as_json: bool) -> None:
    """Remove content that no name stands for."""
    from garrison.drawbridge.gc import collect

    done = _run(collect(_open_existing(store), timedelta(hours=grace_hours)), store)
    if as_json:
        ui.emit_json(asdict(done))
        return
    ui.out(f"put aside  {done.put_aside}")
    ui.out(f"erased     {done.erased}, {done.erased_bytes} bytes")
    ui.out(f"put back   {done.put_back}")
    ui.out(f"waiting    {done.waiting}")
    ui.out(f"leftovers  {done.leftovers}")


def _run(work: Coroutine[Any, Any, T], location: str) -> T:
    """Do `work` with the store at `location`; why it fails is told, other than to clients."""
    from garrison.drawbridge.named import StorageFailure
    from garrison.drawbridge.tokens import describe
    from garrison.errors import Unavailable

    try:
        return asyncio.run(work)
    except StorageFailure as error:
        raise Unavailable("fails", field=f"store {location}", found=describe(error)) from error


def _open_existing(location: str) -> Store:
    """Open the store that `serve` uses at `location`."""
    from garrison.drawbridge.store import Store
    from garrison.errors import Misuse

    if "://" in location:
        return Store.open(location)
    # An empty one would be made, and found to be in good order.
    if not (Path(location) / OBJECTS).is_dir():
        raise Misuse("not a drawbridge's directory", field="--store", found=location)
    return Store.open(Path(location) / OBJECTS)

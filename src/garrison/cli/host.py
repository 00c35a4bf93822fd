"""`garrison host`: run keeps for tenants, and look after one's own on another's host."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from garrison.cli import ui
from garrison.cli.credentials import load_token
from garrison.cli.options import read_pem
from garrison.cli.registry import json_option
from garrison.cli.service_options import service_options
from garrison.host.spec import BACKENDS, MACHINES
from garrison.terminal import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.cli.service_options import ServiceOptions
    from garrison.host.agent import Offer
    from garrison.host.cgroups import Cgroups
    from garrison.host.client import HostClient
    from garrison.host.quota import Quota
    from garrison.host.spec import Backend

F = TypeVar("F", bound="Callable[..., Any]")

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
# Whole, for a keep's keeper is elsewhere, and is known again by its name.
_DIRECTORY = click.Path(file_okay=False, resolve_path=True, path_type=Path)
_DRAIN_SECONDS = 60.0
_LONGEST_REQUEST = 24 * 3600.0


@click.group()
def command() -> None:
    """Run keeps for tenants; look after one's own on another's host."""


@command.command(
    epilog="""\b
Examples:
  garrison host serve --dir ./host --insecure-dev
  garrison host serve --dir /var/lib/garrison --host :: --port 443 --tenant jane \\
      --tls-cert server.pem --tls-key server.key \\
      --oidc-issuer https://auth.example.com/ --oidc-audience https://host.example.com/

\b
When it is ready it says where it listens, one line on standard output. SIGTERM ends it; the keeps
go on, and the next agent of the same directory finds them. docs/how-to/run-a-host.md has more.
"""
)
@click.option(
    "--dir", "directory", required=True, type=_DIRECTORY, help="Where its keeps are written down."
)
@click.option("--oidc-issuer", metavar="URL", help="OpenID Connect issuer of tenants' tokens.")
@click.option("--oidc-audience", metavar="TEXT", help="The audience of tokens for this host.")
@click.option("--oidc-ca", type=_FILE, help="CAs of the issuer's TLS; default: the web's roots.")
@click.option(
    "--tenant",
    "tenants",
    multiple=True,
    metavar="SUBJECT",
    help="Who may use the host, as their tokens say; may be repeated. `any`: whoever has a token.",
)
@click.option(
    "--max-keeps",
    default=16,
    show_default=True,
    type=click.IntRange(1),
    help="Keeps that one tenant may have at a time.",
)
@click.option(
    "--max-memory-mib",
    type=click.IntRange(64),
    help="Memory of all keeps of one tenant together; each then has to say what it wants.",
)
@click.option(
    "--max-disk-mib",
    type=click.IntRange(16),
    help="Disk of all keeps of one tenant together: logs, also of keeps that have ended. Default:"
    " 22 for each of --max-keeps.",
)
@click.option(
    "--max-cpus",
    type=click.FloatRange(0.01),
    help="Processors of all keeps of one tenant together, such as 1.5; takes --cgroup.",
)
@click.option(
    "--max-tasks",
    type=click.IntRange(16),
    help="Processes and threads of all keeps of one tenant together; takes --cgroup.",
)
@click.option(
    "--cgroup",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The cgroup (version 2) to divide among tenants; default: that of the agent itself, as"
    " systemd's Delegate= gives it. With --max-cpus or --max-tasks alone.",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(BACKENDS),
    default=("nil", "cvm"),
    show_default=True,
    help="Where keeps may run; may be repeated. kvm, snp and tdx take an image.",
)
@click.option(
    "--image",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="GARRISON_IMAGE",
    help="The folder of the keep image that machines boot (`garrison image build`).",
)
@click.option(
    "--insecure-simulate",
    metavar="TEE=DIR",
    help="With --insecure-dev: the simulator whose keys answer for a TEE in a kvm machine.",
)
@click.option(
    "--insecure-dev",
    is_flag=True,
    help="Development only: a built-in issuer, where one secret in DIR logs in as anybody, a TLS"
    " authority of its own, DIR/tls/ca.pem, and keeps that simulate a TEE.",
)
@service_options(8444)
def serve(
    directory: Path,
    oidc_issuer: str | None,
    oidc_audience: str | None,
    oidc_ca: Path | None,
    tenants: tuple[str, ...],
    max_keeps: int,
    max_memory_mib: int | None,
    max_disk_mib: int | None,
    max_cpus: float | None,
    max_tasks: int | None,
    cgroup: Path | None,
    backends: tuple[Backend, ...],
    image: Path | None,
    insecure_simulate: str | None,
    insecure_dev: bool,
    service: ServiceOptions,
) -> None:
    """Serve tenants until told to end."""
    # A service's libraries would slow every other command's start.
    from garrison.disk import make_folder
    from garrison.drawbridge import insecure_dev as dev
    from garrison.drawbridge.issuer import open_verifier
    from garrison.errors import Misuse
    from garrison.host.agent import Agent, application
    from garrison.host.quota import Quota
    from garrison.service.server import serve as serve_app
    from garrison.service.worker import Hosted

    if not tenants:
        raise Misuse(
            "missing",
            field="--tenant",
            expected="who may use this host",
            hint="`--tenant any` admits whoever has a token for it",
        )
    offer = _offer(backends, image, insecure_simulate, insecure_dev=insecure_dev)
    quota = Quota(max_keeps, max_memory_mib, max_disk_mib, max_cpus, max_tasks)
    cgroups = _cgroups(quota, cgroup)
    make_folder(directory)
    issuer = None
    tls_cert, tls_key = service.tls_cert, service.tls_key
    if insecure_dev:
        secret = dev.prepare(directory, host=service.host, now=datetime.now(UTC))
        ui.warn(
            "INSECURE: --insecure-dev lets whoever can read"
            f" {directory / dev.SECRET} log in as anybody. Never use it in production."
        )
        issuer = dev.InsecureIssuer(secret)
        verifier = issuer.verifier()
        if tls_cert is None:
            tls_cert, tls_key = directory / dev.SERVER_PEM, directory / dev.SERVER_KEY
    elif oidc_issuer is None or oidc_audience is None:
        raise Misuse(
            "missing",
            field="--oidc-issuer, --oidc-audience",
            expected="the issuer of tenants' tokens, and this host's audience there",
            hint="to try it on your own machine, give --insecure-dev",
        )
    else:
        verifier = open_verifier(oidc_issuer, oidc_audience, oidc_ca)
    if tls_cert is None or tls_key is None:
        raise Misuse(
            "missing", field="--tls-cert, --tls-key", expected="the chain and key of this host"
        )
    # A log that is followed has no end, nor has a terminal that is attached.
    service.limits["request_seconds"] = max(service.limits["request_seconds"], _LONGEST_REQUEST)
    agent = Agent(directory, quota, offer, cgroups)
    agent.bound()
    if revived := agent.revive():
        ui.warn(f"started again, after this machine's end: {len(revived)} keeps")
    app = application(
        agent,
        verifier,
        None if "any" in tenants else frozenset(tenants),
        routes=[] if issuer is None else issuer.routes(),
    )
    serve_app(lambda: Hosted(app), service.settings("host", tls_cert, tls_key))


def _cgroups(quota: Quota, directory: Path | None) -> Cgroups | None:
    """What holds tenants to what the agent cannot.

    Raises:
        Misuse: it cannot be had.
    """
    from garrison.errors import Misuse
    from garrison.host.cgroups import Cgroups, own_cgroup

    bounds = quota.bounds()
    if bounds is not None:
        return Cgroups(directory or own_cgroup(), bounds)
    if directory is not None:
        raise Misuse("bounds nothing", field="--cgroup", expected="--max-cpus, --max-tasks")
    return None


def _offer(
    backends: tuple[Backend, ...],
    image: Path | None,
    insecure_simulate: str | None,
    *,
    insecure_dev: bool,
) -> Offer:
    """Where keeps may run.

    Raises:
        Misuse: a machine without an image, or a simulator without `--insecure-dev`.
    """
    from garrison.attesters.simulated_insecure import parse_simulator
    from garrison.errors import Misuse
    from garrison.host.agent import Offer

    machines = sorted(set(backends) & set(MACHINES))
    if machines and image is None:
        raise Misuse(
            "missing", field="--image", expected=f"an image for --backend {machines[0]}",
            hint="build it, once: garrison image build",
        )  # fmt: skip
    if insecure_simulate is None:
        keys = None
    elif insecure_dev:
        keys = Path(parse_simulator(insecure_simulate, "--insecure-simulate")[1]).resolve()
    else:
        raise Misuse("is for development", field="--insecure-simulate", expected="--insecure-dev")
    folder = None if image is None or not machines else image.resolve()
    return Offer(frozenset(backends), folder, insecure_dev, keys)


@command.command()
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
def drain(directory: Path) -> None:
    """On the host: take no new keeps, end all that run, and wait for them.

    DIR is the agent's. Remove the file `draining` in it to take keeps again.
    """
    from garrison.disk import flush
    from garrison.errors import Misuse, Unavailable
    from garrison.host.agent import DRAINING
    from garrison.host.record import Records

    if not (directory / "keeps").is_dir():
        raise Misuse("not an agent's directory", field="DIR", found=directory)
    (directory / DRAINING).touch(mode=0o600)
    flush(directory)
    deadline = time.monotonic() + _DRAIN_SECONDS
    told: set[str] = set()
    while True:
        running = [(r, s) for r in Records(directory) if (s := r.state()).phase != "ended"]
        if not running:
            break
        if time.monotonic() > deadline:
            raise Unavailable(f"{len(running)} keeps do not end", field=str(directory))
        for record, state in running:
            if record.id not in told and state.shim:
                # It may end by itself in this moment.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(state.shim, signal.SIGTERM)
                told.add(record.id)
        time.sleep(0.2)
    ui.success(f"ended {len(told)} keeps; {directory / DRAINING} keeps new ones out")


def host_options(function: F) -> F:
    """`--host` and `--host-ca`."""
    for option in (
        click.option(
            "--host-ca",
            type=_FILE,
            envvar="GARRISON_HOST_CA",
            help="PEM file with the CAs of the agent's TLS; default: the web's roots.",
        ),
        click.option(
            "--host",
            "url",
            required=True,
            metavar="URL",
            envvar="GARRISON_HOST",
            help="The host's agent, https://HOST[:PORT].",
        ),
    ):
        function = option(function)
    return function


def open_host(url: str, host_ca: Path | None) -> HostClient:
    """A client of the agent at `url`, with the tenant's token."""
    from garrison.host.client import HostClient

    ca_pem = None if host_ca is None else read_pem(host_ca, "--host-ca")
    return HostClient(url, ca_pem=ca_pem, token=load_token(url.partition("://")[2].rstrip("/")))


@command.command()
@host_options
@json_option
def ps(url: str, host_ca: Path | None, as_json: bool) -> None:
    """List one's keeps on a host, as the host tells of them."""
    keeps = open_host(url, host_ca).keeps()
    if as_json:
        ui.emit_json(keeps)
        return
    for keep in keeps:
        code = keep.get("exit_code")
        ended = "" if code is None else f" ({code})"
        ui.out(
            f"{plain(keep.get('id'))}  {plain(keep.get('phase')):8}{ended:6}"
            f"  {plain(keep.get('slug'))}"
        )


@command.command()
@host_options
@click.argument("keep")
def inspect(url: str, host_ca: Path | None, keep: str) -> None:
    """Show all that a host tells of KEEP, as JSON."""
    ui.emit_json(open_host(url, host_ca).keep(keep))


@command.command()
@host_options
@click.option("-f", "--follow", is_flag=True, help="Go on until the keep ends.")
@click.option("--json", "as_json", is_flag=True, help="Print each line with its time and stream.")
@click.argument("keep")
def logs(url: str, host_ca: Path | None, follow: bool, as_json: bool, keep: str) -> None:
    """Print what KEEP printed."""
    import json

    for line in open_host(url, host_ca).log(keep, follow=follow):
        if as_json:
            print(json.dumps(line), flush=True)
        else:
            print(plain(line["text"]), flush=True)


@command.command()
@host_options
@click.argument("keep")
def attach(url: str, host_ca: Path | None, keep: str) -> None:
    """Connect the terminal to KEEP: its input from here, and its output to here.

    Ctrl-C detaches; the keep goes on. The host sees all of it.
    """
    import sys

    open_host(url, host_ca).attach(keep, sys.stdin.fileno(), sys.stdout.fileno())


@command.command()
@host_options
@click.argument("keep")
def stop(url: str, host_ca: Path | None, keep: str) -> None:
    """End KEEP; once it has ended, forget it."""
    client = open_host(url, host_ca)
    ended = client.keep(keep).get("phase") == "ended"
    client.end(keep)
    ui.success(f"{'forgot' if ended else 'ended'} {keep}")

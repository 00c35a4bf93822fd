"""`garrison deploy`: run a published workload in an attested keep."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import click

from garrison.cli.machine_options import MACHINES, Machine, machine_options, run_in_machine
from garrison.cli.options import attester_spec, identity_options, read_pem, steward_roots
from garrison.errors import Misuse
from garrison.formats.deployment_policy import DeploymentPolicy
from garrison.formats.digest import digest_text, parse_digest
from garrison.formats.launch_request import LaunchRequest
from garrison.formats.oci_name import SCHEME, Name, parse_name
from garrison.formats.slug import Slug
from garrison.host.spec import BACKENDS as HOST_BACKENDS
from garrison.host.spec import MACHINES as HOST_MACHINES
from garrison.host.spec import RESTARTS, Restart
from garrison.launch.process import run_process

_EPILOG = """\b
The keep makes a key, attests to the steward, fetches the workload with the certificate that
it gets, and runs it. Standard streams are the workload's; the keep logs to standard error.
The exit code is the workload's; see docs/reference/exit-codes.md for the others.

\b
Example:
  garrison deploy --steward https://steward.example.com --steward-root root.pem \\
      drawbridge.example.com/jane/chat-server:0.1.0

\b
With --host the keep runs on another's machine, and goes on when this command ends. It says
`running` once the keep itself has shown, over TLS, a certificate of the steward for exactly this
workload. See also `garrison host`.
"""


@click.command(epilog=_EPILOG)
@identity_options
@machine_options
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
@click.option("--allow-yanked", is_flag=True, help="Run it though its tag was yanked.")
@click.option(
    "--output",
    type=click.Choice(("kubernetes", "nomad", "systemd")),
    help="Run nothing: print what has that engine run this very command.",
)
@click.option(
    "--container-image",
    help="With --output kubernetes or nomad: a container image that has the `garrison` command. For"
    " machines it has QEMU and --image too, and Nomad takes none: its client has them.",
)
@click.option(
    "--host",
    metavar="URL",
    envvar="GARRISON_HOST",
    help="Ask the agent of this host for the keep, instead of starting it here, in the --backend"
    " that is named, of those that it offers; a machine boots the host's image.",
)
@click.option(
    "--host-ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="GARRISON_HOST_CA",
    help="With --host: PEM file with the CAs of the agent's TLS; default: the web's roots.",
)
@click.option(
    "--restart",
    type=click.Choice(RESTARTS),
    default="no",
    show_default=True,
    help="With --host: whether the host starts the keep again when it ends.",
)
@click.option(
    "--memory-mib",
    type=click.IntRange(64),
    help="With --host: the keep's memory. Machines: the machine's, 256 at least.",
)
@click.option(
    "--measurement",
    "measurements",
    multiple=True,
    metavar="HEX",
    help="With --host: the launch measurement that the keep must have; may be repeated. Default:"
    " any that the steward admits.",
)
@click.option(
    "--digest",
    metavar="TEXT",
    help="With --host: the workload's digest that must run. Default: what the drawbridge says.",
)
@click.option(
    "--wait",
    default=120,
    show_default=True,
    type=click.IntRange(1),
    help="With --host: seconds until the keep must be verified.",
)
@click.option("--json", "as_json", is_flag=True, help="With --host: say what was verified in JSON.")
@click.argument("package", metavar="SLUG")
def command(
    package: str,
    backend: str,
    steward: str | None,
    steward_root: Path | None,
    insecure_simulate: str | None,
    ca_bundle: Path | None,
    policy: Path | None,
    allow_yanked: bool,
    output: str | None,
    container_image: str | None,
    image: Path | None,
    publish: tuple[str, ...],
    image_signatures: Path | None,
    host: str | None,
    host_ca: Path | None,
    restart: Restart,
    memory_mib: int | None,
    measurements: tuple[str, ...],
    digest: str | None,
    wait: int,
    as_json: bool,
) -> int:
    """Run the workload SLUG in an attested keep.

    SLUG is host[:port]/user/repo:tag or its URL, or oci://host[:port]/repository:tag.
    """
    slug = slug_of(package)
    request = LaunchRequest(
        slug=str(slug),
        steward=steward,
        steward_roots=steward_roots(steward, steward_root),
        registry_ca=None if ca_bundle is None else read_pem(ca_bundle, "--ca-bundle"),
        attester=attester_spec(backend, insecure_simulate),
        policy=None if policy is None else _policy(policy),
        allow_yanked=allow_yanked,
    )
    machine = Machine(image, publish, image_signatures, memory_mib)
    if output is not None:
        if host is not None:
            raise Misuse("one or the other", field="--output, --host")
        if insecure_simulate is not None:
            raise Misuse(
                "the simulator's keys are on this machine only",
                field="--insecure-simulate, --output",
            )
        _print_manifest(output, container_image, request, backend, ca_bundle, machine)
        return 0
    if host is None and backend in MACHINES:
        return run_in_machine(backend, request, machine, insecure_simulate=insecure_simulate)
    machine.unused(backend)
    if host is None and backend == "sgx":
        from garrison.launch.sgx import run_sgx

        return run_sgx(request, image)
    if host is None:
        return run_process(request)
    from garrison.cli.deploy_to_host import deploy_to_host
    from garrison.cli.host import open_host
    from garrison.cli.registry import fetch_package

    deploy_to_host(
        open_host(host, host_ca),
        fetch_package(slug, ca_bundle, None),
        slug,
        request,
        backend=next(known for known in HOST_BACKENDS if known == backend),
        policy=None if request.policy is None else sha256(request.policy.encode()).digest(),
        restart=restart,
        memory_mib=memory_mib,
        measurements=_measurements(measurements),
        digest=None if digest is None else parse_digest(digest, field="--digest"),
        seconds=wait,
        as_json=as_json,
    )
    return 0


def _print_manifest(
    output: str,
    container_image: str | None,
    request: LaunchRequest,
    backend: str,
    ca_bundle: Path | None,
    machine: Machine,
) -> None:
    from garrison.cli import ui
    from garrison.cli.deploy_to_host import tls_ports
    from garrison.cli.registry import fetch_package
    from garrison.launch import manifests

    in_machine = backend in HOST_MACHINES
    _check_manifest(output, container_image, backend, machine)
    slug = parse_name(request.slug)
    package = fetch_package(slug, ca_bundle, None)
    files = {
        "--steward-root": request.steward_roots,
        "--ca-bundle": request.registry_ca,
        "--policy": request.policy,
        "--image-signatures": _text(machine.signatures),
    }
    deployment = manifests.Deployment(
        name=manifests.label(f"{str(slug.repository).rpartition('/')[2]}-{slug.tag}"),
        slug=request.slug,
        digest=digest_text(package.digest),
        backend=backend,
        steward=request.steward or "",
        ports=tuple(machine.reached_at(tls_ports(package.files.get("Enarx.toml")))),
        files={option: text for option, text in files.items() if text is not None},
        memory_mib=machine.memory,
        image=str(machine.image) if in_machine else None,
        published=machine.published,
    )
    if output == "systemd":
        ui.out(manifests.systemd(deployment))
    elif output == "nomad":
        ui.out(manifests.nomad(deployment, container_image))
    elif container_image is not None:
        ui.out(manifests.kubernetes(deployment, container_image))


def _check_manifest(
    output: str, container_image: str | None, backend: str, machine: Machine
) -> None:
    """Refuse what an engine could not run.

    Raises:
        Misuse: it could not.
    """
    if backend in HOST_MACHINES:
        if machine.image is None or not machine.image.is_absolute():
            raise Misuse(
                "missing, or not the whole path", field="--image",
                expected="the keep image's folder, as it is called where the machine will run",
            )  # fmt: skip
    elif backend in HOST_BACKENDS:
        machine.unused(backend)
    else:
        raise Misuse(
            "no container or unit is written for it", field="--output",
            found=f"--backend {backend}", expected=f"--backend {' | '.join(HOST_BACKENDS)}",
        )  # fmt: skip
    contained = output == "kubernetes" or (output == "nomad" and backend not in HOST_MACHINES)
    if contained == (container_image is None):
        found = f"--output {output}, --backend {backend}"
        raise Misuse("missing" if contained else "is not for this",
                     field="--container-image", found=found)  # fmt: skip


def _text(path: Path | None) -> str | None:
    return None if path is None else path.read_text()


def _measurements(texts: tuple[str, ...]) -> frozenset[bytes] | None:
    try:
        return frozenset(map(bytes.fromhex, texts)) or None
    except ValueError:
        raise Misuse("not hex digits", field="--measurement", found=", ".join(texts)) from None


def _policy(path: Path) -> str:
    """The tenant's policy, read here so that its author sees what is wrong with it.

    Raises:
        Malformed: it cannot be read.
    """
    data = path.read_bytes()
    DeploymentPolicy.from_bytes(data, source=str(path))
    return data.decode()


def slug_of(package: str) -> Name:
    """Read a slug, a name in an OCI registry, or the URL of a tag as the original writes it.

    Raises:
        Misuse: it is a URL of another kind.
        Malformed: it is not a slug.
    """
    if "://" not in package or package.startswith(SCHEME):
        return parse_name(package)
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

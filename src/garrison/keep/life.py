"""The life of a keep, top to bottom: attest, certify, fetch, check, certify, run.

This is the code that a measured keep starts with. Whatever it is told from outside is the
host's word (`LaunchRequest`), and every step below is there so that the word need not be
believed.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from garrison.attesters.select import select
from garrison.drawbridge.client import Client, ClientCertificate
from garrison.errors import Misuse, Rejected
from garrison.formats.deployment_policy import DeploymentPolicy
from garrison.formats.digest import digest_text
from garrison.formats.enarx_toml import STREAMS, Config
from garrison.formats.identity import WorkloadIdentity
from garrison.formats.limits import Limits
from garrison.formats.oci_name import OciName, parse_name
from garrison.keep.bearer import Bearer
from garrison.keep.execute import execute
from garrison.keep.identity import Certified, Credentials, StewardClient
from garrison.keep.net.network import Identity, Network
from garrison.keep.renewal import renewed
from garrison.keep.trust import watched

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography import x509

    from garrison.drawbridge.client import Fetched
    from garrison.formats.launch_request import LaunchRequest
    from garrison.formats.oci_name import Name
    from garrison.keep.net.listener import Listener
    from garrison.keep.net.network import Listening
    from garrison.keep.net.stream import Stream
    from garrison.keep.vfs.descriptor import Descriptor

log = logging.getLogger("garrison.keep")

MAIN = "main.wasm"
CONFIG = "Enarx.toml"


def live(request: LaunchRequest, *, listening: Listening | None = None) -> int:
    """Run the published workload that `request` names, and return its exit code.

    `listening` is told of each port that the workload listens on.

    Raises:
        GarrisonError: any step failed; the workload has then not run.
    """
    slug = parse_name(request.slug)
    if request.steward is None:
        raise Misuse("no steward is named", field="steward", hint="deploy with --steward URL")
    attester = select(request.attester)
    steward = StewardClient(request.steward, request.steward_roots)

    # 1. A key, made here; evidence that binds it; a certificate for the keep as such.
    credentials = Credentials.generate(attester, steward)
    keep = credentials.certify()

    # 2. The workload, over mutual TLS; the client checks every byte against the digests.
    client_certificate = ClientCertificate(chain_pem=keep.chain_pem(), key_pem=keep.key_pem())
    package = _fetch(slug, request.registry_ca, client_certificate)
    log.info("fetched %s, digest %s, every byte checked", slug, digest_text(package.digest))

    if package.yanked is not None and not request.allow_yanked:
        raise Rejected(
            "this version was yanked",
            field=str(slug),
            found=package.yanked,
            hint="deploy another one, or this one with --allow-yanked",
        )

    # 3. A certificate that names the workload: fresh evidence, the same key.
    tenant = (
        None if request.policy is None else DeploymentPolicy.from_bytes(request.policy.encode())
    )
    workload = WorkloadIdentity(
        slug=slug, digest=package.digest, policy=None if tenant is None else tenant.digest
    )
    certified = credentials.certify(workload)

    # 4. Run it, with that identity on its connections, renewed for as long as it runs.
    return run(
        package.files,
        credentials=credentials,
        certified=certified,
        workload=workload,
        tenant=tenant,
        listening=listening,
    )


def _fetch(name: Name, ca_pem: str | None, certificate: ClientCertificate) -> Fetched:
    if isinstance(name, OciName):
        # Late: most keeps speak with a drawbridge.
        from garrison.drawbridge.oci import OciClient

        return OciClient(name.host, ca_pem=ca_pem, certificate=certificate).fetch(name)
    return Client(name.host, ca_pem=ca_pem, certificate=certificate).fetch(name)


def run_local(
    files: Mapping[str, bytes],
    digest: bytes,
    *,
    steward: StewardClient,
    attester: Mapping[str, str],
    arguments: tuple[str, ...] = (),
    limits: Mapping[str, int] | None = None,
    listening: Listening | None = None,
) -> int:
    """Run a local workload, with a certificate that names its digest only.

    Raises:
        GarrisonError: any step failed; the workload has then not run.
    """
    credentials = Credentials.generate(select(attester), steward)
    workload = WorkloadIdentity(slug=None, digest=digest)
    certified = credentials.certify(workload)
    return run(
        files,
        credentials=credentials,
        certified=certified,
        workload=workload,
        arguments=arguments,
        limits=limits,
        listening=listening,
    )


def run(
    files: Mapping[str, bytes],
    *,
    credentials: Credentials | None = None,
    certified: Certified | None = None,
    workload: WorkloadIdentity | None = None,
    arguments: tuple[str, ...] = (),
    roots: Sequence[x509.Certificate] = (),
    tenant: DeploymentPolicy | None = None,
    directories: Mapping[str, Descriptor] | None = None,
    limits: Mapping[str, int] | None = None,
    listening: Listening | None = None,
) -> int:
    """Run the package `files` and return the guest's exit code.

    Without credentials the workload has no identity: its TLS connections are anonymous. It can
    still verify its peers, under `roots`. `tenant` narrows its network and its limits.
    `directories` are the host's, by the guest's path (`vfs.host_directory_insecure`): for
    development only. `limits` take the place of those that its configuration sets. `listening` is
    told of each port that the workload listens on.

    Raises:
        Misuse: directories of the host in a keep that has an identity.
        Malformed: the package's configuration or module cannot be read.
        GarrisonError: the guest trapped or was interrupted.
    """
    if directories and credentials is not None:
        raise Misuse(
            "a keep with an identity has nothing of the host's",
            field="--dir",
            hint="leave --steward out, or put the files into the package",
        )
    config = Config.from_bytes(files[CONFIG]) if CONFIG in files else Config.default()
    identity = None if certified is None else Identity(certified.chain, certified.key)
    steward = None if credentials is None else credentials.steward
    trusted = list(roots if steward is None else steward.roots)
    given = {**config.limits, **(limits or {})}
    most = Limits.narrowed(given, {} if tenant is None else tenant.limits)
    network = Network(config, identity, trusted, tenant=tenant, limits=most, listening=listening)
    bearer = (
        None
        if credentials is None or workload is None
        else Bearer(credentials, workload, network.chain)
    )
    with (
        network.guarded(),
        watched(network, steward),
        renewed(network, credentials, certified, workload),
    ):
        return execute(
            files[MAIN],
            args=[MAIN, *config.args, *arguments],
            env=config.environment(),
            descriptors=descriptors(config, network),
            files=files,
            network=network,
            limits=most,
            directories=directories,
            bearer=bearer,
            # An attested keep compiles for itself: what is stored outside is the host's.
            cached=credentials is None,
        )


def descriptors(
    config: Config, network: Network
) -> list[tuple[str, int | Stream | Listener | None]]:
    """What the workload has open from the start: in the order of `[[files]]`, if it has that.

    Raises:
        GarrisonError: a listener or a connection of `[[files]]` cannot be opened.
        OSError: likewise.
    """
    if config.files is None:
        return [
            (name, number if config.stdio[name] == "host" else None)
            for number, name in enumerate(STREAMS)
        ]
    numbers = {name: number for number, name in enumerate(STREAMS)}
    opened = iter(network.preopened())
    return [
        next(opened) if file.endpoint is not None else (file.name, numbers.get(file.kind))
        for file in config.files
    ]

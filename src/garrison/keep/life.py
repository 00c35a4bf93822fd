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
from garrison.formats.identity import WorkloadIdentity
from garrison.formats.oci_name import OciName, parse_name
from garrison.keep.identity import Credentials, StewardClient
from garrison.keep.retries import patiently
from garrison.keep.workload import CONFIG, MAIN, run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.drawbridge.client import Fetched
    from garrison.formats.launch_request import LaunchRequest
    from garrison.formats.oci_name import Name
    from garrison.keep.net.network import Listening

log = logging.getLogger("garrison.keep")

__all__ = ["CONFIG", "MAIN", "live", "run", "run_local"]


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
    keep = patiently(credentials.certify)

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
    certified = patiently(lambda: credentials.certify(workload))

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
    certified = patiently(lambda: credentials.certify(workload))
    return run(
        files,
        credentials=credentials,
        certified=certified,
        workload=workload,
        arguments=arguments,
        limits=limits,
        listening=listening,
    )

"""A workload from its files to its exit code, with an identity or without.

What attests, certifies and fetches is in `garrison.keep.life`, and not imported here: of the start
of a workload that needs none of it, in an emulated machine, it would be a third.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from garrison.errors import Malformed, Misuse
from garrison.formats.enarx_toml import STREAMS, Config
from garrison.formats.limits import Limits
from garrison.keep.engine.runtime import is_component
from garrison.keep.execute import execute
from garrison.keep.net.network import Identity, Network
from garrison.keep.renewal import renewed
from garrison.keep.trust import watched

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography import x509

    from garrison.formats.deployment_policy import DeploymentPolicy
    from garrison.formats.identity import WorkloadIdentity
    from garrison.keep.bearer import Bearer
    from garrison.keep.identity import Certified, Credentials
    from garrison.keep.net.listener import Listener
    from garrison.keep.net.network import Listening
    from garrison.keep.net.stream import Stream
    from garrison.keep.vfs.descriptor import Descriptor

MAIN = "main.wasm"
CONFIG = "Enarx.toml"


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
    development only. `limits` are the host's (`limits_of`). `listening` is told of each port that
    the workload listens on.

    Raises:
        Misuse: directories of the host in a keep that has an identity.
        Malformed: the package's configuration or module cannot be read, or do not go together.
        GarrisonError: the guest trapped or was interrupted.
    """
    if directories and credentials is not None:
        raise Misuse(
            "a keep with an identity has nothing of the host's",
            field="--dir",
            hint="leave --steward out, or put the files into the package",
        )
    config = Config.from_bytes(files[CONFIG]) if CONFIG in files else Config.default()
    _check_udp(config, files[MAIN])
    identity = None if certified is None else Identity(certified.chain, certified.key)
    steward = None if credentials is None else credentials.steward
    trusted = list(roots if steward is None else steward.roots)
    most = limits_of(config, limits or {}, tenant, certified=credentials is not None)
    network = Network(config, identity, trusted, tenant=tenant, limits=most, listening=listening)
    bearer = _bearer(credentials, workload, network)
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


def limits_of(
    config: Config,
    given: Mapping[str, int],
    tenant: DeploymentPolicy | None,
    *,
    certified: bool,
) -> Limits:
    """What a workload may take.

    Args:
        config: its configuration.
        given: what the host says, in place of what the configuration does. Of a workload that is
            certified it lowers that at most: the steward vouches for the package, and a limit such
            as `silence_seconds` is there against the host.
        tenant: what the deployment narrows it to.
        certified: whether a steward certifies it.
    """
    narrowing = {} if tenant is None else dict(tenant.limits)
    if not certified:
        return Limits.narrowed({**config.limits, **given}, narrowing)
    for name, most in given.items():
        narrowing[name] = min(most, narrowing.get(name, most))
    return Limits.narrowed(config.limits, narrowing)


def _check_udp(config: Config, wasm: bytes) -> None:
    """Refuse rules that this workload could make no use of.

    Raises:
        Malformed: there are rules for datagrams, and it is no component.
    """
    if config.udp_rules and not is_component(wasm):
        raise Malformed(
            "is for components of WASI 0.2, and the workload is none",
            field=f"{CONFIG}: {config.udp_rules[0]}.prot",
            found='"udp"',
            expected='"tls", "tcp" or "deny"',
        )


def _bearer(
    credentials: Credentials | None, workload: WorkloadIdentity | None, network: Network
) -> Bearer | None:
    if credentials is None or workload is None:
        return None
    from garrison.keep.bearer import Bearer  # late: see above

    return Bearer(credentials, workload, network.chain)


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

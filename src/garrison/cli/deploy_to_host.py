"""`garrison deploy --host`: ask another's host for a keep, and verify that it is what runs."""

from __future__ import annotations

import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from garrison.cli import ui
from garrison.errors import GarrisonError, Rejected, Unavailable
from garrison.formats.digest import digest_text
from garrison.formats.enarx_toml import Config
from garrison.host.spec import KeepSpec
from garrison.host.verify import Wanted, meet
from garrison.terminal import plain

if TYPE_CHECKING:
    from cryptography import x509

    from garrison.drawbridge.client import Fetched
    from garrison.formats.identity import CertifiedIdentity
    from garrison.formats.launch_request import LaunchRequest
    from garrison.formats.oci_name import Name
    from garrison.host.client import HostClient
    from garrison.host.spec import Backend, Restart

_POLL_SECONDS = 0.5
_HANDSHAKE_SECONDS = 5.0
_CONFIG = "Enarx.toml"
# Of a keep's log: a host keeps some megabytes of each (`garrison.host.shim`).
_MOST_LINES = 1_000_000
_LONGEST_LINE = 2000


def deploy_to_host(
    host: HostClient,
    package: Fetched,
    slug: Name,
    launch: LaunchRequest,
    *,
    backend: Backend,
    policy: bytes | None,
    restart: Restart,
    memory_mib: int | None,
    measurements: frozenset[bytes] | None,
    digest: bytes | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Start a keep, and say «running» only once its own certificate has shown it.

    Raises:
        Rejected: the host refuses, or runs something else.
        Unverified: who answers in the keep's place has no certificate of the steward.
        Unavailable: the keep ended, or did not answer in time.
    """
    # What should run is known from the registry, not from the host.
    if digest is not None and digest != package.digest:
        raise Rejected(
            "the drawbridge has another workload under this tag",
            field="--digest",
            found=digest_text(package.digest),
            expected=digest_text(digest),
        )
    ports = tls_ports(package.files.get(_CONFIG))
    wanted = Wanted(slug, package.digest, policy, measurements)
    spec = KeepSpec(launch, restart, tuple(ports), memory_mib, backend)
    keep = host.make(spec)
    name = str(keep.get("id"))
    ui.success(f"the host says that it started keep {plain(name)}")
    if not ports:
        ui.warn("not verified: this workload listens on no TLS port where it could be asked")
        ui.out(plain(name))
        return
    certificate, port = _met(host, name, ports, launch.steward_roots, seconds)
    certified = wanted.check(certificate)
    told = _told(name, f"{host.name}:{port}", wanted, certified, certificate)
    if as_json:
        ui.emit_json(told)
        return
    ui.success(f"running: verified at {host.name}:{port}, over TLS with the keep itself")
    for key, value in told.items():
        ui.out(f"{key:13} {value}")


def tls_ports(config: bytes | None) -> list[int]:
    """The ports on which a workload of this configuration listens with TLS, as far as it says."""
    if config is None:
        return []
    read = Config.from_bytes(config)
    rules = [(int(key), rule) for key, rule in read.incoming.items() if key != "default"]
    rules += [
        (file.endpoint.port or file.rule.default_port, file.rule)
        for file in read.files or ()
        if file.kind == "listen" and file.endpoint is not None
    ]
    return [port for port, rule in rules if rule.prot == "tls"]


def _met(
    host: HostClient, name: str, ports: list[int], roots_pem: str, seconds: float
) -> tuple[x509.Certificate, int]:
    """The certificate of whoever answers first on one of `ports`."""
    deadline = time.monotonic() + seconds
    last: GarrisonError | None = None
    while time.monotonic() < deadline:
        for port in ports:
            try:
                return meet(host.name, port, roots_pem, seconds=_HANDSHAKE_SECONDS), port
            except Unavailable as error:
                last = error
        state = host.keep(name)
        if state.get("phase") == "ended":
            # It may be as long as the host likes: no more of it is kept than is shown.
            log = islice(host.log(name, follow=False), _MOST_LINES)
            lines = deque((line["text"][:_LONGEST_LINE] for line in log), maxlen=3)
            raise Rejected(
                "the keep ended before it could be verified",
                field=f"keep {plain(name)}",
                found=f"exit code {plain(state.get('exit_code'))}; it said: "
                + plain(" / ".join(lines)),
            )
        time.sleep(_POLL_SECONDS)
    raise Unavailable(
        f"not verified in {seconds:.0f} s: {last or 'nobody answered'}", field=f"keep {plain(name)}"
    )


def _told(
    name: str,
    where: str,
    wanted: Wanted,
    certified: CertifiedIdentity,
    certificate: x509.Certificate,
) -> dict[str, Any]:
    found = certified.workload
    return {
        "keep": plain(name),
        "at": where,
        "slug": str(found.slug),
        "digest": digest_text(wanted.digest),
        "policy": "none" if wanted.policy is None else digest_text(wanted.policy),
        "tee": found.tee,
        "measurement": found.measurement.hex(),
        "tcb_status": found.tcb_status,
        "spiffe_id": certified.spiffe_id,
        "serial": f"{certificate.serial_number:x}",
        "expires": certificate.not_valid_after_utc.isoformat(),
    }

"""`garrison config`: make an Enarx.toml, and say what one admits."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from garrison.cli import ui
from garrison.cli.options import umask
from garrison.errors import GarrisonError, Malformed, Misuse, Rejected
from garrison.formats import deployment_policy
from garrison.formats.deployment_policy import DeploymentPolicy
from garrison.formats.digest import digest_text
from garrison.formats.enarx_toml import MAX_SIZE, STREAMS, TEMPLATE, Config, Rule
from garrison.formats.endpoint import Endpoint
from garrison.formats.limits import DEFAULTS, Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.x509 import Certificate

    from garrison.formats.peer_rule import PeerRule
    from garrison.keep.net.policy import Policy

NAME = "Enarx.toml"
# Between the workload's list of peers and the tenant's: both must admit.
_AND = "; and by the tenant "

_INIT_EPILOG = """\b
Examples:
  garrison config init
  garrison config check Enarx.toml
"""
_CHECK_EPILOG = """\b
Examples:
  garrison config check Enarx.toml
  garrison config check --json Enarx.toml
  garrison config check --peer peer.pem Enarx.toml
  garrison config check --policy policy.toml Enarx.toml
"""


@click.group()
def command() -> None:
    """Make and check an Enarx.toml, the configuration of a workload."""


@command.command(epilog=_INIT_EPILOG)
def init() -> None:
    """Write a commented Enarx.toml into the current directory."""
    # Linking it to its name fails where the name is taken: nothing is ever overwritten, and
    # nobody sees half a file.
    descriptor, name = tempfile.mkstemp(prefix=f".{NAME}.", dir=".")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(TEMPLATE)
        Path(name).chmod(0o666 & ~umask())
        os.link(name, NAME)
    except FileExistsError:
        raise Misuse(
            "exists already", field=NAME, hint="remove it first, or edit it; it was left as it is"
        ) from None
    finally:
        Path(name).unlink()
    ui.success(f"wrote {NAME}; `garrison config check {NAME}` explains it")


@command.command(epilog=_CHECK_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print the explanation as JSON.")
@click.option(
    "--peer",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM file with a keep's certificate: say which rules admit it, taking its chain for"
    " verified.",
)
@click.option(
    "--policy",
    "narrowing",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The policy of a deployment, as for `deploy --policy`: say what it leaves of the"
    " configuration.",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def check(file: Path, as_json: bool, peer: Path | None, narrowing: Path | None) -> None:
    """Read FILE, an Enarx.toml, and explain what it gives and admits."""
    with file.open("rb") as stream:
        config = Config.from_bytes(stream.read(MAX_SIZE + 1), source=str(file))
    tenant = None if narrowing is None else _tenant(narrowing)
    explained = explain(config, tenant)
    if peer is not None:
        explained["peer"] = judge(config, _certificate(peer), tenant)
    if as_json:
        ui.emit_json(explained)
    else:
        ui.out(_text(explained))
        ui.success(f"{file} is in order")


def explain(config: Config, tenant: DeploymentPolicy | None = None) -> dict[str, Any]:
    """Say what `config` means, narrowed by `tenant`, for a program to read."""
    explained: dict[str, Any] = {
        "schema": "fosdem" if config.files is None else "released",
        "steward": config.steward,
        "args": list(config.args),
        "env": sorted(config.environment()),
        "limits": Limits.narrowed(config.limits, {} if tenant is None else tenant.limits).as_dict(),
        "stdio": {name: config.stdio[name] for name in STREAMS},
        "incoming": {key: _rule(policy) for key, policy in _incoming(config, tenant).items()},
        "outgoing": {key: _rule(policy) for key, policy in _outgoing(config, tenant).items()},
    }
    if tenant is not None:
        explained["policy"] = digest_text(tenant.digest)
    if config.files is not None:
        opened = _opened(config, tenant)
        explained["files"] = [
            {"fd": index, "kind": file.kind, "name": file.name}
            | ({"endpoint": str(file.endpoint), **_rule(opened[index])} if index in opened else {})
            for index, file in enumerate(config.files)
        ]
    return explained


def judge(
    config: Config, certificate: Certificate, tenant: DeploymentPolicy | None = None
) -> list[dict[str, Any]]:
    """Say for each endpoint whether it admits the peer that shows `certificate`.

    Nothing is verified: chain, validity and host name are what a handshake checks first.
    """
    policies = [
        *_incoming(config, tenant).values(),
        *_outgoing(config, tenant).values(),
        *_opened(config, tenant).values(),
    ]
    return [_verdict(policy, certificate) for policy in policies]


def _incoming(config: Config, tenant: DeploymentPolicy | None) -> dict[str, Policy]:
    """What holds for a listener on each port that has a rule, and on the others."""
    # Late: it brings the certificate library along.
    from garrison.keep.net.policy import Policy, narrowed

    named = {} if tenant is None else tenant.incoming
    # No port is called `None`: for the others the default holds.
    return {
        key: narrowed(
            Policy(f"incoming {key}", _first(config.incoming, key), incoming=True),
            tenant,
            Endpoint("::", None if key == "default" else int(key)),
        )
        for key in dict.fromkeys(("default", *config.incoming, *named))
    }


def _outgoing(config: Config, tenant: DeploymentPolicy | None) -> dict[str, Policy]:
    """What holds for a connection to each target that has a rule, and to the others."""
    from garrison.keep.net.policy import Policy, narrowed

    named = {} if tenant is None else tenant.outgoing
    found = {}
    for key in dict.fromkeys(("default", *config.outgoing, *named)):
        target = Endpoint("") if key == "default" else Endpoint.parse(key)
        rule = _first(config.outgoing, key, str(Endpoint(target.host)))
        policy = Policy(f"outgoing {key}", rule, incoming=False)
        found[key] = narrowed(policy, tenant, target)
    return found


def _opened(config: Config, tenant: DeploymentPolicy | None) -> dict[int, Policy]:
    """What holds for each descriptor that is a listener or a connection."""
    from garrison.keep.net.policy import Policy, narrowed

    return {
        index: narrowed(
            Policy(f"fd {index} {file.name}", file.rule, incoming=file.kind == "listen"),
            tenant,
            file.endpoint,
        )
        for index, file in enumerate(config.files or ())
        if file.endpoint is not None
    }


def _first(rules: Mapping[str, Rule], *keys: str) -> Rule:
    """The rule of the first of `keys` that has one, or the default."""
    return next((rules[key] for key in (*keys, "default") if key in rules), Rule())


def _verdict(policy: Policy, certificate: Certificate) -> dict[str, Any]:
    verdict: dict[str, Any] = {"endpoint": policy.name, "admitted": True}
    if why := _denied(policy):
        return {**verdict, "admitted": False, "why": why}
    if policy.rule.prot != "tls":
        return {**verdict, "why": f"plain {policy.rule.prot.upper()} asks for no certificate"}
    try:
        peer = policy.admit(certificate)
    except GarrisonError as error:
        found = f"presented {error.found}; " if error.found else ""
        why = f"{error.message}: {found}wanted {policy.wanted}"
        return {**verdict, "admitted": False, "why": why}
    return {**verdict, "why": _reason(policy, certificate), "as": peer}


def _denied(policy: Policy) -> str | None:
    """Why there is no such connection at all, None if there may be one."""
    try:
        policy.check_allowed(policy.name, datagrams=policy.rule.prot == "udp")
    except Rejected as error:
        return "denied" if policy.tenant is None else error.message
    return None


def _reason(policy: Policy, certificate: Certificate) -> str:
    """Why `policy` has admitted the peer: the entries of `peers` that did, or what it asks."""
    from garrison.formats.identity import CertifiedIdentity

    asked = _lists(policy)
    if not asked:
        host = " for the host that was asked for" if policy.checks_host else ""
        return f"if it is under {_roots(policy.trust)}{host}"
    certified = CertifiedIdentity.from_certificate(certificate)
    workload = None if certified is None else certified.workload
    by = [str(next(entry for entry in peers if entry.admits(workload))) for peers in asked]
    return f"by {_AND.join(by)}, if it is under {_roots(policy.trust)}"


def _lists(policy: Policy) -> list[tuple[PeerRule, ...]]:
    """The lists of peers that must all admit one: the workload's, and the tenant's."""
    lists = (policy.rule.peers, None if policy.tenant is None else policy.tenant.peers)
    return [peers for peers in lists if peers is not None]


def _roots(trust: str) -> str:
    return {"steward": "the steward's roots", "web": "the web's roots"}.get(
        trust, "the roots given as PEM"
    )


def _tenant(path: Path) -> DeploymentPolicy:
    with path.open("rb") as stream:
        data = stream.read(deployment_policy.MAX_SIZE + 1)
    return DeploymentPolicy.from_bytes(data, source=str(path))


def _certificate(path: Path) -> Certificate:
    """The first certificate in the file, which in a chain is the leaf."""
    from cryptography import x509

    try:
        with path.open("rb") as stream:
            return x509.load_pem_x509_certificates(stream.read(MAX_SIZE))[0]
    except ValueError as error:
        raise Malformed("not certificates in PEM", field="--peer", found=path) from error


def _rule(policy: Policy) -> dict[str, Any]:
    if why := _denied(policy):
        return {"prot": "deny"} | ({} if policy.tenant is None else {"why": why})
    if policy.rule.prot != "tls":
        return {"prot": policy.rule.prot}
    pem = policy.trust not in ("steward", "web")
    rule = {
        "prot": "tls",
        "trust": "certificates in PEM" if pem else policy.trust,
        "host_checked": policy.checks_host,
        "anonymous": not policy.needs_certificate,
        "peers": _names(policy.rule.peers),
        "alpn": list(policy.alpn),
    }
    if policy.tenant is not None:
        rule["tenant_peers"] = _names(policy.tenant.peers)
    return rule


def _names(peers: tuple[PeerRule, ...] | None) -> list[str] | None:
    return None if peers is None else [str(peer) for peer in peers]


def _text(explained: dict[str, Any]) -> str:
    lines = [
        f"schema   {explained['schema']}",
        f"steward  {explained['steward'] or 'as deployed'}",
        f"args     {' '.join(map(repr, explained['args'])) or 'none'}",
        f"env      {' '.join(explained['env']) or 'none'}",
    ]
    own = {name: most for name, most in explained["limits"].items() if most != DEFAULTS[name]}
    limits = ", ".join(f"{name} {most}" for name, most in own.items())
    lines.append(f"limits   {limits or 'the defaults'}")
    if "policy" in explained:
        lines.insert(1, f"policy   {explained['policy']}, which narrows what follows")
    lines += [f"{name:8} {kind}" for name, kind in explained["stdio"].items()]
    for file in explained.get("files", []):
        what = f" {file['endpoint']}: {_words(file, file['kind'])}" if "endpoint" in file else ""
        lines.append(f"fd {file['fd']:<5} {file['name']}: {file['kind']}{what}")
    for direction, kind in (("incoming", "listen"), ("outgoing", "connect")):
        lines.append(f"{direction}:")
        lines += [f"  {key}: {_words(rule, kind)}" for key, rule in explained[direction].items()]
    if "peer" in explained:
        lines.append("the peer, once its chain is verified:")
        lines += [
            f"  {item['endpoint']}: {'admitted' if item['admitted'] else 'refused'}, {item['why']}"
            for item in explained["peer"]
        ]
    return "\n".join(lines)


def _words(rule: dict[str, Any], kind: str) -> str:
    """Explain one rule in a line."""
    if rule["prot"] == "deny":
        return str(rule.get("why", "denied"))
    if rule["prot"] == "tcp":
        return "plain TCP, in the clear; every peer is anonymous"
    if rule["prot"] == "udp":
        # Nothing ties a datagram to the address that it says it is from.
        who = ", from anybody" if kind == "listen" else ""
        return f"plain UDP, in the clear{who}; sources can be forged; for components"
    roots = _roots(rule["trust"])
    alpn = f"; speaks {' or '.join(rule['alpn'])}" if rule["alpn"] else ""
    lists = [peers for peers in (rule["peers"], rule.get("tenant_peers")) if peers is not None]
    if lists:
        peers = _AND.join(" or ".join(listed) or "nobody" for listed in lists)
        return f"TLS; admits {peers}, certified under {roots}{alpn}"
    if kind == "listen":
        return f"TLS; admits anybody; who shows a certificate must be under {roots}{alpn}"
    return f"TLS; admits the host by its name, certified under {roots}{alpn}"

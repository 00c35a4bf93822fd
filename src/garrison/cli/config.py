"""`garrison config`: make an Enarx.toml, and say what one admits."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from garrison.cli import ui
from garrison.errors import GarrisonError, Malformed, Misuse
from garrison.formats.enarx_toml import MAX_SIZE, STREAMS, TEMPLATE, Config, Rule
from garrison.formats.limits import DEFAULTS, Limits

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from garrison.keep.net.policy import Policy

NAME = "Enarx.toml"

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
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
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
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def check(file: Path, as_json: bool, peer: Path | None) -> None:
    """Read FILE, an Enarx.toml, and explain what it gives and admits."""
    with file.open("rb") as stream:
        config = Config.from_bytes(stream.read(MAX_SIZE + 1), source=str(file))
    explained = explain(config)
    if peer is not None:
        explained["peer"] = judge(config, _certificate(peer))
    if as_json:
        ui.emit_json(explained)
    else:
        ui.out(_text(explained))
        ui.success(f"{file} is in order")


def explain(config: Config) -> dict[str, Any]:
    """Say what `config` means, for a program to read."""
    # Late: it brings the certificate library along.
    from garrison.keep.net.policy import Policy

    incoming = {"default": Rule(), **config.incoming}
    outgoing = {"default": Rule(), **config.outgoing}
    explained: dict[str, Any] = {
        "schema": "fosdem" if config.files is None else "released",
        "steward": config.steward,
        "args": list(config.args),
        "env": sorted(config.environment()),
        "limits": Limits.narrowed(config.limits, {}).as_dict(),
        "stdio": {name: config.stdio[name] for name in STREAMS},
        "incoming": {
            key: _rule(Policy(key, rule, incoming=True)) for key, rule in incoming.items()
        },
        "outgoing": {
            key: _rule(Policy(key, rule, incoming=False)) for key, rule in outgoing.items()
        },
    }
    if config.files is not None:
        explained["files"] = [
            {"fd": index, "kind": file.kind, "name": file.name}
            | (
                {}
                if file.endpoint is None
                else {
                    "endpoint": str(file.endpoint),
                    **_rule(Policy(file.name, file.rule, incoming=file.kind == "listen")),
                }
            )
            for index, file in enumerate(config.files)
        ]
    return explained


def judge(config: Config, certificate: Certificate) -> list[dict[str, Any]]:
    """Say for each endpoint of `config` whether it admits the peer that shows `certificate`.

    Nothing is verified: chain, validity and host name are what a handshake checks first.
    """
    # Late: it brings the certificate library along.
    from garrison.keep.net.policy import Policy

    incoming = {"default": Rule(), **config.incoming}
    outgoing = {"default": Rule(), **config.outgoing}
    policies = [Policy(f"incoming {key}", rule, incoming=True) for key, rule in incoming.items()]
    policies += [Policy(f"outgoing {key}", rule, incoming=False) for key, rule in outgoing.items()]
    policies += [
        Policy(f"fd {index} {file.name}", file.rule, incoming=file.kind == "listen")
        for index, file in enumerate(config.files or ())
        if file.endpoint is not None
    ]
    return [_verdict(policy, certificate) for policy in policies]


def _verdict(policy: Policy, certificate: Certificate) -> dict[str, Any]:
    verdict: dict[str, Any] = {"endpoint": policy.name, "admitted": policy.rule.prot != "deny"}
    if policy.rule.prot != "tls":
        denied = policy.rule.prot == "deny"
        return {**verdict, "why": "denied" if denied else "plain TCP asks for no certificate"}
    try:
        peer = policy.admit(certificate)
    except GarrisonError as error:
        found = f"presented {error.found}; " if error.found else ""
        why = f"{error.message}: {found}wanted {policy.wanted}"
        return {**verdict, "admitted": False, "why": why}
    return {**verdict, "why": _reason(policy, certificate), "as": peer}


def _reason(policy: Policy, certificate: Certificate) -> str:
    """Why `policy` has admitted the peer: the entry of `peers` that did, or what it asks."""
    from garrison.formats.identity import CertifiedIdentity

    if policy.rule.peers is None:
        host = " for the host that was asked for" if policy.checks_host else ""
        return f"if it is under {_roots(policy.trust)}{host}"
    certified = CertifiedIdentity.from_certificate(certificate)
    workload = None if certified is None else certified.workload
    entry = next(entry for entry in policy.rule.peers if entry.admits(workload))
    return f"by {entry}, if it is under {_roots(policy.trust)}"


def _roots(trust: str) -> str:
    return {"steward": "the steward's roots", "web": "the web's roots"}.get(
        trust, "the roots given as PEM"
    )


def _certificate(path: Path) -> Certificate:
    """The first certificate in the file, which in a chain is the leaf."""
    from cryptography import x509

    try:
        with path.open("rb") as stream:
            return x509.load_pem_x509_certificates(stream.read(MAX_SIZE))[0]
    except ValueError as error:
        raise Malformed("not certificates in PEM", field="--peer", found=path) from error


def _rule(policy: Policy) -> dict[str, Any]:
    if policy.rule.prot != "tls":
        return {"prot": policy.rule.prot}
    pem = policy.trust not in ("steward", "web")
    return {
        "prot": "tls",
        "trust": "certificates in PEM" if pem else policy.trust,
        "host_checked": policy.checks_host,
        "anonymous": not policy.needs_certificate,
        "peers": None if policy.rule.peers is None else [str(peer) for peer in policy.rule.peers],
        "alpn": list(policy.alpn),
    }


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
        return "denied"
    if rule["prot"] == "tcp":
        return "plain TCP, in the clear; every peer is anonymous"
    roots = _roots(rule["trust"])
    alpn = f"; speaks {' or '.join(rule['alpn'])}" if rule["alpn"] else ""
    if rule["peers"] is not None:
        peers = " or ".join(rule["peers"]) or "nobody"
        return f"TLS; admits {peers}, certified under {roots}{alpn}"
    if kind == "listen":
        return f"TLS; admits anybody; who shows a certificate must be under {roots}{alpn}"
    return f"TLS; admits the host by its name, certified under {roots}{alpn}"

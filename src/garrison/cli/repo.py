"""`garrison repo`: register and inspect repositories."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  (click reads the annotations' names)
from typing import Any

import click

from garrison.cli import ui
from garrison.cli.registry import (
    json_option,
    open_anonymously,
    open_client,
    registry_options,
)
from garrison.errors import Malformed, Misuse, Rejected
from garrison.formats.slug import Repository, check_host
from garrison.terminal import plain


@click.group()
def command() -> None:
    """Register and inspect repositories."""


@command.command(
    epilog="""\b
Examples:
  garrison repo register drawbridge.example.com/jane/chat-server
  garrison repo register --private --keep tee=snp,measurement=3f2a... \\
      drawbridge.example.com/jane/chat-server
"""
)
@registry_options
@click.option(
    "--private",
    is_flag=True,
    help="Readable by its owner, and by the keeps of --keep; default: by everybody.",
)
@click.option(
    "--keep",
    "keeps",
    multiple=True,
    metavar="FIELD=VALUE,...",
    help="Keeps that may read it, by what the steward verified of them: tee, measurement (hex),"
    " slug, digest. All fields must match; may be repeated.",
)
@click.argument("repository", metavar="REPOSITORY")
def register(
    repository: str,
    private: bool,
    keeps: tuple[str, ...],
    ca_bundle: Path | None,
    insecure_auth_token: str | None,
) -> None:
    """Register REPOSITORY (host[:port]/user/repo)."""
    from garrison.drawbridge.rules import KeepRule

    if keeps and not private:
        raise Misuse("has no use without --private", field="--keep")
    name = Repository.parse(repository)
    config: dict[str, Any] = {"public": not private}
    if keeps:
        config["keeps"] = [KeepRule.from_fields(_fields(keep)).to_fields() for keep in keeps]
    open_client(name.host, ca_bundle, insecure_auth_token).register_repository(name, config)
    ui.success(f"registered {name}, {'private' if private else 'public'}")


@command.command(
    epilog="""\b
Examples:
  garrison repo policy drawbridge.example.com/jane/chat-server
  garrison repo policy --private --keep tee=snp,measurement=4a1b... \\
      drawbridge.example.com/jane/chat-server
"""
)
@registry_options
@json_option
@click.option("--public", is_flag=True, help="From now on everybody may read it.")
@click.option("--private", is_flag=True, help="From now on its owner may, and the keeps of --keep.")
@click.option(
    "--keep",
    "keeps",
    multiple=True,
    metavar="FIELD=VALUE,...",
    help="As for `register`; all that shall may be given, for they replace those before.",
)
@click.argument("repository", metavar="REPOSITORY")
def policy(
    repository: str,
    public: bool,
    private: bool,
    keeps: tuple[str, ...],
    ca_bundle: Path | None,
    insecure_auth_token: str | None,
    as_json: bool,
) -> None:
    """Show, or change, who may read REPOSITORY (host[:port]/user/repo)."""
    from garrison.drawbridge.rules import KeepRule

    if public and private:
        raise Misuse("one or the other", field="--public, --private")
    if keeps and not private:
        raise Misuse("has no use without --private", field="--keep")
    name = Repository.parse(repository)
    client = open_client(name.host, ca_bundle, insecure_auth_token)
    if public or private:
        config: dict[str, Any] = {"public": public}
        if keeps:
            config["keeps"] = [KeepRule.from_fields(_fields(keep)).to_fields() for keep in keeps]
        client.set_policy(name, config)
    found = client.policy(name)
    if as_json:
        ui.emit_json(found)
        return
    _show(name, found)


def _show(name: Repository, config: dict[str, Any]) -> None:
    keeps = config.get("keeps", [])
    if not isinstance(keeps, list) or not all(isinstance(rule, dict) for rule in keeps):
        raise Malformed("not a list of rules", field=f"{name}: keeps", found=repr(keeps)[:100])
    ui.out(f"{name}: {'public' if config.get('public') else 'private'}")
    for rule in keeps:
        fields = ", ".join(f"{key}={value}" for key, value in rule.items())
        ui.out(f"readable by keeps with {plain(fields)}")


@command.command()
@registry_options
@json_option
@click.argument("host")
@click.argument("text")
def search(
    host: str, text: str, ca_bundle: Path | None, insecure_auth_token: str | None, as_json: bool
) -> None:
    """Find the public repositories of the drawbridge HOST that have TEXT in their name."""
    client = open_client(check_host(host, field="HOST"), ca_bundle, insecure_auth_token)
    found = [f"{host}/{plain(name)}" for name in client.search(text)]
    if as_json:
        ui.emit_json(found)
        return
    for name in found:
        ui.out(name)


def _fields(text: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for item in text.split(","):
        key, equals, value = item.partition("=")
        if not equals or key in fields:
            raise Misuse(
                "unreadable",
                field="--keep",
                found=repr(item),
                expected="FIELD=VALUE,..., each once",
            )
        fields[key] = value
    return fields


@command.command()
@registry_options
@json_option
@click.argument("repository", metavar="REPOSITORY")
def info(
    repository: str, ca_bundle: Path | None, insecure_auth_token: str | None, as_json: bool
) -> None:
    """Show who may read REPOSITORY, and its tags."""
    name = Repository.parse(repository)
    client = open_client(name.host, ca_bundle, insecure_auth_token)
    tags = client.tags(name)
    try:
        config = client.policy(name)
    except Rejected:
        # That is for its owner, and a token may be good for the tags and not for that.
        if not _is_public(name, ca_bundle):
            raise
        config = {"public": True}
    if as_json:
        ui.emit_json({"config": config, "tags": tags})
        return
    _show(name, config)
    for tag in tags:
        ui.out(f"{name}:{plain(tag)}")


def _is_public(name: Repository, ca_bundle: Path | None) -> bool:
    """Whether everybody may read the tags."""
    try:
        open_anonymously(name.host, ca_bundle).tags(name)
    except Rejected:
        return False
    return True

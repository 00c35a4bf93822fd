"""`garrison tree`: the files of a workload."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from garrison.cli import ui
from garrison.cli.options import write_whole
from garrison.cli.registry import json_option, open_client, registry_options
from garrison.formats.digest import digest_text
from garrison.formats.slug import Slug
from garrison.terminal import plain


@click.group()
def command() -> None:
    """Inspect, fetch and digest the files of a workload."""


@command.command()
@registry_options
@json_option
@click.argument("slug", metavar="SLUG")
@click.argument("path", default="")
def info(
    slug: str, path: str, ca_bundle: Path | None, insecure_auth_token: str | None, as_json: bool
) -> None:
    """List the directory PATH (default: the root) of the workload SLUG."""
    name = Slug.parse(slug)
    client = open_client(name.host, ca_bundle, insecure_auth_token)
    directory = client.directory(name, path.strip("/"))
    if as_json:
        ui.emit_json({key: entry.to_json() for key, entry in directory.entries.items()})
        return
    for key, entry in directory.entries.items():
        digest = digest_text(entry.workload_digest)
        ui.out(f"{entry.length:>12}  {digest}  {plain(entry.type)}  {key}")


@command.command()
@registry_options
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: standard output."
)
@click.argument("slug", metavar="SLUG")
@click.argument("path")
def fetch(
    slug: str,
    path: str,
    out: Path | None,
    ca_bundle: Path | None,
    insecure_auth_token: str | None,
) -> None:
    """Fetch the file PATH of the workload SLUG; every byte is checked before any is written."""
    name = Slug.parse(slug)
    client = open_client(name.host, ca_bundle, insecure_auth_token)
    content = client.file(name, path)
    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    write_whole(out, content)


@command.command()
@json_option
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def digest(directory: Path, as_json: bool) -> None:
    """Print the digest that the package in DIRECTORY has, wherever it is published."""
    from garrison.formats.tree import Package

    package = Package.from_directory(directory)
    if as_json:
        nodes = {path or "/": entry.to_json() for path, (entry, _) in package.nodes().items()}
        ui.emit_json({"digest": digest_text(package.digest), "nodes": nodes})
    else:
        ui.out(digest_text(package.digest))

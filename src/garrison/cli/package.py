"""`garrison package`: publish, inspect and fetch workloads."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from garrison.cli import ui
from garrison.cli.options import umask
from garrison.cli.registry import (
    fetch_package,
    json_option,
    open_client,
    open_oci_client,
    registry_options,
)
from garrison.disk import TEMPORARY
from garrison.errors import Malformed, Misuse
from garrison.formats.digest import digest_text
from garrison.formats.oci_name import OciName, parse_name
from garrison.formats.slug import Slug

if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.formats.oci_name import Name
    from garrison.formats.tree import Entry

_PUBLISH_EPILOG = """\b
A package is a directory with main.wasm, perhaps Enarx.toml, and other files. Of a file, it is
main.wasm alone. Tags never change: other content needs another version. An interrupted
publication is completed by doing it again.

\b
Examples:
  garrison package publish ./chat-server drawbridge.example.com/jane/chat-server:0.1.0
  garrison package publish drawbridge.example.com/jane/hello:1.0.0 hello.wasm
  garrison package publish --sign key.pem ./hello drawbridge.example.com/jane/hello:1.0.1
  garrison package publish ./chat-server oci://registry.example.com/jane/chat-server:0.1.0
"""


@click.group()
def command() -> None:
    """Publish, inspect and fetch workloads."""


@command.command(epilog=_PUBLISH_EPILOG)
@registry_options
@json_option
@click.option(
    "--sign",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="KEY",
    help="Sign the tag, as SLUG and no other, with the private key in this PEM file, P-256 or"
    " Ed25519, for stewards whose policy demands it.",
)
@click.argument("first", metavar="PATH")
@click.argument("second", metavar="SLUG")
def publish(
    first: str,
    second: str,
    sign: Path | None,
    ca_bundle: Path | None,
    insecure_auth_token: str | None,
    as_json: bool,
) -> None:
    """Publish the package at PATH as SLUG (in this order, or the original's: SLUG PATH)."""
    from garrison.formats.signed_tag import load_signing_key
    from garrison.formats.tree import MAIN, Package

    path, slug = _path_and_slug(first, second)
    is_directory = path.is_dir()
    package = Package.from_directory(path) if is_directory else Package({MAIN: path.read_bytes()})
    total = sum(len(content) for _, content in package.nodes().values())
    key = None if sign is None else load_signing_key(sign.read_bytes(), field=str(sign))
    if isinstance(slug, OciName):
        registry = open_oci_client(slug, ca_bundle)
        with ui.progress(f"publishing {slug}", total) as advance:
            entry = registry.publish(slug, package, advance, key=key)
    else:
        client = open_client(slug.host, ca_bundle, insecure_auth_token)
        with ui.progress(f"publishing {slug}", total) as advance:
            entry = client.publish(slug, package, advance, key=key)
    if as_json:
        ui.emit_json(_document(slug, entry))
        return
    ui.success(f"published {slug}")
    ui.out(f"{slug}@{digest_text(entry.workload_digest)}")


@command.command()
@registry_options
@json_option
@click.argument("slug", metavar="SLUG")
def info(slug: str, ca_bundle: Path | None, insecure_auth_token: str | None, as_json: bool) -> None:
    """Show the digests of the workload SLUG."""
    name = parse_name(slug)
    yanked = None
    if isinstance(name, OciName):
        entry = open_oci_client(name, ca_bundle).tag(name)
    else:
        client = open_client(name.host, ca_bundle, insecure_auth_token)
        entry, yanked = client.tag(name), client.yanked(name)
    if as_json:
        ui.emit_json({**_document(name, entry), "yanked": yanked})
        return
    ui.out(f"{name}@{digest_text(entry.workload_digest)}")
    if yanked is not None:
        ui.warn(f"yanked: {yanked}")
    ui.out(f"type: {entry.type}")
    for algorithm, digest in entry.digest.to_json().items():
        ui.out(f"{algorithm}: {digest}")


@command.command()
@registry_options
@json_option
@click.argument("slug", metavar="SLUG")
@click.argument("directory", type=click.Path(path_type=Path))
def fetch(
    slug: str,
    directory: Path,
    ca_bundle: Path | None,
    insecure_auth_token: str | None,
    as_json: bool,
) -> None:
    """Fetch the workload SLUG into DIRECTORY, which must not exist, and check every byte."""
    name = parse_name(slug)
    if os.path.lexists(directory):
        raise Misuse("exists already", field=str(directory))
    with ui.progress(f"fetching {name}", None) as advance:
        fetched = fetch_package(name, ca_bundle, insecure_auth_token, advance, advance.expect)
    write_directory(directory, fetched.files)
    if fetched.yanked is not None:
        ui.warn(f"{name} was yanked: {fetched.yanked}")
    if as_json:
        ui.emit_json(_document(name, fetched.entry))
    else:
        ui.success(f"fetched {name} into {directory}, every byte checked")


@command.command()
@registry_options
@click.option("--reason", required=True, help="Why; whoever deploys the tag reads it.")
@click.argument("slug", metavar="SLUG")
def yank(slug: str, reason: str, ca_bundle: Path | None, insecure_auth_token: str | None) -> None:
    """Mark the tag SLUG as one not to be used: it stays, and `deploy` refuses it."""
    name = Slug.parse(slug)
    open_client(name.host, ca_bundle, insecure_auth_token).yank(name, reason)
    ui.success(f"yanked {name}")


@command.command()
@registry_options
@click.argument("slug", metavar="SLUG")
def unyank(slug: str, ca_bundle: Path | None, insecure_auth_token: str | None) -> None:
    """Take the mark of `yank` away from the tag SLUG."""
    name = Slug.parse(slug)
    open_client(name.host, ca_bundle, insecure_auth_token).unyank(name)
    ui.success(f"{name} is as good as before")


def write_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write a package; `directory` appears only when it is whole."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=directory.parent))
    try:
        for path, content in files.items():
            target = temporary / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        temporary.chmod(0o777 & ~umask())
        temporary.rename(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _path_and_slug(first: str, second: str) -> tuple[Path, Name]:
    """Tell path and slug apart, in either order."""
    for path, slug in ((first, second), (second, first)):
        try:
            parsed = parse_name(slug)
        except Malformed:
            continue
        if Path(path).exists():
            return Path(path), parsed
    # Neither order fits: say what is wrong with the documented one.
    parse_name(second)
    raise Misuse("does not exist", field="PATH", found=repr(first))


def _document(slug: Name, entry: Entry) -> dict[str, object]:
    return {
        "slug": str(slug),
        "digest": digest_text(entry.workload_digest),
        "entry": entry.to_json(),
    }

"""`garrison platform endorsements`: vendors' certificates and collateral, kept and carried."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from garrison.cli import ui
from garrison.cli.options import write_whole
from garrison.errors import Malformed, Misuse, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from garrison.endorsements.cache import Entry
    from garrison.endorsements.catalogue import Platform
    from garrison.endorsements.supply import Supply

_PLATFORM_HELP = "milan, genoa, turin, or an FMSPC of 12 hex digits. May be repeated."


@click.group()
def command() -> None:
    """Keep vendors' certificates, revocation lists and TCB information, and carry them."""


def _cache_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--cache",
        "directory",
        required=True,
        type=click.Path(file_okay=False, path_type=Path),
        help="The steward's cache directory.",
    )(function)


@command.command()
@_cache_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def show(directory: Path, as_json: bool) -> None:
    """List what the cache holds, and until when it is good."""
    from garrison.endorsements.cache import Cache
    from garrison.endorsements.source import utc_now

    now = utc_now()
    entries = [_shown(entry, now) for entry in Cache(directory).entries()]
    if as_json:
        ui.emit_json(entries)
        return
    for entry in entries:
        end = "expired" if entry["expired"] else "expires"
        ui.out(f"{entry['kind']:<12} {end} {entry['expires']}  {entry['url']}")


def _shown(entry: Entry, now: datetime) -> dict[str, Any]:
    dates = entry.dates()
    return {
        "kind": entry.kind.value,
        "url": entry.url,
        "fetched": entry.fetched.isoformat(timespec="seconds"),
        "issued": dates.issued.isoformat(),
        "expires": dates.expires.isoformat(),
        "expired": dates.expires < now,
    }


@command.command()
@_cache_option
@click.option("--platform", "platforms", multiple=True, help=_PLATFORM_HELP + " Default: all.")
@click.option("--fetch", is_flag=True, help="Fetch first what the platforms need.")
@click.option("--kds", metavar="URL", help="With --fetch: a mirror of AMD's KDS.")
@click.option("--pccs", metavar="URL", help="With --fetch: an Intel PCCS.")
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --fetch: who vouches for the servers, PEM. Default: the web's authorities.",
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def export(
    directory: Path,
    platforms: tuple[str, ...],
    fetch: bool,
    kds: str | None,
    pccs: str | None,
    ca: Path | None,
    file: Path,
) -> None:
    """Write what the cache holds into FILE, for a steward that fetches nothing.

    The certificate of a chip cannot be fetched ahead by the name of its platform: FILE has those
    that the cache has.
    """
    from garrison.endorsements.bundle import Bundle
    from garrison.endorsements.cache import Cache
    from garrison.endorsements.catalogue import Platform, identify
    from garrison.endorsements.fetch import Fetcher
    from garrison.endorsements.source import servers, utc_now
    from garrison.endorsements.supply import Supply

    if (kds or pccs or ca) and not fetch:
        raise Misuse("--kds, --pccs and --ca need --fetch")
    if fetch and not platforms:
        raise Misuse("--fetch needs --platform", expected=_PLATFORM_HELP)
    wanted = [Platform.parse(name) for name in platforms]
    cache = Cache(directory)
    if fetch:
        supply = Supply(cache, Fetcher(servers(kds, pccs, ca), cache, utc_now), utc_now)
        _fetch(supply, wanted)
    found = [
        entry
        for entry in cache.entries()
        if not wanted or any(platform.needs(identify(entry.url)) for platform in wanted)
    ]
    if not found:
        raise Unavailable("the cache has nothing of that", field=str(directory))
    write_whole(file, Bundle.of(found).to_bytes())
    ui.success(f"wrote {len(found)} documents into {file}")


def _fetch(supply: Supply, wanted: list[Platform]) -> None:
    """Fetch what the platforms share; what one of a platform's TEEs lacks is only told."""
    for platform in wanted:
        failures = []
        resources = platform.shared()
        for resource in resources:
            try:
                supply.get(resource)
            except Unavailable as error:
                failures.append(error)
                ui.warn(str(error))
        if len(failures) == len(resources):
            raise failures[0]


@command.command("import")
@_cache_option
@click.option("--force", is_flag=True, help="Replace later documents by earlier ones, too.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_(directory: Path, force: bool, file: Path) -> None:
    """Put the documents of the bundle FILE into the cache.

    They are carried, not believed: the steward verifies them at each use. A later document is
    never replaced by an earlier one, unless --force is given.
    """
    from garrison.endorsements.bundle import MAX_BUNDLE, Bundle, put
    from garrison.endorsements.cache import Cache

    with file.open("rb") as source:
        data = source.read(MAX_BUNDLE + 1)
    try:
        bundle = Bundle.from_bytes(data)
    except Malformed as error:
        raise Malformed(
            error.message,
            field=f"{file}: {error.field}",
            found=error.found,
            expected=error.expected,
            hint="make it with: garrison platform endorsements export",
        ) from error
    done = put(bundle, Cache(directory), force=force)
    for url in done.kept:
        ui.warn(f"kept the later document of {url}")
    ui.success(
        f"imported {len(done.added)} documents; {len(done.unchanged)} were there already, "
        f"{len(done.kept)} in a later version"
    )

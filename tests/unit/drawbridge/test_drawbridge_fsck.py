"""What a check of the store finds, and that it finds nothing where nothing is wrong."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING

import obstore
import pytest
from click.testing import CliRunner

from garrison.cli.drawbridge import command
from garrison.drawbridge.fsck import check
from garrison.drawbridge.layout import content_key, node_name, parse_key
from garrison.drawbridge.store import Store
from garrison.errors import Malformed, Misuse, Unavailable, Unverified
from garrison.testing.drawbridge import MemoryDrawbridge

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.formats.slug import Slug
    from garrison.formats.tree import Package


@pytest.fixture
def published(drawbridge: MemoryDrawbridge, slug: Slug, package: Package) -> MemoryDrawbridge:
    """With `jane/chat:1.0.0` in it."""
    drawbridge.publish(slug, package)
    return drawbridge


def _content(package: Package, path: str) -> str:
    return content_key(package.nodes()[path][0].workload_digest)


def _found(drawbridge: MemoryDrawbridge) -> dict[str, str]:
    report = asyncio.run(check(drawbridge.store))
    found: dict[str, str] = {}
    for finding in report.findings:
        found[finding.key] = f"{found.get(finding.key, '')}{finding.problem}"
    return found


def test_a_store_in_order(published: MemoryDrawbridge) -> None:
    report = asyncio.run(check(published.store))
    assert (report.users, report.repositories, report.tags, report.nodes) == (2, 2, 1, 5)
    assert (report.findings, report.incomplete, report.unnamed) == ((), (), 0)
    assert report.content_bytes > 4000


@pytest.mark.parametrize("content", [b"dat!", b"longer", b""], ids=["swapped", "longer", "empty"])
def test_content_that_is_damaged(
    published: MemoryDrawbridge, slug: Slug, package: Package, content: bytes
) -> None:
    key = _content(package, "sub/data")
    asyncio.run(published.store.put_content(key, io.BytesIO(content)))
    found = _found(published)
    assert "sha-256 digest mismatch" in found[key]
    assert "mismatch" in found[node_name(slug, ("sub", "data")).key()]
    assert len(found) == 2


def test_content_that_is_missing(published: MemoryDrawbridge, slug: Slug, package: Package) -> None:
    asyncio.run(published.store.remove(_content(package, "main.wasm")))
    found = _found(published)
    assert "missing" in found[_content(package, "main.wasm")]
    assert "missing" in found[node_name(slug, ("main.wasm",)).key()]


def test_names_that_are_missing_or_damaged(published: MemoryDrawbridge, slug: Slug) -> None:
    store = published.store
    asyncio.run(store.remove("users/jane"))
    asyncio.run(store.remove(node_name(slug, ("sub",)).key()))
    obstore.put(store._backend, "repos/jane/secret", b"no line feed")
    obstore.put(store._backend, "odd/key", b"")
    found = _found(published)
    assert "expected users/jane" in found["repos/jane/chat"]
    assert "expected trees/jane/chat/1.0.0/sub/@" in found["trees/jane/chat/1.0.0/sub/data/@"]
    assert "media type" in found["repos/jane/secret"]
    assert "not a key of a drawbridge" in found["odd/key"]


def test_a_node_that_is_not_what_its_directory_lists(
    published: MemoryDrawbridge, slug: Slug
) -> None:
    backend = published.store._backend
    wasm = bytes(obstore.get(backend, node_name(slug, ("main.wasm",)).key()).bytes())
    obstore.put(backend, node_name(slug, ("sub", "data")).key(), wasm)
    obstore.put(backend, node_name(slug, ("more",)).key(), wasm)
    found = _found(published)
    assert "Content length mismatch" in found[node_name(slug, ("sub", "data")).key()]
    assert found[node_name(slug, ("more",)).key()] == "not listed in its directory"
    assert len(found) == 2


def test_an_interrupted_publication_is_no_damage(
    published: MemoryDrawbridge, slug: Slug, package: Package
) -> None:
    asyncio.run(published.store.remove(node_name(slug, ("main.wasm",)).key()))
    report = asyncio.run(check(published.store))
    assert report.findings == ()
    assert report.incomplete == ("tags/jane/chat/1.0.0",)
    assert report.unnamed == 1


@pytest.mark.parametrize("key", ["users", "users/a/b", "tags/a/b/1", "trees/a/b/1.0.0", "x/y"])
def test_keys_that_are_none(key: str) -> None:
    with pytest.raises(Malformed):
        parse_key(key)


def test_the_commands(tmp_path: Path) -> None:
    runner = CliRunner()
    store = Store.open(tmp_path / "objects")
    drawbridge = MemoryDrawbridge(store)
    assert drawbridge.put("/api/v0.1.0/jane", b'{"subject":"jane"}').status == 201
    done = runner.invoke(command, ["fsck", "--store", str(tmp_path), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["findings"] == []
    done = runner.invoke(command, ["gc", "--store", str(tmp_path), "--json"])
    assert json.loads(done.stdout)["put_aside"] == 0
    asyncio.run(store.put_content(content_key(bytes(32)), io.BytesIO(b"no")))
    done = runner.invoke(command, ["fsck", "--store", str(tmp_path)])
    assert isinstance(done.exception, Unverified)
    assert "wrong         1" in done.stdout
    assert f"content/{'00' * 32}  sha-256 digest mismatch" in done.stdout
    done = runner.invoke(command, ["fsck", "--store", str(tmp_path / "none")])
    assert isinstance(done.exception, Misuse)
    # Whoever runs them is told what the store does not do.
    (tmp_path / "objects" / "probes").rmdir()
    (tmp_path / "objects" / "probes").write_text("in the way")
    done = runner.invoke(command, ["gc", "--store", str(tmp_path)])
    assert isinstance(done.exception, Unavailable)
    assert done.exception.field == f"store {tmp_path}"
    assert "probes" in str(done.exception.found)

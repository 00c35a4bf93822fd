"""A store that fails a tenth of its calls: publishing again completes, and nothing is damaged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from garrison.drawbridge.fsck import check
from garrison.formats.slug import Slug
from garrison.testing.drawbridge import JSON, MemoryDrawbridge, served
from garrison.testing.flaky_store import FlakyStore

if TYPE_CHECKING:
    from garrison.formats.tree import Package


def _put(drawbridge: MemoryDrawbridge, path: str, body: bytes, media_type: str = JSON) -> None:
    """PUT until it is there; 409 says that the attempt before it failed after the creation."""
    for _ in range(50):
        answer = drawbridge.put(path, body, media_type)
        if answer.status in {201, 409}:
            return
        assert (answer.status, answer.text) == (500, "Storage backend failure")
    raise AssertionError(f"{path}: never created")


def test_a_tenth_of_the_calls_fail(package: Package) -> None:
    store = FlakyStore(0.1, seed=4)
    drawbridge = MemoryDrawbridge(store)
    _put(drawbridge, "/api/v0.1.0/jane", b'{"subject":"jane"}')
    _put(drawbridge, "/api/v0.1.0/jane/chat", b'{"public":true}')
    slugs = [Slug.parse(f"drawbridge.test/jane/chat:{n}.0.0") for n in range(10)]
    for slug in slugs:
        for path, (entry, content) in served(slug, package).items():
            _put(drawbridge, path, content, entry.type)
    assert store.failures > 10
    store.share = 0.0
    for slug in slugs:
        for path, (_, content) in served(slug, package).items():
            assert drawbridge.request("GET", path).body == content
    report = asyncio.run(check(store))
    assert (report.findings, report.incomplete, report.tags) == ((), (), 10)

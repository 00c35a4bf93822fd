"""The directories that a drawbridge keeps in memory: bounded, whatever users put into them."""

from __future__ import annotations

import asyncio
import io
import json
import tracemalloc

from garrison.drawbridge.directories import Directories
from garrison.drawbridge.layout import content_key
from garrison.drawbridge.store import Store
from garrison.formats.tree import DIRECTORY_TYPE, OTHER_TYPE, Directory, Entry

FILE = Entry.of(b"file", OTHER_TYPE)


def put(store: Store, content: bytes) -> Entry:
    """Store the content of a directory, as an upload does."""
    entry = Entry.of(content, DIRECTORY_TYPE)
    asyncio.run(store.put_content(content_key(entry.workload_digest), io.BytesIO(content)))
    return entry


def test_what_a_directory_lists() -> None:
    store = Store.in_memory()
    listed = Directory({"a": FILE, "b": Entry.of(b"{}", DIRECTORY_TYPE)})
    entry = put(store, listed.to_bytes())
    directories = Directories(store)
    for _ in range(2):
        assert asyncio.run(directories.get(entry)) == listed


def test_custom_members_are_not_kept_in_memory() -> None:
    store = Store.in_memory()
    filler = "[" + ",".join(["[]"] * 300_000) + "]"
    entries = []
    for number in range(5):
        # Some 20 MB each in memory, and one name.
        listed = {"f": {**Entry.of(b"%d" % number, OTHER_TYPE).to_json(), "x": json.loads(filler)}}
        content = json.dumps(listed, separators=(",", ":"), sort_keys=True).encode()
        entries.append(put(store, content))
        del listed, content
    directories = Directories(store)
    tracemalloc.start()
    try:
        for entry in entries:
            found = asyncio.run(directories.get(entry))
            assert list(found.entries) == ["f"]
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 10 << 20

"""The cache's directory: what it holds, what it refuses, and that it stays whole."""

from __future__ import annotations

import errno
import os
import stat
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from garrison.endorsements import cache as cache_module
from garrison.endorsements import kds, pcs
from garrison.endorsements.cache import Cache, Entry, Pause
from garrison.endorsements.resource import Document, Kind
from garrison.errors import Malformed, Misuse
from garrison.formats.snp import Product, SigningKey, Tcb
from garrison.testing.snp import NOW, FakePlatform
from garrison.testing.vendor_server import signed_json

if TYPE_CHECKING:
    from pathlib import Path

CRL = Entry(
    kds.crl(Product.MILAN, SigningKey.VCEK).url,
    Kind.CRL,
    NOW,
    Document(FakePlatform().vendor.crl().public_bytes(Encoding.DER)),
)


def tcb_info(number: int) -> Entry:
    resource = pcs.tcb_info(pcs.IntelTee.SGX, f"{number:012x}")
    body = signed_json(Kind.TCB_INFO, NOW, NOW + timedelta(days=30))
    return Entry(resource.url, resource.kind, NOW, Document(body))


def test_what_is_written_is_read(cache: Cache) -> None:
    assert cache.read(CRL.kind, CRL.url) is None
    cache.write(CRL)
    assert cache.read(CRL.kind, CRL.url) == CRL
    assert Entry.from_bytes(CRL.to_bytes()) == CRL
    assert cache.entries() == [CRL]
    assert stat.S_IMODE(cache.directory.stat().st_mode) == 0o700
    (path,) = cache.directory.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_under_another_name_is_not_taken(cache: Cache) -> None:
    cache.write(CRL)
    (path,) = cache.directory.iterdir()
    other = kds.crl(Product.GENOA, SigningKey.VCEK)
    path.rename(cache.directory / cache_module.entry_name(other.kind, other.url))
    assert cache.read(other.kind, other.url) is None


def test_a_file_that_is_damaged_or_gigantic_counts_as_absent(cache: Cache) -> None:
    cache.write(CRL)
    (path,) = cache.directory.iterdir()
    for data in (b"", b"\n\n\n", CRL.to_bytes()[:-1], bytes(cache_module.MAX_ENTRY + 1)):
        path.write_bytes(data)
        assert cache.read(CRL.kind, CRL.url) is None
        assert cache.entries() == []


@given(st.integers(min_value=0, max_value=len(CRL.to_bytes()) * 8 - 1))
def test_no_bit_may_change(bit: int) -> None:
    data = bytearray(CRL.to_bytes())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Malformed):
        Entry.from_bytes(bytes(data))


@given(st.binary(max_size=300))
def test_any_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Entry.from_bytes(data)


@pytest.mark.parametrize(
    "head",
    [
        b"[]",
        b"1",
        b"[" * 5000,
        b'{"chain": 1, "fetched": "2026-01-01T00:00:00+00:00", "kind": "crl", "url": "x"}',
        b'{"chain": "", "fetched": 1, "kind": "crl", "url": "x"}',
        b'{"chain": "", "fetched": "2026-01-01T00:00:00", "kind": "crl", "url": "x"}',
        b'{"chain": "", "fetched": "0001-01-01T00:00:00+23:00", "kind": "crl", "url": "x"}',
        b'{"chain": "", "fetched": "2026-01-01T00:00:00+00:00", "kind": "other", "url": "x"}',
        b'{"chain": "", "fetched": "2026-01-01T00:00:00+00:00", "kind": "crl", "url": 1}',
        b'{"chain": "", "fetched": "2026-01-01T00:00:00+00:00", "kind": "crl", "url": "\\ud800"}',
        b'{"chain": "\\ud800", "fetched": "2026-01-01T00:00:00+00:00", "kind": "crl", "url": "x"}',
    ],
)
def test_a_wrong_head_with_the_right_digest(head: bytes) -> None:
    from hashlib import sha256

    rest = head + b"\n" + CRL.document.body
    data = sha256(rest).hexdigest().encode() + b"\n" + rest
    with pytest.raises(Malformed):
        Entry.from_bytes(data)


def test_a_full_disk_leaves_what_was_there(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache.write(CRL)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        cache.write(tcb_info(1))
    assert [path.name for path in cache.directory.iterdir()] == [CRL.name]


def test_the_oldest_of_a_kind_give_way(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "MAX_OF_A_KIND", 3)
    cache.write(CRL)
    for number in range(5):
        entry = tcb_info(number)
        cache.write(entry)
        os.utime(cache.directory / entry.name, (number, number))
    kept = {entry.url for entry in cache.entries()}
    assert kept == {CRL.url, *(tcb_info(number).url for number in (2, 3, 4))}


def test_what_a_process_left_behind_is_removed(cache: Cache) -> None:
    old, new = cache.directory / ".garrison-1", cache.directory / ".garrison-2"
    for path in (old, new):
        path.write_bytes(b"")
    hours_ago = time.time() - 7200
    os.utime(old, (hours_ago, hours_ago))
    Cache(cache.directory)
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_directory_that_others_may_write_to(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(Misuse, match="others may write to the cache") as caught:
        Cache(tmp_path)
    assert f"mode {mode:o}" in str(caught.value.found)


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Misuse, match="cannot be used as a cache: "):
        Cache(tmp_path / "file")


def test_pauses(cache: Cache) -> None:
    pause = Pause(3, datetime(2026, 1, 1, 0, 0, 1, 500000, tzinfo=UTC))
    assert cache.pause("server") is None
    cache.set_pause("server", pause)
    assert cache.pause("server") == pause
    assert cache.pause("other") is None
    (path,) = cache.directory.iterdir()
    for damaged in (b"", b"[]", b'{"failures": 1, "until": 1e300}', b'{"failures": null}'):
        path.write_bytes(damaged)
        assert cache.pause("server") is None
    cache.set_pause("server", None)
    cache.set_pause("server", None)
    assert list(cache.directory.iterdir()) == []


def test_chips_are_told_apart_by_tcb_version(cache: Cache) -> None:
    first, second = (kds.vcek(Product.MILAN, bytes(64), Tcb(1, 0, 0, number)) for number in (1, 2))
    leaf = Document(FakePlatform().endorsements().leaf)
    cache.write(Entry(first.url, first.kind, NOW, leaf))
    assert cache.read(second.kind, second.url) is None

"""A vendor's server, a cache and a clock for each test of endorsements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from garrison.endorsements.cache import Cache
from garrison.endorsements.fetch import Fetcher
from garrison.testing.snp import NOW
from garrison.testing.tls import Authority
from garrison.testing.vendor_server import Clock, VendorServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AUTHORITY = Authority("Test Mirror")


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def vendor() -> Iterator[VendorServer]:
    with VendorServer(AUTHORITY) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def fetcher(vendor: VendorServer, cache: Cache, clock: Clock) -> Fetcher:
    return Fetcher(vendor.servers, cache, clock, clock.sleep)

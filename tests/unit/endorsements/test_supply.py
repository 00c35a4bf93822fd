"""When a document is served, renewed, refused; and that many who ask are one who fetches."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.endorsements import kds, pcs
from garrison.endorsements.cache import Cache, Entry
from garrison.endorsements.resource import Document, Kind, Resource
from garrison.endorsements.supply import MOST_CHIPS, MOST_FOR_CHIPS, Age, Supply, age
from garrison.errors import Unavailable
from garrison.formats.snp import Product, SigningKey
from garrison.testing.snp import NOW, FakePlatform
from garrison.testing.vendor_server import Answer, Clock, VendorServer, chain_answer, signed_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from garrison.endorsements.fetch import Fetcher

DAY = timedelta(days=1)
TCB_INFO = pcs.tcb_info(pcs.IntelTee.SGX, "00906ED50000")
CHAIN = kds.chain(Product.MILAN, SigningKey.VCEK)
PLATFORM = FakePlatform()
VEK = kds.vcek(Product.MILAN, PLATFORM.hwid, PLATFORM.tcb)
VEK_DER = PLATFORM.endorsements().leaf
VEK_END = PLATFORM.start + PLATFORM.lifetime


def tcb_info(issued: datetime = NOW, days: float = 30, **members: object) -> bytes:
    return signed_json(Kind.TCB_INFO, issued, issued + timedelta(days=days), **members)


def answer(body: bytes, vendor: VendorServer) -> Answer:
    return chain_answer(TCB_INFO, body, vendor.authority.root_pem.encode())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def supply(cache: Cache, fetcher: Fetcher, clock: Clock) -> Supply:
    return Supply(cache, fetcher, clock)


def entry(fetched: datetime, body: bytes) -> Entry:
    return Entry(TCB_INFO.url, Kind.TCB_INFO, fetched, Document(body))


@pytest.mark.parametrize(
    ("days", "after", "expected"),
    [
        # A list that holds for a month: renewed daily, and served for a week at most.
        (30, timedelta(0), Age.FRESH),
        (30, DAY - timedelta(seconds=1), Age.FRESH),
        (30, DAY, Age.DUE),
        (30, 7 * DAY, Age.DUE),
        (30, 7 * DAY + timedelta(seconds=1), Age.PAST),
        # One that ends sooner: renewed after half of its time, and never served beyond its end.
        (1, DAY / 2 - timedelta(seconds=1), Age.FRESH),
        (1, DAY / 2, Age.DUE),
        (1, DAY, Age.DUE),
        (1, DAY + timedelta(seconds=1), Age.PAST),
        # The clock was set back.
        (30, timedelta(seconds=-1), Age.DUE),
    ],
)
def test_the_age_of_what_may_be_revoked(days: int, after: timedelta, expected: Age) -> None:
    assert age(entry(NOW, tcb_info(days=days)), NOW + after) is expected


@pytest.mark.parametrize(
    ("before_end", "expected"),
    [
        (31 * DAY, Age.FRESH),
        (30 * DAY, Age.DUE),
        (timedelta(0), Age.DUE),
        (-timedelta(seconds=1), Age.PAST),
    ],
)
def test_the_age_of_a_certificate(before_end: timedelta, expected: Age) -> None:
    kept = Entry(VEK.url, Kind.VEK, NOW, Document(VEK_DER))
    assert age(kept, VEK_END - before_end) is expected


def test_a_chain_that_ends_sooner_ends_the_document(vendor: VendorServer) -> None:
    root = vendor.authority.root
    body = signed_json(Kind.TCB_INFO, NOW, datetime(9999, 1, 1, tzinfo=UTC))
    kept = Entry(TCB_INFO.url, Kind.TCB_INFO, NOW, Document(body, root.public_bytes(Encoding.PEM)))
    assert kept.dates().expires == root.not_valid_after_utc


def test_what_is_fresh_is_not_fetched(vendor: VendorServer, supply: Supply, clock: Clock) -> None:
    body = tcb_info()
    vendor.serve(TCB_INFO, answer(body, vendor))
    first = supply.get(TCB_INFO)
    assert first.body == body
    clock.now += DAY - timedelta(seconds=1)
    assert supply.get(TCB_INFO) == first
    assert vendor.count(TCB_INFO) == 1


def test_what_is_due_is_served_and_renewed_behind(
    vendor: VendorServer, supply: Supply, clock: Clock
) -> None:
    old, new = tcb_info(), tcb_info(NOW + DAY)
    vendor.serve(TCB_INFO, answer(old, vendor), answer(new, vendor))
    supply.get(TCB_INFO)
    clock.now += DAY
    assert supply.get(TCB_INFO).body == old
    until(lambda: supply.get(TCB_INFO).body == new)
    assert vendor.count(TCB_INFO) == 2


def test_an_outage_of_days_passes_unnoticed(
    vendor: VendorServer, supply: Supply, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = tcb_info(), tcb_info(NOW + 7 * DAY)
    vendor.serve(TCB_INFO, answer(old, vendor), Answer(status=404))
    supply.get(TCB_INFO)
    clock.now += 6 * DAY
    assert supply.get(TCB_INFO).body == old
    until(lambda: "cannot renew" in caplog.text)
    # Not again at each request.
    for _ in range(50):
        assert supply.get(TCB_INFO).body == old
    assert vendor.count(TCB_INFO) == 2
    # Then it is over.
    clock.now += DAY + timedelta(seconds=1)
    with pytest.raises(Unavailable, match="status 404"):
        supply.get(TCB_INFO)
    vendor.serve(TCB_INFO, answer(new, vendor))
    assert supply.get(TCB_INFO).body == new


def test_an_expired_document_is_not_taken(
    vendor: VendorServer, supply: Supply, cache: Cache
) -> None:
    vendor.serve(TCB_INFO, answer(tcb_info(NOW - 31 * DAY), vendor))
    with pytest.raises(Unavailable, match="has expired; found an end at 2025-12-31"):
        supply.get(TCB_INFO)
    assert cache.entries() == []


def test_a_mirror_cannot_take_a_revocation_back(
    vendor: VendorServer, supply: Supply, clock: Clock
) -> None:
    new, old = tcb_info(NOW), tcb_info(NOW - DAY, days=60)
    vendor.serve(TCB_INFO, answer(new, vendor), answer(old, vendor))
    assert supply.get(TCB_INFO).body == new
    clock.now += 8 * DAY
    with pytest.raises(Unavailable, match="older than the cached one") as caught:
        supply.get(TCB_INFO)
    assert caught.value.found == "issued 2025-12-31T00:00:00Z"
    assert caught.value.expected == "2026-01-01T00:00:00Z or later"
    kept = supply.cache.read(Kind.TCB_INFO, TCB_INFO.url)
    assert kept is not None
    assert kept.document.body == new


def test_one_flight_for_many_threads(vendor: VendorServer, supply: Supply) -> None:
    body = tcb_info()
    vendor.serve(TCB_INFO, Answer(body=body, pause=0.2, headers=answer(body, vendor).headers))
    barrier = threading.Barrier(32)

    def ask(_: int) -> bytes:
        barrier.wait()
        return supply.get(TCB_INFO).body

    with ThreadPoolExecutor(32) as threads:
        assert set(threads.map(ask, range(32))) == {body}
    assert vendor.count(TCB_INFO) == 1


def test_one_failure_for_many_threads(vendor: VendorServer, supply: Supply) -> None:
    vendor.serve(TCB_INFO, Answer(body=b"no", status=404, pause=0.2))
    barrier = threading.Barrier(32)

    def ask(_: int) -> str:
        barrier.wait()
        with pytest.raises(Unavailable, match="status 404") as caught:
            supply.get(TCB_INFO)
        return str(caught.value)

    with ThreadPoolExecutor(32) as threads:
        assert len(set(threads.map(ask, range(32)))) == 1
    # A thread that was late may have asked on its own; none asked twice.
    assert vendor.count(TCB_INFO) < 32


def test_chips_that_nobody_has_heard_of_take_some_threads_and_not_all(
    vendor: VendorServer, supply: Supply
) -> None:
    """A report that nobody has verified names its chip: other documents are still to be had."""
    waiting = threading.Event()

    def hold(_resource: object) -> Document:
        assert waiting.wait(60)
        raise Unavailable("no such chip")

    chips = [kds.vcek(Product.MILAN, bytes([n]) * 64, PLATFORM.tcb) for n in range(40)]
    fetcher = supply._fetcher
    assert fetcher is not None
    fetch = fetcher.fetch
    vendor.serve(TCB_INFO, answer(tcb_info(), vendor))
    with ThreadPoolExecutor(len(chips)) as threads, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            fetcher, "fetch", lambda each: fetch(each) if each == TCB_INFO else hold(each)
        )
        answers = [threads.submit(supply.get, chip) for chip in chips]
        for each in islice(as_completed(answers, 60), len(chips) - MOST_CHIPS):
            assert "too many wait for certificates of chips" in str(each.exception())
        assert supply.get(TCB_INFO).body == tcb_info()
        waiting.set()
    # Who has had an answer has left a place.
    vendor.serve(VEK, Answer(body=VEK_DER))
    assert supply.get(VEK).body == VEK_DER


def test_keeps_of_one_chip_may_be_more(vendor: VendorServer, supply: Supply) -> None:
    """They start together, and wait for one certificate; nor does that take all threads."""
    waiting = threading.Event()
    vendor.serve(TCB_INFO, answer(tcb_info(), vendor))
    vendor.serve(VEK, Answer(body=VEK_DER))
    fetcher = supply._fetcher
    assert fetcher is not None
    fetch = fetcher.fetch

    def held(resource: Resource) -> Document:
        assert resource == TCB_INFO or waiting.wait(60)
        return fetch(resource)

    with ThreadPoolExecutor(40) as threads, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetcher, "fetch", held)
        answers = [threads.submit(supply.get, VEK) for _ in range(40)]
        for each in islice(as_completed(answers, 60), len(answers) - MOST_FOR_CHIPS):
            assert "found 32, for 1; expected" in str(each.exception())
        assert supply.get(TCB_INFO).body == tcb_info()
        waiting.set()
        found = [each.result().body for each in answers if each.exception() is None]
    assert found == [VEK_DER] * MOST_FOR_CHIPS
    assert vendor.count(VEK) == 1


def test_what_another_process_fetched_meanwhile_is_used(
    vendor: VendorServer, cache: Cache, supply: Supply, clock: Clock
) -> None:
    """A second process is a second object with a lock of its own."""
    body = tcb_info()
    vendor.serve(TCB_INFO, answer(body, vendor))
    other = Cache(cache.directory)
    with ThreadPoolExecutor(1) as threads:
        with other.locked(TCB_INFO.kind, TCB_INFO.url, 1) as had:
            assert had
            asked = threads.submit(supply.get, TCB_INFO)
            time.sleep(0.1)
            assert not asked.done()
            other.write(entry(clock(), body))
        assert asked.result(10).body == body
    assert vendor.count(TCB_INFO) == 0


_OTHER_PROCESS = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from garrison.endorsements import pcs
from garrison.endorsements.cache import Cache
from garrison.endorsements.fetch import Fetcher, Servers
from garrison.endorsements.supply import Supply
directory, ca, *mirrors = sys.argv[1:]
clock = lambda: datetime(2026, 1, 1, tzinfo=UTC)
cache = Cache(Path(directory))
servers = Servers(dict(zip(mirrors[::2], mirrors[1::2])), Path(ca).read_text())
print("ready", flush=True)
sys.stdin.readline()
document = Supply(cache, Fetcher(servers, cache, clock), clock).get(
    pcs.tcb_info(pcs.IntelTee.SGX, "00906ED50000"))
print(len(document.body), len(cache.entries()))
"""


def test_processes_at_once(vendor: VendorServer, cache: Cache, tmp_path: Path) -> None:
    body = tcb_info()
    vendor.serve(TCB_INFO, Answer(body=body, pause=0.3, headers=answer(body, vendor).headers))
    ca = tmp_path / "ca.pem"
    ca.write_text(vendor.authority.root_pem)
    mirrors = [part for pair in vendor.servers.mirrors.items() for part in pair]
    command = [sys.executable, "-c", _OTHER_PROCESS, str(cache.directory), str(ca), *mirrors]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=20)[0] for process in processes]
    assert answers == [f"{len(body)} 1\n"] * 3
    assert vendor.count(TCB_INFO) == 1


def test_a_process_that_holds_the_lock_for_ever_stops_nobody(
    vendor: VendorServer, cache: Cache, supply: Supply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("garrison.endorsements.supply._LOCK_SECONDS", 0.1)
    vendor.serve(TCB_INFO, answer(tcb_info(), vendor))
    with Cache(cache.directory).locked(TCB_INFO.kind, TCB_INFO.url, 1):
        assert supply.get(TCB_INFO).body == tcb_info()


def test_a_full_disk_is_told_once_and_the_value_used(
    vendor: VendorServer,
    supply: Supply,
    cache: Cache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    vendor.serve(TCB_INFO, answer(tcb_info(), vendor))
    qe = pcs.qe_identity(pcs.IntelTee.SGX)
    body = signed_json(Kind.QE_IDENTITY, NOW, NOW + 30 * DAY)
    vendor.serve(qe, chain_answer(qe, body, vendor.authority.root_pem.encode()))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_write", full)
        for _ in range(3):
            assert supply.get(TCB_INFO).body == tcb_info()
            assert supply.get(qe).body == body
    # Neither the vendor nor the log is flooded.
    assert (vendor.count(TCB_INFO), vendor.count(qe)) == (1, 1)
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors == [f"cannot write to {cache.directory}: No space left on device"]


def test_a_damaged_file_is_fetched_anew(vendor: VendorServer, supply: Supply, cache: Cache) -> None:
    vendor.serve(TCB_INFO, answer(tcb_info(), vendor))
    document = supply.get(TCB_INFO)
    (path,) = cache.directory.glob("tcb-info-*")
    data = path.read_bytes()
    flipped = data[:-1] + bytes((data[-1] ^ 1,))
    for damaged in (b"", data[:-1], data + b" ", flipped, bytes(len(data))):
        path.write_bytes(damaged)
        assert supply.get(TCB_INFO) == document
    assert path.read_bytes() == data
    assert vendor.count(TCB_INFO) == 6


def test_renewing_what_is_due(
    vendor: VendorServer,
    supply: Supply,
    cache: Cache,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vendor.serve(TCB_INFO, answer(tcb_info(), vendor), answer(tcb_info(NOW + DAY), vendor))
    supply.get(TCB_INFO)
    cache.write(Entry(VEK.url, Kind.VEK, NOW, Document(VEK_DER)))
    supply.renew_due()
    assert len(vendor.requests) == 1
    clock.now += DAY
    supply.renew_due()
    assert supply.get(TCB_INFO).body == tcb_info(NOW + DAY)
    assert len(vendor.requests) == 2
    clock.now = VEK_END
    supply.renew_due()
    assert "has expired" in caplog.text
    assert len(vendor.requests) == 3


def test_without_a_fetcher_nothing_is_fetched(
    vendor: VendorServer, cache: Cache, clock: Clock
) -> None:
    supply = Supply(cache, None, clock)
    with pytest.raises(Unavailable, match="nothing may be fetched") as caught:
        supply.get(TCB_INFO)
    assert caught.value.field == TCB_INFO.url
    cache.write(entry(NOW, tcb_info()))
    # Even what is past: the verifier says what is wrong with it.
    clock.now += 60 * DAY
    assert supply.get(TCB_INFO).body == tcb_info()
    supply.renew_due()
    assert vendor.requests == []

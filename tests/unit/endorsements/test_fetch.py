"""Fetching: what a server may do wrong, and what is done about it."""

from __future__ import annotations

import errno
import json
import os
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
import urllib3
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.endorsements import fetch, kds, pcs
from garrison.endorsements.cache import Pause
from garrison.endorsements.fetch import Fetcher, Servers
from garrison.endorsements.resource import Document, Kind
from garrison.errors import Misuse, Unavailable
from garrison.formats.snp import Product, SigningKey
from garrison.testing.snp import NOW, FakePlatform
from garrison.testing.tls import Authority
from garrison.testing.vendor_server import (
    Answer,
    Clock,
    VendorServer,
    chain_answer,
    signed_json,
)

if TYPE_CHECKING:
    from garrison.endorsements.cache import Cache

PLATFORM = FakePlatform()
CRL = PLATFORM.vendor.crl().public_bytes(Encoding.DER)
CRL_RESOURCE = kds.crl(Product.MILAN, SigningKey.VCEK)
VEK_RESOURCE = kds.vcek(Product.MILAN, PLATFORM.hwid, PLATFORM.tcb)
TCB_INFO = pcs.tcb_info(pcs.IntelTee.TDX, "B0C06F000000")
TCB_BODY = signed_json(Kind.TCB_INFO, NOW, NOW + timedelta(days=30))


def failure(fetcher: Fetcher) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        fetcher.fetch(CRL_RESOURCE)
    assert caught.value.message == "cannot be fetched"
    assert caught.value.field is not None
    assert caught.value.field.startswith("https://localhost:")
    assert caught.value.field.endswith("/kds/vcek/v1/Milan/crl")
    return caught.value


def test_a_document(vendor: VendorServer, fetcher: Fetcher, clock: Clock) -> None:
    vendor.serve(CRL_RESOURCE, Answer(body=CRL))
    assert fetcher.fetch(CRL_RESOURCE) == Document(CRL)
    assert vendor.requests == ["/kds/vcek/v1/Milan/crl"]
    assert clock.slept == []


def test_the_signers_chain_comes_in_a_header(vendor: VendorServer, fetcher: Fetcher) -> None:
    chain = vendor.authority.root_pem.encode()
    vendor.serve(TCB_INFO, chain_answer(TCB_INFO, TCB_BODY, chain))
    assert fetcher.fetch(TCB_INFO) == Document(TCB_BODY, chain)
    assert vendor.requests == ["/pccs/tdx/certification/v4/tcb?fmspc=b0c06f000000"]


def test_a_pccs_sends_the_roots_list_in_hex(vendor: VendorServer, fetcher: Fetcher) -> None:
    vendor.serve(pcs.root_crl(), Answer(body=CRL.hex().encode() + b"\n"))
    assert fetcher.fetch(pcs.root_crl()) == Document(CRL)
    assert vendor.requests == ["/pccs/sgx/certification/v4/rootcacrl"]


def test_without_mirrors_the_vendors_are_asked() -> None:
    servers = Servers({})
    assert servers.address(CRL_RESOURCE.url) == "https://kdsintf.amd.com/vcek/v1/Milan/crl"
    assert servers.address(pcs.root_crl().url) == pcs.ROOT_CRL_URL


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(
    vendor: VendorServer, fetcher: Fetcher, clock: Clock, cache: Cache, status: int
) -> None:
    vendor.serve(CRL_RESOURCE, Answer(status=status), Answer(status=status), Answer(body=CRL))
    assert fetcher.fetch(CRL_RESOURCE).body == CRL
    first, second = clock.slept
    assert 0.5 <= first <= 1
    assert 1 <= second <= 2
    # A success ends the pause.
    assert cache.pause(f"{vendor.origin} all") is None


def test_three_tries_and_no_more(
    vendor: VendorServer, fetcher: Fetcher, cache: Cache, clock: Clock
) -> None:
    vendor.serve(CRL_RESOURCE, Answer(status=503))
    assert failure(fetcher).found == "status 503"
    assert vendor.count(CRL_RESOURCE) == 3
    pause = cache.pause(f"{vendor.origin} all")
    assert pause is not None
    assert pause.failures == 3
    assert 2 <= (pause.until - clock()).total_seconds() <= 4


def test_retry_after_is_honoured(vendor: VendorServer, fetcher: Fetcher, clock: Clock) -> None:
    date = format_datetime(NOW.replace(microsecond=0) + timedelta(seconds=14), usegmt=True)
    vendor.serve(
        CRL_RESOURCE,
        Answer(status=429, headers={"Retry-After": "10"}),
        Answer(status=503, headers={"Retry-After": date}),
        Answer(body=CRL),
    )
    assert fetcher.fetch(CRL_RESOURCE).body == CRL
    assert clock.slept == [10, 4]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3600", 3600),
        ("9" * 30, 6 * 3600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 6 * 3600),
        ("Fri, 01 Jan 1999 00:00:00 GMT", 0),
        # All else leaves it to us.
        ("-5", None),
        ("soon", None),
        ("²", None),
        ("", None),
    ],
)
def test_what_retry_after_may_say(value: str, seconds: float | None) -> None:
    asked = fetch._retry_after({"Retry-After": value}, NOW)
    assert (None if asked is None else asked.total_seconds()) == seconds


def test_a_long_pause_outlives_the_process(
    vendor: VendorServer, fetcher: Fetcher, cache: Cache, clock: Clock
) -> None:
    vendor.serve(
        CRL_RESOURCE, Answer(status=429, headers={"Retry-After": "3600"}), Answer(body=CRL)
    )
    expected = "the server must be left alone until 2026-01-01T01:00:00Z"
    assert failure(fetcher).found == expected
    again = Fetcher(vendor.servers, type(cache)(cache.directory), clock, clock.sleep)
    assert failure(again).found == expected
    assert vendor.count(CRL_RESOURCE) == 1
    assert clock.slept == []
    # Chips have a pause of their own: a flood of them does not hold up revocation lists.
    with pytest.raises(Unavailable, match="status 404"):
        again.fetch(VEK_RESOURCE)
    clock.now += timedelta(seconds=3600)
    assert again.fetch(CRL_RESOURCE).body == CRL


def test_a_clock_set_back_does_not_prolong_a_pause(
    fetcher: Fetcher, vendor: VendorServer, cache: Cache
) -> None:
    cache.set_pause(f"{vendor.origin} all", Pause(1, datetime(2099, 1, 1, tzinfo=UTC)))
    assert failure(fetcher).found == "the server must be left alone until 2026-01-01T06:00:00Z"


def test_a_full_disk_does_not_end_the_manners(
    vendor: VendorServer,
    fetcher: Fetcher,
    cache: Cache,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cache, "_write", full_disk)
    vendor.serve(CRL_RESOURCE, Answer(status=429), Answer(body=CRL))
    assert fetcher.fetch(CRL_RESOURCE).body == CRL
    assert len(clock.slept) == 1
    assert "No space left on device" in caplog.text


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_pauses_double_up_to_five_minutes(fetcher: Fetcher, cache: Cache, clock: Clock) -> None:
    for _ in range(40):
        fetcher._pause("server", None)
        pause = cache.pause("server")
        assert pause is not None
        longest = min(2 ** (pause.failures - 1), 300)
        length = (pause.until - clock()).total_seconds()
        assert longest / 2 <= length <= longest
        clock.now = pause.until
    # Requests that fail together count once.
    fetcher._pause("server", None)
    fetcher._pause("server", None)
    after = cache.pause("server")
    assert after is not None
    assert after.failures == 41


@pytest.mark.parametrize("status", [301, 302, 304, 400, 401, 403, 404, 501, 204])
def test_what_does_not_pass_is_not_tried_again(
    vendor: VendorServer, fetcher: Fetcher, status: int
) -> None:
    vendor.serve(
        CRL_RESOURCE, Answer(status=status, headers={"Location": f"{vendor.origin}/kds/elsewhere"})
    )
    assert failure(fetcher).found == f"status {status}"
    assert vendor.requests == ["/kds/vcek/v1/Milan/crl"]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (Answer(body=CRL, missing=1), "the answer broke off: "),
        (
            Answer(body=b"5\r\nhello\r\n9\r\nbroken", headers={"Transfer-Encoding": "chunked"}),
            "the answer broke off: ",
        ),
    ],
)
def test_a_truncated_body(
    vendor: VendorServer, fetcher: Fetcher, answer: Answer, found: str
) -> None:
    vendor.serve(CRL_RESOURCE, answer, Answer(body=CRL))
    assert fetcher.fetch(CRL_RESOURCE).body == CRL
    vendor.serve(CRL_RESOURCE, answer)
    assert str(failure(fetcher).found).startswith(found)


def test_a_slow_body(
    vendor: VendorServer, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_ATTEMPT_SECONDS", 0.1)
    vendor.serve(CRL_RESOURCE, Answer(body=CRL, piece=1, pause=0.03))
    assert failure(fetcher).found == "the answer broke off: the answer comes too slowly"
    assert vendor.count(CRL_RESOURCE) == 3


def test_no_answer(
    vendor: VendorServer, cache: Cache, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_TIMEOUT", urllib3.Timeout(connect=5, read=0.1))
    fetcher = Fetcher(vendor.servers, cache, clock, clock.sleep)
    vendor.serve(CRL_RESOURCE, Answer(hang=True))
    assert "timed out" in str(failure(fetcher).found)
    assert vendor.count(CRL_RESOURCE) == 3


def test_nobody_there(cache: Cache, clock: Clock) -> None:
    with VendorServer() as gone:
        servers = gone.servers
    fetcher = Fetcher(servers, cache, clock, clock.sleep)
    assert str(failure(fetcher).found).startswith("no answer: ")
    assert len(clock.slept) == 2


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"<html>not found</html>", "not a revocation list"),
        (b"", "not a revocation list"),
        (b"30", "not a revocation list"),
        (bytes(1 << 20), "more than 131072 bytes"),
        (CRL + b"\0", "not a revocation list"),
    ],
)
def test_wrong_content(vendor: VendorServer, fetcher: Fetcher, body: bytes, found: str) -> None:
    vendor.serve(CRL_RESOURCE, Answer(body=body))
    assert found in str(failure(fetcher).found)
    assert vendor.count(CRL_RESOURCE) == 1


def test_an_encoded_body(vendor: VendorServer, fetcher: Fetcher) -> None:
    vendor.serve(CRL_RESOURCE, Answer(body=CRL, headers={"Content-Encoding": "gzip"}))
    assert failure(fetcher).found == "status 200, but encoded as 'gzip'"


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, "no header TCB-Info-Issuer-Chain"),
        ({"TCB-Info-Issuer-Chain": "%FF"}, "is not PEM"),
        ({"TCB-Info-Issuer-Chain": "A" * 40000}, "is not PEM"),
        ({"TCB-Info-Issuer-Chain": "none"}, "not PEM of certificates"),
    ],
)
def test_a_wrong_chain(
    vendor: VendorServer, fetcher: Fetcher, headers: dict[str, str], found: str
) -> None:
    vendor.serve(TCB_INFO, Answer(body=TCB_BODY, headers=headers))
    with pytest.raises(Unavailable, match=found):
        fetcher.fetch(TCB_INFO)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b"[" * 100000,
        json.dumps({"tcbInfo": {}, "signature": "00"}).encode(),
        json.dumps({"tcbInfo": {"issueDate": 1, "nextUpdate": 1}, "signature": "00"}).encode(),
        TCB_BODY.replace(b"T00:00:00Z", b"T00:00:00+01:00"),
        signed_json(Kind.QE_IDENTITY, NOW, NOW),
    ],
)
def test_wrong_collateral(vendor: VendorServer, fetcher: Fetcher, body: bytes) -> None:
    vendor.serve(TCB_INFO, chain_answer(TCB_INFO, body, vendor.authority.root_pem.encode()))
    with pytest.raises(Unavailable, match="status 200, but"):
        fetcher.fetch(TCB_INFO)


def test_another_authority(vendor: VendorServer, cache: Cache, clock: Clock) -> None:
    foreign = Servers(vendor.servers.mirrors, Authority("Another").root_pem)
    error = failure(Fetcher(foreign, cache, clock, clock.sleep))
    assert str(error.found).startswith("TLS failed: ")
    assert error.hint is not None
    assert vendor.requests == []
    # Neither the web's authorities vouch for it.
    web = Servers(vendor.servers.mirrors)
    assert str(failure(Fetcher(web, cache, clock, clock.sleep)).found).startswith("TLS failed")


def test_another_name(cache: Cache, clock: Clock) -> None:
    with VendorServer(host="elsewhere.test") as vendor:
        error = failure(Fetcher(vendor.servers, cache, clock, clock.sleep))
    assert str(error.found).startswith("TLS failed: ")


def test_no_authority(cache: Cache, clock: Clock) -> None:
    with pytest.raises(Misuse, match="not PEM of certificates"):
        Fetcher(Servers({}, "nonsense"), cache, clock)

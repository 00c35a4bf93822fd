"""A long file comes in ranges over two connections, and nothing of a server that cheats in them."""

from __future__ import annotations

import re
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from garrison.drawbridge.client import Client
from garrison.drawbridge.retry import TRIES
from garrison.errors import GarrisonError, Rejected, Unavailable, Unverified
from garrison.formats.tree import Package
from garrison.testing.drawbridge import HOLD, Lie, LyingServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.formats.slug import Slug
    from garrison.testing.tls import Authority

WASM = "/api/v0.1.0/jane/chat/_tag/1.0.0/tree/main.wasm"
TAG = '"the content"'
RANGE = 750
# Six of them, of which the last is a little shorter.
LENGTH = 4495
STARTS = range(0, LENGTH, RANGE)
CONTENT = bytes(number % 251 for number in range(LENGTH))


class Ranges:
    """Serves ranges of a file, honestly but for what a test does to an answer.

    Attributes:
        spoil: called with the first byte that is asked for (None: all), and the honest answer.
    """

    def __init__(self, whole: Lie) -> None:
        self.whole = whole
        self.spoil: Callable[[int | None, Lie], None] = lambda _first, _lie: None

    def __call__(self, asked: str | None) -> Lie:
        headers, body = self.whole.headers | {"ETag": TAG}, self.whole.body
        lie, first = Lie(200, headers, body), None
        if asked is not None:
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
            assert match is not None, asked
            first, last = int(match[1]), int(match[2] or len(body) - 1)
            lie = Lie(206, headers, body[first : last + 1])
            headers["Content-Length"] = str(last + 1 - first)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        self.spoil(first, lie)
        return lie


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is true of 16 MiB is true of 4,495 bytes."""
    monkeypatch.setattr("garrison.drawbridge.wire.seconds_to_wait", lambda *_: 0.0)
    monkeypatch.setattr("garrison.drawbridge.retry._FIRST_SECONDS", 0.0)
    monkeypatch.setattr("garrison.drawbridge.ranges.LEAST", LENGTH)
    monkeypatch.setattr("garrison.drawbridge.ranges._RANGE", RANGE)
    monkeypatch.setattr("garrison.drawbridge.ranges._PIECE", 300)


@pytest.fixture
def package() -> Package:
    return Package({"main.wasm": CONTENT, "short": CONTENT[: LENGTH - 1]})


@pytest.fixture
def slug(server: LyingServer, package: Package) -> Slug:
    return server.tell_the_truth("jane/chat:1.0.0", package)


@pytest.fixture
def ranges(server: LyingServer, slug: Slug) -> Ranges:
    ranges = Ranges(server.answers[WASM])
    server.by_range[WASM] = ranges
    return ranges


def asked(server: LyingServer) -> list[tuple[str | None, str | None]]:
    """What was asked for of the file: `Range` and `If-Range`."""
    pairs = zip(server.requested, server.ranges, strict=True)
    return [pair for path, pair in pairs if path == WASM]


def in_ranges() -> list[tuple[str, str | None]]:
    return [
        (f"bytes={first}-{min(first + RANGE, LENGTH) - 1}", TAG if first else None)
        for first in STARTS
    ]


def fetched(client: Client, slug: Slug, package: Package) -> None:
    """Fetch it, which must succeed with its progress told to the byte."""
    counted: list[int] = []
    assert client.fetch(slug, counted.append).files == package.files
    assert sum(counted) == sum(len(content) for _, content in package.nodes().values())
    assert min(counted) >= 0


def test_in_ranges(
    client: Client, slug: Slug, server: LyingServer, package: Package, ranges: Ranges
) -> None:
    fetched(client, slug, package)
    assert sorted(asked(server)) == sorted(in_ranges())
    # What is one byte shorter comes as ever.
    assert server.ranges[server.requested.index(WASM.replace("main.wasm", "short"))][0] is None


@pytest.mark.parametrize("kind", ["no ranges", "no tag", "weak tag"])
def test_one_stream_from_a_server_without_ranges(
    client: Client, slug: Slug, server: LyingServer, package: Package, ranges: Ranges, kind: str
) -> None:
    if kind == "no ranges":
        del server.by_range[WASM]
    elif kind == "no tag":
        ranges.spoil = lambda _first, lie: lie.headers.__delitem__("ETag")
    else:
        ranges.spoil = lambda _first, lie: lie.headers.update(ETag="W/" + TAG)
    fetched(client, slug, package)
    assert asked(server) == [(f"bytes=0-{RANGE - 1}", None), (None, None)]


@pytest.mark.parametrize("first", STARTS)
def test_a_range_that_breaks_off_is_gone_on_with(
    client: Client, slug: Slug, server: LyingServer, package: Package, ranges: Ranges, first: int
) -> None:
    def spoil(found: int | None, lie: Lie) -> None:
        if found == first:
            lie.body = lie.body[:450]

    ranges.spoil = spoil
    fetched(client, slug, package)
    rest = (f"bytes={first + 450}-{min(first + RANGE, LENGTH) - 1}", TAG)
    assert sorted(asked(server)) == sorted([*in_ranges(), rest])


def test_gives_up(client: Client, slug: Slug, server: LyingServer, ranges: Ranges) -> None:
    def spoil(found: int | None, lie: Lie) -> None:
        if found == 2 * RANGE:
            lie.body = b""

    ranges.spoil = spoil
    with pytest.raises(Unavailable, match="does not answer"):
        client.fetch(slug)
    again = [pair for pair in asked(server) if pair[0] == f"bytes={2 * RANGE}-{3 * RANGE - 1}"]
    assert len(again) == TRIES


@pytest.mark.parametrize("first", STARTS)
@pytest.mark.parametrize("status", [200, 206])
def test_a_server_that_changes_its_mind(
    client: Client, slug: Slug, ranges: Ranges, first: int, status: int
) -> None:
    """The range breaks off, and its rest is of something else."""

    def spoil(found: int | None, lie: Lie) -> None:
        if found == first:
            lie.body = lie.body[:100]
        elif found == first + 100:
            lie.status = status
            lie.headers["ETag"] = '"another"'

    ranges.spoil = spoil
    with pytest.raises(Unverified, match="other content than it began with") as caught:
        client.fetch(slug)
    assert caught.value.field == f"{slug} main.wasm: status and ETag"
    assert caught.value.found == f"{status} '\"another\"'"
    assert caught.value.expected == f"206 {TAG!r}"


@pytest.mark.parametrize("first", STARTS)
@pytest.mark.parametrize(
    "header",
    [
        pytest.param("bytes {}-{}/4496", id="another length"),
        pytest.param("bytes {}-{}/*", id="no length"),
        pytest.param("bytes 1{}-{}/4495", id="another start"),
        pytest.param("bytes {}-1{}/4495", id="another end"),
        pytest.param("bytes */4495", id="unsatisfied"),
        pytest.param("", id="empty"),
        pytest.param("bytes " + "9" * 5000, id="endless"),
    ],
)
def test_another_range(client: Client, slug: Slug, ranges: Ranges, first: int, header: str) -> None:
    def spoil(found: int | None, lie: Lie) -> None:
        if found == first:
            lie.headers["Content-Range"] = header.format(first, first + len(lie.body) - 1)

    ranges.spoil = spoil
    with pytest.raises(Unverified, match="another range than was asked for") as caught:
        client.fetch(slug)
    assert caught.value.field == f"{slug} main.wasm: Content-Range"


@pytest.mark.parametrize("first", STARTS)
@pytest.mark.parametrize(("more", "text"), [(-1, "wrong length"), (1, "longer than it should be")])
def test_a_body_that_is_not_its_range(
    client: Client, slug: Slug, ranges: Ranges, first: int, more: int, text: str
) -> None:
    def spoil(found: int | None, lie: Lie) -> None:
        if found == first:
            lie.body = lie.body[:-1] if more < 0 else lie.body + b"x"
            lie.headers["Content-Length"] = str(len(lie.body))

    ranges.spoil = spoil
    with pytest.raises(Unverified, match=text):
        client.fetch(slug)


@pytest.mark.parametrize("first", STARTS)
def test_a_wrong_byte(client: Client, slug: Slug, ranges: Ranges, first: int) -> None:
    def spoil(found: int | None, lie: Lie) -> None:
        if found == first:
            lie.body = lie.body[:-1] + bytes([lie.body[-1] ^ 1])

    ranges.spoil = spoil
    with pytest.raises(Unverified, match="digest mismatch") as caught:
        client.fetch(slug)
    assert caught.value.field == f"{slug} main.wasm"


@pytest.mark.parametrize("first", STARTS)
@pytest.mark.parametrize(
    ("status", "kind"), [(404, Rejected), (416, Rejected), (500, Unavailable), (204, GarrisonError)]
)
def test_a_refusal(
    client: Client,
    slug: Slug,
    ranges: Ranges,
    first: int,
    status: int,
    kind: type[GarrisonError],
) -> None:
    def spoil(found: int | None, lie: Lie) -> None:
        if found == first:
            lie.status, lie.body = status, b""
            lie.headers["Content-Length"] = "0"

    ranges.spoil = spoil
    with pytest.raises(kind, match=f"answers {status}"):
        client.fetch(slug)


@pytest.mark.parametrize("first", STARTS)
def test_a_busy_server(
    client: Client, slug: Slug, package: Package, ranges: Ranges, first: int
) -> None:
    """What says "not now" is asked again."""
    refused = threading.Event()

    def spoil(found: int | None, lie: Lie) -> None:
        if found == first and not refused.is_set():
            refused.set()
            lie.status, lie.body = 503, b"busy"
            lie.headers["Content-Length"] = "4"

    ranges.spoil = spoil
    fetched(client, slug, package)
    assert refused.is_set()


@pytest.mark.parametrize("first", [0, 3 * RANGE])
def test_too_slow(
    client: Client, slug: Slug, ranges: Ranges, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that sends nothing more is left at the deadline, though no read ends by itself."""
    monkeypatch.setattr("garrison.drawbridge.wire._PATIENCE_SECONDS", 1.0)
    hold, started = threading.Event(), time.monotonic()

    def spoil(found: int | None, lie: Lie) -> None:
        if found == first:
            lie.body, lie.hold = lie.body[:1], hold

    ranges.spoil = spoil
    try:
        with pytest.raises(Unavailable, match="too slowly"):
            client.fetch(slug)
        assert time.monotonic() - started < HOLD / 2
    finally:
        hold.set()


def test_a_failure_wakes_who_waits(client: Client, slug: Slug, ranges: Ranges) -> None:
    """One range is refused while the server holds another: nobody waits for its timeout."""
    hold, started = threading.Event(), time.monotonic()

    def spoil(found: int | None, lie: Lie) -> None:
        if found == 0:
            lie.body, lie.hold = lie.body[:1], hold
        else:
            lie.headers["ETag"] = '"another"'

    ranges.spoil = spoil
    try:
        with pytest.raises(Unverified, match="other content"):
            client.fetch(slug)
        assert time.monotonic() - started < HOLD / 2
    finally:
        hold.set()


@pytest.mark.parametrize("has_ranges", [True, False], ids=["ranges", "one stream"])
def test_a_file_is_in_memory_once(
    certifier: Authority, monkeypatch: pytest.MonkeyPatch, has_ranges: bool
) -> None:
    length = 8 << 20
    monkeypatch.setattr("garrison.drawbridge.ranges.LEAST", length)
    monkeypatch.setattr("garrison.drawbridge.ranges._RANGE", length // 16)
    monkeypatch.setattr("garrison.drawbridge.ranges._PIECE", 1 << 16)
    with LyingServer(certifier.issue(hosts=("localhost",))) as server:
        slug = server.tell_the_truth("jane/chat:1.0.0", Package({"main.wasm": bytes(length)}))
        if has_ranges:
            server.by_range[WASM] = Ranges(server.answers[WASM])
        client = Client(server.host, ca_pem=certifier.root_pem)
        tracemalloc.start()
        try:
            files = client.fetch(slug).files
            now, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(files["main.wasm"]) == length
    assert now < 1.1 * length
    assert most < 1.5 * length

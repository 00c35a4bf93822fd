"""A body that breaks off is gone on with; wrong bytes are found whatever a server answers then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from garrison.drawbridge.client import Client
from garrison.drawbridge.retry import TRIES
from garrison.errors import GarrisonError, Unavailable, Unverified
from garrison.testing.drawbridge import Lie, LyingServer

if TYPE_CHECKING:
    from garrison.formats.slug import Slug
    from garrison.formats.tree import Package
    from garrison.testing.tls import Authority

WASM = "/api/v0.1.0/jane/chat/_tag/1.0.0/tree/main.wasm"
TAG = '"the content"'
CUT = 1500


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("garrison.drawbridge.wire.seconds_to_wait", lambda *_: 0.0)


@pytest.fixture
def published(server: LyingServer, package: Package) -> Slug:
    """A package whose module breaks off at the first try."""
    slug = server.tell_the_truth("jane/chat:1.0.0", package)
    whole = server.answers[WASM]
    whole.headers["ETag"] = TAG
    server.turns[WASM] = [Lie(200, whole.headers, whole.body[:CUT])]
    return slug


def rest(server: LyingServer, **changes: str) -> Lie:
    """What an honest server answers to the second try."""
    whole = server.answers[WASM]
    length = len(whole.body)
    headers = whole.headers | {
        "Content-Length": str(length - CUT),
        "Content-Range": f"bytes {CUT}-{length - 1}/{length}",
    }
    return Lie(
        206, headers | {k.replace("_", "-"): v for k, v in changes.items()}, whole.body[CUT:]
    )


def test_goes_on_where_it_broke_off(
    client: Client, published: Slug, server: LyingServer, package: Package
) -> None:
    server.turns[WASM].append(rest(server))
    counted: list[int] = []
    assert client.fetch(published, counted.append).files == package.files
    asked = [
        asked for path, asked in zip(server.requested, server.ranges, strict=True) if path == WASM
    ]
    assert asked == [(None, None), (f"bytes={CUT}-", TAG)]
    assert sum(counted) == sum(len(content) for _, content in package.nodes().values())


@pytest.mark.parametrize("tag", [True, False], ids=["whole again", "no ETag"])
def test_begins_again_where_the_server_does(
    client: Client, published: Slug, server: LyingServer, package: Package, tag: bool
) -> None:
    if not tag:
        del server.answers[WASM].headers["ETag"]
    counted: list[int] = []
    assert client.fetch(published, counted.append).files == package.files
    assert sum(counted) == sum(len(content) for _, content in package.nodes().values())
    last = [r for p, r in zip(server.requested, server.ranges, strict=True) if p == WASM][-1]
    assert last == ((f"bytes={CUT}-", TAG) if tag else (None, None))


def test_gives_up(client: Client, published: Slug, server: LyingServer) -> None:
    server.answers[WASM].body = server.answers[WASM].body[:CUT]
    with pytest.raises(Unavailable, match="does not answer"):
        client.fetch(published)
    assert server.requested.count(WASM) == TRIES


def test_one_try_is_one_try(published: Slug, server: LyingServer, certifier: Authority) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        Client(server.host, ca_pem=certifier.root_pem, tries=1).fetch(published)
    assert server.requested.count(WASM) == 1


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("bytes 0-2499/4000", id="another start"),
        pytest.param("bytes 1500-3000/4000", id="another end"),
        pytest.param("bytes 1500-3999/*", id="no length"),
        pytest.param("bytes */4000", id="unsatisfied"),
        pytest.param("", id="empty"),
        pytest.param("bytes " + "9" * 5000, id="endless"),
    ],
)
def test_a_server_that_lies_in_ranges(
    client: Client, published: Slug, server: LyingServer, header: str
) -> None:
    server.turns[WASM].append(rest(server, Content_Range=header))
    with pytest.raises(Unverified, match="another range than was asked for"):
        client.fetch(published)


def test_content_that_changes_between_tries(
    client: Client, published: Slug, server: LyingServer
) -> None:
    """Whether the server sends the rest of another content, or another content whole."""
    first = server.turns[WASM][0]
    part = rest(server)
    part.body = b"x" * len(part.body)
    whole = Lie(200, server.answers[WASM].headers, b"x" * len(server.answers[WASM].body))
    for second in (part, whole):
        server.turns[WASM] = [first, second]
        with pytest.raises(Unverified, match="digest mismatch") as caught:
            client.fetch(published)
        assert caught.value.field == f"{published} main.wasm"


def test_more_than_the_rest(client: Client, published: Slug, server: LyingServer) -> None:
    part = rest(server, Content_Length="2501")
    part.body += b"x"
    server.turns[WASM].append(part)
    with pytest.raises(Unverified, match="longer than it should be"):
        client.fetch(published)


def test_a_busy_server_in_between(
    client: Client,
    published: Slug,
    server: LyingServer,
    package: Package,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What came is kept while the server says "not now"."""
    monkeypatch.setattr("garrison.drawbridge.retry._FIRST_SECONDS", 0.0)
    server.turns[WASM] += [Lie(503, {"Content-Length": "4"}, b"busy"), rest(server)]
    assert client.fetch(published).files == package.files
    assert server.requested.count(WASM) == 3


def test_a_range_that_was_not_asked_for(
    client: Client, published: Slug, server: LyingServer
) -> None:
    server.turns[WASM] = [rest(server)]
    with pytest.raises(GarrisonError, match="answers 206"):
        client.fetch(published)

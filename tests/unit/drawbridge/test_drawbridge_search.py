"""Searching for repositories: public ones alone, by a text in their name, in pages."""

from __future__ import annotations

import asyncio
import json
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.drawbridge import catalogue
from garrison.drawbridge.named import StorageFailure
from garrison.errors import Malformed
from garrison.formats.slug import Repository
from garrison.testing.drawbridge import Lie, MemoryDrawbridge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from garrison.drawbridge.client import Client
    from garrison.drawbridge.named import Named
    from garrison.drawbridge.store import Store, Stored
    from garrison.testing.drawbridge import Answer, LyingServer

API = "/api/v0.1.0/"


def _search(drawbridge: MemoryDrawbridge, query: str, user: str | None = None) -> list[str]:
    answer = drawbridge.request("GET", f"{API}?{query}", user=user)
    assert answer.status == 200, answer.text
    found: list[str] = json.loads(answer.body)
    return found


def _register(drawbridge: MemoryDrawbridge, name: str, *, public: bool = True) -> Answer:
    body = json.dumps({"public": public}).encode()
    return drawbridge.put(API + name, body, user=name.partition("/")[0])


@pytest.fixture
def many(drawbridge: MemoryDrawbridge) -> MemoryDrawbridge:
    """With 250 further public repositories, every one of them behind a private one."""
    for number in range(250):
        assert _register(drawbridge, f"eve/a{number:03}x", public=False).status == 201
        assert _register(drawbridge, f"eve/a{number:03}y").status == 201
    return drawbridge


def test_public_repositories_alone(drawbridge: MemoryDrawbridge) -> None:
    assert _register(drawbridge, "eve/Chat-2").status == 201
    everything = ["eve/Chat-2", "jane/chat"]
    assert _search(drawbridge, "q=") == everything
    assert _search(drawbridge, "q=CHAT") == everything
    assert _search(drawbridge, "q=eve%2F") == ["eve/Chat-2"]
    assert _search(drawbridge, "q=e/c") == ["jane/chat", "eve/Chat-2"][::-1]
    # Whoever asks: `jane/secret` is private.
    for user in (None, "jane", "eve"):
        assert _search(drawbridge, "q=secret", user=user) == []


def test_pages(many: MemoryDrawbridge) -> None:
    expected = [f"eve/a{number:03}y" for number in range(250)]
    path, found, pages = f"{API}?q=eve", [], []
    while path:
        answer = many.request("GET", path)
        page = json.loads(answer.body)
        found += page
        pages.append(len(page))
        link = answer.headers.get("link", "")
        assert "x" not in link.partition("?")[2].partition('>; rel="next"')[0]
        path = link.removeprefix("<").partition(">")[0]
    assert (found, pages) == (expected, [100, 100, 50])
    assert _search(many, "q=a00&n=3") == expected[:3]
    assert _search(many, "q=a00&n=3&last=eve/a002y") == expected[3:6]
    # No more than a page, whatever is asked for.
    assert len(_search(many, "q=eve&n=999999999")) == 100


@pytest.mark.parametrize("count", ["0", "-1", "", "x", "1234567890", "1e3", "%D9%A1"])
def test_a_count_that_is_none(drawbridge: MemoryDrawbridge, count: str) -> None:
    answer = drawbridge.request("GET", f"{API}?q=&n={count}")
    assert answer.status == 400
    assert "query n: not a number" in answer.text


def test_without_a_question_it_is_no_route(drawbridge: MemoryDrawbridge) -> None:
    """As with the original."""
    for path in (API, f"{API}?n=1"):
        answer = drawbridge.request("GET", path)
        assert (answer.status, answer.text) == (404, "Route `/api/v0.1.0/` not found")
    answer = drawbridge.request("PUT", f"{API}?q=x")
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


class _Endless(dict[str, Lie]):
    """Answers with one more page, each time, of a name that is after all before it."""

    def get(self, key: str, default: Any = None) -> Any:
        last = parse_qs(urlsplit(key).query).get("last", ["a/a0"])[0]
        name = f"a/a{int(last[3:]) + 1:09}"
        body = json.dumps([name]).encode()
        headers = {"Content-Length": str(len(body)), "Link": '<more>; rel="next"'}
        return Lie(200, headers, body)


def test_a_search_ends_though_the_server_does_not(
    server: LyingServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("garrison.drawbridge.client.MAX_FOUND", 160)
    server.answers = _Endless()
    found = client.search("a")
    first = list(islice(found, 10))
    assert first[0] == "a/a000000001"
    with pytest.raises(Malformed, match="too many repositories"):
        list(islice(found, 100))


def test_a_name_that_would_be_two_lines(server: LyingServer, client: Client) -> None:
    body = json.dumps(["a/b\nother.test/jane/chat"]).encode()
    lie = Lie(200, {"Content-Length": str(len(body))}, body)
    server.answers |= {f"{API}?q=a": lie, f"{API}a/b/_tag": lie, f"{API}a?repositories": lie}
    asked: list[Callable[[], list[str]]] = [
        lambda: list(client.search("a")),
        lambda: client.tags(Repository(server.host, "a", "b")),
        lambda: client.repositories("a"),
    ]
    for ask in asked:
        with pytest.raises(Malformed, match="not a list of names"):
            ask()


class Counted:
    """What a store is asked for: listings by their prefix, and names that are read."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.listed: list[str] = []
        self.read: list[str] = []
        objects, named = store.objects, store.named

        def counted_objects(prefix: str = "") -> AsyncIterator[Stored]:
            self.listed.append(prefix)
            return objects(prefix)

        async def counted_named(key: str) -> Named | None:
            self.read.append(key)
            return await named(key)

        monkeypatch.setattr(store, "objects", counted_objects)
        monkeypatch.setattr(store, "named", counted_named)


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows, which goes by a test's word."""
    now = [0.0]
    monkeypatch.setattr(catalogue, "monotonic", lambda: now[0])
    return now


def test_many_who_search_list_the_store_once(
    many: MemoryDrawbridge, monkeypatch: pytest.MonkeyPatch, hours: list[float]
) -> None:
    counted = Counted(many.store, monkeypatch)

    async def search_together() -> None:
        paths = [f"{API}?q={text}" for text in ("eve", "a00", "x", "jane", "nobody")]
        answers = await asyncio.gather(*(many.send("GET", path) for path in paths * 10))
        assert {answer.status for answer in answers} == {200}

    asyncio.run(search_together())
    assert sorted(counted.listed) == ["policies/", "repos/"]
    # Configurations and policies of 503, for five questions at most, and not for fifty who ask.
    assert len(counted.read) <= 5 * 2 * 503
    asyncio.run(search_together())
    assert len(counted.listed) == 2
    hours[0] = 3600.0
    asyncio.run(search_together())
    assert len(counted.listed) == 4


def test_what_is_private_is_not_read_for_every_search(
    many: MemoryDrawbridge, monkeypatch: pytest.MonkeyPatch, hours: list[float]
) -> None:
    counted = Counted(many.store, monkeypatch)
    for hour in range(5):
        # Also after the next listing.
        hours[0] = 3600.0 * hour
        assert _search(many, "q=x") == []
        assert len([key for key in counted.read if key.startswith("repos/")]) == 250


def test_what_this_drawbridge_changes_is_found_at_once(
    drawbridge: MemoryDrawbridge, hours: list[float]
) -> None:
    assert hours == [0.0]
    assert _search(drawbridge, "q=new") == []
    for name, public in (("eve/new-1", True), ("eve/new-2", False)):
        assert _register(drawbridge, name, public=public).status == 201
    assert _search(drawbridge, "q=new") == ["eve/new-1"]
    assert _register(drawbridge, "eve/new-2/_policy").status == 201
    assert _search(drawbridge, "q=new") == ["eve/new-1", "eve/new-2"]
    assert _register(drawbridge, "eve/new-1/_policy", public=False).status == 201
    assert _search(drawbridge, "q=new") == ["eve/new-2"]
    assert _register(drawbridge, "eve/new-1/_policy").status == 200
    assert _search(drawbridge, "q=new") == ["eve/new-1", "eve/new-2"]


def test_what_another_drawbridge_changes_is_never_shown_too_long(
    drawbridge: MemoryDrawbridge, hours: list[float]
) -> None:
    other = MemoryDrawbridge(drawbridge.store)
    assert _register(drawbridge, "eve/one").status == 201
    assert _register(drawbridge, "eve/two", public=False).status == 201
    assert _search(drawbridge, "q=eve/") == ["eve/one"]
    assert _register(other, "eve/one/_policy", public=False).status == 201
    assert _register(other, "eve/two/_policy").status == 201
    assert _register(other, "eve/three").status == 201
    # What is private now is not shown, and what is public is, with the next listing.
    assert _search(drawbridge, "q=eve/") == []
    hours[0] = 3600.0
    assert _search(drawbridge, "q=eve/") == ["eve/three", "eve/two"]
    assert _register(other, "eve/one/_policy").status == 200
    hours[0] = 7200.0
    assert _search(drawbridge, "q=eve/") == ["eve/one", "eve/three", "eve/two"]


def test_what_is_made_while_the_store_is_listed_is_found(
    drawbridge: MemoryDrawbridge, monkeypatch: pytest.MonkeyPatch, hours: list[float]
) -> None:
    assert hours == [0.0]
    objects = drawbridge.store.objects

    async def slow(prefix: str = "") -> AsyncIterator[Stored]:
        found = [stored async for stored in objects(prefix)]
        if prefix == "repos/":
            body = json.dumps({"public": True}).encode()
            headers = {"content-type": "application/json", "content-length": str(len(body))}
            answer = await drawbridge.send(
                "PUT", f"{API}eve/new", body=[body], headers=headers, user="eve"
            )
            assert answer.status == 201
        for stored in found:
            yield stored

    monkeypatch.setattr(drawbridge.store, "objects", slow)
    assert _search(drawbridge, "q=eve/") == ["eve/new"]
    assert _search(drawbridge, "q=eve/") == ["eve/new"]


def test_a_store_that_does_not_answer_is_asked_again(
    drawbridge: MemoryDrawbridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_prefix: str = "") -> AsyncIterator[Stored]:
        raise StorageFailure("Storage backend failure")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(drawbridge.store, "objects", broken)
        answer = drawbridge.request("GET", f"{API}?q=")
        assert (answer.status, answer.text) == (500, "Storage backend failure")
    assert _search(drawbridge, "q=") == ["jane/chat"]


NAMES = st.lists(st.text("aAbB-", max_size=3).map(lambda text: f"u/{text}"), unique=True)


@given(NAMES, st.text("aAb/u\n", max_size=4), st.text("uU/aAb", max_size=4))
def test_a_text_is_found_as_by_a_look_at_each_name(names: list[str], text: str, last: str) -> None:
    names = sorted(names)
    expected = [name for name in names if name > last and text.lower() in name.lower()]
    assert list(catalogue._Index(names).matching(text, last)) == expected

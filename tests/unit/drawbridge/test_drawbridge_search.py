"""Searching for repositories: public ones alone, by a text in their name, in pages."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from garrison.errors import Malformed
from garrison.formats.slug import Repository
from garrison.testing.drawbridge import Lie

if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.drawbridge.client import Client
    from garrison.testing.drawbridge import Answer, LyingServer, MemoryDrawbridge

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

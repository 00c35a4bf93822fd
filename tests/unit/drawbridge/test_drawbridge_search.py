"""Searching for repositories: public ones alone, by a text in their name, in pages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from garrison.testing.drawbridge import Answer, MemoryDrawbridge

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

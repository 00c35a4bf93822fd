"""Conditional requests, ranges, pages, the latest tag, lists of repositories, and yanked tags."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.drawbridge.conditional import (
    PreconditionFailed,
    Unsatisfiable,
    byte_range,
    check_match,
    entity_tag,
    is_unchanged,
)
from garrison.drawbridge.rules import Yank, latest, page
from garrison.errors import Malformed
from garrison.formats.slug import Slug
from garrison.formats.tree import ENTRY_TYPE, Package
from garrison.testing.drawbridge import JSON, served

if TYPE_CHECKING:
    from garrison.testing.drawbridge import MemoryDrawbridge

API = "/api/v0.1.0"
TAGS = f"{API}/jane/chat/_tag"
TAG = entity_tag(b"\x11" * 32)
LENGTH = 1000


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-999", (0, 1000)),
        ("bytes=10-5000", (10, 1000)),
        ("bytes=990-", (990, 1000)),
        ("bytes=-10", (990, 1000)),
        ("bytes=-5000", (0, 1000)),
        ("bytes = 1-2", (1, 3)),
        ("Bytes=1-2", (1, 3)),
        (None, None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=5-4", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
        ("bytes=\u0661-\u0662", None),
    ],
)
def test_ranges(header: str | None, expected: tuple[int, int] | None) -> None:
    assert byte_range(header, None, TAG, LENGTH) == expected


@pytest.mark.parametrize(
    ("header", "length"), [("bytes=1000-", LENGTH), ("bytes=-0", LENGTH), ("bytes=0-", 0)]
)
def test_no_byte_is_there(header: str, length: int) -> None:
    with pytest.raises(Unsatisfiable) as caught:
        byte_range(header, None, TAG, length)
    assert caught.value.length == length


@given(st.text(max_size=40), st.integers(0, 1 << 40))
def test_any_range_is_within(header: str, length: int) -> None:
    try:
        found = byte_range(f"bytes={header}", None, TAG, length)
    except Unsatisfiable:
        return
    assert found is None or 0 <= found[0] < found[1] <= length


def test_a_range_of_something_else_is_all_of_this() -> None:
    assert byte_range("bytes=0-1", TAG, TAG, LENGTH) == (0, 2)
    for other in (entity_tag(bytes(32)), f"W/{TAG}", "Mon, 23 Nov 2026 00:00:00 GMT"):
        assert byte_range("bytes=0-1", other, TAG, LENGTH) is None


def test_entity_tags() -> None:
    other = entity_tag(bytes(32))
    assert not is_unchanged(None, TAG)
    assert not is_unchanged(other, TAG)
    for header in ("*", TAG, f"W/{TAG}", f"{other}, {TAG}", f' "x" ,W/"y",{TAG} '):
        assert is_unchanged(header, TAG)
    # Others' tags are of other characters, and a list may have nothing in it (RFC 9110, 5.6.1).
    for header in (f'"a,b", {TAG}', f'"\xe9","",{TAG}', f"{TAG},", f", ,{TAG}", f'W/"," ,{TAG}'):
        assert is_unchanged(header, TAG)
    for header in ("", " ", ",", f'"{TAG[1:-1]},"', '"a,b"'):
        assert not is_unchanged(header, TAG)
    for admitted in (None, "*", f"{other}, {TAG}"):
        check_match(admitted, TAG)
    for header in (other, f"W/{TAG}"):
        with pytest.raises(PreconditionFailed):
            check_match(header, TAG)
    for header in ("x", TAG[:-1], f"{TAG}{TAG}", f"w/{TAG}", f"{TAG} x", "\x00", '"' * 9000):
        with pytest.raises(Malformed):
            is_unchanged(header, TAG)


def test_what_a_client_has_is_not_sent_again(
    drawbridge: MemoryDrawbridge, slug: Slug, package: Package
) -> None:
    drawbridge.publish(slug, package)
    for path, (entry, content) in served(slug, package).items():
        first = drawbridge.request("GET", path)
        tag = first.headers["etag"]
        assert tag == entity_tag(entry.workload_digest)
        for method in ("GET", "HEAD"):
            again = drawbridge.request(method, path, headers={"if-none-match": tag})
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        other = drawbridge.request("GET", path, headers={"if-none-match": '"x"'})
        assert (other.status, other.body) == (200, content)
        assert drawbridge.request("GET", path, headers={"if-match": '"x"'}).status == 412
        assert drawbridge.request("GET", path, headers={"if-none-match": "x"}).status == 400


def test_parts_of_what_is_in_a_tree(
    drawbridge: MemoryDrawbridge, slug: Slug, package: Package
) -> None:
    drawbridge.publish(slug, package)
    for path, (_, content) in served(slug, package).items():
        whole = drawbridge.request("GET", path)
        part = drawbridge.request("GET", path, headers={"range": "bytes=2-4"})
        if "/tree" not in path:
            assert (part.status, part.body) == (200, content)
            continue
        assert whole.headers["accept-ranges"] == "bytes"
        if not content:
            assert part.status == 416
            continue
        assert (part.status, part.body) == (206, content[2:5])
        last = min(4, len(content) - 1)
        assert part.headers["content-range"] == f"bytes 2-{last}/{len(content)}"
        assert part.headers["content-length"] == str(last - 1)
        # The digest stays that of the whole, as RFC 9530 wants it for the representation.
        assert part.headers["etag"] == whole.headers["etag"]
        rest = {"range": f"bytes={len(content) // 2}-", "if-range": whole.headers["etag"]}
        resumed = drawbridge.request("GET", path, headers=rest)
        assert content[: len(content) // 2] + resumed.body == content
        beyond = drawbridge.request("GET", path, headers={"range": f"bytes={len(content)}-"})
        assert beyond.status == 416
        assert beyond.headers["content-range"] == f"bytes */{len(content)}"


def test_what_a_client_expects_is_there_before_it_changes(
    drawbridge: MemoryDrawbridge, slug: Slug, package: Package
) -> None:
    drawbridge.publish(slug, package)
    policy, tag = f"{API}/jane/chat/_policy", f"{TAGS}/1.0.0"

    def put(path: str, body: bytes, kind: str = JSON, **conditions: str) -> int:
        return drawbridge.put(path, body, kind, **conditions).status

    first = drawbridge.request("GET", policy, user="jane").headers["etag"]
    assert put(policy, b'{"public":false}', if_match=first) == 201
    # Somebody else was faster.
    assert put(policy, b'{"public":true}', if_match=first) == 412
    assert put(policy, b'{"public":true}', if_none_match="*") == 412
    second = drawbridge.request("GET", policy, user="jane")
    assert second.body == b'{"public":false}'
    assert put(policy, b'{"public":true}', if_match=f'"x", {second.headers["etag"]}') == 200
    assert put(f"{API}/jane/new", b'{"public":true}', if_match="*") == 412
    assert drawbridge.request("GET", f"{API}/jane/new", user="jane").status == 404
    assert put(f"{API}/jane/new", b'{"public":true}', if_none_match="*") == 201
    for path, (entry, content) in served(slug, package).items():
        assert put(path, content, entry.type, if_none_match="*") == 412
        assert put(path, content, entry.type, if_match="*") == 409
    assert put(f"{tag}/yank", b'{"reason":"broken"}', if_match='"x"') == 412
    assert put(f"{tag}/yank", b'{"reason":"broken"}', if_none_match='"x"') == 201
    wanted = {"if-match": '"x"'}
    assert drawbridge.request("DELETE", f"{tag}/yank", user="jane", headers=wanted).status == 412
    assert "garrison-yanked" in drawbridge.request("GET", tag).headers
    # Whoever may not write learns nothing of what is there.
    assert drawbridge.put(policy, b"{}", user="eve", if_match="*").status == 401


def test_the_latest_tag_is_one_to_be_used(drawbridge: MemoryDrawbridge, package: Package) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0-rc.1"):
        drawbridge.publish(Slug.parse(f"drawbridge.test/jane/chat:{version}"), package)

    def latest_of() -> list[str]:
        found: list[str] = json.loads(drawbridge.request("GET", f"{TAGS}?latest").body)
        return found

    assert latest_of() == ["1.1.0"]
    yank = f"{TAGS}/1.1.0/yank"
    assert drawbridge.put(yank, b'{"reason":"broken"}').status == 201
    assert latest_of() == ["1.0.0"]
    assert drawbridge.put(f"{TAGS}/1.0.0/yank", b'{"reason":"old"}').status == 201
    assert latest_of() == ["1.2.0-rc.1"]
    assert drawbridge.put(f"{TAGS}/1.2.0-rc.1/yank", b'{"reason":"early"}').status == 201
    assert latest_of() == []
    assert drawbridge.request("DELETE", yank, user="jane").status == 204
    assert latest_of() == ["1.1.0"]


def test_the_latest_of_tags() -> None:
    assert latest([]) == []
    assert latest(["0.9.0", "0.10.0", "1.0.0-rc.1"]) == ["0.10.0"]
    assert latest(["1.0.0-rc.2", "1.0.0-rc.10"]) == ["1.0.0-rc.10"]
    assert latest(["1.0.0+a", "1.0.0+b"]) == ["1.0.0+b"]


@given(st.lists(st.integers(0, 99).map(lambda n: f"0.{n}.0"), unique=True), st.integers(1, 7))
def test_pages_are_all_of_it(tags: list[str], count: int) -> None:
    tags.sort()
    seen: list[str] = []
    more = True
    while more:
        found, more = page(tags, str(count), seen[-1] if seen else None)
        assert len(found) <= count
        seen += found
    assert seen == tags


def test_tags_in_pages(drawbridge: MemoryDrawbridge, package: Package) -> None:
    names = ["0.1.0", "0.2.0", "0.3.0-rc.1"]
    for name in names:
        tag = package.entry.to_bytes()
        assert drawbridge.put(f"{TAGS}/{name}", tag, ENTRY_TYPE).status == 201
    assert json.loads(drawbridge.request("GET", TAGS).body) == names
    first = drawbridge.request("GET", f"{TAGS}?n=2")
    assert json.loads(first.body) == names[:2]
    link = first.headers["link"]
    assert link.endswith('>; rel="next"')
    second = drawbridge.request("GET", link.partition("<")[2].partition(">")[0])
    assert json.loads(second.body) == names[2:]
    assert "link" not in second.headers
    assert json.loads(drawbridge.request("GET", f"{TAGS}?latest").body) == ["0.2.0"]
    for wrong in ("n=0", "n=x", "n=-1", "n=9999999999"):
        assert drawbridge.request("GET", f"{TAGS}?{wrong}").status == 400


def test_a_user_s_repositories(drawbridge: MemoryDrawbridge) -> None:
    assert drawbridge.put(f"{API}/jane/hidden", b'{"public":false}').status == 201
    path = f"{API}/jane?repositories"
    assert json.loads(drawbridge.request("GET", path, user="jane").body) == [
        "chat",
        "hidden",
        "secret",
    ]
    assert json.loads(drawbridge.request("GET", path).body) == ["chat"]
    # Another's token, and one without the scope, show as much as none; one that is none is refused.
    assert json.loads(drawbridge.request("GET", path, user="eve").body) == ["chat"]
    narrow = drawbridge.issuer.token("jane", frozenset({"read:drawbridge_tags"}))
    for token, status in ((narrow, 200), ("none", 401), (f"{narrow}x", 401)):
        answer = drawbridge.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        assert answer.status == status
        if status == 200:
            assert json.loads(answer.body) == ["chat"]
    for user in (None, "eve"):
        answer = drawbridge.request("GET", f"{API}/nobody?repositories", user=user)
        assert (answer.status, answer.text) == (200, "[]")


def test_a_tag_is_yanked_and_stays(
    drawbridge: MemoryDrawbridge, slug: Slug, package: Package
) -> None:
    drawbridge.publish(slug, package)
    tag = f"{TAGS}/{slug.tag}"
    body = Yank("it leaks \u2013 use 2").to_bytes()
    assert "garrison-yanked" not in drawbridge.request("GET", tag).headers
    assert drawbridge.put(f"{tag}/yank", body, user="eve").status == 401
    assert drawbridge.put(f"{tag}/yank", body, user=None).status == 401
    assert drawbridge.put(f"{tag}/yank", b'{"reason":""}').status == 422
    assert drawbridge.put(f"{tag}/yank", b'{"reason":"a\\nb"}').status == 422
    assert drawbridge.put(f"{TAGS}/9.9.9/yank", body).status == 404
    assert drawbridge.put(f"{tag}/yank", body).status == 201
    for method in ("GET", "HEAD"):
        answer = drawbridge.request(method, tag)
        assert answer.status == 200
        assert unquote(answer.headers["garrison-yanked"]) == "it leaks \u2013 use 2"
    assert drawbridge.request("GET", f"{tag}/yank").body == body
    for path, (_, content) in served(slug, package).items():
        assert drawbridge.request("GET", path).body == content
    assert drawbridge.request("DELETE", f"{tag}/yank", user="eve").status == 401
    assert drawbridge.request("DELETE", tag, user="jane").status == 405
    assert drawbridge.request("DELETE", f"{tag}/yank", user="jane").status == 204
    assert "garrison-yanked" not in drawbridge.request("GET", tag).headers
    assert drawbridge.request("GET", f"{tag}/yank").status == 404

"""Paths of the API, and keys of the store: what each path names, in the original's words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.drawbridge.layout import Name, content_key
from garrison.drawbridge.routes import (
    MethodNotAllowed,
    NotFound,
    UnsupportedVersion,
    check_method,
    parse,
)
from garrison.errors import Malformed

NAMES = [
    ("/api/v0.1.0/jane", Name("user", "jane"), "users/jane"),
    ("/api/v0.1.0/jane/chat", Name("repository", "jane", "chat"), "repos/jane/chat"),
    (
        "/api/v0.1.0/jane/chat/_tag",
        Name("repository tag query", "jane", "chat"),
        "tags/jane/chat/",
    ),
    (
        "/api/v0.1.0/jane/chat/_tag/1.0.0-rc.1+b",
        Name("tag", "jane", "chat", "1.0.0-rc.1+b"),
        "tags/jane/chat/1.0.0-rc.1+b",
    ),
    (
        "/api/v0.1.0/jane/chat/_tag/1.0.0/tree",
        Name("tag tree", "jane", "chat", "1.0.0"),
        "trees/jane/chat/1.0.0/@",
    ),
    (
        "/api/v0.1.0/jane/chat/_tag/1.0.0/tree/a/b.c",
        Name("tag tree", "jane", "chat", "1.0.0", ("a", "b.c")),
        "trees/jane/chat/1.0.0/a/b.c/@",
    ),
]


@pytest.mark.parametrize(("path", "name", "key"), NAMES)
def test_what_paths_name(path: str, name: Name, key: str) -> None:
    assert parse(path) == name
    assert name.url_path() == path
    assert name.key() == key


def test_a_tree_with_a_trailing_slash_is_its_root() -> None:
    assert parse("/api/v0.1.0/jane/chat/_tag/1.0.0/tree/").path == ()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/v0.1.0",
        "/api/0.1.0/jane",
        "/other/v0.1.0/jane",
        "/apis/v0.1.0/jane",
        "/api/v0.1.0/jane/chat/_",
        "/api/v0.1.0/jane/chat/_tags",
        "/api/v0.1.0/jane/chat/_tag/1.0.0/trees",
        "/api/v0.1.0/jane/chat/_tag/1.0.0/",
        "/" + "x" * 10_000,
    ],
)
def test_no_such_route(path: str) -> None:
    with pytest.raises(NotFound, match="not found"):
        parse(path)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/api/v0.1/jane", "Failed to parse SemVer version"),
        ("/api/v/jane", "Failed to parse SemVer version"),
        ("/api/v01.0.0/jane", "Failed to parse SemVer version"),
        ("/api/v0.1.0/ja-ne", "Failed to parse user name"),
        ("/api/v0.1.0/j%61ne", "Failed to parse user name"),
        ("/api/v0.1.0/jane/ch_at", "Failed to parse repository name"),
        ("/api/v0.1.0/jane/a/b", "Failed to parse repository name"),
        ("/api/v0.1.0/jane/chat/_tag/latest", "Failed to parse tag name"),
        ("/api/v0.1.0/jane/chat/_tag/1.0", "Failed to parse tag name"),
        ("/api/v0.1.0/jane/chat/_tag/", "Failed to parse tag name"),
        ("/api/v0.1.0/jane/chat/_tag/1.0.0/tree/a//b", "Failed to parse tree path"),
        ("/api/v0.1.0/jane/chat/_tag/1.0.0/tree/../../2.0.0", "Failed to parse tree path"),
        ("/api/v0.1.0/jane/chat/_tag/1.0.0/tree/@", "Failed to parse tree path"),
    ],
)
def test_names_that_are_not_valid(path: str, text: str) -> None:
    with pytest.raises(Malformed, match=text):
        parse(path)


@pytest.mark.parametrize("version", ["0.0.1", "0.1.0", "0.4.3", "0.4.99", "0.1.0-rc.1"])
def test_versions_that_are_served(version: str) -> None:
    assert parse(f"/api/v{version}/jane").user == "jane"


@pytest.mark.parametrize("version", ["0.5.0", "1.0.0", "99.0.0"])
def test_newer_versions_are_not_implemented(version: str) -> None:
    with pytest.raises(UnsupportedVersion, match=f"Unsupported API version `{version}`"):
        parse(f"/api/v{version}/jane")


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("user", "POST"),
        ("repository", "DELETE"),
        ("repository tag query", "PUT"),
        ("repository tag query", "HEAD"),
        ("tag", "PATCH"),
        ("tag tree", "DELETE"),
    ],
)
def test_methods_that_have_no_meaning(kind: str, method: str) -> None:
    name = next(name for _, name, _ in NAMES if name.kind == kind)
    with pytest.raises(MethodNotAllowed, match=f"Method not allowed for {kind} endpoint"):
        check_method(name, method)


@given(st.text() | st.text(alphabet="/_.:@tagretp01").map("/api/v0.1.0/jane/chat/".__add__))
def test_any_path_names_something_with_a_key_of_its_own_or_is_refused(path: str) -> None:
    try:
        name = parse(path)
    except (Malformed, NotFound, UnsupportedVersion):
        return
    assert parse(name.url_path()) == name
    assert ".." not in name.key().split("/")
    assert "" not in name.key().rstrip("/").split("/")


def test_no_key_lies_below_another() -> None:
    keys = [name.key() for _, name, _ in NAMES if name.kind != "repository tag query"]
    keys.append(content_key(bytes(32)))
    for key in keys:
        assert not [other for other in keys if other.startswith(f"{key}/")]

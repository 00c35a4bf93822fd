"""Slugs and digests: one spelling each, and nothing else parses."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats.digest import (
    digest_text,
    digest_url_text,
    parse_digest,
    parse_digest_url,
)
from garrison.formats.slug import Repository, Slug, check_tag


@pytest.mark.parametrize(
    "text",
    [
        "drawbridge.example.com/jane/chat-server:0.1.0",
        "localhost:8080/demo/a:1.0.0-rc.1+build.5",
        "127.0.0.1:1/u/r:0.0.0",
        "[::1]:65535/u/r:10.20.30",
        "[fe80::1]/u/r:1.2.3",
    ],
)
def test_a_slug_is_written_as_it_was_read(text: str) -> None:
    slug = Slug.parse(text)
    assert str(slug) == text
    assert str(slug.repository) == text.rpartition("/")[0] + "/" + slug.repo


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("host/user/repo", "slug"),
        ("host/user:1.0.0", "slug"),
        ("", "slug"),
        ("Host/user/repo:1.0.0", "drawbridge host"),
        ("host:443/user/repo:1.0.0", "drawbridge host"),
        ("host:0/user/repo:1.0.0", "drawbridge host"),
        ("host:080/user/repo:1.0.0", "drawbridge host"),
        ("host:65536/user/repo:1.0.0", "drawbridge host"),
        ("ho st/user/repo:1.0.0", "drawbridge host"),
        ("host./user/repo:1.0.0", "drawbridge host"),
        ("host/us_er/repo:1.0.0", "user name"),
        ("host/user/re.po:1.0.0", "repository name"),
        ("host/user/repo/more:1.0.0", "repository name"),
        ("host/user/repo:1.0", "tag"),
        ("host/user/repo:01.0.0", "tag"),
        ("host/user/repo:latest", "tag"),
        ("host/user/repo:1.0.0\n", "tag"),
        ("host/user/repo:1.0.٣", "tag"),
        ("host/" + "u" * 129 + "/repo:1.0.0", "user name"),
    ],
)
def test_what_is_not_a_slug_is_refused_by_the_part_that_is_wrong(text: str, field: str) -> None:
    with pytest.raises(Malformed) as caught:
        Slug.parse(text)
    assert caught.value.field == field


@given(st.text(max_size=80))
def test_any_text_is_a_slug_or_malformed(text: str) -> None:
    try:
        assert str(Slug.parse(text)) == text
    except Malformed:
        return


@given(st.text(alphabet="ab1:/.-[]", max_size=40))
def test_near_slugs_are_slugs_or_malformed(text: str) -> None:
    try:
        assert str(Slug.parse(text)) == text
    except Malformed:
        return


def test_a_repository_has_exactly_three_parts() -> None:
    assert Repository.parse("h/u/r") == Repository("h", "u", "r")
    for text in ("h/u", "h/u/r/x", ""):
        with pytest.raises(Malformed):
            Repository.parse(text)


def test_a_very_long_tag_is_refused_without_being_matched() -> None:
    with pytest.raises(Malformed):
        check_tag("1.0.0-" + "0" * 100_000)


@given(st.binary(min_size=32, max_size=32))
def test_digests_have_one_spelling(digest: bytes) -> None:
    assert parse_digest(digest_text(digest)) == digest
    assert parse_digest_url(digest_url_text(digest)) == digest
    assert len(digest_text(digest)) == 43


@pytest.mark.parametrize("text", ["", "A" * 42, "A" * 44, "A" * 42 + "=", "A" * 42 + "B", "é" * 43])
def test_what_is_not_a_digest_is_refused(text: str) -> None:
    for parse in (parse_digest, parse_digest_url):
        with pytest.raises(Malformed):
            parse(text)


def test_the_alphabets_are_not_mixed() -> None:
    digest = next(
        value
        for value in (hashlib.sha256(bytes([n])).digest() for n in range(256))
        if "+" in digest_text(value) and "/" in digest_text(value)
    )
    with pytest.raises(Malformed):
        parse_digest(digest_url_text(digest))
    with pytest.raises(Malformed):
        parse_digest_url(digest_text(digest))

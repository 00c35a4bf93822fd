"""Digests in headers and JSON: every one is checked, and nothing else parses."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed, Unverified
from garrison.formats.content_digest import ContentDigest, ContentHasher

if TYPE_CHECKING:
    import random

# RFC 9530, appendix D, gives this content and these two digests.
CONTENT = b'{"hello": "world"}\n'
SHA256 = "RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg="


def test_the_example_of_the_standard() -> None:
    digest = ContentDigest.of(CONTENT)
    assert f"sha-256=:{SHA256}:" in digest.to_header()
    assert list(digest.to_json()) == ["sha-224", "sha-256", "sha-384", "sha-512"]
    assert ", " not in digest.to_header()


@given(st.binary(), st.integers(0, 64))
def test_pieces_give_the_same_as_the_whole(data: bytes, cut: int) -> None:
    hasher = ContentHasher()
    hasher.update(data[:cut])
    hasher.update(data[cut:])
    assert hasher.digest() == ContentDigest.of(data)
    assert hasher.length == len(data)
    assert hasher.digest().values["sha-512"] == hashlib.sha512(data).digest()


@given(st.lists(st.lists(st.binary(), max_size=3), max_size=3), st.randoms())
def test_jobs_in_any_order_give_the_same_as_the_whole(
    blocks: list[list[bytes]], chance: random.Random
) -> None:
    hasher = ContentHasher()
    for pieces in blocks:
        jobs = hasher.jobs(pieces)
        chance.shuffle(jobs)
        for job in jobs:
            job()
    whole = b"".join(piece for pieces in blocks for piece in pieces)
    assert (hasher.length, hasher.digest()) == (len(whole), ContentDigest.of(whole))


def test_a_long_content_has_the_digests_of_the_standard_library() -> None:
    content = bytes(range(256)) * 8192
    assert ContentDigest.of(content).values == {
        f"sha-{size}": hashlib.new(f"sha{size}", content).digest() for size in (224, 256, 384, 512)
    }


@given(st.binary(), st.sets(st.sampled_from(["sha-224", "sha-256", "sha-384", "sha-512"])))
def test_what_is_written_is_read(data: bytes, names: set[str]) -> None:
    whole = ContentDigest.of(data)
    if not names:
        return
    digest = ContentDigest({name: whole.values[name] for name in sorted(names)})
    assert ContentDigest.from_header(digest.to_header()) == digest
    for comma in (", ", " , ", ",\t"):
        assert ContentDigest.from_header(digest.to_header().replace(",", comma)) == digest
    # As the original reads them, in any order too.
    items = reversed(digest.to_header().replace("sha", "SHA").split(","))
    assert ContentDigest.from_header(",".join(items)) == digest
    assert ContentDigest.from_json(digest.to_json()) == digest
    digest.check(whole, "content")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "sha-256",
        "sha-256=::",
        f"sha-256={SHA256}",
        f"sha-256=:{SHA256}",
        f"sha-256=:{SHA256}:,SHA-256=:{SHA256}:",
        f"md5=:{SHA256}:",
        f"sha-512=:{SHA256}:",
        f"sha-256=:{SHA256[:-1]}:",
        f"sha-256=:{SHA256}:,",
        f"sha-256=:{SHA256}:,sha-256=:{SHA256}:",
        f"sha-256=:{SHA256}:,unknown=:{SHA256}:",
        f"sha-256=:{SHA256}: sha-224=:{SHA256}:",
        # Stray bits in the last character, and the URL-safe alphabet.
        f"sha-256=:{SHA256.replace('Dg=', 'Dh=')}:",
        f"sha-256=:{SHA256.replace('/', '_')}:",
        f"sha-256=:{SHA256}:" * 100,
    ],
)
def test_other_headers_are_malformed(header: str) -> None:
    with pytest.raises(Malformed):
        ContentDigest.from_header(header)


@given(st.text())
def test_any_text_parses_or_is_malformed(text: str) -> None:
    try:
        digest = ContentDigest.from_header(text)
    except Malformed:
        return
    assert ContentDigest.from_header(digest.to_header()) == digest


@pytest.mark.parametrize("value", [None, [], "x", {}, {"sha-256": 1}, {"sha-256": "ü"}])
def test_other_json_is_malformed(value: object) -> None:
    with pytest.raises(Malformed):
        ContentDigest.from_json(value)


@pytest.mark.parametrize("name", ["sha-224", "sha-256", "sha-384", "sha-512"])
def test_each_listed_digest_is_checked(name: str) -> None:
    right = ContentDigest.of(CONTENT)
    wrong = dict(right.values)
    wrong[name] = bytes(len(wrong[name]))
    with pytest.raises(Unverified) as caught:
        ContentDigest(wrong).check(right, "main.wasm")
    assert caught.value.field == "main.wasm"
    assert name in caught.value.message
    assert caught.value.found == b64encode(right.values[name]).decode()
    assert caught.value.expected == b64encode(wrong[name]).decode()

"""Who may read a repository can be changed, at once and for everybody; and what `fsck` says."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.drawbridge.fsck import check
from garrison.formats.identity import WorkloadIdentity
from garrison.testing.drawbridge import JSON
from garrison.testing.tls import Authority

if TYPE_CHECKING:
    from garrison.formats.slug import Slug
    from garrison.formats.tree import Package
    from garrison.testing.drawbridge import MemoryDrawbridge

REPO = "/api/v0.1.0/jane/chat"
POLICY = f"{REPO}/_policy"
TAG = f"{REPO}/_tag/1.0.0"
KEEP = WorkloadIdentity(None, None, "snp", b"\x22" * 48, "UpToDate")


def statuses(drawbridge: MemoryDrawbridge) -> tuple[int, int]:
    """Of the tag, for somebody and for the owner."""
    return (
        drawbridge.request("GET", TAG).status,
        drawbridge.request("GET", TAG, user="jane").status,
    )


def test_a_repository_is_shut_and_opened_again(
    drawbridge: MemoryDrawbridge, slug: Slug, package: Package
) -> None:
    drawbridge.publish(slug, package)
    assert statuses(drawbridge) == (200, 200)
    shown = drawbridge.request("GET", POLICY, user="jane")
    assert (shown.status, json.loads(shown.body)) == (200, {"public": True})
    assert drawbridge.put(POLICY, b'{"public":false}').status == 201
    assert statuses(drawbridge) == (401, 200)
    found = drawbridge.request("GET", "/api/v0.1.0/jane?repositories")
    assert "chat" not in json.loads(found.body)
    found = drawbridge.request("GET", "/api/v0.1.0/?q=chat")
    assert json.loads(found.body) == []
    # The configuration is what it was, as the original's clients expect.
    config = drawbridge.request("GET", REPO, user="jane")
    assert json.loads(config.body) == {"public": True}
    assert drawbridge.put(POLICY, b'{"public":true}').status == 200
    assert statuses(drawbridge) == (200, 200)


def test_other_keeps_are_admitted_from_now_on(
    drawbridge: MemoryDrawbridge, slug: Slug, package: Package
) -> None:
    drawbridge.publish(slug, package)
    keep = Authority().issue(KEEP).chain[0].public_bytes(Encoding.DER)

    def status() -> int:
        return drawbridge.request("GET", TAG, certificate=keep).status

    assert drawbridge.put(POLICY, b'{"public":false,"keeps":[{"tee":"tdx"}]}').status == 201
    assert status() == 401
    assert drawbridge.put(POLICY, b'{"public":false,"keeps":[{"tee":"snp"}]}').status == 200
    assert status() == 200
    assert drawbridge.put(POLICY, b'{"public":false}').status == 200
    assert status() == 401


@pytest.mark.parametrize(
    ("body", "kind", "user", "status"),
    [
        (b'{"public":true}', JSON, None, 401),
        (b'{"public":true}', JSON, "eve", 401),
        (b'{"public":true}', "text/plain", "jane", 415),
        (b'{"public":true,"keeps":[{"tee":"snp"}]}', JSON, "jane", 422),
        (b'{"public":false,"keeps":[{}]}', JSON, "jane", 422),
        (b"{", JSON, "jane", 400),
    ],
)
def test_nobody_else_and_nothing_else(
    drawbridge: MemoryDrawbridge, body: bytes, kind: str, user: str | None, status: int
) -> None:
    assert drawbridge.put(POLICY, body, kind, user=user).status == status
    assert drawbridge.request("GET", POLICY).status == 401
    assert drawbridge.request("GET", POLICY, user="eve").status == 401
    assert drawbridge.request("DELETE", POLICY, user="jane").status == 405


def test_of_what_is_not_there(drawbridge: MemoryDrawbridge) -> None:
    path = "/api/v0.1.0/jane/nothing/_policy"
    assert drawbridge.put(path, b'{"public":true}').status == 404
    assert drawbridge.request("GET", path, user="jane").status == 404


def test_a_policy_and_a_yank_are_no_damage(
    drawbridge: MemoryDrawbridge, slug: Slug, package: Package
) -> None:
    drawbridge.publish(slug, package)
    assert drawbridge.put(POLICY, b'{"public":false}').status == 201
    assert drawbridge.put(f"{TAG}/yank", b'{"reason":"it leaks"}').status == 201
    assert asyncio.run(check(drawbridge.store)).findings == ()

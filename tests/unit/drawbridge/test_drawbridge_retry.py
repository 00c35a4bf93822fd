"""What a client asks for again, what it does not, and how long it waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import urllib3

from garrison.drawbridge.client import Client
from garrison.drawbridge.retry import TRIES, wait_before_retry
from garrison.drawbridge.wire import Answer
from garrison.errors import GarrisonError, Rejected, Unavailable
from garrison.formats.content_digest import ContentDigest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_waits_double_and_end(status: int) -> None:
    waits = [wait_before_retry(status, None, tried, 0.5) for tried in range(1, TRIES + 1)]
    assert waits == [0.25, 0.5, 1.0, None]


@pytest.mark.parametrize("status", [200, 201, 301, 400, 401, 403, 404, 409, 500, 501])
def test_other_answers_are_final(status: int) -> None:
    assert wait_before_retry(status, "1", 1, 0.5) is None


def test_retry_after() -> None:
    assert wait_before_retry(429, "3", 1, 0.5) == 3.25
    assert wait_before_retry(429, "3600", 1, 0.5) is None
    assert wait_before_retry(429, "9" * 5000, 1, 0.5) is None
    for odd in ("", "-1", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT", "\u0663"):
        assert wait_before_retry(429, odd, 1, 0.5) == 0.25


class Answers:
    """Stands where the client's request is sent; answers in turn, and counts."""

    def __init__(self, statuses: list[int]) -> None:
        self._statuses: Iterator[int] = iter(statuses)
        self.sent = 0

    def __call__(self, *_args: object, **_more: object) -> Answer:
        self.sent += 1
        body = b'{"subject":"jane"}'
        headers = urllib3.HTTPHeaderDict({"Content-Digest": ContentDigest.of(body).to_header()})
        status = next(self._statuses)
        return Answer(status, headers, body, ContentDigest.of(body))


@pytest.mark.parametrize(
    ("statuses", "error", "sent"),
    [
        pytest.param([503, 429, 200], None, 3, id="comes back"),
        pytest.param([503] * 9, Unavailable, TRIES, id="stays away"),
        pytest.param([404, 200], Rejected, 1, id="not found"),
        pytest.param([500, 200], Unavailable, 1, id="broken"),
    ],
)
def test_the_client_tries_again(
    monkeypatch: pytest.MonkeyPatch,
    statuses: list[int],
    error: type[GarrisonError] | None,
    sent: int,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    client = Client("localhost")
    answers = Answers(statuses)
    monkeypatch.setattr(client._wire, "_send", answers)
    if error is None:
        assert client.user("jane") == {"subject": "jane"}
    else:
        with pytest.raises(error):
            client.user("jane")
    assert answers.sent == sent
    assert len(slept) == sent - 1


def test_a_client_with_one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("localhost", tries=1)
    answers = Answers([503, 200])
    monkeypatch.setattr(client._wire, "_send", answers)
    with pytest.raises(Unavailable):
        client.user("jane")
    assert answers.sent == 1

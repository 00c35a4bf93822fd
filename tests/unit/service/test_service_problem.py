"""How errors are answered, and how the log writes its lines."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import TYPE_CHECKING

import pytest
from starlette.requests import Request

from garrison.errors import GarrisonError, Malformed, Misuse, Rejected, Unavailable, Unverified
from garrison.service import log
from garrison.service.problem import (
    TooLarge,
    check_of,
    problem,
    status_of,
    title_of,
    wants_problem,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = Rejected("not admitted", field="key", found=1, expected=2, hint="change it")


@pytest.mark.parametrize(
    ("kind", "status", "title"),
    [
        (Malformed, 400, "malformed"),
        (TooLarge, 413, "too large"),
        (Unverified, 400, "unverified"),
        (Misuse, 400, "misuse"),
        (Rejected, 403, "rejected"),
        (Unavailable, 503, "unavailable"),
        (GarrisonError, 500, "error"),
    ],
)
def test_each_family_has_its_status(kind: type[GarrisonError], status: int, title: str) -> None:
    error = kind("wrong")
    assert (status_of(error), title_of(error)) == (status, title)
    answer = problem(error)
    assert answer.status_code == status
    assert ("retry-after" in answer.headers) == (status == 503)
    assert answer.headers["cache-control"] == "no-store"


def test_problem_holds_the_errors_facts_and_no_more() -> None:
    answer = problem(FULL, status=400, request_id="ab")
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(bytes(answer.body)) == {
        "type": "about:blank",
        "title": "rejected",
        "status": 400,
        "detail": "key: not admitted; found 1; expected 2",
        "checks": [
            {
                "check": "key: not admitted",
                "found": "1",
                "expected": "2",
                "remedy": "change it",
            }
        ],
        "instance": "urn:garrison:request:ab",
    }


def test_problem_takes_the_checks_it_is_given() -> None:
    checks = [check_of(FULL), check_of(Rejected("other"))]
    body = json.loads(bytes(problem(FULL, checks=checks).body))
    assert body["checks"] == checks
    assert "instance" not in body


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("application/problem+json", True),
        ("text/html, Application/Problem+JSON;q=0.1", True),
        ("application/problem+jsonx", False),
    ],
)
def test_problem_is_for_those_who_name_it(accept: str | None, wanted: bool) -> None:
    headers = [] if accept is None else [(b"accept", accept.encode())]
    assert wants_problem(Request({"type": "http", "headers": headers})) is wanted


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    loggers = [logging.getLogger(name) for name in ("garrison.service", "uvicorn")]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    log.configure("sample")
    yield text
    for logger, handlers, propagate, level in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_log_line_is_one_json_object(stream: io.StringIO) -> None:
    fields = {"slug": "a\nb", "count": 3, "digest": b"\xff", "reasons": ["x", b"y"], "none": None}
    log.record("decision", fields)
    (text,) = stream.getvalue().splitlines()
    line = json.loads(text)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "service": "sample",
        "level": "info",
        "event": "decision",
        "slug": "a\nb",
        "count": 3,
        "digest": "ff",
        "reasons": ["x", "79"],
    }


def test_log_line_is_bounded(stream: io.StringIO) -> None:
    log.record("decision", {"slug": "x" * 10**6, "reasons": ["y" * 10**4] * 10**3})
    assert len(stream.getvalue()) < 300_000


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("closed file")])
def test_a_log_that_nobody_takes_ends_no_request(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def write(text: str) -> int:
        if text.startswith("{"):
            raise error
        return len(text)

    monkeypatch.setattr(stream, "write", write)
    log.record("decision", {"slug": "x"})
    monkeypatch.undo()
    log.record("decision", {"slug": "y"})
    assert '"slug": "y"' in stream.getvalue()


def test_servers_own_warnings_are_lines_too(stream: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").warning("odd %s", "request")
    logging.getLogger("uvicorn.error").info("noise")
    try:
        int("defect")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("failed")
    odd, failed = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (odd["event"], odd["level"]) == ("odd request", "warning")
    assert "ValueError: invalid literal" in failed["trace"]

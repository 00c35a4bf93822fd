"""Answers that say what went wrong, for people and programs alike (RFC 9457).

Each family of error has its status; a service may name another where its protocol does. The
body is `application/problem+json` with `checks`: which check failed, what was found, what
was expected, and the remedy. It says nothing that the error itself does not say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from garrison.errors import GarrisonError, Malformed, Misuse, Rejected, Unavailable, Unverified

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

PROBLEM_JSON = "application/problem+json"
# How long a client should wait before it asks a service again that cannot answer now.
_RETRY_SECONDS = 5

Check = dict[str, str | None]


class TooLarge(Malformed):
    """The request's body is longer than the service reads."""


class TooSlow(Malformed):
    """The request did not arrive in the time that the service waits for it."""


class HeadTooLarge(Malformed):
    """The request's headers are longer, or more, than the service reads."""


STATUSES: list[tuple[type[GarrisonError], int, str]] = [
    (TooLarge, 413, "too large"),
    (TooSlow, 408, "too slow"),
    (HeadTooLarge, 431, "head too large"),
    (Malformed, 400, "malformed"),
    (Misuse, 400, "misuse"),
    (Unverified, 400, "unverified"),
    (Rejected, 403, "rejected"),
    (Unavailable, 503, "unavailable"),
]


def status_of(error: GarrisonError) -> int:
    """The HTTP status for the family of `error`."""
    return next((status for kind, status, _ in STATUSES if isinstance(error, kind)), 500)


def title_of(error: GarrisonError) -> str:
    """The family of `error`, in a word."""
    return next((title for kind, _, title in STATUSES if isinstance(error, kind)), "error")


def check_of(error: GarrisonError) -> Check:
    """The one check that `error` reports."""
    return {
        "check": error.message if error.field is None else f"{error.field}: {error.message}",
        "found": error.found,
        "expected": error.expected,
        "remedy": error.hint,
    }


def wants_problem(request: Request) -> bool:
    """Tell whether the client asked for `application/problem+json` by name."""
    return any(
        part.partition(";")[0].strip().lower() == PROBLEM_JSON
        for part in request.headers.get("accept", "").split(",")
    )


def problem(
    error: GarrisonError,
    *,
    status: int | None = None,
    checks: Sequence[Check] | None = None,
    request_id: str | None = None,
) -> Response:
    """Answer with `error` as a problem document.

    Args:
        error: what went wrong.
        status: the HTTP status, if not that of the error's family.
        checks: the failed checks, if there is more to say than the error's own fields.
        request_id: the id under which the log knows this request.
    """
    status = status_of(error) if status is None else status
    body: dict[str, object] = {
        "type": "about:blank",
        "title": title_of(error),
        "status": status,
        "detail": str(error),
        "checks": [check_of(error)] if checks is None else list(checks),
    }
    if request_id is not None:
        body["instance"] = f"urn:garrison:request:{request_id}"
    return JSONResponse(
        body, status_code=status, media_type=PROBLEM_JSON, headers=retry_headers(status)
    )


def retry_headers(status: int) -> dict[str, str]:
    """The headers that tell a client when to ask again, if `status` means that it may."""
    headers = {"Cache-Control": "no-store"}
    return headers | {"Retry-After": str(_RETRY_SECONDS)} if status == 503 else headers

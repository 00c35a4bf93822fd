"""How the drawbridge refuses: the original's statuses and texts, or a problem document."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse

from garrison.drawbridge.conditional import PreconditionFailed, Unsatisfiable
from garrison.drawbridge.documents import WrongForm, WrongMediaType
from garrison.drawbridge.named import Exists, StorageFailure
from garrison.drawbridge.routes import MethodNotAllowed, NotFound, UnsupportedVersion
from garrison.drawbridge.tokens import Unauthorized, describe
from garrison.service import log
from garrison.service.problem import problem, retry_headers, status_of, wants_problem

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from garrison.errors import GarrisonError

STATUSES: list[tuple[type[GarrisonError], int]] = [
    (Unauthorized, 401),
    (NotFound, 404),
    (MethodNotAllowed, 405),
    (Exists, 409),
    (WrongMediaType, 415),
    (WrongForm, 422),
    (PreconditionFailed, 412),
    (Unsatisfiable, 416),
    (StorageFailure, 500),
    (UnsupportedVersion, 501),
]


def refusal(request: Request, error: GarrisonError) -> Response:
    """Answer with an error, and note it in the log."""
    status = next((s for kind, s in STATUSES if isinstance(error, kind)), status_of(error))
    request_id: str | None = getattr(request.state, "request_id", None)
    log.record(
        "refused",
        {
            "request_id": request_id,
            "status": status,
            "reason": str(error),
            "note": describe(error),
        },
        level=logging.ERROR if status >= 500 else logging.INFO,
    )
    headers = retry_headers(status)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Unsatisfiable):
        headers["Content-Range"] = f"bytes */{error.length}"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allowed)
    if wants_problem(request):
        response = problem(error, status=status, request_id=request_id)
        response.headers.update(headers)
        return response
    return PlainTextResponse(_original_text(error), status_code=status, headers=headers)


def _original_text(error: GarrisonError) -> str:
    """A text for people. What the original says too is raised without a field, and said alike."""
    return error.message if error.field is None else str(error)

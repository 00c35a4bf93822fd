"""Documents in requests: JSON of one form, refused with the original's statuses.

What is not JSON is 400, JSON of another form 422, and another media type, for those that have one,
415: the original's are those of its web framework (axum 0.5, `Json`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeVar

from garrison.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class WrongMediaType(Malformed):
    """The document is of another media type: HTTP 415."""


class WrongForm(Malformed):
    """The document is JSON, and not of the form that it must have: HTTP 422."""


def check_json_type(media_type: str) -> None:
    """Check that a document is said to be JSON.

    Raises:
        WrongMediaType: it is not.
    """
    if media_type.partition(";")[0].strip().lower() != "application/json":
        raise WrongMediaType("Expected request with `Content-Type: application/json`")


def deserialize(parse: Callable[[bytes], T], body: bytes) -> T:
    """What `parse` makes of a request's body.

    Raises:
        WrongForm: it cannot be parsed, but is JSON.
        Malformed: it is not.
    """
    try:
        return parse(body)
    except Malformed as error:
        try:
            json.loads(body)
        except (ValueError, RecursionError):
            raise error from None
        raise WrongForm(
            error.message,
            field=error.field,
            found=error.found,
            expected=error.expected,
            hint=error.hint,
        ) from error

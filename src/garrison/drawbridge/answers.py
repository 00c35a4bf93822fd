"""Answers of the drawbridge that are documents: with digests, conditions, and where more is."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.responses import Response

from garrison.drawbridge import conditional
from garrison.formats.tree import Entry
from garrison.service.requests import header

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

    from garrison.drawbridge.layout import Name

# Tags and records are that long.
_SHORT = 2048


def document(
    request: Request, media_type: str, body: bytes, more: Mapping[str, str] | None = None
) -> Response:
    """Answer with `body`, or with what the client's conditions make of it."""
    describe = _short_headers if len(body) <= _SHORT else _headers_of
    headers = {**describe(media_type, body), **(more or {})}
    answer = without_body(request, headers)
    return Response(body, headers=headers) if answer is None else answer


def without_body(request: Request, headers: dict[str, str]) -> Response | None:
    """The answer to a condition of the client's that spares it the body, if that is so."""
    tag = headers["ETag"]
    conditional.check_match(header(request, "if-match"), tag)
    if not conditional.is_unchanged(header(request, "if-none-match"), tag):
        return None
    kept = {key: value for key, value in headers.items() if key != "Content-Length"}
    return Response(status_code=304, headers=kept)


def listing(value: Sequence[str]) -> bytes:
    """The document that lists names."""
    return json.dumps(value, separators=(",", ":")).encode()


def following(name: Name, query: Mapping[str, str]) -> dict[str, str]:
    """The header that says where the next page of `name` is (RFC 8288)."""
    return {"Link": f'<{name.url_path()}?{urlencode(query)}>; rel="next"'}


def headers_for(entry: Entry) -> dict[str, str]:
    """The headers that describe content."""
    return {
        "Content-Digest": entry.digest.to_header(),
        "Content-Length": str(entry.length),
        "Content-Type": entry.type,
        "ETag": conditional.entity_tag(entry.workload_digest),
    }


def _headers_of(media_type: str, body: bytes) -> dict[str, str]:
    return headers_for(Entry.of(body, media_type))


# What is asked for over and over is not digested as often.
_short_headers = lru_cache(maxsize=1024)(_headers_of)

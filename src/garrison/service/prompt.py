"""Answers that an application gives at once: without a task, and without ASGI.

For an application that decides on the event loop, without waiting for anything, the way of a
request through ASGI costs as much as some signatures do. So a POST whose head and body came
together is offered to it where it was parsed. It gives the answer; or it has to wait for something,
and then the request takes the long way, as all others do, with what was found so far in its state.

Nothing else is different: a request id, a line in the log, the metrics, the bounds. Of what comes
in one piece one request alone is answered so: a client that sends many ahead takes no turn from
others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import Scope

# Takes a request, whose body it must not ask for, and the body. Gives the answer, for paths that
# are routes as they stand; or what the state of the request shall have besides on the long way.
Prompt = Callable[[Request, bytes], Response | Mapping[str, object]]

# Each of these is for the long way: it is rare, or asks something of the server itself.
_SPECIAL = frozenset({b"expect", b"transfer-encoding", b"upgrade"})


def is_plain_post(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a POST with these headers, whose names are in lower case, asks for no more."""
    return all(
        name not in _SPECIAL and (name != b"connection" or value.lower() == b"keep-alive")
        for name, value in headers
    )


def post_to(
    target: bytes, headers: list[tuple[bytes, bytes]], state: dict[str, Any]
) -> Request | None:
    """A POST to `target`; None where the target is more than a plain path and query."""
    path, _, query = target.partition(b"?")
    if not path.startswith(b"/") or b"%" in path or b"#" in target or not target.isascii():
        return None
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": path.decode("ascii"),
        "raw_path": path,
        "query_string": query,
        "headers": headers,
        "state": state,
    }
    return Request(scope)

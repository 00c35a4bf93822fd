"""From the path of a request to what it names, in the original's order and words. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from garrison.drawbridge.layout import Name
from garrison.errors import Malformed, Misuse, Rejected
from garrison.formats.slug import check_repo, check_tag, check_user
from garrison.formats.tree import parse_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from garrison.drawbridge.layout import Kind

# The original's last release; its clients send 0.1.0.
SERVER_VERSION = (0, 4, 3)
_VERSION = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})([-+][0-9A-Za-z.+-]+)?")
# The longest names of all kinds and the deepest path stay below.
_MAX_PATH = 8192

METHODS: dict[Kind, tuple[str, ...]] = {
    "repository query": ("GET",),
    "user": ("HEAD", "GET", "PUT"),
    "repository": ("HEAD", "GET", "PUT"),
    "repository policy": ("HEAD", "GET", "PUT"),
    "repository tag query": ("GET",),
    "tag": ("HEAD", "GET", "PUT"),
    "tag yank": ("HEAD", "GET", "PUT", "DELETE"),
    "tag tree": ("HEAD", "GET", "PUT"),
}


class NotFound(Rejected):
    """There is nothing under this name, or no such route: HTTP 404."""


class MethodNotAllowed(Misuse):
    """The method has no meaning for what the path names: HTTP 405.

    Args:
        what: what that is.
        allowed: the methods that have one.
    """

    def __init__(self, what: str, allowed: Sequence[str]) -> None:
        super().__init__(f"Method not allowed for {what} endpoint")
        self.allowed = allowed


class UnsupportedVersion(Misuse):
    """The client speaks a newer API: HTTP 501."""


def no_route(path: str) -> NotFound:
    """There is no route at `path`."""
    return NotFound(f"Route `/{path.lstrip('/')[:200]}` not found")


@lru_cache(maxsize=1024)
def parse(path: str) -> Name:
    """What `path`, with its percent encoding undone, names.

    Raises:
        NotFound: there is no such route.
        UnsupportedVersion: it is one of an API that is newer than this.
        Malformed: a name in it is not valid.
    """
    path = path.lstrip("/")
    api, _, rest = path.partition("/")
    rest = rest.lstrip("/")
    version, slash, rest = rest.partition("/")
    if api != "api" or not version.startswith("v") or not slash or len(path) > _MAX_PATH:
        raise no_route(path)
    _check_version(version[1:])
    head, underscore, tail = rest.lstrip("/").partition("/_")
    if not head and not underscore:
        return Name("repository query", "")
    if not head:
        raise no_route(path)
    user, _, repo = head.partition("/")
    _checked("user name", check_user, user)
    if not repo:
        # As the original does, whatever stands behind the underscore.
        return Name("user", user)
    _checked("repository name", check_repo, repo)
    if not underscore:
        return Name("repository", user, repo)
    parts = tail.split("/", 3)
    if parts == ["policy"]:
        return Name("repository policy", user, repo)
    if parts == ["tag"]:
        return Name("repository tag query", user, repo)
    if (
        len(parts) < 2
        or parts[0] != "tag"
        or (parts[2:] not in ([], ["yank"]) and parts[2:3] != ["tree"])
    ):
        raise NotFound("Route not found on repository")
    tag = _checked("tag name", check_tag, parts[1])
    if parts[2:] in ([], ["yank"]):
        return Name("tag yank" if parts[2:] else "tag", user, repo, tag)
    try:
        names = parse_path(parts[3] if len(parts) == 4 else "")
    except Malformed as error:
        raise Malformed(f"Failed to parse tree path: {error}") from error
    return Name("tag tree", user, repo, tag, names)


def check_method(name: Name, method: str) -> None:
    """Check that `method` has a meaning for `name`.

    Raises:
        MethodNotAllowed: it has none.
    """
    if method not in METHODS[name.kind]:
        raise MethodNotAllowed(name.kind, METHODS[name.kind])


def _check_version(text: str) -> None:
    match = _VERSION.fullmatch(text)
    if match is None:
        raise Malformed(f"Failed to parse SemVer version from {text[:80]}")
    major, minor, _ = found = (int(match[1]), int(match[2]), int(match[3]))
    if found > SERVER_VERSION and (
        major > SERVER_VERSION[0] or (SERVER_VERSION[0] == 0 and minor > SERVER_VERSION[1])
    ):
        raise UnsupportedVersion(f"Unsupported API version `{text}`")


def _checked(what: str, check: Callable[[str], str], value: str) -> str:
    try:
        return check(value)
    except Malformed as error:
        raise Malformed(f"Failed to parse {what}: {error}") from error

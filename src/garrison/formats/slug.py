"""Slugs: `host[:port]/user/repo:tag`, the name of a tag in a drawbridge.

A slug is an identity, so each has exactly one spelling: the host in lower case, no port
443, no leading zeros. What parses writes itself back to the same text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from garrison.errors import Malformed

# The original's rules for names (Drawbridge, crates/type/src/{user,repository,tag}/name.rs),
# with a bound that the original lacks: a URL with them must stay a reasonable URL.
_MAX_NAME = 128
USER_PATTERN = rf"[0-9A-Za-z]{{1,{_MAX_NAME}}}"
REPO_PATTERN = rf"[0-9A-Za-z-]{{1,{_MAX_NAME}}}"
# A DNS name or an IPv4 address (RFC 1123, 2.1), or an IPv6 address in brackets.
_HOST = re.compile(
    r"(?=.{1,253}(?::|$))"
    r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*"
    r"|\[[0-9a-f:.]{2,45}\])"
    r"(?::(?!443$)[1-9][0-9]{0,4})?"
)
# Semantic Versioning 2.0.0, the grammar of its last section.
TAG_PATTERN = (
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?"
)
# A tag is a file's name where a drawbridge keeps all in a folder: of 255 bytes, some of which
# are for what is half written.
MAX_TAG_NAME = 250
_LONGEST = 2 * _MAX_NAME
_USER = re.compile(USER_PATTERN)
_REPO = re.compile(REPO_PATTERN)
_SEMVER = re.compile(TAG_PATTERN, re.ASCII)


def _check(
    pattern: re.Pattern[str], value: str, field: str, expected: str, longest: int = _LONGEST
) -> None:
    if len(value) > longest or pattern.fullmatch(value) is None:
        raise Malformed("not a valid name", field=field, found=repr(value[:80]), expected=expected)


def check_host(value: str, *, field: str = "drawbridge host") -> str:
    """Return `value` if it is a drawbridge's `host[:port]` in its one spelling.

    Raises:
        Malformed: it is not.
    """
    expected = "host[:port], lower case, without the default port 443"
    _check(_HOST, value, field, expected)
    port = value.rpartition(":")[2] if not value.endswith("]") and ":" in value else ""
    if port and int(port) > 65535:
        raise Malformed("no such port", field=field, found=port, expected="1 to 65535")
    return value


def check_user(value: str, *, field: str = "user name") -> str:
    """Return `value` if it is a user's name.

    Raises:
        Malformed: it is not.
    """
    _check(_USER, value, field, "1 to 128 letters and digits")
    return value


def check_repo(value: str, *, field: str = "repository name") -> str:
    """Return `value` if it is a repository's name.

    Raises:
        Malformed: it is not.
    """
    _check(_REPO, value, field, "1 to 128 letters, digits and hyphens")
    return value


def check_tag(value: str, *, field: str = "tag") -> str:
    """Return `value` if it is a tag's name, a semantic version.

    Raises:
        Malformed: it is not.
    """
    expected = f"a semantic version such as 1.2.3, of at most {MAX_TAG_NAME} characters"
    _check(_SEMVER, value, field, expected, MAX_TAG_NAME)
    return value


@dataclass(frozen=True, slots=True)
class Repository:
    """`host[:port]/user/repo`: a repository in a drawbridge."""

    host: str
    user: str
    repo: str

    def __post_init__(self) -> None:
        check_host(self.host)
        check_user(self.user)
        check_repo(self.repo)

    @classmethod
    def parse(cls, text: str) -> Repository:
        """Read `host[:port]/user/repo`.

        Raises:
            Malformed: `text` is anything else.
        """
        parts = text.split("/")
        if len(parts) != 3:
            raise Malformed(
                "not a repository",
                field="repository",
                found=repr(text[:300]),
                expected="host[:port]/user/repo",
            )
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.host}/{self.user}/{self.repo}"


@dataclass(frozen=True, slots=True)
class Slug:
    """`host[:port]/user/repo:tag`: the name of a workload."""

    host: str
    user: str
    repo: str
    tag: str

    def __post_init__(self) -> None:
        check_host(self.host)
        check_user(self.user)
        check_repo(self.repo)
        check_tag(self.tag)

    @classmethod
    def parse(cls, text: str) -> Slug:
        """Read `host[:port]/user/repo:tag`.

        Raises:
            Malformed: `text` is anything else.
        """
        host, _, rest = text.partition("/")
        user, _, rest = rest.partition("/")
        repo, colon, tag = rest.partition(":")
        if not (host and user and repo and colon and tag):
            raise Malformed(
                "not a slug",
                field="slug",
                found=repr(text[:300]),
                expected="host[:port]/user/repo:tag",
            )
        return cls(host, user, repo, tag)

    @property
    def repository(self) -> Repository:
        """The repository that holds the tag."""
        return Repository(self.host, self.user, self.repo)

    def __str__(self) -> str:
        return f"{self.host}/{self.user}/{self.repo}:{self.tag}"

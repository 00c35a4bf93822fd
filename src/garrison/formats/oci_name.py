"""`oci://registry/repository:tag`: the name of a workload in an OCI registry.

The grammar of repositories and tags is that of the OCI Distribution Specification 1.1 ("Pulling
manifests"); the host's is that of slugs. As a slug, a name has exactly one spelling. It stands
wherever a slug can: what differs is only whom to ask.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from garrison.errors import Malformed
from garrison.formats.slug import Slug, check_host

SCHEME = "oci://"
# With the host in front, clients of registries bound it to 255.
_MAX_PATH = 200
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"(?=.{{1,{_MAX_PATH}}}$){_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class OciRepository:
    """`oci://host/path`: a repository in an OCI registry."""

    host: str
    path: str

    def __post_init__(self) -> None:
        check_host(self.host, field="OCI registry")
        if _PATH.fullmatch(self.path) is None:
            raise Malformed(
                "not a valid name",
                field="OCI repository",
                found=repr(self.path[:80]),
                expected="lower-case letters, digits, and single separators '.', '_', '-', '/'",
            )

    def __str__(self) -> str:
        return f"{SCHEME}{self.host}/{self.path}"


@dataclass(frozen=True, slots=True)
class OciName:
    """`oci://host/path:tag`: the name of a workload in an OCI registry."""

    host: str
    path: str
    tag: str

    def __post_init__(self) -> None:
        OciRepository(self.host, self.path)
        if _TAG.fullmatch(self.tag) is None:
            raise Malformed(
                "not a valid tag",
                field="OCI tag",
                found=repr(self.tag[:80]),
                expected="1 to 128 letters, digits, '_', '.' and '-'",
            )

    @classmethod
    def parse(cls, text: str) -> OciName:
        """Read `oci://host[:port]/path:tag`.

        Raises:
            Malformed: `text` is anything else.
        """
        host, slash, rest = text.removeprefix(SCHEME).partition("/")
        path, colon, tag = rest.partition(":")
        if not (text.startswith(SCHEME) and slash and colon):
            raise Malformed(
                "not the name of a workload in an OCI registry",
                field="name",
                found=repr(text[:300]),
                expected=f"{SCHEME}host[:port]/repository:tag",
            )
        return cls(host, path, tag)

    @property
    def repository(self) -> OciRepository:
        """The repository that holds the tag."""
        return OciRepository(self.host, self.path)

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


Name = Slug | OciName


def parse_name(text: str) -> Name:
    """Read a slug, or a name in an OCI registry.

    Raises:
        Malformed: `text` is neither.
    """
    return OciName.parse(text) if text.startswith(SCHEME) else Slug.parse(text)

"""Where things are: paths of the API, and keys of the object store. Pure functions.

Over HTTP (the original's routes; the version is a semantic version):

    /api/v0.1.0/?q=TEXT                          the public repositories with a text in their name
    /api/v0.1.0/USER                             a user's record
    /api/v0.1.0/USER/REPO                        a repository's configuration
    /api/v0.1.0/USER/REPO/_policy                what holds in place of that (ours)
    /api/v0.1.0/USER/REPO/_tag                   the list of its tags
    /api/v0.1.0/USER/REPO/_tag/TAG               a tag: the entry of its tree's root
    /api/v0.1.0/USER/REPO/_tag/TAG/tree[/PATH]   a directory or file of the tree
    /api/v0.1.0/USER/REPO/_tag/TAG/yank           why the tag was yanked (ours, not the original's)

In the object store:

    users/USER                      names: each is created once and never changed
    repos/USER/REPO
    policies/USER/REPO              in place of what stands in `repos`; it may be replaced
    tags/USER/REPO/TAG
    yanks/USER/REPO/TAG             why that tag should not be used any more; it may go again
    trees/USER/REPO/TAG[/PATH]/@    says which content is there; `@` is in no entry's name
    content/SHA-256 in hex          content, shared by all names that stand for it
    aside/SHA-256 in hex/TIME-ID    content that nothing referred to at that time (`gc`)
    probes/ID                       an object of a moment, to read the store's clock

No key is a prefix of another key's path, so a file system can hold them as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from garrison.errors import Malformed
from garrison.formats.slug import check_repo, check_tag, check_user
from garrison.formats.tree import parse_path

if TYPE_CHECKING:
    from garrison.formats.slug import Slug

# What clients put into the path; the original's clients of all versions send this one.
CLIENT_VERSION = "0.1.0"

CONTENT = "content/"
ASIDE = "aside/"
PROBE = "probes/"
_CONTENT_KEY = re.compile(r"content/([0-9a-f]{64})")
# The time is in seconds since 1970; the rest makes each run's key its own.
_ASIDE_KEY = re.compile(r"aside/([0-9a-f]{64})/([0-9]{10,12})-[0-9a-f]{16}")

Kind = Literal[
    "repository query",
    "user",
    "repository",
    "repository policy",
    "repository tag query",
    "tag",
    "tag yank",
    "tag tree",
]


@dataclass(frozen=True, slots=True)
class Name:
    """What a path of the API names: a user, a repository, its tags, a tag, or a node of its tree.

    Attributes:
        kind: which of these, in the words of the original's answers; or all repositories.
        user: the user, or empty.
        repo: the repository, or empty.
        tag: the tag, or empty.
        path: the names on the way from the root of the tag's tree to the node.
    """

    kind: Kind
    user: str
    repo: str = ""
    tag: str = ""
    path: tuple[str, ...] = ()

    def key(self) -> str:
        """The name's key in the object store; for a list, the prefix of its names' keys."""
        if self.kind == "repository query":
            return "repos/"
        if self.kind == "user":
            return f"users/{self.user}"
        if self.kind == "repository":
            return f"repos/{self.user}/{self.repo}"
        if self.kind == "repository policy":
            return f"policies/{self.user}/{self.repo}"
        if self.kind == "repository tag query":
            return f"tags/{self.user}/{self.repo}/"
        if self.kind == "tag":
            return f"tags/{self.user}/{self.repo}/{self.tag}"
        if self.kind == "tag yank":
            return f"yanks/{self.user}/{self.repo}/{self.tag}"
        return "/".join(("trees", self.user, self.repo, self.tag, *self.path, "@"))

    def yank(self) -> Name:
        """The mark of this tag, or of the tag in which this is, that it was yanked."""
        return Name("tag yank", self.user, self.repo, self.tag)

    def policy(self) -> Name:
        """What holds in place of the configuration of the repository in which this is."""
        return Name("repository policy", self.user, self.repo)

    def url_path(self) -> str:
        """The name's path in the API."""
        path = f"/api/v{CLIENT_VERSION}/{self.user}"
        if self.kind in {"repository query", "user"}:
            return path
        path += f"/{self.repo}"
        if self.kind == "repository":
            return path
        if self.kind == "repository policy":
            return f"{path}/_policy"
        if self.kind == "repository tag query":
            return f"{path}/_tag"
        path += f"/_tag/{self.tag}"
        if self.kind == "tag yank":
            return f"{path}/yank"
        return path if self.kind == "tag" else "/".join((path, "tree", *self.path))

    def owner(self) -> Name:
        """The user under whom this is."""
        return Name("user", self.user)

    def repository(self) -> Name:
        """The repository in which this is."""
        return Name("repository", self.user, self.repo)

    def parent(self) -> Name:
        """Where the entry of this node of a tree stands: its directory, or the tag for the root."""
        if not self.path:
            return Name("tag", self.user, self.repo, self.tag)
        return Name("tag tree", self.user, self.repo, self.tag, self.path[:-1])


def tag_name(slug: Slug) -> Name:
    """The tag that `slug` names."""
    return Name("tag", slug.user, slug.repo, slug.tag)


def node_name(slug: Slug, path: tuple[str, ...]) -> Name:
    """The node at `path` in the tree of the tag that `slug` names."""
    return Name("tag tree", slug.user, slug.repo, slug.tag, path)


def content_key(sha256: bytes) -> str:
    """The key of the content with this digest."""
    return f"{CONTENT}{sha256.hex()}"


def content_digest(key: str) -> bytes:
    """The SHA-256 that the key of a content names.

    Raises:
        Malformed: it is no such key.
    """
    match = _CONTENT_KEY.fullmatch(key)
    if match is None:
        raise Malformed("not the key of a content", field=key)
    return bytes.fromhex(match[1])


def aside_prefix(key: str) -> str:
    """Under which prefix the content with this key is put aside."""
    return f"{ASIDE}{key.removeprefix(CONTENT)}/"


def parse_aside(key: str) -> tuple[str, int]:
    """The content's key, and the second at which it was put aside, from the key where it is.

    Raises:
        Malformed: it is no such key.
    """
    match = _ASIDE_KEY.fullmatch(key)
    if match is None:
        raise Malformed("not the key of a content that was put aside", field=key)
    return f"{CONTENT}{match[1]}", int(match[2])


def parse_key(key: str) -> Name:
    """The name of which this is the key, so that `key()` gives it back.

    Raises:
        Malformed: it is no name's key.
    """
    parts = key.split("/")
    if parts[0] == "users" and len(parts) == 2:
        return Name("user", check_user(parts[1]))
    if parts[0] == "repos" and len(parts) == 3:
        return Name("repository", check_user(parts[1]), check_repo(parts[2]))
    if parts[0] == "policies" and len(parts) == 3:
        return Name("repository policy", check_user(parts[1]), check_repo(parts[2]))
    if parts[0] == "tags" and len(parts) == 4:
        return Name("tag", check_user(parts[1]), check_repo(parts[2]), check_tag(parts[3]))
    if parts[0] == "yanks" and len(parts) == 4:
        return Name("tag yank", check_user(parts[1]), check_repo(parts[2]), check_tag(parts[3]))
    if parts[0] == "trees" and len(parts) >= 5 and parts[-1] == "@":
        user, repo, tag = check_user(parts[1]), check_repo(parts[2]), check_tag(parts[3])
        return Name("tag tree", user, repo, tag, parse_path("/".join(parts[4:-1])))
    raise Malformed("not the key of a name", field=key)

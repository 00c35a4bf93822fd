"""The drawbridge as its clients see it: keeps, stewards, and the command line.

The server is not trusted. Every byte that it serves is checked against a digest before anyone
sees it: the tag's own headers pin the tag's entry, the entry pins the root directory, each
directory its entries. Nothing larger than its limit is read, and no redirect is followed.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

from garrison.drawbridge.ranges import Contents
from garrison.drawbridge.retry import TRIES
from garrison.drawbridge.tls import ClientCertificate
from garrison.drawbridge.wire import CONNECTIONS, MAX_DOCUMENT, PINNING, Wire, locked, plain
from garrison.errors import Malformed, Rejected, Unverified
from garrison.formats import signed_tag
from garrison.formats.content_digest import ALGORITHMS, ContentDigest
from garrison.formats.signed_tag import JWS_TYPE, MAX_SIGNED
from garrison.formats.tree import (
    DIRECTORY_TYPE,
    ENTRY_TYPE,
    Directory,
    Entry,
    Package,
    check_tree,
    max_length,
    media_type,
    parse_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from garrison.drawbridge.wire import Answer
    from garrison.formats.signed_tag import SigningKey, TagKey
    from garrison.formats.slug import Repository, Slug

__all__ = ["Client", "ClientCertificate", "Fetched"]

# Of all pages of a search together: a hundred thousand repositories with long names.
MAX_FOUND = 16 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """A workload as a drawbridge served it, every byte checked.

    Attributes:
        entry: the tag's entry.
        digest: of the workload, 32 bytes.
        files: path to content.
        yanked: why it should not be used any more; None if nobody said so.
    """

    entry: Entry
    digest: bytes
    files: dict[str, bytes]
    yanked: str | None = None


class Client:
    """A client of the drawbridge at one host."""

    def __init__(
        self,
        host: str,
        *,
        ca_pem: str | None = None,
        token: str | None = None,
        certificate: ClientCertificate | None = None,
        tries: int = TRIES,
    ) -> None:
        """Prepare to speak with `host`; nothing is sent yet.

        Args:
            host: `host[:port]`.
            ca_pem: PEM certificates that may vouch for the server; None for the web's roots.
            token: a bearer token, of a user.
            certificate: a client certificate, of a keep or a steward.
            tries: how often a request is sent to a server that says "not now"; 1 for callers on
                whom somebody waits.

        Raises:
            Malformed: the CA or the certificate is not PEM.
        """
        self.host = host
        self._wire = Wire(host, ca_pem=ca_pem, token=token, certificate=certificate, tries=tries)
        self._contents = Contents()

    # Reading.

    def tag(self, slug: Slug) -> Entry:
        """The entry that the tag holds.

        Raises:
            Rejected: there is no such tag, or it may not be read.
            Unverified: the answer is not what its own digests say.
            Malformed: the answer is not a tag.
            Unavailable: the drawbridge cannot be reached, or fails.
        """
        return self._tagged(slug)[0]

    def yanked(self, slug: Slug) -> str | None:
        """Why the tag was yanked, as the drawbridge says; None if it was not; raises as `tag`."""
        return self._tagged(slug)[1]

    def signed_tag_digest(self, slug: Slug, keys: tuple[TagKey, ...]) -> bytes:
        """The digest of the workload that the tag names, if one of `keys` signed it for this slug.

        Raises:
            Unverified: none did, or the tag is not signed.
            Rejected: as `tag`; and the others too.
        """
        return self._tagged(slug, keys)[0].workload_digest

    def _tagged(
        self, slug: Slug, keys: tuple[TagKey, ...] | None = None
    ) -> tuple[Entry, str | None]:
        where = f"tag {slug}"
        answer = self._wire.get(_tag(slug), str(slug), limit=MAX_SIGNED)
        kind = answer.headers.get("Content-Type")
        answer.check_digest_header(where)
        if kind == JWS_TYPE:
            # Without keys it is worth as much as a tag that nobody signed: the digest counts.
            entry = (
                signed_tag.payload_entry(answer.body, where)
                if keys is None
                else signed_tag.verify(answer.body, slug, keys)
            )
        elif kind != ENTRY_TYPE:
            raise Malformed(
                "wrong media type", field=where, found=kind, expected=f"{ENTRY_TYPE} or {JWS_TYPE}"
            )
        elif keys is not None:
            raise Unverified("not signed", field=where, found=kind, expected=JWS_TYPE)
        else:
            entry = Entry.from_bytes(answer.body, where)
        if entry.type != DIRECTORY_TYPE:
            raise Malformed(
                "not a directory", field=f"tag {slug}", found=entry.type, expected=DIRECTORY_TYPE
            )
        yanked = answer.headers.get("Garrison-Yanked")
        return entry, None if yanked is None else plain(unquote(yanked))

    def tag_digest(self, slug: Slug) -> bytes:
        """The digest (32 bytes) of the workload that the tag names; raises as `tag` does."""
        return self.tag(slug).workload_digest

    def fetch(
        self,
        slug: Slug,
        progress: Callable[[int], None] = lambda _count: None,
        expect: Callable[[int], None] = lambda _total: None,
    ) -> Fetched:
        """Fetch the workload `slug`, and check every byte.

        Args:
            slug: the workload.
            progress: told of every number of bytes that came.
            expect: told how many there are in all, as far as that is known, each time that is more.

        Raises:
            Rejected: there is no such tag, or it may not be read.
            Unverified: a byte differs from what the tag's entry pins.
            Malformed: something is too large, or not of its form.
            Unavailable: the drawbridge cannot be reached, or fails.
        """
        entry, yanked = self._tagged(slug)
        files: dict[str, bytes] = {}
        count, total = 1, entry.length
        level = [("", entry)]
        advance = locked(progress)

        def node(item: tuple[str, Entry]) -> bytes:
            return self._node(slug, *item, advance)

        # A level of the tree at a time, several of its nodes at once; an error cancels the rest.
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            while level:
                below: list[tuple[str, Entry]] = []
                for (path, found), content in zip(level, pool.map(node, level), strict=True):
                    if found.type != DIRECTORY_TYPE:
                        files[path] = content
                        continue
                    for child in _children(slug, path, content):
                        # Before it is asked for.
                        count, total = count + 1, total + child[1].length
                        check_tree(count, total, str(slug))
                        below.append(child)
                level = below
                expect(total)
        return Fetched(entry, entry.workload_digest, dict(Package(files).files), yanked)

    def directory(self, slug: Slug, path: str = "") -> Directory:
        """The directory at `path` of the workload, checked from the tag down; as `fetch`."""
        entry = self.tag(slug)
        done = ""
        directory = Directory.from_bytes(self._node(slug, done, entry), str(slug))
        for name in filter(None, path.split("/")):
            found = directory.entries.get(name)
            if found is None or found.type != DIRECTORY_TYPE:
                raise Rejected("no such directory", field=f"{slug} {path}")
            done = f"{done}/{name}" if done else name
            directory = Directory.from_bytes(self._node(slug, done, found), f"{slug} {done}")
        return directory

    def file(self, slug: Slug, path: str) -> bytes:
        """The file at `path` of the workload, checked from the tag down; as `fetch`."""
        parent, _, name = path.rpartition("/")
        entries = self.directory(slug, parent).entries
        found = entries.get(name)
        if found is None or found.type == DIRECTORY_TYPE:
            files = (other for other, entry in entries.items() if entry.type != DIRECTORY_TYPE)
            raise Rejected(
                "no such file",
                field=f"{slug} {path}",
                expected=f"in {parent or 'the root'}: {', '.join(list(files)[:20])}",
            )
        return self._node(slug, path, found)

    def _node(
        self,
        slug: Slug,
        path: str,
        entry: Entry,
        progress: Callable[[int], None] = lambda _count: None,
    ) -> bytes:
        """The content at `path`, which must be what `entry` says."""
        where = f"{slug} {path or 'root directory'}"
        limit = max_length(path, entry.type)
        if entry.length > limit:
            raise Malformed(
                "too large", field=where, found=f"{entry.length} bytes", expected=f"at most {limit}"
            )
        url = f"{_tag(slug)}/tree/{path}" if path else f"{_tag(slug)}/tree"
        answer = self._contents.get(
            lambda got: self._wire.get_into(got, url, where),
            where,
            length=entry.length,
            progress=progress,
            # The digest by which people know a workload is that of its root directory: of
            # directories, which are short, no other may be false either. A file's is pinned by
            # its directory.
            algorithms=ALGORITHMS if entry.type == DIRECTORY_TYPE else PINNING,
        )
        if len(answer.body) != entry.length:
            raise Unverified(
                "wrong length",
                field=where,
                found=f"{len(answer.body)} bytes",
                expected=f"{entry.length} bytes",
            )
        if "sha-256" not in entry.digest.values:
            raise Malformed("no sha-256", field=f"{where}: digest")
        answer.check_digest(entry.digest, where)
        answer.check_digest_header(where)
        kind = answer.headers.get("Content-Type")
        if kind != entry.type:
            raise Unverified("wrong media type", field=where, found=kind, expected=entry.type)
        return answer.body

    def tags(self, repository: Repository) -> list[str]:
        """The names of the repository's tags; raises as `tag` does."""
        path = f"{repository.user}/{repository.repo}/_tag"
        return _names(self._wire.get(path, str(repository), limit=MAX_DOCUMENT), str(repository))

    def repositories(self, user: str) -> list[str]:
        """The names of a user's repositories, of which others see the public ones."""
        where = f"{self.host}/{user}"
        return _names(self._wire.get(f"{user}?repositories", where, limit=MAX_DOCUMENT), where)

    def repository(self, repository: Repository) -> dict[str, Any]:
        """The repository's configuration; raises as `tag` does."""
        return self._document(f"{repository.user}/{repository.repo}", str(repository))

    def policy(self, repository: Repository) -> dict[str, Any]:
        """What holds for the repository, in the form of its configuration; raises as `tag`."""
        path = f"{repository.user}/{repository.repo}/_policy"
        try:
            return self._document(path, str(repository))
        except Rejected:
            # The original has none. What is wrong otherwise is wrong with this too.
            return self.repository(repository)

    def search(self, text: str) -> Iterator[str]:
        """The public repositories, `user/repo`, that have `text` in their name."""
        last, length = "", 0
        while True:
            query = urlencode({"q": text, **({"last": last} if last else {})})
            where = f"{self.host} search"
            answer = self._wire.get(f"?{query}", where, limit=MAX_DOCUMENT)
            length += len(answer.body)
            if length > MAX_FOUND:
                raise Malformed(
                    "too many repositories", field=where, expected=f"at most {MAX_FOUND} bytes"
                )
            found = _names(answer, where)
            # Each page must go on where the last one ended, or a server could keep us for ever.
            if any(name <= last for name in found):
                raise Malformed("not in order", field=where)
            yield from found
            if "Link" not in answer.headers or not found:
                return
            last = found[-1]

    def user(self, name: str) -> dict[str, Any]:
        """The user's record; raises as `tag` does."""
        return self._document(name, f"{self.host}/{name}")

    def _document(self, path: str, where: str) -> dict[str, Any]:
        value = _json(self._wire.get(path, where, limit=MAX_DOCUMENT).body, where)
        if not isinstance(value, dict):
            raise Malformed("not an object", field=where)
        return value

    # Writing.

    def publish(
        self,
        slug: Slug,
        package: Package,
        progress: Callable[[int], None] = lambda _count: None,
        *,
        key: SigningKey | None = None,
    ) -> Entry:
        """Publish `package` as `slug`: the tag first, signed if there is a `key`, then the tree.

        What is there already, and the same, is left as it is, and not sent again: an interrupted
        publication is completed by doing it again.

        Raises:
            Rejected: other content stands there already, or the user may not write.
            Unavailable: the drawbridge cannot be reached, or fails.
        """
        nodes = package.nodes()
        root = nodes[""][0]
        is_new = self._put_tag(slug, root, key)
        advance = locked(progress)

        def put(path: str) -> None:
            entry, body = nodes[path]
            url = f"{_tag(slug)}/tree/{path}" if path else f"{_tag(slug)}/tree"
            where = f"{slug} {path}".strip()
            # The original's server ends the connection of who sends a file that it has.
            if is_new or not self._is_there(url, where, entry.digest):
                self._put(url, where, body, entry.type, entry.digest)
            advance(len(body))

        # A directory is there before what is in it, as the server wants it.
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for _, level in groupby(sorted(nodes, key=_depth), _depth):
                for _ in pool.map(put, level):
                    pass
        return root

    def _put_tag(self, slug: Slug, root: Entry, key: SigningKey | None) -> bool:
        """Put the tag, and tell whether it was not there before."""
        if key is None:
            content = root.to_bytes()
            return self._put(_tag(slug), str(slug), content, ENTRY_TYPE, ContentDigest.of(content))
        content = signed_tag.sign(root, slug, key)
        try:
            return self._put(_tag(slug), str(slug), content, JWS_TYPE, ContentDigest.of(content))
        except Rejected:
            # Most signatures differ each time: an interrupted publication left another one.
            answer = self._wire.get(_tag(slug), str(slug), limit=MAX_SIGNED)
            if answer.headers.get("Content-Type") != JWS_TYPE:
                raise
            if signed_tag.verify(answer.body, slug, (key.public_key(),)) != root:
                raise
        return False

    def yank(self, slug: Slug, reason: str) -> None:
        """Mark a tag as one that should not be used any more; raises as `publish` does."""
        self._put_json(f"{_tag(slug)}/yank", str(slug), {"reason": reason})

    def unyank(self, slug: Slug) -> None:
        """Take the mark away; raises as `publish` does."""
        answer = self._wire.request("DELETE", f"{_tag(slug)}/yank", str(slug), limit=MAX_DOCUMENT)
        if answer.status != 204:
            raise self._wire.refusal(answer, str(slug))

    def register_user(self, name: str, subject: str) -> None:
        """Register `name` for the OpenID Connect `subject`; raises as `publish` does."""
        self._put_json(name, f"{self.host}/{name}", {"subject": subject})

    def register_repository(self, repository: Repository, config: dict[str, Any]) -> None:
        """Register a repository; raises as `publish` does."""
        self._put_json(f"{repository.user}/{repository.repo}", str(repository), config)

    def set_policy(self, repository: Repository, config: dict[str, Any]) -> None:
        """Replace what holds for a repository; raises as `publish` does."""
        path = f"{repository.user}/{repository.repo}/_policy"
        self._put_json(path, str(repository), config)

    def _put_json(self, path: str, where: str, value: dict[str, Any]) -> None:
        content = json.dumps(value, separators=(",", ":")).encode()
        self._put(path, where, content, "application/json", ContentDigest.of(content))

    def _put(
        self, path: str, where: str, content: bytes, media_type: str, digest: ContentDigest
    ) -> bool:
        """Put something, and tell whether it was not there before."""
        headers = {"Content-Type": media_type, "Content-Digest": digest.to_header()}
        answer = self._wire.request(
            "PUT", path, where, limit=MAX_DOCUMENT, body=content, extra=headers
        )
        if answer.status == 201:
            return True
        # 200 is the original's word, in its client at least, for what is there already.
        if answer.status == 200 or (answer.status == 409 and self._is_there(path, where, digest)):
            return False
        raise self._wire.refusal(answer, where)

    def _is_there(self, path: str, where: str, digest: ContentDigest) -> bool:
        """Whether what the server holds already is what was to be put there."""
        answer = self._wire.request("HEAD", path, where, limit=0)
        if answer.status != 200:
            return False
        there = ContentDigest.from_header(answer.headers.get("Content-Digest", ""))
        return there.values.items() <= digest.values.items()


def _children(slug: Slug, path: str, content: bytes) -> Iterator[tuple[str, Entry]]:
    """Paths and entries of what is in the directory at `path`."""
    for name, child in Directory.from_bytes(content, f"{slug} {path}").entries.items():
        place = f"{path}/{name}" if path else name
        parse_path(place)
        if child.type not in {DIRECTORY_TYPE, media_type(place)}:
            raise Malformed(
                "wrong media type",
                field=f"{slug} {place}",
                found=child.type,
                expected=media_type(place),
            )
        yield place, child


def _depth(path: str) -> int:
    return path.count("/") + 1 if path else 0


def _tag(slug: Slug) -> str:
    return f"{slug.user}/{slug.repo}/_tag/{slug.tag}"


def _names(answer: Answer, where: str) -> list[str]:
    value = _json(answer.body, where)
    # Commands print each on a line of its own, for people and for programs.
    if not isinstance(value, list) or not all(
        isinstance(name, str) and name.isprintable() for name in value
    ):
        raise Malformed("not a list of names", field=where)
    return value


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON", field=where) from error

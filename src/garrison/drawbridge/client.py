"""The drawbridge as its clients see it: keeps, stewards, and the command line.

The server is not trusted. Every byte that it serves is checked against a digest before anyone
sees it: the tag's own headers pin the tag's entry, the entry pins the root directory, each
directory its entries. Nothing larger than its limit is read, and no redirect is followed.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import urllib3

from garrison.drawbridge.retry import wait_before_retry
from garrison.drawbridge.tls import ClientCertificate, client_context, tls_failure
from garrison.errors import Malformed, Rejected, Unavailable, Unverified
from garrison.formats.content_digest import ContentDigest, ContentHasher
from garrison.formats.tree import (
    DIRECTORY_TYPE,
    ENTRY_TYPE,
    MAX_ENTRY,
    MAX_FILES,
    MAX_PACKAGE,
    Directory,
    Entry,
    Package,
    max_length,
    media_type,
    parse_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from garrison.formats.slug import Repository, Slug

__all__ = ["Client", "ClientCertificate", "Fetched"]

API_VERSION = "0.1.0"
_PIECE = 1 << 18
# A list of all tags of a repository, a user, a repository's configuration, an error.
_MAX_DOCUMENT = 1 << 20
_TIMEOUT = urllib3.Timeout(connect=10, read=60)
# A body must come at this pace at least, bytes a second, once the patience is over.
_PATIENCE_SECONDS = 60.0
_SLOWEST = 50_000


@dataclass(frozen=True, slots=True)
class Fetched:
    """A workload as a drawbridge served it, every byte checked.

    Attributes:
        entry: the tag's entry.
        digest: of the workload, 32 bytes.
        files: path to content.
    """

    entry: Entry
    digest: bytes
    files: dict[str, bytes]
    yanked: str | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: urllib3.HTTPHeaderDict
    body: bytes
    digest: ContentDigest

    def check_digest_header(self, where: str) -> None:
        """Check the body against the digests in the headers; there must be some."""
        header = self.headers.get("Content-Digest")
        if header is None:
            raise Unverified(
                "no Content-Digest header", field=where, expected=self.digest.to_header()
            )
        field = f"{where}: Content-Digest"
        ContentDigest.from_header(header, field).check(self.digest, field)


class Client:
    """A client of the drawbridge at one host."""

    def __init__(
        self,
        host: str,
        *,
        ca_pem: str | None = None,
        token: str | None = None,
        certificate: ClientCertificate | None = None,
    ) -> None:
        """Prepare to speak with `host`; nothing is sent yet.

        Args:
            host: `host[:port]`.
            ca_pem: PEM certificates that may vouch for the server; None for the web's roots.
            token: a bearer token, of a user.
            certificate: a client certificate, of a keep or a steward.

        Raises:
            Malformed: the CA or the certificate is not PEM.
        """
        self.host = host
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._certified = certificate is not None
        context = client_context(host, ca_pem, certificate)
        self._pool = urllib3.PoolManager(ssl_context=context, retries=False, timeout=_TIMEOUT)

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

    def _tagged(self, slug: Slug) -> tuple[Entry, str | None]:
        answer = self._get(_tag(slug), str(slug), limit=MAX_ENTRY)
        kind = answer.headers.get("Content-Type")
        if kind != ENTRY_TYPE:
            raise Malformed(
                "wrong media type", field=f"tag {slug}", found=kind, expected=ENTRY_TYPE
            )
        answer.check_digest_header(f"tag {slug}")
        entry = Entry.from_bytes(answer.body, f"tag {slug}")
        if entry.type != DIRECTORY_TYPE:
            raise Malformed(
                "not a directory", field=f"tag {slug}", found=entry.type, expected=DIRECTORY_TYPE
            )
        yanked = answer.headers.get("Garrison-Yanked")
        return entry, None if yanked is None else _plain(unquote(yanked))

    def tag_digest(self, slug: Slug) -> bytes:
        """The digest (32 bytes) of the workload that the tag names; raises as `tag` does."""
        return self.tag(slug).workload_digest

    def fetch(self, slug: Slug, progress: Callable[[int], None] = lambda _count: None) -> Fetched:
        """Fetch the workload `slug`, and check every byte.

        Args:
            slug: the workload.
            progress: told of every number of bytes that came.

        Raises:
            Rejected: there is no such tag, or it may not be read.
            Unverified: a byte differs from what the tag's entry pins.
            Malformed: something is too large, or not of its form.
            Unavailable: the drawbridge cannot be reached, or fails.
        """
        entry, yanked = self._tagged(slug)
        files: dict[str, bytes] = {}
        count = total = 0
        for path, content in self._nodes(slug, entry, "", progress):
            # Directories count: a registry that lies must not keep its reader busy for ever.
            count, total = count + 1, total + len(content)
            if count > MAX_FILES or total > MAX_PACKAGE:
                raise Malformed(
                    "too large a package",
                    field=str(slug),
                    found=f"more than {count - 1} files and directories, {total} bytes",
                    expected=f"at most {MAX_FILES}, {MAX_PACKAGE} bytes",
                )
            if not path.endswith("/"):
                files[path] = content
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

    def _nodes(
        self, slug: Slug, entry: Entry, path: str, progress: Callable[[int], None]
    ) -> Iterator[tuple[str, bytes]]:
        """The checked node at `path`, and all below it; paths of directories end with a slash."""
        parse_path(path)
        content = self._node(slug, path, entry, progress)
        if entry.type != DIRECTORY_TYPE:
            yield path, content
            return
        yield f"{path}/", content
        for name, child in Directory.from_bytes(content, f"{slug} {path}").entries.items():
            place = f"{path}/{name}" if path else name
            if child.type not in {DIRECTORY_TYPE, media_type(place)}:
                raise Malformed(
                    "wrong media type",
                    field=f"{slug} {place}",
                    found=child.type,
                    expected=media_type(place),
                )
            yield from self._nodes(slug, child, place, progress)

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
        answer = self._get(url, where, limit=entry.length, progress=progress)
        if len(answer.body) != entry.length:
            raise Unverified(
                "wrong length",
                field=where,
                found=f"{len(answer.body)} bytes",
                expected=f"{entry.length} bytes",
            )
        if "sha-256" not in entry.digest.values:
            raise Malformed("no sha-256", field=f"{where}: digest")
        entry.digest.check(answer.digest, where)
        answer.check_digest_header(where)
        kind = answer.headers.get("Content-Type")
        if kind != entry.type:
            raise Unverified("wrong media type", field=where, found=kind, expected=entry.type)
        return answer.body

    def tags(self, repository: Repository) -> list[str]:
        """The names of the repository's tags; raises as `tag` does."""
        path = f"{repository.user}/{repository.repo}/_tag"
        value = _json(self._get(path, str(repository), limit=_MAX_DOCUMENT).body, str(repository))
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise Malformed("not a list of tags", field=str(repository))
        return value

    def repositories(self, user: str) -> list[str]:
        """The names of a user's repositories, of which others see the public ones."""
        where = f"{self.host}/{user}"
        value = _json(self._get(f"{user}?repositories", where, limit=_MAX_DOCUMENT).body, where)
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise Malformed("not a list of repositories", field=where)
        return value

    def repository(self, repository: Repository) -> dict[str, Any]:
        """The repository's configuration; raises as `tag` does."""
        return self._document(f"{repository.user}/{repository.repo}", str(repository))

    def user(self, name: str) -> dict[str, Any]:
        """The user's record; raises as `tag` does."""
        return self._document(name, f"{self.host}/{name}")

    def _document(self, path: str, where: str) -> dict[str, Any]:
        value = _json(self._get(path, where, limit=_MAX_DOCUMENT).body, where)
        if not isinstance(value, dict):
            raise Malformed("not an object", field=where)
        return value

    # Writing.

    def publish(
        self, slug: Slug, package: Package, progress: Callable[[int], None] = lambda _count: None
    ) -> Entry:
        """Publish `package` as `slug`: the tag first, then the tree in path order.

        What is there already, and the same, is left as it is: an interrupted publication is
        completed by doing it again.

        Raises:
            Rejected: other content stands there already, or the user may not write.
            Unavailable: the drawbridge cannot be reached, or fails.
        """
        nodes = package.nodes()
        root = nodes[""][0]
        content = root.to_bytes()
        self._put(_tag(slug), str(slug), content, ENTRY_TYPE, ContentDigest.of(content))
        for path, (entry, body) in nodes.items():
            url = f"{_tag(slug)}/tree/{path}" if path else f"{_tag(slug)}/tree"
            self._put(url, f"{slug} {path}".strip(), body, entry.type, entry.digest)
            progress(len(body))
        return root

    def yank(self, slug: Slug, reason: str) -> None:
        """Mark a tag as one that should not be used any more; raises as `publish` does."""
        self._put_json(f"{_tag(slug)}/yank", str(slug), {"reason": reason})

    def unyank(self, slug: Slug) -> None:
        """Take the mark away; raises as `publish` does."""
        answer = self._request("DELETE", f"{_tag(slug)}/yank", str(slug), limit=_MAX_DOCUMENT)
        if answer.status != 204:
            raise self._refusal(answer, str(slug))

    def register_user(self, name: str, subject: str) -> None:
        """Register `name` for the OpenID Connect `subject`; raises as `publish` does."""
        self._put_json(name, f"{self.host}/{name}", {"subject": subject})

    def register_repository(self, repository: Repository, config: dict[str, Any]) -> None:
        """Register a repository; raises as `publish` does."""
        self._put_json(f"{repository.user}/{repository.repo}", str(repository), config)

    def _put_json(self, path: str, where: str, value: dict[str, Any]) -> None:
        content = json.dumps(value, separators=(",", ":")).encode()
        self._put(path, where, content, "application/json", ContentDigest.of(content))

    def _put(
        self, path: str, where: str, content: bytes, media_type: str, digest: ContentDigest
    ) -> None:
        headers = {"Content-Type": media_type, "Content-Digest": digest.to_header()}
        answer = self._request("PUT", path, where, limit=_MAX_DOCUMENT, body=content, extra=headers)
        if answer.status in (200, 201):
            return
        if answer.status == 409 and self._is_there(path, where, digest):
            return
        raise self._refusal(answer, where)

    def _is_there(self, path: str, where: str, digest: ContentDigest) -> bool:
        """Whether what the server holds already is what was to be put there."""
        answer = self._request("HEAD", path, where, limit=0)
        if answer.status != 200:
            return False
        there = ContentDigest.from_header(answer.headers.get("Content-Digest", ""))
        return there.values.get("sha-256") == digest.values["sha-256"]

    # The wire.

    def _get(
        self,
        path: str,
        where: str,
        *,
        limit: int,
        progress: Callable[[int], None] = lambda _count: None,
    ) -> _Answer:
        answer = self._request("GET", path, where, limit=limit, progress=progress)
        if answer.status != 200:
            raise self._refusal(answer, where)
        return answer

    def _request(
        self,
        method: str,
        path: str,
        where: str,
        *,
        limit: int,
        body: bytes | None = None,
        extra: dict[str, str] | None = None,
        progress: Callable[[int], None] = lambda _count: None,
    ) -> _Answer:
        """Send a request, again if the server says "not now", and return the last answer."""
        tried = 0
        while True:
            tried += 1
            answer = self._send(
                method, path, where, limit=limit, body=body, extra=extra or {}, progress=progress
            )
            retry_after = answer.headers.get("Retry-After")
            chance = random.random()  # noqa: S311 - spreads load; nothing secret depends on it
            wait = wait_before_retry(answer.status, retry_after, tried, chance)
            if wait is None:
                return answer
            time.sleep(wait)

    def _send(
        self,
        method: str,
        path: str,
        where: str,
        *,
        limit: int,
        body: bytes | None,
        extra: dict[str, str],
        progress: Callable[[int], None],
    ) -> _Answer:
        """Send a request once, and read at most `limit` bytes of the body of a success."""
        # The original's clients ask for no encoding: digests are over the bytes as sent.
        headers = {**self._headers, "Accept-Encoding": "identity", **extra}
        url = f"https://{self.host}/api/v{API_VERSION}/{path}"
        try:
            response = self._pool.request(
                method, url, body=body, headers=headers, redirect=False, preload_content=False
            )
            try:
                success = response.status < 300
                bound = limit if success else _MAX_DOCUMENT
                # What an error's body holds is no progress.
                counted = progress if success else lambda _count: None
                content, digest = _read(response, bound, counted)
            finally:
                response.close()
        except urllib3.exceptions.SSLError as error:
            raise tls_failure(error, self.host) from error
        except urllib3.exceptions.HTTPError as error:
            # A server may close a connection without saying that it is for the certificate.
            hint = "it may not accept this client's certificate" if self._certified else None
            raise Unavailable(
                f"the drawbridge does not answer: {error}", field=self.host, found=where, hint=hint
            ) from error
        if content is None:
            raise Unverified(
                "longer than it should be", field=where, expected=f"at most {bound} bytes"
            )
        return _Answer(response.status, response.headers, content, digest)

    def _refusal(self, answer: _Answer, where: str) -> Exception:
        detail = _plain(answer.body[:300].decode("utf-8", "replace"))
        text = f"the drawbridge answers {answer.status}"
        if detail:
            text += f": {detail}"
        if answer.status >= 500 or answer.status == 429:
            return Unavailable(text, field=where)
        if answer.status < 400:
            return Malformed(text, field=where, expected="no redirection")
        hint = None
        if answer.status == 401 and not self._headers and not self._certified:
            hint = "log in with `garrison user login`; it may be private, or not exist"
        elif answer.status in {401, 403, 404}:
            hint = "it does not exist, or this user or keep has no right to it"
        return Rejected(text, field=where, hint=hint)


def _read(
    response: urllib3.BaseHTTPResponse, limit: int, progress: Callable[[int], None]
) -> tuple[bytes | None, ContentDigest]:
    """Read a body of at most `limit` bytes; None if it is longer."""
    hasher = ContentHasher()
    pieces = []
    deadline = time.monotonic() + _PATIENCE_SECONDS + limit / _SLOWEST
    # As much as there is each time: a server that sends a byte a minute is noticed.
    while piece := response.read1(_PIECE, decode_content=False):
        hasher.update(piece)
        if hasher.length > limit:
            return None, hasher.digest()
        if time.monotonic() > deadline:
            raise urllib3.exceptions.HTTPError(f"only {hasher.length} bytes came, too slowly")
        progress(len(piece))
        pieces.append(piece)
    return b"".join(pieces), hasher.digest()


def _plain(text: str) -> str:
    """Another party's words, fit for a terminal and a log."""
    return "".join(c if c.isprintable() else "?" for c in text[:500])


def _tag(slug: Slug) -> str:
    return f"{slug.user}/{slug.repo}/_tag/{slug.tag}"


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON", field=where) from error

"""One request to a drawbridge or an OCI registry, and its answer: HTTP, without its meaning.

No redirect is followed, nothing longer than its limit is read, and nothing slower than a pace.
What says "not now" is asked again (`garrison.drawbridge.retry`); a body that breaks off is gone on
with where it broke off, if the caller holds its digest and so can tell what it got.
"""

from __future__ import annotations

import random
import re
import threading
import time
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Protocol

import urllib3

from garrison.drawbridge.retry import TRIES, seconds_to_wait, wait_before_retry
from garrison.drawbridge.tls import ClientCertificate, client_context, tls_failure
from garrison.errors import Malformed, Rejected, Unavailable, Unverified
from garrison.formats.content_digest import ALGORITHMS, ContentDigest, ContentHasher
from garrison.http_pools import TooSlow, pools, until

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

API_VERSION = "0.1.0"
# How many requests of one client may be under way at once.
CONNECTIONS = 6
# One of them may be for a long file, which is asked for in so many ranges at once.
RANGES_AT_ONCE = 2
# A list of all tags of a repository, a user, a repository's configuration, an error.
MAX_DOCUMENT = 1 << 20
# Each read gives a record of TLS at most (RFC 8446, section 5.1); room for more costs much.
_PIECE = 1 << 14
# Progress is told for this much at once.
_STEP = 1 << 18
# The digest by which tags, directories and manifests pin what is below them.
PINNING = frozenset({"sha-256"})
_TIMEOUT = urllib3.Timeout(connect=10, read=60)
# A body must come at this pace at least, bytes a second, once the patience is over.
_PATIENCE_SECONDS = 60.0
_SLOWEST = 50_000
# RFC 9110, section 14.4: first-last/complete-length.
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the drawbridge answered, and the digest of the body as it came."""

    status: int
    headers: urllib3.HTTPHeaderDict
    body: bytes
    digest: ContentDigest

    def check_digest_header(self, where: str) -> None:
        """Check the body against the digests in the headers, as far as they were computed."""
        header = self.headers.get("Content-Digest")
        if header is None:
            raise Unverified(
                "no Content-Digest header", field=where, expected=self.digest.to_header()
            )
        field = f"{where}: Content-Digest"
        self.check_digest(ContentDigest.from_header(header, field), field)

    def check_digest(self, expected: ContentDigest, field: str) -> None:
        """Check the body against the `expected` digests, as far as they were computed.

        Raises:
            Unverified: one differs.
        """
        stated = expected.values.items()
        computed = {name: value for name, value in stated if name in self.digest.values}
        ContentDigest(computed).check(self.digest, field)


class Body(Protocol):
    """Where the body of an answer goes, which may come over several connections in turn."""

    def asks(self) -> dict[str, str]:
        """The headers that ask for what did not come yet."""

    def begin(self, response: urllib3.BaseHTTPResponse, where: str) -> int | None:
        """The status that an answer stands for; None if its body is not for this."""

    def read(self, response: urllib3.BaseHTTPResponse, where: str) -> None:
        """Take the answer's body as it comes."""

    def answer(self, status: int, headers: urllib3.HTTPHeaderDict) -> Answer:
        """The answer, of which the whole body came."""


class Whole:
    """A body that comes in one stream, from its first byte on."""

    def __init__(
        self,
        limit: int,
        progress: Callable[[int], None] = lambda _count: None,
        algorithms: Collection[str] = frozenset(ALGORITHMS),
    ) -> None:
        """Prepare for one of at most `limit` bytes.

        Args:
            limit: in bytes; what is longer is refused.
            progress: told of every number of bytes that came; of a negative one, where what came
                must be asked for again.
            algorithms: of the digests that the answer has.
        """
        self.limit = limit
        self._algorithms = algorithms
        self._tag: str | None = None
        self._progress = progress
        self._deadline = deadline(limit)
        self._begin_again()

    @property
    def length(self) -> int:
        """How many bytes came so far."""
        return self._hasher.length

    def _begin_again(self) -> None:
        # It grows where it is, and gives its bytes without a copy: a file is in memory once.
        self._content = BytesIO()
        self._hasher = ContentHasher(self._algorithms)

    def asks(self) -> dict[str, str]:
        """See `Body`."""
        if self._tag is None or not self.length:
            return {}
        # If-Range: of anything else than what was begun, all is to come.
        return {"Range": f"bytes={self.length}-", "If-Range": self._tag}

    def begin(self, response: urllib3.BaseHTTPResponse, where: str) -> int | None:
        """See `Body`."""
        status = response.status
        if status == 206 and "Range" in self.asks():
            _check_range(response.headers.get("Content-Range"), self.length, where)
            status = 200
        elif status < 300:
            self._progress(-self.length)
            self._begin_again()
        else:
            return None
        self._tag = response.headers.get("ETag")
        return status

    def read(self, response: urllib3.BaseHTTPResponse, where: str) -> None:
        """See `Body`."""
        told = self.length
        try:
            with until(response, self._deadline):
                while piece := response.read1(_PIECE, decode_content=False):
                    self._hasher.update(piece)
                    if self.length > self.limit:
                        raise Unverified(
                            "longer than it should be",
                            field=where,
                            expected=f"at most {self.limit} bytes",
                        )
                    self._content.write(piece)
                    if self.length - told >= _STEP:
                        self._progress(self.length - told)
                        told = self.length
        except TooSlow as error:
            raise too_slow(self.length, where) from error
        finally:
            self._progress(self.length - told)

    def answer(self, status: int, headers: urllib3.HTTPHeaderDict) -> Answer:
        """See `Body`."""
        return Answer(status, headers, self._content.getvalue(), self._hasher.digest())


class Wire:
    """The way to the drawbridge at one host; threads may share it."""

    def __init__(
        self,
        host: str,
        *,
        ca_pem: str | None,
        token: str | None,
        certificate: ClientCertificate | None,
        tries: int = TRIES,
        api: str = f"api/v{API_VERSION}",
        server: str = "drawbridge",
    ) -> None:
        """See `garrison.drawbridge.client.Client`.

        `api` is the path below which all paths are that are not URLs, and `server` what errors
        call the other side.
        """
        self.host = host
        self._api = api
        self._server = server
        self._headers = {"Authorization": f"Bearer {checked_token(token)}"} if token else {}
        self._certified = certificate is not None
        self._tries = tries
        self._pool = pools(
            ssl_context=client_context(host, ca_pem, certificate),
            retries=False,
            timeout=_TIMEOUT,
            maxsize=CONNECTIONS - 1 + RANGES_AT_ONCE,
        )

    def get(self, path: str, where: str, *, limit: int) -> Answer:
        """GET what must be there, of at most `limit` bytes.

        Args:
            path: below the API's version, or an HTTPS URL.
            where: what is asked for, in words for errors.
            limit: of the body.
        """
        answer = self.request("GET", path, where, limit=limit)
        if answer.status != 200:
            raise self.refusal(answer, where)
        return answer

    def get_into(self, got: Body, path: str, where: str) -> Answer:
        """GET what must be there into `got`, and go on with it where it breaks off.

        The caller holds its digest, and checks it.
        """
        answer = self.exchange("GET", path, where, got, resume=True)
        if answer.status != 200:
            raise self.refusal(answer, where)
        return answer

    def request(
        self,
        method: str,
        path: str,
        where: str,
        *,
        limit: int,
        body: bytes | None = None,
        extra: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request, whose answer has a body of at most `limit` bytes; see `exchange`."""
        return self.exchange(method, path, where, Whole(limit), body=body, extra=extra)

    def exchange(
        self,
        method: str,
        path: str,
        where: str,
        got: Body,
        *,
        resume: bool = False,
        body: bytes | None = None,
        extra: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request, again if the server says "not now", and return the last answer.

        Args:
            method: of the request.
            path: below the API's version, or an HTTPS URL.
            where: what is asked for, in words for errors.
            got: where the body of the answer goes, if it is what was asked for.
            resume: whether to go on with a body that broke off. The caller must check its digest.
            body: of the request.
            extra: headers of the request.
        """
        tried = 0
        while True:
            tried += 1
            chance = random.random()  # noqa: S311 - spreads load; nothing secret depends on it
            try:
                answer = self._send(method, path, where, got, body=body, extra=extra or {})
            except _BrokenOffError as error:
                if not resume or tried >= self._tries:
                    raise self._silence(error.cause, where) from error
                time.sleep(seconds_to_wait(tried, chance))
                continue
            retry_after = answer.headers.get("Retry-After")
            wait = wait_before_retry(answer.status, retry_after, tried, chance, self._tries)
            if wait is None:
                return answer
            time.sleep(wait)

    def _send(
        self,
        method: str,
        path: str,
        where: str,
        got: Body,
        *,
        body: bytes | None,
        extra: dict[str, str],
    ) -> Answer:
        """Send a request once, and read on where `got` ends."""
        # The original's clients ask for no encoding: digests are over the bytes as sent.
        headers = {**self._headers, "Accept-Encoding": "identity", **extra, **got.asks()}
        url = path if path.startswith("https://") else f"https://{self.host}/{self._api}/{path}"
        try:
            response = self._pool.request(
                method, url, body=body, headers=headers, redirect=False, preload_content=False
            )
        except urllib3.exceptions.SSLError as error:
            raise tls_failure(error, self.host) from error
        except urllib3.exceptions.HTTPError as error:
            raise self._silence(error, where) from error
        try:
            status = got.begin(response, where)
            if status is None:
                # What an error's body holds is no progress.
                status, got = response.status, Whole(MAX_DOCUMENT)
            got.read(response, where)
        except urllib3.exceptions.SSLError as error:
            raise tls_failure(error, self.host) from error
        except urllib3.exceptions.HTTPError as error:
            raise _BrokenOffError(error) from error
        finally:
            response.close()
        return got.answer(status, response.headers)

    def _silence(self, error: Exception, where: str) -> Unavailable:
        # A server may close a connection without saying that it is for the certificate.
        hint = "it may not accept this client's certificate" if self._certified else None
        return Unavailable(
            f"the {self._server} does not answer: {error}", field=self.host, found=where, hint=hint
        )

    def refusal(self, answer: Answer, where: str) -> Exception:
        """The error that an answer is, which is not what was asked for."""
        detail = plain(answer.body[:300].decode("utf-8", "replace"))
        text = f"the {self._server} answers {answer.status}"
        if detail:
            text += f": {detail}"
        if answer.status >= 500 or answer.status == 429:
            return Unavailable(text, field=where)
        if answer.status < 400:
            return Malformed(text, field=where, expected="no redirection")
        hint = None
        anonymous = not self._headers and not self._certified
        if answer.status == 401 and anonymous and self._server == "drawbridge":
            hint = "log in with `garrison user login`; it may be private, or not exist"
        elif answer.status in {401, 403, 404}:
            hint = "it does not exist, or this user or keep has no right to it"
        return Rejected(text, field=where, hint=hint)


def checked_token(token: str) -> str:
    """A token that a header can carry (RFC 6750, section 2.1); it is not shown if it is none.

    Raises:
        Malformed: it is none.
    """
    if not token.isascii() or not token.isprintable() or " " in token:
        raise Malformed(
            "not a bearer token",
            field="token",
            expected="visible ASCII characters alone, with no blank or line feed at the end",
        )
    return token


class _BrokenOffError(Exception):
    """The connection ended before the body did."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def deadline(length: int) -> float:
    """When a body of at most `length` bytes must be there, by the monotonic clock in seconds."""
    return time.monotonic() + _PATIENCE_SECONDS + length / _SLOWEST


def too_slow(length: int, where: str) -> Unavailable:
    """The error that only `length` bytes came until the deadline."""
    return Unavailable(
        f"the drawbridge does not answer: only {length} bytes came, too slowly", field=where
    )


def _check_range(header: str | None, first: int, where: str) -> None:
    """Check that a partial answer is what was asked for: all from `first` on."""
    match = CONTENT_RANGE.fullmatch(header or "")
    if match is not None:
        start, last, total = map(int, match.groups())
        if start == first and last + 1 == total:
            return
    raise Unverified(
        "another range than was asked for",
        field=f"{where}: Content-Range",
        found=repr(header)[:100],
        expected=f"bytes {first}- to the end",
    )


def plain(text: str) -> str:
    """Another party's words, fit for a terminal and a log."""
    return "".join(c if c.isprintable() else "?" for c in text[:500])


def locked(progress: Callable[[int], None]) -> Callable[[int], None]:
    """For several threads, of which one at a time tells of its progress."""
    lock = threading.Lock()

    def advance(count: int) -> None:
        with lock:
            progress(count)

    return advance

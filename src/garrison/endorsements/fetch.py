"""One document from one vendor's server: with bounds on all of it, and with manners.

TLS 1.2 or later with a verified certificate; no redirections; sizes and times are bounded.
What may pass (no answer, a broken one, 429, 5xx) is tried again, after as long as the server
asks for, else after a time that doubles. That pause is kept on disk, for each server and
apart for chips' certificates: a restart does not hammer, and a flood of unknown chips does not
hold up revocation lists. AMD's server allows about one chip in ten seconds.

Every failure is `Unavailable` with URL and status: it is never the evidence's fault.
"""

from __future__ import annotations

import logging
import random
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit

import certifi
import urllib3

from garrison import __version__
from garrison.endorsements.cache import Pause
from garrison.endorsements.resource import MAX_CHAIN, Document, Kind, inspect, normalized
from garrison.errors import Malformed, Misuse, Unavailable
from garrison.http_pools import pools, read_body

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from garrison.endorsements.cache import Cache
    from garrison.endorsements.resource import Resource

LOGGER = logging.getLogger("garrison.endorsements")

_TRIES = 3
# For the head of an answer, and for its body. A keep waits for its certificate meanwhile.
_ATTEMPT_SECONDS = 10.0
_TIMEOUT = urllib3.Timeout(connect=5, read=5)
_MAX_WAIT = timedelta(seconds=15)
# The pause after the first failure, and the longest.
_PAUSE = timedelta(seconds=1)
_MAX_PAUSE = timedelta(minutes=5)
# The longest that a server may ask for: it may be mistaken, too.
_MAX_RETRY_AFTER = timedelta(hours=6)
_PASSING = frozenset({429, 500, 502, 503, 504})


class _Passing(Exception):
    """A failure that may pass, and how long the server asks to be left alone."""

    def __init__(self, found: str, retry_after: timedelta | None = None) -> None:
        super().__init__(found)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Servers:
    """Where to fetch from.

    Attributes:
        mirrors: what a URL starts with, and what replaces that.
        ca_pem: who vouches for the servers, PEM; None: the web's authorities.
    """

    mirrors: Mapping[str, str]
    ca_pem: str | None = None

    def address(self, url: str) -> str:
        """Where the document that its vendor has at `url` is fetched from."""
        found = max((each for each in self.mirrors if url.startswith(each)), key=len, default="")
        return f"{self.mirrors[found]}{url[len(found) :]}" if found else url


class Fetcher:
    """Fetches from the servers that it was given, whose pauses a cache keeps."""

    def __init__(
        self,
        servers: Servers,
        cache: Cache,
        clock: Callable[[], datetime],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make one.

        Args:
            servers: where to fetch from.
            cache: what keeps the pauses.
            clock: tells the time.
            sleep: waits for as many seconds.

        Raises:
            Misuse: the certificate authorities cannot be read.
        """
        self._servers = servers
        self._cache = cache
        self._clock = clock
        self._sleep = sleep
        self._random = random.SystemRandom()
        self._unwritten: dict[str, Pause] = {}
        self._pool = pools(
            head_seconds=_ATTEMPT_SECONDS,
            ssl_context=_context(servers.ca_pem),
            retries=False,
            timeout=_TIMEOUT,
            headers={"User-Agent": f"garrison/{__version__}", "Accept-Encoding": "identity"},
        )

    def fetch(self, resource: Resource) -> Document:
        """Fetch `resource`.

        Raises:
            Unavailable: it cannot be had now.
        """
        url = self._servers.address(resource.url)
        server = f"{_origin(url)} {'chips' if resource.kind is Kind.VEK else 'all'}"
        waited = timedelta()
        for remaining in reversed(range(_TRIES)):
            pause = self._paused(server)
            wait = timedelta() if pause is None else self._left(pause)
            if waited + wait > _MAX_WAIT:
                raise _unavailable(
                    url,
                    f"the server must be left alone until {self._clock() + wait:%FT%TZ}",
                    hint="it was asked too often, or failed; the next try is then",
                )
            if wait:
                self._sleep(wait.total_seconds())
                waited += wait
            try:
                document = self._once(url, resource)
            except _Passing as error:
                self._pause(server, error.retry_after)
                if not remaining:
                    raise _unavailable(url, str(error)) from error
            else:
                if pause is not None:
                    self._keep_pause(server, None)
                return document
        raise AssertionError  # the last try returns or raises

    def _paused(self, server: str) -> Pause | None:
        return self._unwritten.get(server) or self._cache.pause(server)

    def _left(self, pause: Pause) -> timedelta:
        """How long `pause` lasts; a clock that was set back does not prolong it."""
        return min(max(pause.until - self._clock(), timedelta()), _MAX_RETRY_AFTER)

    def _pause(self, server: str, asked: timedelta | None) -> None:
        now = self._clock()
        before = self._paused(server)
        failures = 0 if before is None else before.failures
        if before is None or before.until <= now:
            # Requests that were under way together fail together, and count once.
            failures += 1
        longest = min(_PAUSE * 2 ** min(failures - 1, 30), _MAX_PAUSE)
        # Half of it is by chance, so that those who failed together do not return together.
        length = longest * (0.5 + self._random.random() / 2) if asked is None else asked
        self._keep_pause(server, Pause(failures, now + length))

    def _keep_pause(self, server: str, pause: Pause | None) -> None:
        self._unwritten.pop(server, None)
        try:
            self._cache.set_pause(server, pause)
        except OSError as error:
            LOGGER.warning("cannot keep when to ask %s again: %s", server, error.strerror)
            if pause is not None:
                self._unwritten[server] = pause

    def _once(self, url: str, resource: Resource) -> Document:
        try:
            response = self._pool.request(
                "GET", url, redirect=False, preload_content=False, decode_content=False
            )
        except urllib3.exceptions.SSLError as error:
            raise _unavailable(
                url,
                f"TLS failed: {error}",
                hint="the server's certificate must be for this name, from a trusted authority",
            ) from error
        except urllib3.exceptions.HTTPError as error:
            raise _Passing(f"no answer: {error}") from error
        try:
            self._check_status(response, url)
            body = _read(response, url, resource.kind.limit)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _Passing(f"the answer broke off: {error}") from error
        finally:
            response.close()
        document = Document(
            normalized(resource.kind, body),
            _issuer_chain(response.headers, resource.chain_header, url),
        )
        try:
            inspect(resource.kind, document, resource.url)
        except Malformed as error:
            raise _unavailable(url, f"status 200, but {error}") from error
        return document

    def _check_status(self, response: urllib3.BaseHTTPResponse, url: str) -> None:
        status = f"status {response.status}"
        if response.status in _PASSING:
            raise _Passing(status, _retry_after(response.headers, self._clock()))
        if response.status == 404:
            raise _unavailable(url, status, hint="the vendor has no such document")
        if response.status != 200:
            raise _unavailable(url, status)
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise _unavailable(url, f"status 200, but encoded as {encoding[:32]!r}")


def _unavailable(url: str, found: str, hint: str | None = None) -> Unavailable:
    return Unavailable("cannot be fetched", field=url, found=found, hint=hint)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _context(ca_pem: str | None) -> ssl.SSLContext:
    try:
        if ca_pem is None:
            context = ssl.create_default_context(cafile=certifi.where())
        else:
            context = ssl.create_default_context(cadata=ca_pem)
    except ssl.SSLError as error:
        raise Misuse("not PEM of certificates", field="endorsements: ca") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _read(response: urllib3.BaseHTTPResponse, url: str, limit: int) -> bytes:
    body = read_body(response, limit, _ATTEMPT_SECONDS)
    if len(body) > limit:
        raise _unavailable(url, f"status 200, but more than {limit} bytes")
    return body


def _issuer_chain(headers: Mapping[str, str], name: str | None, url: str) -> bytes:
    if name is None:
        return b""
    value = headers.get(name)
    if value is None:
        raise _unavailable(url, f"status 200, but no header {name}")
    chain = unquote_to_bytes(value)
    if len(chain) > MAX_CHAIN or not chain.isascii():
        raise _unavailable(url, f"status 200, but header {name} is not PEM")
    return chain


def _retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """How long the server asks to be left alone (RFC 9110, section 10.2.3)."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        asked = timedelta(seconds=min(int(value[:9]), _MAX_RETRY_AFTER.total_seconds()))
    else:
        try:
            when = parsedate_to_datetime(value)
        except (ValueError, TypeError):
            return None
        asked = (when if when.tzinfo else when.replace(tzinfo=UTC)) - now
    return min(max(asked, timedelta()), _MAX_RETRY_AFTER)

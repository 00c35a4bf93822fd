"""Documents from the cache, and from their vendors where that is allowed and needed.

What is fresh is served from the cache. What is due for renewal is served, too, and renewed
behind the scenes. What is past its bound is fetched first, or is unavailable:

========================  ======================================  ============================
document                  renewed from                            served until
========================  ======================================  ============================
revocation list, TCB      a day after it was fetched, and half    its own end, and at most
info, enclave identity    of the time until its own end           seven days after it was fetched
certificate, chain        thirty days before its own end          its own end
========================  ======================================  ============================

Without a fetcher nothing is ever fetched: what is cached is served, and the verifier holds its
dates to the time. A document is never replaced by one that its vendor issued earlier: a mirror
that lags, or that is told to, does not take a revocation back.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING

from garrison.endorsements import kds
from garrison.endorsements.cache import Entry
from garrison.endorsements.catalogue import identify
from garrison.endorsements.fetch import LOGGER
from garrison.endorsements.resource import Kind
from garrison.errors import GarrisonError, Malformed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from garrison.endorsements.cache import Cache
    from garrison.endorsements.fetch import Fetcher
    from garrison.endorsements.resource import Document, Resource

RENEW_AFTER = timedelta(days=1)
SERVE_FOR = timedelta(days=7)
RENEW_CERTIFICATE_BEFORE = timedelta(days=30)
# After a renewal failed, what is cached is served this long before the next try.
_RENEWAL_PAUSE = timedelta(minutes=5)
# How long another process may take to fetch the same document; longer than a fetch takes.
_LOCK_SECONDS = 60.0
# What is kept in memory while the disk takes nothing.
_MAX_UNWRITTEN = 256
# Of how many chips the certificates may be waited for at once, and how many may wait for those. A
# report names its chip before anybody has verified it, and to name one costs nothing: who does it
# in numbers must not take all of a service's threads, of which there are 40. But many keeps of one
# machine may start together, and wait for one certificate.
MOST_CHIPS = 16
MOST_FOR_CHIPS = 32


# Whether the caller may be kept waiting for a vendor, or for another process that asks one.
_MAY_WAIT: ContextVar[bool] = ContextVar("may_wait", default=True)


class MustWait(Exception):
    """A document would have to be fetched, and the caller said that it cannot wait."""


@contextmanager
def without_waiting() -> Iterator[None]:
    """Within, whatever would have to be fetched is `MustWait`: for those who may not block."""
    token = _MAY_WAIT.set(False)
    try:
        yield
    finally:
        _MAY_WAIT.reset(token)


class Age(Enum):
    """How old a cached document is: fresh, due for renewal, or past its bound."""

    FRESH = auto()
    DUE = auto()
    PAST = auto()


def age(entry: Entry, now: datetime) -> Age:
    """How old `entry` is at `now`, by the table above."""
    dates = entry.dates()
    if entry.kind.revocable:
        renew = entry.fetched + min(RENEW_AFTER, (dates.expires - entry.fetched) / 2)
        end = min(dates.expires, entry.fetched + SERVE_FOR)
    else:
        renew = dates.expires - RENEW_CERTIFICATE_BEFORE
        end = dates.expires
    if now > end:
        return Age.PAST
    # Fetched in the future: the clock was wrong then, or is now.
    return Age.DUE if now >= renew or now < entry.fetched else Age.FRESH


class Supply:
    """Serves documents; one object for all threads of a process."""

    def __init__(
        self, cache: Cache, fetcher: Fetcher | None, clock: Callable[[], datetime]
    ) -> None:
        """Make one.

        Args:
            cache: where documents are kept.
            fetcher: what fetches; None: nothing is ever fetched.
            clock: tells the time.
        """
        self.cache = cache
        self._fetcher = fetcher
        self._clock = clock
        self._guard = threading.Lock()
        self._flights: dict[str, Future[Entry]] = {}
        self._renewal_pauses: dict[str, datetime] = {}
        self._unwritten: dict[str, Entry] = {}
        # By the address of the certificate.
        self._for_chips: Counter[str] = Counter()

    def get(self, resource: Resource) -> Document:
        """The document `resource`.

        Raises:
            Unavailable: it is not here, or past its bound, and cannot be fetched.
            MustWait: it would have to be fetched, and the caller is `without_waiting`.
        """
        entry = self._cached(resource)
        if self._fetcher is None:
            if entry is None:
                raise Unavailable(
                    "not in the cache, and nothing may be fetched",
                    field=resource.url,
                    hint="import a bundle of endorsements, or set fetch = true",
                )
            return entry.document
        now = self._clock()
        old = Age.PAST if entry is None else age(entry, now)
        if entry is None or old is Age.PAST:
            if not _MAY_WAIT.get():
                raise MustWait(resource.url)
            with self._place(resource):
                return self._fly(resource, self._fetcher).document
        if old is Age.DUE:
            self._renew_behind(resource, now)
        return entry.document

    @contextmanager
    def _place(self, resource: Resource) -> Iterator[None]:
        """A place among those who wait for the certificate of a chip; of others all may wait."""
        if resource.kind is not Kind.VEK:
            yield
            return
        with self._guard:
            waiting = self._for_chips
            is_one_more = resource.url not in waiting and len(waiting) >= MOST_CHIPS
            if is_one_more or waiting.total() >= MOST_FOR_CHIPS:
                raise Unavailable(
                    "too many wait for certificates of chips",
                    field=resource.url,
                    found=f"{waiting.total()}, for {len(waiting)}",
                    expected=f"at most {MOST_FOR_CHIPS} at once, for {MOST_CHIPS} chips",
                    hint="try again, or have the host send the certificate with the evidence",
                )
            waiting[resource.url] += 1
        try:
            yield
        finally:
            with self._guard:
                waiting[resource.url] -= 1
                if not waiting[resource.url]:
                    del waiting[resource.url]

    def renew_due(self) -> None:
        """Renew all cached documents that are due; what fails is logged, and left for later.

        Chips' certificates are left alone: they hold for years, and their chip may be gone.
        """
        if self._fetcher is None:
            return
        for entry in self.cache.entries():
            if entry.kind is Kind.VEK or age(entry, self._clock()) is Age.FRESH:
                continue
            try:
                self._fly(identify(entry.url).resource, self._fetcher)
            except GarrisonError as error:
                LOGGER.warning("cannot renew: %s", error)

    def _cached(self, resource: Resource) -> Entry | None:
        unwritten = self._unwritten.get(resource.url)
        return unwritten or self.cache.read(resource.kind, resource.url)

    def _renew_behind(self, resource: Resource, now: datetime) -> None:
        """Renew in a thread of its own, unless that is under way, or failed a moment ago."""
        with self._guard:
            pause = self._renewal_pauses.get(resource.url)
            if resource.url in self._flights or (pause is not None and now < pause):
                return
            self._renewal_pauses[resource.url] = now + _RENEWAL_PAUSE
        threading.Thread(target=self._renew, args=(resource,), daemon=True).start()

    def _renew(self, resource: Resource) -> None:
        assert self._fetcher is not None  # noqa: S101  (whoever calls has one)
        try:
            self._fly(resource, self._fetcher)
        except GarrisonError as error:
            LOGGER.warning("cannot renew: %s", error)
        else:
            with self._guard:
                self._renewal_pauses.pop(resource.url, None)

    def _fly(self, resource: Resource, fetcher: Fetcher) -> Entry:
        """Fetch, or share the result of the thread that is fetching it already."""
        with self._guard:
            flight = self._flights.get(resource.url)
            ours = flight is None
            if flight is None:
                flight = self._flights[resource.url] = Future()
        if not ours:
            return flight.result()
        try:
            entry = self._fetch(resource, fetcher)
        except BaseException as error:
            flight.set_exception(error)
            raise
        else:
            flight.set_result(entry)
            return entry
        finally:
            with self._guard:
                del self._flights[resource.url]

    def _fetch(self, resource: Resource, fetcher: Fetcher) -> Entry:
        """Fetch, unless another process did while we waited for it."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self.cache.locked(resource.kind, resource.url, _LOCK_SECONDS))
            except OSError as error:
                # Two processes may then fetch the same: a nuisance, not a fault.
                LOGGER.warning("cannot lock %s: %s", self.cache.directory, error.strerror)
            before = self._cached(resource)
            if before is not None and age(before, self._clock()) is Age.FRESH:
                return before
            document = fetcher.fetch(resource)
            entry = Entry(resource.url, resource.kind, self._clock(), document)
            self._check(entry, before)
            self._keep(entry)
            return entry

    def _check(self, entry: Entry, before: Entry | None) -> None:
        """Refuse what is of no use, or older than what is here."""
        if entry.kind is Kind.VEK:
            try:
                kds.check_vcek(entry.url, entry.document.body)
            except Malformed as error:
                raise Unavailable(
                    f"the server has another document: {error}", field=entry.url
                ) from error
        dates = entry.dates()
        if dates.expires < entry.fetched:
            raise Unavailable(
                "the server's document has expired",
                field=entry.url,
                found=f"an end at {dates.expires:%FT%TZ}",
                expected=f"after {entry.fetched:%FT%TZ}",
            )
        if before is not None and dates.issued < before.dates().issued:
            raise Unavailable(
                "the server's document is older than the cached one",
                field=entry.url,
                found=f"issued {dates.issued:%FT%TZ}",
                expected=f"{before.dates().issued:%FT%TZ} or later",
                hint="the mirror lags behind its vendor, or hides what is new",
            )

    def _keep(self, entry: Entry) -> None:
        """Keep `entry`; in memory, if the disk does not take it."""
        try:
            self.cache.write(entry)
        except OSError as error:
            with self._guard:
                if not self._unwritten:
                    # Once, not at each document: until the disk takes one again.
                    LOGGER.error("cannot write to %s: %s", self.cache.directory, error.strerror)
                self._unwritten[entry.url] = entry
                if len(self._unwritten) > _MAX_UNWRITTEN:
                    del self._unwritten[next(iter(self._unwritten))]
        else:
            with self._guard:
                self._unwritten.pop(entry.url, None)

"""What can end a connection after its handshake: the keep's own terms, and a peer's revocation.

A TLS connection is judged once, by the certificates of that moment. Its handshake asks here too,
and once it stands it is kept here, so that it ends when the judgement would be another one. The
thread that learns of that is not the workload's: a stream is marked as failed, so that not even
data that came before is read from it, and its socket is shut down, which wakes whoever waits.

The keep's own terms are two: its certificate's time, and for how long it may go without its
steward's word on what is denied, where the workload or its tenant bounds that. Each handshake asks
the clocks itself, so that a keep which was frozen past a term opens nothing when it goes on; for
what stands a thread of its own wakes up, whatever the others wait for.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from garrison.errors import GarrisonError, Unavailable
from garrison.formats.identity import CertifiedIdentity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cryptography import x509

    from garrison.keep.net.tls_stream import TlsStream

log = logging.getLogger("garrison.keep")

# A host may move the clock that certificates are judged by: it is looked at this often.
_LONGEST_SLEEP = 5.0


def elapsed() -> float:
    """Seconds on the clock that nobody sets, those included in which the machine slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Term:
    """Something that the keep has for a time only.

    Attributes:
        field: what it is, for errors.
        over: what to say when it is over.
        found: until when it was, likewise.
        left: how many seconds are left.
    """

    field: str
    over: str
    found: str
    left: Callable[[], float]


def certificate_term(leaf: x509.Certificate) -> Term:
    """The time of the keep's own certificate, from now on.

    Its length counts beside its date: the host may turn the clock back.
    """
    since = elapsed()
    until = leaf.not_valid_after_utc
    life = (until - leaf.not_valid_before_utc).total_seconds()

    def left() -> float:
        by_date = (until - datetime.now(UTC)).total_seconds()
        return min(by_date, life - (elapsed() - since))

    return Term(
        "certificate",
        "the keep's certificate has expired, and the steward has not renewed it",
        f"valid until {until.isoformat()}",
        left,
    )


def silence_term(seconds: float) -> Term:
    """How long the keep may go without its steward's word, from now on."""
    since = elapsed()
    return Term(
        "limits.silence_seconds",
        "the steward has not said for too long what is denied",
        f"silent for more than {seconds:.0f} s",
        lambda: seconds - (elapsed() - since),
    )


class Denial(Protocol):
    """A list of what is denied."""

    def check(self, certified: CertifiedIdentity, serial: int) -> None:
        """Judge a peer by its identity and its certificate's serial number.

        Raises:
            Rejected: it is denied.
        """
        ...


class Guard:
    """The TLS connections of one keep that stand, and what ends them. Safe in any thread."""

    def __init__(self, *, ends: bool = True) -> None:
        """Prepare it.

        Args:
            ends: whether what stands ends when a term is over; new connections never begin.
        """
        self._ends = ends
        self._denied: Denial | None = None
        self._terms: dict[str, Term] = {}
        self._changed = threading.Event()
        # Of each stream that stands, its peer's certificate where that certified an identity.
        # Changed and copied in single steps of the interpreter.
        self._open: dict[TlsStream, x509.Certificate | None] = {}

    def hold(self, term: Term) -> None:
        """Take `term` in the place of an earlier one of its kind."""
        self._terms[term.field] = term
        self._changed.set()

    def check_own(self) -> None:
        """Refuse new connections while one of the keep's terms is over.

        Raises:
            Unavailable: it is.
        """
        for term in list(self._terms.values()):
            if term.left() <= 0:
                raise Unavailable(term.over, field=term.field, found=term.found)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Until the block ends, end what stands when a term is over."""
        ended = threading.Event()
        threading.Thread(target=self._watch, args=(ended,), name="guard", daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            self._changed.set()

    def _watch(self, ended: threading.Event) -> None:
        told: Term | None = None
        while not ended.is_set():
            self._changed.clear()
            terms = list(self._terms.values())
            over = next((term for term in terms if term.left() <= 0), None)
            if over is not None and over is not told:
                self._end(over)
            told = over
            waits = [max(0.0, term.left()) for term in terms if term is not over]
            self._changed.wait(min([_LONGEST_SLEEP, *waits]))

    def _end(self, term: Term) -> None:
        streams = list(self._open) if self._ends else []
        for stream in streams:
            stream.cut(term.over)
        log.warning(
            "no TLS connection can be opened, and %d ended: %s: %s (%s)",
            len(streams), term.field, term.over, term.found,
        )  # fmt: skip

    def check_peer(self, certificate: x509.Certificate) -> None:
        """Refuse a peer, certified by a steward, that is denied.

        Raises:
            Rejected: it is.
        """
        certified = CertifiedIdentity.from_certificate(certificate)
        if self._denied is not None and certified is not None:
            self._denied.check(certified, certificate.serial_number)

    def opened(self, stream: TlsStream, certificate: x509.Certificate | None) -> None:
        """Watch over `stream`, whose peer showed `certificate` as its identity."""
        self._open[stream] = certificate
        # What was learnt, and what ran out, between the peer's check and now counts too: a peer may
        # take its time to end its handshake.
        try:
            self.check_own()
        except Unavailable as error:
            stream.cut(error.message)
            log.warning("ended a connection: %s: %s", error.field, error.message)
            return
        self._review(stream, certificate)

    def closed(self, stream: TlsStream) -> None:
        """Forget `stream`."""
        self._open.pop(stream, None)

    def deny(self, denied: Denial) -> None:
        """Take `denied` as what is denied, and end the connections of those peers."""
        self._denied = denied
        for stream, certificate in list(self._open.items()):
            self._review(stream, certificate)

    def _review(self, stream: TlsStream, certificate: x509.Certificate | None) -> None:
        if certificate is None:
            return
        try:
            self.check_peer(certificate)
        except GarrisonError as error:
            stream.cut("the peer was revoked")
            log.warning("ended a connection: %s %s: %s", error.field, error.found, error.message)

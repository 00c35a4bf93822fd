"""What the keep learns of its steward while it runs: other roots, and what is denied.

The steward says how often it wants to be asked. What it serves is believed for it comes over TLS
under a root that the keep holds already. New roots count only in a bundle that still has one of
those, so a rollover needs the overlap that everybody needs anyway, and no answer can replace all
trust at once. While the steward is away, what was last learnt holds: until the keep's certificate
expires, or no longer than `limits.silence_seconds` where the workload or its tenant says so. Who
keeps the steward's word from a keep cannot make it last longer: a new answer is had over TLS, and
an old one cannot be played again.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from garrison.errors import GarrisonError, Rejected, Unverified
from garrison.formats.deny_list import DenyList
from garrison.keep.retries import patiently

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography import x509

    from garrison.keep.identity import StewardClient
    from garrison.keep.net.network import Network

log = logging.getLogger("garrison.keep")

# Before the steward has said, and after it was not reached.
FIRST_POLL = 10.0
LAST_POLL = 60.0
MAX_ROOTS = 8


@contextmanager
def watched(network: Network, steward: StewardClient | None) -> Iterator[None]:
    """Keep what `network` trusts and denies up to date until the block ends.

    The first answer is waited for: no connection is opened before it is known who is denied.

    Raises:
        GarrisonError: the steward, which has just certified this keep, gives none.
        Rejected: it never does, and the workload or its tenant demands it.
    """
    if steward is None:
        yield
        return
    watch = _Watch(network, steward)
    if not patiently(watch.ask):
        # The original's has no such thing; its certificates' short lives are all there is.
        if network.longest_silence is not None:
            raise Rejected(
                "the steward has no deny list",
                field="limits.silence_seconds",
                found=f"{network.longest_silence:.0f}",
                expected="a steward that says what is denied, or no such limit",
            )
        log.warning("the steward at %s has no deny list", steward.url)
        yield
        return
    ended = threading.Event()
    threading.Thread(target=watch.run, args=(ended,), name="trust", daemon=True).start()
    try:
        yield
    finally:
        # Not joined: it may be in the middle of a request, and the process is about to end.
        ended.set()


class _Watch:
    def __init__(self, network: Network, steward: StewardClient) -> None:
        self._network = network
        self._steward = steward
        self._denied: bytes | None = None
        # A third of the silence that is borne, so that one lost answer is not the end.
        silence = network.longest_silence
        self._most = math.inf if silence is None else silence / 3
        self._seconds = min(FIRST_POLL, self._most)

    def run(self, ended: threading.Event) -> None:
        """Ask again and again."""
        failing = False
        delay = self._seconds
        # Spread, for the keeps of one host start together.
        while not ended.wait(delay * random.uniform(0.8, 1.0)):  # noqa: S311  (spreads load)
            try:
                self.ask()
            except GarrisonError as error:
                if not failing:
                    log.warning("what the steward trusts and denies is not known anew: %s", error)
                failing = True
                delay = min(2 * delay, max(LAST_POLL, self._seconds), self._most)
            else:
                failing = False
                delay = self._seconds

    def ask(self) -> bool:
        """Learn what is new; False if the steward tells no such things.

        Raises:
            GarrisonError: it cannot be reached, or what it says cannot be taken.
        """
        document = self._steward.deny_list()
        if document is None:
            return False
        if document != self._denied:
            denied = DenyList.from_json(document)
            self._network.deny(denied)
            self._denied, self._seconds = document, min(denied.poll_seconds, self._most)
        self._network.heard()
        roots = self._steward.bundle()
        known = self._steward.roots
        if set(roots) != set(known):
            _check_overlap(roots, known, self._steward.url)
            self._steward.trust(roots)
            self._network.replace_roots(roots)
            log.info("the steward has other roots now: %d, of which %d are new",
                     len(roots), len(set(roots) - set(known)))  # fmt: skip
        return True


def _check_overlap(
    roots: tuple[x509.Certificate, ...], known: tuple[x509.Certificate, ...], url: str
) -> None:
    if len(roots) > MAX_ROOTS:
        raise Rejected("too many roots", field=url, found=len(roots), expected=f"{MAX_ROOTS}")
    if set(roots).isdisjoint(known):
        raise Unverified(
            "a bundle with none of the roots that are trusted", field=url,
            hint="a rollover serves the old root and the new one for a while",
        )  # fmt: skip

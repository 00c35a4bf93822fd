"""Renewal of the keep's certificate, by fresh attestation, while the workload runs.

A certificate is renewed at two thirds of its life; new connections use the new one, and none is
dropped. While the steward is away the keep tries again, ever more slowly. Once the certificate
has expired (`garrison.keep.net.guard`) it opens no TLS connection, in either direction, and those
that stand end, unless the workload's `at_expiry` lets them stay. It goes on trying, and the first
success brings all back.
"""

from __future__ import annotations

import logging
import random
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from garrison.errors import GarrisonError
from garrison.keep.net.network import Identity
from garrison.keep.retries import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterator

    from garrison.formats.identity import WorkloadIdentity
    from garrison.keep.identity import Certified, Credentials
    from garrison.keep.net.network import Network

log = logging.getLogger("garrison.keep")

# Seconds between the first attempts that fail, and between the last ones.
FIRST_RETRY = 5.0
LAST_RETRY = 300.0
# A steward that hands out certificates which are old already is not asked without end.
SHORTEST_DELAY = 5.0


def renewal_delay(not_before: datetime, not_after: datetime, now: datetime, jitter: float) -> float:
    """Seconds from `now` until the certificate should be renewed, at least zero.

    Args:
        not_before: the start of its validity.
        not_after: the end of its validity.
        now: the time.
        jitter: from 0 to 1; spreads the keeps of one host over a tenth of the life.
    """
    life = (not_after - not_before).total_seconds()
    return max(0.0, life * (2 / 3 - jitter / 10) - (now - not_before).total_seconds())


@contextmanager
def renewed(
    network: Network,
    credentials: Credentials | None,
    certified: Certified | None,
    workload: WorkloadIdentity | None,
) -> Iterator[None]:
    """Keep the certificate of `network` fresh until the block ends."""
    if credentials is None or certified is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(
        target=_renew_for_ever,
        args=(network, credentials, certified, workload, ended),
        name="renewal",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        # Not joined: it may be in the middle of a request, and the process is about to end.
        ended.set()


def _renew_for_ever(
    network: Network,
    credentials: Credentials,
    certified: Certified,
    workload: WorkloadIdentity | None,
    ended: threading.Event,
) -> None:
    backoff = Backoff(FIRST_RETRY, LAST_RETRY)
    delay = _delay(certified)
    while not ended.wait(delay):
        try:
            certified = credentials.certify(workload)
        except GarrisonError as error:
            # Whatever the steward asks for: it may be mistaken, and the certificate ends.
            delay = min(backoff.after(error), LAST_RETRY)
            log.warning("renewal failed, trying again in %.0f s: %s", delay, error)
            continue
        network.replace_identity(Identity(certified.chain, certified.key))
        log.info("certified anew, until %s", certified.leaf.not_valid_after_utc.isoformat())
        backoff = Backoff(FIRST_RETRY, LAST_RETRY)
        delay = _delay(certified)


def _delay(certified: Certified) -> float:
    leaf = certified.leaf
    delay = renewal_delay(
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
        datetime.now(UTC),
        random.random(),  # noqa: S311  (spreads load, hides nothing)
    )
    return max(delay, SHORTEST_DELAY)

"""Renewal while a workload runs: new connections get the new certificate, failures are retried."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import pytest

from garrison.formats.enarx_toml import Config
from garrison.formats.identity import CertifiedIdentity
from garrison.keep import renewal, retries
from garrison.keep.identity import Certified, Credentials
from garrison.keep.net.network import Identity, Network
from garrison.keep.retries import Away
from garrison.testing.tls import Authority, workload

if TYPE_CHECKING:
    from garrison.formats.identity import WorkloadIdentity

_HOUR = timedelta(hours=1)


def _certified(authority: Authority) -> Certified:
    # Past two thirds of its life, so that it is due at once.
    leaf = authority.issue(workload(), valid=(-23 * _HOUR, _HOUR))
    identity = CertifiedIdentity.from_certificate(leaf.chain[0])
    assert identity is not None
    return Certified(leaf.chain, leaf.key, identity)


class Stewards:
    """Answers in turn: an error, or a certificate."""

    def __init__(self, authority: Authority, failures: int) -> None:
        self._authority = authority
        self.failures = failures
        self.asked: list[WorkloadIdentity | None] = []
        self.retry_after: float | None = None
        self.enough = threading.Event()

    def certify(self, workload: WorkloadIdentity | None) -> Certified:
        self.asked.append(workload)
        if len(self.asked) <= self.failures:
            away = Away("the steward is away")
            away.retry_after = self.retry_after
            raise away
        if len(self.asked) == self.failures + 2:
            self.enough.set()
        return _certified(self._authority)


class Watched(Network):
    """A network that keeps the identities it was given."""

    def __init__(self) -> None:
        super().__init__(Config.default(), None, [])
        self.identities: list[Identity] = []

    def replace_identity(self, identity: Identity) -> None:
        self.identities.append(identity)
        super().replace_identity(identity)


@pytest.mark.parametrize("failures", [0, 3])
def test_a_certificate_that_is_due_is_replaced_and_failures_are_retried(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(renewal, "SHORTEST_DELAY", 0.01)
    authority = Authority()
    stewards = Stewards(authority, failures)
    network = Watched()
    first = _certified(authority)
    with renewal.renewed(network, cast("Credentials", stewards), first, workload()):
        assert stewards.enough.wait(10)
    assert all(asked == workload() for asked in stewards.asked)
    chains = [identity.chain for identity in network.identities]
    assert len(chains) >= 1
    assert first.chain not in chains


def test_without_an_identity_there_is_nothing_to_renew() -> None:
    before = threading.active_count()
    with renewal.renewed(Watched(), None, None, None):
        assert threading.active_count() == before


def test_a_steward_that_asks_to_be_left_alone_is_asked_again_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be mistaken, and the certificate ends."""
    monkeypatch.setattr(renewal, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(renewal, "LAST_RETRY", 0.02)
    monkeypatch.setattr(renewal, "SHORTEST_DELAY", 0.01)
    authority = Authority()
    stewards = Stewards(authority, failures=2)
    stewards.retry_after = 1e6
    with renewal.renewed(
        Watched(), cast("Credentials", stewards), _certified(authority), workload()
    ):
        assert stewards.enough.wait(30)


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 300.0), (0.5, 225.0), (1.0, 150.0)])
def test_keeps_that_lost_their_steward_together_do_not_come_back_together(
    jitter: float, seconds: float
) -> None:
    assert retries.retry_delay(renewal.LAST_RETRY, jitter) == seconds

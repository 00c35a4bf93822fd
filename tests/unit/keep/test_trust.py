"""What a running keep learns of its steward: other roots, and who is denied."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

import pytest

from garrison.errors import Malformed, Rejected, Unavailable, Unverified
from garrison.formats.deny_list import DenyList
from garrison.formats.enarx_toml import Config
from garrison.formats.limits import Limits
from garrison.keep import trust
from garrison.keep.net.network import Network
from garrison.testing.tls import Authority

if TYPE_CHECKING:
    from cryptography import x509

    from garrison.keep.identity import StewardClient
    from garrison.keep.net.guard import Denial

OLD, NEW, OTHER = (Authority(name).root for name in ("Old", "New", "Other"))


class Steward:
    """Says what it is told to."""

    url = "https://steward.test"

    def __init__(self) -> None:
        self.roots: tuple[x509.Certificate, ...] = (OLD,)
        self.serves: tuple[x509.Certificate, ...] = (OLD,)
        self.denies: bytes | None = DenyList(1).to_json()
        self.away = False
        self.asked = threading.Semaphore(0)

    def deny_list(self) -> bytes | None:
        self.asked.release()
        if self.away:
            raise Unavailable("away")
        return self.denies

    def bundle(self) -> tuple[x509.Certificate, ...]:
        return self.serves

    def trust(self, roots: tuple[x509.Certificate, ...]) -> None:
        self.roots = roots


class Told(Network):
    """Keeps what it is told."""

    def __init__(self, silence: float | None = None) -> None:
        limits = Limits() if silence is None else Limits(silence_seconds=silence)
        super().__init__(Config.default(), None, [OLD], limits=limits)
        self.denied: list[Denial] = []
        self.trusted: list[tuple[x509.Certificate, ...]] = []
        self.told = threading.Semaphore(0)

    def deny(self, denied: Denial) -> None:
        self.denied.append(denied)
        super().deny(denied)
        self.told.release()

    def replace_roots(self, roots: object) -> None:
        self.trusted.append(cast("tuple[x509.Certificate, ...]", roots))
        self.told.release()


@pytest.fixture
def steward() -> Steward:
    return Steward()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Told:
    # As often as it may.
    monkeypatch.setattr("random.uniform", lambda _low, _high: 0.01)
    return Told()


def client(steward: Steward) -> StewardClient:
    return cast("StewardClient", steward)


def test_the_first_answer_is_waited_for_and_changes_are_passed_on(
    steward: Steward, network: Told
) -> None:
    with trust.watched(network, client(steward)):
        assert network.denied == [DenyList(1)]
        denied = DenyList(1, slugs=frozenset({"a.test/u/r:1.0.0"}))
        steward.denies = denied.to_json()
        assert network.told.acquire(timeout=10)
        assert network.told.acquire(timeout=10)
        # A list that is the same is not passed on again.
        for _ in range(5):
            assert steward.asked.acquire(timeout=10)
    assert network.denied == [DenyList(1), denied]
    assert network.trusted == []


def test_a_rollover_reaches_the_keep_while_it_runs(steward: Steward, network: Told) -> None:
    with trust.watched(network, client(steward)):
        assert network.told.acquire(timeout=10)
        steward.serves = (OLD, NEW)
        assert network.told.acquire(timeout=10)
        steward.serves = (NEW,)
        assert network.told.acquire(timeout=10)
    assert network.trusted == [(OLD, NEW), (NEW,)]
    assert steward.roots == (NEW,)


@pytest.mark.parametrize("roots", [(NEW,), (NEW, OTHER), ()], ids=["another", "others", "none"])
def test_no_answer_replaces_all_trust_at_once(
    roots: tuple[x509.Certificate, ...],
    steward: Steward,
    network: Told,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with trust.watched(network, client(steward)), caplog.at_level("WARNING", "garrison.keep"):
        steward.serves = roots
        for _ in range(4):
            assert steward.asked.acquire(timeout=10)
    assert network.trusted == []
    assert steward.roots == (OLD,)
    assert "none of the roots that are trusted" in caplog.text
    # Once, not each time.
    assert len(caplog.records) == 1


def test_too_many_roots(steward: Steward, network: Told) -> None:
    steward.serves = (OLD, *(Authority(str(n)).root for n in range(trust.MAX_ROOTS)))
    with (
        pytest.raises(Rejected, match="too many roots"),
        trust.watched(network, client(steward)),
    ):
        pass


def test_while_the_steward_is_away_what_was_learnt_holds(
    steward: Steward, network: Told, caplog: pytest.LogCaptureFixture
) -> None:
    steward.denies = DenyList(1, serials=frozenset({7})).to_json()
    with trust.watched(network, client(steward)), caplog.at_level("WARNING", "garrison.keep"):
        steward.away = True
        for _ in range(4):
            assert steward.asked.acquire(timeout=10)
        steward.denies = DenyList(1).to_json()
        steward.away = False
        assert network.told.acquire(timeout=10)
        assert network.told.acquire(timeout=10)
    assert network.denied == [DenyList(1, serials=frozenset({7})), DenyList(1)]
    assert len(caplog.records) == 1


def test_a_steward_that_cannot_say_it_at_the_start_stops_the_start(
    steward: Steward, network: Told
) -> None:
    steward.away = True
    with pytest.raises(Unavailable), trust.watched(network, client(steward)):
        pass
    steward.away, steward.denies = False, b"nonsense"
    with pytest.raises(Malformed), trust.watched(network, client(steward)):
        pass
    steward.denies, steward.serves = DenyList(1).to_json(), (NEW,)
    with pytest.raises(Unverified), trust.watched(network, client(steward)):
        pass


def test_the_original_s_steward_has_no_such_list(
    steward: Steward, network: Told, caplog: pytest.LogCaptureFixture
) -> None:
    steward.denies = None
    with trust.watched(network, client(steward)):
        pass
    assert "has no deny list" in caplog.text
    assert network.denied == []


def test_where_silence_is_bounded_a_steward_without_the_list_stops_the_start(
    steward: Steward,
) -> None:
    steward.denies = None
    with pytest.raises(Rejected, match="no deny list"), trust.watched(Told(60), client(steward)):
        pass


def test_where_silence_is_bounded_the_keep_asks_often_enough(
    steward: Steward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda _low, _high: 0.0001)
    steward.denies = DenyList(300).to_json()
    watch = trust._Watch(Told(60), client(steward))
    assert watch.ask()
    assert watch._seconds == 20
    heard = threading.Semaphore(0)
    network = Told(60)
    monkeypatch.setattr(network, "heard", heard.release)
    with trust.watched(network, client(steward)):
        assert heard.acquire(timeout=10)
        # What does not change counts as well.
        assert heard.acquire(timeout=10)
        assert heard.acquire(timeout=10)

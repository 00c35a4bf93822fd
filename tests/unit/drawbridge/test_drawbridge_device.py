"""The device flow: a client and its issuer, and the codes of the development issuer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from garrison.drawbridge import insecure_device, login
from garrison.drawbridge.insecure_dev import PREFIX, InsecureIssuer
from garrison.drawbridge.insecure_device import DeviceGrants, GrantError
from garrison.drawbridge.login import DeviceCode, _RefusedError, device_flow
from garrison.errors import Malformed, Misuse, Rejected, Unavailable, Unverified
from garrison.testing.drawbridge import MemoryDrawbridge
from garrison.testing.power import Disk

if TYPE_CHECKING:
    from pathlib import Path

ISSUER = "https://issuer.test/"
TOKEN = "the token"
DISCOVERY = {
    "issuer": ISSUER,
    "token_endpoint": f"{ISSUER}token",
    "device_authorization_endpoint": f"{ISSUER}device",
}
BEGUN = {
    "device_code": "secret code",
    "user_code": "BCDF-GHJK",
    "verification_uri": f"{ISSUER}activate",
    "expires_in": 600,
    "interval": 7,
}


class Issuer:
    """Stands where the issuer is asked; `polls` are its answers to the device that waits."""

    def __init__(self, polls: list[str | Unavailable]) -> None:
        self.discovery: dict[str, Any] = dict(DISCOVERY)
        self.begun: dict[str, Any] = dict(BEGUN)
        self.polls = polls
        self.forms: list[dict[str, str]] = []
        self.waits: list[float] = []
        self.shown: list[DeviceCode] = []

    def ask(self, _pool: object, _method: str, url: str, form: dict[str, str] | None) -> object:
        if form is None:
            return self.discovery
        if url == DISCOVERY["device_authorization_endpoint"]:
            return self.begun
        self.forms.append(form)
        code = self.polls.pop(0) if self.polls else "authorization_pending"
        if isinstance(code, Unavailable):
            raise code
        if code == TOKEN:
            return {"access_token": TOKEN}
        raise _RefusedError(400, url, code)

    def log_in(self, issuer: str = ISSUER) -> str:
        return device_flow(
            issuer,
            client_id="garrison",
            audience="https://drawbridge.test/",
            ca_pem=None,
            show=self.shown.append,
            pause=self.waits.append,
            clock=lambda: sum(self.waits),
        )


def issuer_of(monkeypatch: pytest.MonkeyPatch, *polls: str | Unavailable) -> Issuer:
    issuer = Issuer(list(polls))
    monkeypatch.setattr(login, "_ask", issuer.ask)
    return issuer


def test_waits_for_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = issuer_of(
        monkeypatch, "authorization_pending", "slow_down", "authorization_pending", TOKEN
    )
    assert issuer.log_in() == TOKEN
    assert issuer.shown == [DeviceCode(f"{ISSUER}activate", "BCDF-GHJK", None)]
    assert issuer.waits == [7, 7, 12, 12]
    assert issuer.forms[0] == {
        "grant_type": insecure_device.GRANT,
        "device_code": "secret code",
        "client_id": "garrison",
    }


@pytest.mark.parametrize("named", [None, "https://other.test/", f"{ISSUER}realm/", 1])
def test_another_issuer_gets_no_code(monkeypatch: pytest.MonkeyPatch, named: object) -> None:
    issuer = issuer_of(monkeypatch, TOKEN)
    issuer.discovery["issuer"] = named
    with pytest.raises(Unverified, match="of another issuer"):
        issuer.log_in()
    assert not issuer.shown
    assert not issuer.forms
    # A slash at the end is left out by people, and by some issuers.
    issuer.discovery["issuer"] = ISSUER
    assert issuer.log_in(ISSUER.rstrip("/")) == TOKEN


def test_an_issuer_that_is_away_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Unavailable("the issuer does not answer")
    issuer = issuer_of(monkeypatch, away, "authorization_pending", away, away, TOKEN)
    assert issuer.log_in() == TOKEN
    assert issuer.waits == [7, 14, 14, 28, 56]


def test_an_issuer_that_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Unavailable("the issuer does not answer")
    issuer = issuer_of(monkeypatch, *[away] * 1000)
    with pytest.raises(Unavailable, match="does not answer"):
        issuer.log_in()
    assert sum(issuer.waits) < 600


@pytest.mark.parametrize("code", ["authorization_pending", "expired_token"], ids=["unsaid", "said"])
def test_a_code_that_has_expired(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    issuer = issuer_of(monkeypatch, *[code] * 1000)
    with pytest.raises(Rejected, match="nobody logged in in time"):
        issuer.log_in()
    assert len(issuer.forms) == (1 if code == "expired_token" else 85)


@pytest.mark.parametrize(("interval", "wait"), [(0, 1), (1, 1), (None, 5)])
def test_how_often_it_is_asked(
    monkeypatch: pytest.MonkeyPatch, interval: int | None, wait: int
) -> None:
    issuer = issuer_of(monkeypatch, "authorization_pending", TOKEN)
    del issuer.begun["interval"]
    if interval is not None:
        issuer.begun["interval"] = interval
    assert issuer.log_in() == TOKEN
    assert issuer.waits == [wait, wait]


@pytest.mark.parametrize("code", ["access_denied", "invalid_grant"])
def test_a_refusal_is_final(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    issuer = issuer_of(monkeypatch, "authorization_pending", code, TOKEN)
    with pytest.raises(Rejected, match=code) as caught:
        issuer.log_in()
    assert "secret code" not in str(caught.value)
    assert issuer.polls == [TOKEN]


def test_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the issuer would wait."""
    issuer = issuer_of(monkeypatch)
    issuer.begun |= {"expires_in": 10**9, "interval": 10**9}
    with pytest.raises(Rejected, match="nobody logged in in time"):
        issuer.log_in()
    assert set(issuer.waits) == {60}
    assert sum(issuer.waits) < 1800


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device_code", None),
        ("device_code", "x" * 3000),
        ("user_code", ["BCDF"]),
        ("verification_uri", "http://issuer.test/"),
        ("verification_uri", None),
        ("verification_uri_complete", "javascript:alert(1)"),
        ("verification_uri_complete", 7),
        ("expires_in", "600"),
        ("expires_in", True),
        ("expires_in", 0),
        ("interval", -5),
    ],
    ids=str,
)
def test_an_issuer_that_begins_badly(
    monkeypatch: pytest.MonkeyPatch, field: str, value: object
) -> None:
    issuer = issuer_of(monkeypatch, TOKEN)
    issuer.begun[field] = value
    with pytest.raises(Malformed, match=field.removesuffix("_complete")):
        issuer.log_in()
    assert issuer.forms == []
    assert issuer.shown == []


def test_an_issuer_without_the_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = issuer_of(monkeypatch)
    del issuer.discovery["device_authorization_endpoint"]
    with pytest.raises(Malformed, match="no device_authorization_endpoint"):
        issuer.log_in()
    with pytest.raises(Misuse, match="not an HTTPS URL"):
        issuer.log_in("http://issuer.test/")


class TestGrants:
    """The development issuer's codes."""

    @pytest.fixture
    def grants(self, tmp_path: Path) -> DeviceGrants:
        return DeviceGrants(tmp_path / "devices")

    def test_a_token_once(self, grants: DeviceGrants, tmp_path: Path) -> None:
        code, pending = grants.begin("garrison", frozenset({"b", "a"}), 1000)
        with pytest.raises(GrantError, match="authorization_pending"):
            grants.take(code, "garrison", 1000)
        # Another worker of the same service; the code as a user types it.
        DeviceGrants(tmp_path / "devices").decide(
            f" {pending.user_code.replace('-', '').lower()} ", "jane", 1001
        )
        granted = grants.take(code, "garrison", 1002)
        assert (granted.subject, granted.scopes) == ("jane", ("a", "b"))
        with pytest.raises(GrantError, match="invalid_grant"):
            grants.take(code, "garrison", 1003)

    def test_of_another_client(self, grants: DeviceGrants) -> None:
        code, pending = grants.begin("garrison", frozenset(), 1000)
        grants.decide(pending.user_code, "jane", 1000)
        with pytest.raises(GrantError, match="invalid_grant"):
            grants.take(code, "mallory", 1000)
        assert grants.take(code, "garrison", 1000).subject == "jane"

    def test_refused(self, grants: DeviceGrants) -> None:
        code, pending = grants.begin("garrison", frozenset(), 1000)
        grants.decide(pending.user_code, None, 1000)
        with pytest.raises(Rejected, match="no device waits"):
            grants.decide(pending.user_code, "jane", 1000)
        with pytest.raises(GrantError, match="access_denied"):
            grants.take(code, "garrison", 1000)

    def test_too_late(self, grants: DeviceGrants) -> None:
        code, pending = grants.begin("garrison", frozenset(), 1000)
        late = 1000 + insecure_device.LIFETIME_SECONDS
        with pytest.raises(GrantError, match="expired_token"):
            grants.take(code, "garrison", late)
        with pytest.raises(Rejected, match="no device waits"):
            grants.decide(pending.user_code, "jane", late)

    def test_the_files_tell_no_device_code(self, grants: DeviceGrants, tmp_path: Path) -> None:
        code, _ = grants.begin("garrison", frozenset(), 1000)
        (file,) = (tmp_path / "devices").iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        assert code not in file.name + file.read_text()

    def test_too_many(self, grants: DeviceGrants) -> None:
        for _ in range(100):
            grants.begin("garrison", frozenset(), 1000)
        with pytest.raises(Unavailable, match="too many"):
            grants.begin("garrison", frozenset(), 1000)
        grants.begin("garrison", frozenset(), 1000 + insecure_device.LIFETIME_SECONDS)


def test_the_page_quotes_what_it_is_given() -> None:
    text = insecure_device.page("/", '"><script>', "<b>")
    assert "<script>" not in text
    assert "<b>" not in text


def test_nobody_waits_for_the_disk_of_a_device_that_logs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path, monkeypatch, main_may_wait=False)
    drawbridge = MemoryDrawbridge(issuer=InsecureIssuer("secret", tmp_path / "devices"))
    begun = drawbridge.request("POST", f"{PREFIX}/oauth/device", body=[b"client_id=garrison"])
    code = json.loads(begun.body)["user_code"]
    form = f"user_code={code}&subject=jane&decision=allow&client_secret=secret".encode()
    assert drawbridge.request("POST", f"{PREFIX}/device", body=[form]).status == 200
    assert len(disk.flushed) == 2
    disk.close()

"""What a policy denies: refused whatever else holds, and listed; and what a steward publishes."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.unit.steward.conftest import MEASUREMENT, NOW, SLUG, FakeRegistry, FakeResult, Keep
from tests.unit.steward.test_steward_http import WORKLOAD, Answer, ask_app
from tests.unit.steward.test_steward_process import Running

from garrison.attesters.simulator_directory_insecure import process_measurement
from garrison.errors import Malformed, Rejected
from garrison.formats.csr import PKCS10_MEDIA_TYPE
from garrison.formats.deny_list import DenyList
from garrison.formats.evidence import Tee
from garrison.formats.slug import Slug
from garrison.formats.strict_toml import Table
from garrison.steward.deny import Deny
from garrison.steward.http import application, replace_steward
from garrison.steward.issuance import examine

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.appraisal.result import AttestationResult
    from garrison.steward.issuance import Steward

CHIP = "ab" * 64


def deny(text: str) -> Deny:
    return Deny.from_table(Table.parse(text, source="policy"))


def denying(steward: Steward, text: str) -> Steward:
    return replace(steward, policy=replace(steward.policy, deny=deny(text)))


@pytest.mark.parametrize(
    ("text", "field", "found"),
    [
        (f'measurements = ["{MEASUREMENT.hex().upper()}"]', "launch measurement", None),
        (f'chip_ids = ["00", "{CHIP}"]', "chip", CHIP),
        (f'slugs = ["{SLUG}"]', "slug", str(SLUG)),
        ('slugs = ["drawbridge.test/jane/chat"]', "slug", str(SLUG)),
    ],
)
def test_denied(steward: Steward, keep: Keep, text: str, field: str, found: str | None) -> None:
    request = keep.request(steward, WORKLOAD)
    assert examine(request, steward, NOW).identity.slug == SLUG
    with pytest.raises(Rejected, match="the policy denies it") as caught:
        examine(request, denying(steward, text), NOW)
    assert caught.value.field == field
    assert caught.value.found == (found or MEASUREMENT.hex())


def test_others_are_not_denied(steward: Steward, keep: Keep) -> None:
    text = f"""
        serials = ["01"]
        measurements = ["00"]
        chip_ids = ["{"cd" * 64}", "ab"]
        slugs = ["drawbridge.test/jane/chat:1.0.1", "drawbridge.test/jane/cha"]
    """
    examine(keep.request(steward, WORKLOAD), denying(steward, text), NOW)


@dataclass(frozen=True)
class _Shown(FakeResult):
    """Evidence that does not tell its chip, or a short one."""


def shown(chip: str, tee: Tee = Tee.SNP) -> AttestationResult:
    result: Any = _Shown(bound=True, tee=tee, claims={"chip_id": chip})
    return result  # type: ignore[no-any-return]  # stands in for the result


def test_a_masked_chip_is_refused_where_chips_are_denied() -> None:
    with pytest.raises(Rejected, match="does not tell which it is"):
        deny(f'chip_ids = ["{CHIP}"]').check(shown(""), None)
    deny("").check(shown(""), None)
    deny(f'chip_ids = ["{CHIP}"]').check(shown("", Tee.NITRO), None)


def test_a_short_chip_identifier_is_the_same_padded() -> None:
    for listed in ("0102030405060708", "0102030405060708" + "00" * 56):
        with pytest.raises(Rejected, match="denies it"):
            deny(f'chip_ids = ["{listed}"]').check(shown("0102030405060708"), None)


def test_a_drawbridge_with_a_port() -> None:
    section = deny('slugs = ["drawbridge.test:8443/jane/chat"]')
    with pytest.raises(Rejected):
        section.check(shown(CHIP), Slug.parse("drawbridge.test:8443/jane/chat:2.0.0"))
    section.check(shown(CHIP), Slug.parse("drawbridge.test/jane/chat:2.0.0"))


@pytest.mark.parametrize(
    "text",
    [
        'serials = ["0"]',
        'serials = ["00"]',
        f'serials = ["{"01" * 21}"]',
        f'serials = ["80{"00" * 19}"]',
        'measurements = ["xy"]',
        'chip_ids = [""]',
        f'chip_ids = ["{"00" * 65}"]',
        'slugs = ["jane/chat"]',
        'slugs = [""]',
        "serials = [1]",
        "other = []",
    ],
)
def test_wrong_sections_are_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        deny(text)


def get(app: Any, path: str, **headers: str) -> Answer:
    return asyncio.run(ask_app(app, "GET", path, headers, b""))


def test_revocation_list(steward: Steward) -> None:
    denied = denying(steward, 'serials = ["0a0b", "01", "0A0B", "a0b", "1"]')
    answer = get(application(denied, FakeRegistry(), clock=lambda: NOW), "/crl")
    assert answer.headers["content-type"] == "application/pkix-crl"
    crl = x509.load_der_x509_crl(answer.body)
    root = steward.authority.certificate
    assert crl.is_signature_valid(steward.authority.key.public_key())
    assert crl.issuer == root.subject
    assert sorted(entry.serial_number for entry in crl) == [0x01, 0x0A0B]
    assert crl.next_update_utc == NOW + timedelta(days=1)
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value
    assert number.crl_number == int(NOW.timestamp() * 1000)
    empty = get(application(steward, FakeRegistry(), clock=lambda: NOW), "/crl")
    assert len(list(x509.load_der_x509_crl(empty.body))) == 0


def test_spiffe_bundle(steward: Steward) -> None:
    app = application(steward, FakeRegistry())
    root = steward.authority.certificate
    for accept in ("application/json", "text/html, application/jwk-set+json;q=0.5"):
        answer = get(app, "/bundle", Accept=accept)
        assert (answer.headers["content-type"], answer.headers["vary"]) == (
            "application/json",
            "Accept",
        )
        (key,) = json.loads(answer.body)["keys"]
        assert (key["use"], key["kty"], key["crv"]) == ("x509-svid", "EC", "P-384")
        assert base64.b64decode(key["x5c"][0]) == root.public_bytes(Encoding.DER)
        numbers = steward.authority.key.public_key().public_numbers()
        assert int.from_bytes(base64.urlsafe_b64decode(key["x"])) == numbers.x
        assert int.from_bytes(base64.urlsafe_b64decode(key["y"])) == numbers.y
    for accept in ("*/*", "application/pem-certificate-chain"):
        answer = get(app, "/bundle", Accept=accept)
        assert x509.load_pem_x509_certificate(answer.body) == root


def test_a_replaced_policy_decides_the_next_request(steward: Steward, keep: Keep) -> None:
    app = application(steward, FakeRegistry(), clock=lambda: NOW)
    headers = {"Content-Type": PKCS10_MEDIA_TYPE}

    def ask() -> int:
        body = keep.request(steward, WORKLOAD)
        return asyncio.run(ask_app(app, "POST", "/", headers, body)).status

    assert ask() == 200
    replace_steward(app, denying(steward, f'slugs = ["{SLUG}"]'), FakeRegistry())
    assert ask() == 400
    replace_steward(app, steward, FakeRegistry())
    assert ask() == 200


def test_sighup_reads_the_policy_again(tmp_path: Path) -> None:
    running = Running(tmp_path, process_measurement().hex())
    path = tmp_path / "policy.toml"
    good = path.read_text()
    outcomes: list[str] = []
    try:

        def reload(text: str, until: int) -> None:
            path.write_text(text)
            running.process.send_signal(signal.SIGHUP)
            # What it says of the policy, of which it has said nothing else since.
            assert running.process.stderr is not None
            for line in iter(running.process.stderr.readline, ""):
                event = json.loads(line) if line.startswith("{") else {}
                if event.get("event") == "policy":
                    outcomes.append(event["outcome"])
                    break
            assert running.ask("POST", "/", running.request(None))[0] == until

        assert running.ask("POST", "/", running.request(None))[0] == 200
        measurement = process_measurement().hex()
        denied = f'{good}[deny]\nmeasurements = ["{measurement}"]\n'
        reload(denied, until=400)
        # Neither of these may admit anything again.
        for wrong in (good + "unknown = 1\n", good.replace("example.test", "other.test")):
            reload(wrong, until=400)
        reload(good, until=200)
    finally:
        running.process.terminate()
        running.process.communicate(timeout=30)
    assert outcomes == ["reloaded", "refused", "refused", "reloaded"]
    assert running.process.returncode == 0


def test_running_keeps_are_told_all_of_it(steward: Steward, keep: Keep) -> None:
    chip = examine(keep.request(steward, WORKLOAD), steward, NOW).result.claims["chip_id"]
    other = denying(
        steward,
        f'serials = ["07"]\nmeasurements = ["{MEASUREMENT.hex()}"]\nslugs = ["{SLUG}"]\n'
        f'chip_ids = ["{chip}"]\npoll_seconds = 3',
    )
    app = application(steward, FakeRegistry())
    assert DenyList.from_json(get(app, "/deny").body) == DenyList(10)
    replace_steward(app, other, FakeRegistry())
    answer = get(app, "/deny")
    assert answer.headers["cache-control"] == "no-store"
    denied = DenyList.from_json(answer.body)
    platform = steward.platform(chip)
    assert platform is not None
    assert denied == DenyList(
        3,
        measurements=frozenset({MEASUREMENT}),
        slugs=frozenset({str(SLUG)}),
        serials=frozenset({7}),
        platforms=frozenset({platform}),
    )
    # The name is not the chip's, and every replica gives the same.
    assert chip.encode() not in answer.body
    assert replace(steward).platform(chip.ljust(128, "0")) == platform
    assert steward.platform("") is None

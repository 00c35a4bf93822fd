"""Recorded Nitro documents: each accepted or refused as its description says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from tests.vectors import accepted_flips, vectors

from garrison.appraisal.nitro import NitroPolicy, appraise
from garrison.appraisal.result import AppraisalRejected
from garrison.errors import GarrisonError, Malformed, Unverified
from garrison.formats.nitro import NitroDocument
from garrison.formats.strict_toml import Table
from garrison.verification.nitro import verify
from garrison.verification.roots import Roots

pytestmark = pytest.mark.vectors

ACCEPTED = ["base-valid-1", "evervault-in-cert-san", "veracruz-valid"]
UNVERIFIED = ["base-tampered-pcr0", "veracruz-bad-signature"]
DEBUG = "evervault-debug"
WRONG_PCRS = "evervault-in-cert-wrong-pcrs"


@cache
def vector(name: str) -> tuple[bytes, datetime, dict[str, Any]]:
    directory = vectors("nitro") / name
    about = json.loads((directory / "vector.json").read_text())
    now = datetime.fromtimestamp(about["verify_time"], UTC)
    return (directory / "document.cbor").read_bytes(), now, about


def policy(text: str) -> NitroPolicy:
    return NitroPolicy.from_table(Table.parse(text, source="policy"))


ANY = policy('[pcrs]\nothers = "any"')


def test_no_vector_is_left_out() -> None:
    found = {path.name for path in vectors("nitro").iterdir()}
    assert {*ACCEPTED, *UNVERIFIED, DEBUG, WRONG_PCRS} == found
    for name in found:
        assert vector(name)[2]["expect"] == ("accept" if name in ACCEPTED else "reject")


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    data, now, about = vector(name)
    facts = about["facts"]
    assert NitroDocument.from_bytes(data).to_bytes() == data
    verified = verify(data, Roots.load(), now)
    claims = verified.value
    document = claims.document
    assert document.module_id == facts["module_id"]
    assert document.timestamp == facts["timestamp_ms"]
    assert [pcr.hex() for pcr in document.pcrs] == list(facts["pcrs"].values())
    for key in ("nonce", "user_data", "public_key"):
        value = getattr(document, key)
        assert (None if value is None else value.hex()) == facts[key]
    assert claims.verified_at == now
    assert claims.anchor.name == "AWS Nitro Enclaves Root-G1"
    values = "".join(f'{index} = ["{value}"]\n' for index, value in facts["pcrs"].items())
    exact = policy(f'[pcrs]\n{values}others = "zero"')
    result = appraise(verified, exact, document.user_data or b"", now)
    result.require()
    assert result.measurement == document.pcrs[0]
    assert not result.simulated


@pytest.mark.parametrize("name", UNVERIFIED)
def test_unverified(name: str) -> None:
    data, now, _ = vector(name)
    with pytest.raises(Unverified, match="Nitro document: the signature is wrong"):
        verify(data, Roots.load(), now)


def test_debug_mode() -> None:
    data, now, _ = vector(DEBUG)
    verified = verify(data, Roots.load(), now)
    user_data = verified.value.document.user_data or b""
    with pytest.raises(AppraisalRejected) as caught:
        appraise(verified, ANY, user_data, now).require()
    assert [check["check"] for check in caught.value.checks] == ["debug mode"]
    admitting = policy('debug = true\n[pcrs]\nothers = "any"')
    appraise(verified, admitting, user_data, now).require()


def test_wrong_registers() -> None:
    data, now, _ = vector(WRONG_PCRS)
    verified = verify(data, Roots.load(), now)
    wanted = policy('[pcrs]\n0 = "zero"\n8 = "zero"\nothers = "any"')
    with pytest.raises(AppraisalRejected) as caught:
        appraise(verified, wanted, verified.value.document.user_data or b"", now).require()
    assert [check["check"] for check in caught.value.checks] == ["PCR0", "PCR8"]
    assert caught.value.checks[0]["expected"] == "00" * 48


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("hours", [-4, 4])
def test_out_of_its_time(name: str, hours: int) -> None:
    data, now, _ = vector(name)
    with pytest.raises(Unverified, match=r": (expired|not yet valid)"):
        verify(data, Roots.load(), now + timedelta(hours=hours))


def flips(name: str, step: int) -> list[int]:
    """The offsets that were accepted with one bit flipped."""
    data, now, _ = vector(name)
    return accepted_flips(
        data, range(0, len(data), step), lambda document: verify(document, Roots.load(), now)
    )


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_flipped_bit_here_and_there(name: str) -> None:
    assert flips(name, 61) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_flipped_bit_in_every_byte(name: str) -> None:
    assert flips(name, 1) == []


@pytest.mark.parametrize("name", ACCEPTED)
def test_truncated_and_extended(name: str) -> None:
    data, now, _ = vector(name)
    for wrong in (*(data[:size] for size in range(0, len(data), 97)), data + b"\0"):
        with pytest.raises(Malformed):
            verify(wrong, Roots.load(), now)


def test_no_other_vendors_root() -> None:
    data, now, _ = vector(ACCEPTED[0])
    without = Roots(tuple(pin for pin in Roots.load().pins if pin.vendor != "aws"), {})
    with pytest.raises(GarrisonError, match="not a trusted root") as caught:
        verify(data, without, now)
    assert isinstance(caught.value, Unverified)

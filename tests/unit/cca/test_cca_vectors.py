"""Recorded CCA tokens: each accepted or refused as its description says."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.vectors import accepted_flips, vectors

from garrison.appraisal.cca import CcaPolicy, appraise
from garrison.errors import Malformed, Unverified
from garrison.formats.cca import public_key
from garrison.formats.strict_toml import Table
from garrison.testing.cca import FakeCca
from garrison.verification.cca import PlatformKey, verify

pytestmark = pytest.mark.vectors

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ACCEPTED = ["draft-ffm-00", "tfa-legacy", "trustee-example"]
BAD_ANCHOR = "legacy-es256-bad-trust-anchor"
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}


@cache
def vector(name: str) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    directory = vectors("cca") / name
    about = json.loads((directory / "vector.json").read_text())
    (anchor,) = json.loads((directory / "trust_anchors.json").read_text())
    return (directory / "token.cbor").read_bytes(), about, anchor


def trusted(anchor: dict[str, Any]) -> PlatformKey:
    jwk = anchor["pkey"]
    x, y = (urlsafe_b64decode(jwk[part] + "==") for part in "xy")
    return PlatformKey(
        name="model",
        implementation_id=bytes.fromhex(anchor["implementation-id"]),
        instance_id=bytes.fromhex(anchor["instance-id"]),
        key=public_key(CURVES[jwk["crv"]], x, y, "trust anchor"),
        simulated=True,
    )


def test_no_vector_is_left_out() -> None:
    found = {path.name for path in vectors("cca").iterdir()}
    assert {*ACCEPTED, BAD_ANCHOR} == found
    for name in found:
        assert vector(name)[1]["expect"] == ("accept" if name in ACCEPTED else "reject")


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    data, about, anchor = vector(name)
    facts = about["facts"]
    key = trusted(anchor)
    verified = verify(data, [key])
    token = verified.value.token
    assert token.to_bytes() == data
    assert token.realm.initial_measurement.hex() == facts["rim"]
    assert [rem.hex() for rem in token.realm.extensible_measurements] == facts["rems"]
    assert token.realm.challenge.hex() == facts["challenge"]
    assert token.platform.lifecycle == facts["lifecycle"]
    assert len(token.platform.components) == facts["sw"]
    pem = key.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    software = "".join(
        f'[[software]]\nkind = "{item.kind}"\nmeasurements = ["{item.measurement.hex()}"]\n'
        f'signers = ["{item.signer.hex()}"]\n'
        for item in token.platform.components
    )
    rems = "".join(f'{index} = ["{value}"]\n' for index, value in enumerate(facts["rems"]))
    policy = CcaPolicy.from_table(
        Table.parse(
            f"""
initial_measurements = ["{facts["rim"]}"]
personalization_values = ["{facts["rpv"]}"]
configurations = ["{facts["config"]}"]
[extensible_measurements]
{rems}
{software}
[[insecure_simulated_platforms]]
name = "model"
implementation_id = "{facts["impl"]}"
instance_id = "{facts["instance"]}"
public_key = '''{pem}'''
""",
            source="policy",
        )
    )
    assert policy.platforms[0].key == key.key
    result = appraise(verify(data, policy.platforms), policy, token.realm.challenge, NOW)
    result.require()
    assert result.simulated
    assert result.tcb_status == "UpToDate"


def test_an_anchor_that_is_no_key() -> None:
    data, _, anchor = vector(BAD_ANCHOR)
    with pytest.raises(Malformed, match=r"trust anchor: .* expected a point on secp256r1"):
        trusted(anchor)
    # And no other key verifies the token.
    stranger = FakeCca().trusted(
        implementation_id=bytes.fromhex(anchor["implementation-id"]),
        instance_id=bytes.fromhex(anchor["instance-id"]),
    )
    with pytest.raises(Unverified, match="the key does not fit the algorithm"):
        verify(data, [stranger])


@pytest.mark.parametrize("name", ACCEPTED)
def test_no_platform_is_trusted_by_default(name: str) -> None:
    data, _, _ = vector(name)
    with pytest.raises(Unverified, match="not a trusted platform"):
        verify(data, [])
    with pytest.raises(Unverified, match="not a trusted platform"):
        verify(data, [FakeCca().trusted()])


def flips(name: str, step: int) -> list[int]:
    """The offsets that were accepted with one bit flipped."""
    data, _, anchor = vector(name)
    keys = [trusted(anchor)]
    return accepted_flips(data, range(0, len(data), step), lambda token: verify(token, keys))


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_flipped_bit_here_and_there(name: str) -> None:
    assert flips(name, 31) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_flipped_bit_in_every_byte(name: str) -> None:
    assert flips(name, 1) == []


@pytest.mark.parametrize("name", ACCEPTED)
def test_truncated_and_extended(name: str) -> None:
    data, _, anchor = vector(name)
    keys = [trusted(anchor)]
    for wrong in (*(data[:size] for size in range(0, len(data), 53)), data + b"\0"):
        with pytest.raises(Malformed):
            verify(wrong, keys)

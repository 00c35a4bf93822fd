"""CCA tokens of a simulated platform, with every defect that the recorded ones have not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from garrison.appraisal.cca import CcaPolicy, appraise
from garrison.appraisal.result import AppraisalRejected
from garrison.errors import Malformed, Unverified
from garrison.formats import _cbor
from garrison.formats.cca import CcaToken, Tag
from garrison.formats.cose import Algorithm, CoseSign1, protected_header
from garrison.formats.strict_toml import Table
from garrison.testing.cca import (
    IMPLEMENTATION_ID,
    INITIAL_MEASUREMENT,
    INSTANCE_ID,
    REPORT_DATA,
    FakeCca,
    cose_key,
    key,
)
from garrison.verification.cca import CcaClaims, verify

if TYPE_CHECKING:
    from garrison.verification.verified import Verified

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAKE = FakeCca()
PEM = (
    key("CPAK").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
)
PLATFORM = f"""
[[insecure_simulated_platforms]]
name = "test"
implementation_id = "{IMPLEMENTATION_ID.hex()}"
instance_id = "{INSTANCE_ID.hex()}"
public_key = '''{PEM}'''
"""
HEAD = """
initial_measurements = "any"
personalization_values = "any"
configurations = "any"
"""
REGISTERS = '[extensible_measurements]\nothers = "any"\n'
ANY = HEAD + 'software = "any"\n' + REGISTERS + PLATFORM


def policy(text: str = ANY) -> CcaPolicy:
    return CcaPolicy.from_table(Table.parse(text, source="policy"))


def check(token: bytes) -> Verified[CcaClaims]:
    return verify(token, [FAKE.trusted()])


@pytest.mark.parametrize("tag", Tag)
@pytest.mark.parametrize("legacy", [True, False])
def test_genuine(tag: Tag, legacy: bool) -> None:
    token = FakeCca(legacy).token(tag)
    verified = check(token)
    assert verified.value.token.tag is tag
    assert verified.value.token.to_bytes() == token
    result = appraise(verified, policy(), REPORT_DATA, NOW)
    result.require()
    assert result.measurement == INITIAL_MEASUREMENT
    assert result.simulated
    assert result.tcb_status == "Unchecked"


def test_a_record_of_the_other_form() -> None:
    value = _cbor.decode(FAKE.token(Tag.RMM_2), "token", 1 << 20)
    old = _cbor.encode(_cbor.Tagged(399, value.value))
    with pytest.raises(Malformed, match="CCA token: platform: wrong type"):
        check(old)
    for record in ([264, b""], [263], [True, b""], [263, "text"]):
        new = _cbor.encode(_cbor.Tagged(907, {44234: record, 44241: record}))
        with pytest.raises(Malformed, match="CCA token: platform"):
            check(new)


def test_an_unknown_tag() -> None:
    value = _cbor.decode(FAKE.token(), "token", 1 << 20)
    with pytest.raises(Malformed, match=r"CCA token: tag: .* found 400; expected 399 or 907"):
        check(_cbor.encode(_cbor.Tagged(400, value.value)))
    with pytest.raises(Malformed, match="CCA token: tag"):
        check(_cbor.encode(value.value))


def test_the_other_order() -> None:
    value = _cbor.decode(FAKE.token(), "token", 1 << 20)
    turned = dict(reversed(value.value.items()))
    with pytest.raises(Malformed, match="the realm's before the platform's"):
        check(_cbor.encode(_cbor.Tagged(399, turned)))


def test_a_realm_that_the_platform_does_not_vouch_for() -> None:
    other = key("another RAK")
    token = FAKE.token(
        platform={10: FAKE.platform_claims(FAKE.realm_claims()[44237])[10]},
        realm={44237: cose_key(other)},
        realm_signer=other,
    )
    with pytest.raises(Unverified, match="vouches for another realm's key"):
        check(token)


def test_the_hash_of_the_measurements_is_not_that_of_the_key() -> None:
    sizes = {44236: "sha-512", 44238: bytes(64), 44239: [bytes(64)] * 4}
    check(FAKE.token(realm=sizes))
    with pytest.raises(Unverified, match="vouches for another realm's key"):
        check(FAKE.token(realm={44240: "sha-512"}))


def test_measurements_that_are_padded() -> None:
    """Realm managers may have registers of 64 bytes, whatever the algorithm."""
    padded = bytes(range(32)).ljust(64, b"\0")
    token = FAKE.token(realm={44236: "sha-256", 44238: padded, 44239: [padded] * 4})
    assert check(token).value.token.realm.initial_measurement == padded


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"platform_signer": key("stranger")}, "CCA platform token: the signature is wrong"),
        ({"realm_signer": key("stranger")}, "CCA realm token: the signature is wrong"),
        ({"algorithm": Algorithm.ES256}, "CCA platform token: the key does not fit"),
        ({"realm_algorithm": Algorithm.ES512}, "CCA realm token: the key does not fit"),
        ({"platform": {256: b"\x01" + bytes(32)}}, "not a trusted platform"),
        ({"platform": {2396: bytes(32)}}, "not a trusted platform"),
        ({"realm": {44240: "md5"}}, "key's hash algorithm: unknown hash algorithm"),
        ({"realm": {44236: "md5"}}, "hash algorithm: unknown hash algorithm"),
    ],
)
def test_unverified(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(Unverified, match=message):
        check(FAKE.token(**arguments))


def test_keys_of_different_curves() -> None:
    p256, p521 = key("P-256", ec.SECP256R1), key("P-521", ec.SECP521R1)
    token = FAKE.token(
        realm={44237: cose_key(p521)},
        realm_signer=p521,
        realm_algorithm=Algorithm.ES512,
        platform_signer=p256,
        algorithm=Algorithm.ES256,
    )
    verify(token, [FAKE.trusted(key=p256.public_key())])


@pytest.mark.parametrize(
    ("platform", "realm"),
    [
        ({265: "tag:arm.com,2099:cca_platform#9"}, {}),
        ({265: None}, {}),
        ({10: bytes(31)}, {}),
        ({2396: bytes(31)}, {}),
        ({256: bytes(33)}, {}),
        ({256: b"\x01"}, {}),
        ({2401: bytes(5000)}, {}),
        ({2395: 0x7000}, {}),
        ({2395: 0x3100}, {}),
        ({2395: -1}, {}),
        ({2395: True}, {}),
        ({2399: []}, {}),
        ({2399: [{1: "BL2"}]}, {}),
        ({2399: [1]}, {}),
        ({2399: [{2: bytes(32), 5: bytes(32), 9: 1}]}, {}),
        ({9999: 1}, {}),
        ({}, {265: "another"}),
        ({}, {10: bytes(32)}),
        ({}, {44235: bytes(63)}),
        ({}, {44237: b"\x04" + bytes(96)}),
        ({}, {44237: _cbor.encode({1: 2, -1: 9, -2: b"", -3: b""})}),
        ({}, {44237: _cbor.encode({1: 2, -1: 1, -2: bytes(32), -3: bytes(32)})}),
        ({}, {44238: bytes(33)}),
        ({}, {44239: [bytes(32)] * 3}),
        ({}, {44239: ["text"] * 4}),
        ({}, {9999: 1}),
    ],
)
def test_malformed(platform: dict[int, Any], realm: dict[int, Any]) -> None:
    with pytest.raises(Malformed):
        check(FAKE.token(platform=platform, realm=realm))


def test_a_legacy_key_that_is_no_point() -> None:
    with pytest.raises(Malformed, match="expected a point on P-384"):
        check(FakeCca(legacy=True).token(realm={44237: b"\x04" + bytes(96)}))


@pytest.mark.parametrize(
    "parts",
    [
        [_cbor.encode({1: -35, 2: [1]}), {}, b"", bytes(96)],  # crit
        [_cbor.encode({1: -8}), {}, b"", bytes(96)],  # EdDSA
        [_cbor.encode({}), {}, b"", bytes(96)],
        [protected_header(Algorithm.ES384), {1: -35}, b"", bytes(96)],
        [protected_header(Algorithm.ES384), {}, b"", bytes(95)],
        [protected_header(Algorithm.ES384), {}, None, bytes(96)],
        [protected_header(Algorithm.ES384), {}, b""],
    ],
)
def test_a_message_that_is_none(parts: list[Any]) -> None:
    with pytest.raises(Malformed):
        CoseSign1.from_bytes(_cbor.encode(parts), "message", 1000)


def test_hints_come_back() -> None:
    parts = [protected_header(Algorithm.ES384), {4: b"id", 33: [b"der"]}, b"", bytes(96)]
    data = _cbor.encode(_cbor.Tagged(18, parts))
    assert CoseSign1.from_bytes(data, "message", 1000).to_bytes() == data


@pytest.mark.parametrize(
    ("arguments", "text", "failed"),
    [
        ({"realm": {10: bytes(64)}}, ANY, ["realm challenge"]),
        ({"platform": {2395: 0x5000}}, ANY, ["platform lifecycle"]),
        (
            {},
            ANY.replace('ents = "any"', f'ents = ["{"00" * 32}"]', 1),
            ["realm initial measurement"],
        ),
        (
            {"realm": {44239: [bytes(32)] * 3 + [b"\1" * 32]}},
            ANY.replace('others = "any"', 'others = "zero"'),
            ["realm extensible measurement 3"],
        ),
        ({}, ANY.replace('tions = "any"', 'tions = ["00"]'), ["platform configuration"]),
        (
            {},
            ANY.replace('values = "any"', f'values = ["{"11" * 64}"]'),
            ["realm personalization value"],
        ),
        (
            {},
            HEAD
            + REGISTERS
            + '[[software]]\nkind = "BL2"\nmeasurements = "any"\nsigners = "any"\n'
            + '[[software]]\nkind = "BL9"\nmeasurements = "any"\nsigners = "any"\n'
            + PLATFORM,
            ["platform software RMM", "platform software BL9"],
        ),
    ],
)
def test_rejected(arguments: dict[str, Any], text: str, failed: list[str]) -> None:
    result = appraise(check(FAKE.token(**arguments)), policy(text), REPORT_DATA, NOW)
    with pytest.raises(AppraisalRejected) as caught:
        result.require()
    assert [each["check"] for each in caught.value.checks] == failed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing"),
        (ANY.replace(PLATFORM, ""), "platforms: missing"),
        (ANY + PLATFORM, "a platform twice"),
        (ANY.replace('software = "any"', ""), "software: missing"),
        (ANY.replace(REGISTERS, ""), "missing"),
        (ANY.replace("BEGIN", "BEGAN"), "not a public key"),
        (ANY.replace(INSTANCE_ID.hex(), "00"), "wrong identifier"),
        (ANY.replace('tions = "any"', "tions = ['x']"), "wrong entry"),
        (ANY.replace('tions = "any"', "tions = []"), "an empty list admits nothing"),
        ("lifecycle = ['perfect']" + ANY, "unknown state"),
        ("other = 1" + ANY, "unknown key"),
    ],
)
def test_a_wrong_policy(text: str, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        policy(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        CcaToken.from_bytes(data)
    with pytest.raises(Malformed):
        CcaToken.from_bytes(_cbor.encode(_cbor.Tagged(399, {44234: data, 44241: data})))

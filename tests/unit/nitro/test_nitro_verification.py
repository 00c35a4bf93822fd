"""Nitro documents of a simulated AWS, with every defect that the recorded ones have not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from garrison.appraisal.nitro import NitroPolicy, appraise
from garrison.appraisal.result import AppraisalRejected
from garrison.attesters.cose_insecure import sign
from garrison.errors import Malformed, Unverified
from garrison.formats import _cbor
from garrison.formats.cose import Algorithm
from garrison.formats.nitro import NitroDocument
from garrison.formats.strict_toml import Table
from garrison.testing.nitro import NOW, REPORT_DATA, FakeNitro, certificate, key
from garrison.verification.nitro import NitroClaims, verify
from garrison.verification.roots import Roots

if TYPE_CHECKING:
    from garrison.verification.verified import Verified

FAKE = FakeNitro()


def check(document: bytes, hours: float = 0) -> Verified[NitroClaims]:
    return verify(document, FAKE.roots(), NOW + timedelta(hours=hours))


def policy(text: str) -> NitroPolicy:
    return NitroPolicy.from_table(Table.parse(text, source="policy"))


@pytest.mark.parametrize("indefinite", [True, False])
@pytest.mark.parametrize("tagged", [True, False])
def test_genuine(tagged: bool, indefinite: bool) -> None:
    document = FAKE.document(tagged=tagged, indefinite=indefinite)
    verified = check(document)
    assert verified.value.document.to_bytes() == document
    assert verified.value.anchor.simulated
    result = appraise(verified, policy('[pcrs]\nothers = "any"'), REPORT_DATA, NOW)
    result.require()
    assert result.simulated
    assert result.measurement == b"\xab" * 48
    assert result.claims["verified_at"] == NOW.isoformat()


def test_a_simulated_root_is_not_trusted_unnamed() -> None:
    with pytest.raises(Unverified, match="not a trusted root"):
        verify(FAKE.document(), Roots.load(), NOW)


def test_another_root() -> None:
    with pytest.raises(Unverified, match=r"cabundle\[0\]: not a trusted root"):
        check(FakeNitro("another root").document())


@pytest.mark.parametrize(
    ("algorithm", "curve"),
    [(Algorithm.ES256, ec.SECP256R1), (Algorithm.ES512, ec.SECP521R1)],
)
def test_wrong_algorithm(algorithm: Algorithm, curve: type[ec.EllipticCurve]) -> None:
    document = FAKE.document(algorithm=algorithm, signer=key("other", curve))
    with pytest.raises(Unverified, match=f"wrong signature algorithm; found {algorithm.name}"):
        check(document)


def test_anothers_signature() -> None:
    with pytest.raises(Unverified, match="the signature is wrong"):
        check(FAKE.document(signer=key("another")))


def test_a_stored_document_tells_its_time() -> None:
    document = FAKE.document()
    with pytest.raises(Unverified, match="expired") as caught:
        verify(document, FAKE.roots(), NOW + timedelta(days=365))
    made = datetime.fromtimestamp(NitroDocument.from_bytes(document).timestamp / 1000, UTC)
    assert f"at its time, {made:%FT%TZ}" in str(caught.value.hint)


def test_user_data_of_another_key() -> None:
    verified = check(FAKE.document(user_data=b"\1" * 64))
    with pytest.raises(AppraisalRejected, match="user data: the policy does not admit it"):
        appraise(verified, policy('[pcrs]\nothers = "any"'), REPORT_DATA, NOW).require()


@pytest.mark.parametrize("field", ["user_data", "nonce", "public_key"])
def test_as_much_as_a_module_signs(field: str) -> None:
    """1024 bytes, of each; AWS's advice for verifiers says 512 of two of them, its modules more."""
    for size in (0, 512, 513, 1024):
        changes: dict[str, Any] = {field: bytes(size)}
        assert getattr(check(FAKE.document(**changes)).value.document, field) == bytes(size)
    too_much: dict[str, Any] = {field: bytes(1025)}
    with pytest.raises(Malformed, match=f"{field}: wrong size; found 1025 bytes; expected 0 to"):
        check(FAKE.document(**too_much))


def test_what_else_is_signed_alike_is_told_by_what_it_is() -> None:
    tpm: dict[str, Any] = {"nitrotpm_pcrs": PCRS, "pcrs": None}
    with pytest.raises(Malformed, match="of a NitroTPM, which is an instance's; found nitrotpm_pc"):
        check(FAKE.document(**tpm))
    token = sign(_cbor.encode({10: b"nonce", 2396: bytes(32)}), key("enclave"), Algorithm.ES384)
    with pytest.raises(Malformed, match="a COSE message of another kind; found claims 10, 2396"):
        check(token.to_bytes())


def test_no_user_data() -> None:
    verified = check(FAKE.document(user_data=None))
    assert verified.value.document.user_data is None
    with pytest.raises(AppraisalRejected, match="found none"):
        appraise(verified, policy('[pcrs]\nothers = "any"'), REPORT_DATA, NOW).require()


LEAF = {"ca": False}


@pytest.mark.parametrize(
    ("index", "changes", "message"),
    [
        (3, LEAF | {"lifetime": timedelta(minutes=5)}, "certificate: expired"),
        (2, {"lifetime": timedelta(minutes=5)}, r"cabundle\[2\]: expired"),
        (0, {"start": NOW + timedelta(hours=1)}, r"cabundle\[0\]: not yet valid"),
        (3, LEAF | {"hash": hashes.SHA256()}, "certificate: wrong signature algorithm"),
        (3, LEAF | {"signer": "stranger"}, "certificate: the signature is wrong"),
        (2, {"issuer_name": "stranger"}, r"cabundle\[2\]: issued by another"),
        (3, LEAF | {"critical": True}, "certificate: unknown critical extension; found 1.2.3.4"),
        (2, {"ca": False}, r"cabundle\[2\]: not a certificate authority's"),
        (3, {"ca": True}, "certificate: a certificate authority's"),
        (1, {"path_length": 0}, r"cabundle\[1\]: the chain is too long"),
    ],
)
def test_a_defect_in_the_chain(index: int, changes: dict[str, Any], message: str) -> None:
    names = [FAKE.root, "zone", "instance", "enclave"]
    chain = FAKE.chain()
    chain[index] = certificate(names[index], names[max(index - 1, 0)], **changes)
    with pytest.raises(Unverified, match=message):
        check(FAKE.document(chain))


def test_a_chain_without_its_middle() -> None:
    chain = FAKE.chain()
    with pytest.raises(Unverified, match="issued by another"):
        check(FAKE.document([chain[0], chain[2], chain[3]]))


def test_a_leaf_on_another_curve() -> None:
    public = key("p256", ec.SECP256R1).public_key()
    leaf = certificate("enclave", "instance", ca=False, public_key=public)
    with pytest.raises(Unverified, match="wrong kind of key; expected ECDSA P-384"):
        check(FAKE.document([*FAKE.chain()[:-1], leaf]))


@pytest.mark.parametrize("hours", [-2, 3])
def test_a_timestamp_outside_the_keys_life(hours: int) -> None:
    timestamp = int((NOW + timedelta(hours=hours)).timestamp() * 1000)
    with pytest.raises(Unverified, match="Nitro document: timestamp"):
        check(FAKE.document(timestamp=timestamp))


@pytest.mark.parametrize("hours", [-2, 3])
def test_another_time(hours: int) -> None:
    with pytest.raises(Unverified, match=r"expired|not yet valid"):
        check(FAKE.document(), hours)


PCRS = {index: bytes(48) for index in range(16)}


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "SHA256"},
        {"digest": None},
        {"module_id": ""},
        {"timestamp": 0},
        {"timestamp": 1 << 60},
        {"timestamp": "now"},
        {"pcrs": {index: bytes(48) for index in range(15)}},
        {"pcrs": {index: bytes(48) for index in range(33)}},
        {"pcrs": {index: bytes(48) for index in range(1, 17)}},
        {"pcrs": PCRS | {3: bytes(32)}},
        {"pcrs": PCRS | {3: None}},
        {"cabundle": []},
        {"cabundle": [b"x"] * 9},
        {"cabundle": [b""]},
        {"certificate": b""},
        {"certificate": b"x" * 1025},
        {"certificate": b"not a certificate"},
        {"public_key": b"x" * 1025},
        {"user_data": b"x" * 1025},
        {"nonce": "text"},
        {"extra": 1},
    ],
)
def test_malformed(changes: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        check(FAKE.document(**changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing"),
        ("[pcrs]", "missing"),
        ('[pcrs]\n0 = "any"', "missing"),
        ("[pcrs]\n0 = []\nothers = 'any'", "an empty list admits nothing"),
        ("[pcrs]\n0 = ['00']\nothers = 'any'", "wrong entry"),
        ("[pcrs]\n0 = 'none'\nothers = 'any'", "wrong type"),
        ("[pcrs]\n32 = 'any'\nothers = 'any'", "unknown key"),
        ("pcr = 1\n[pcrs]\nothers = 'any'", "unknown key"),
        ("debug = 'no'\n[pcrs]\nothers = 'any'", "wrong type"),
        ("insecure_simulated_roots = { a = 'x' }\n[pcrs]\nothers = 'any'", "not a SHA-256"),
    ],
)
def test_a_wrong_policy(text: str, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        policy(text)


def test_a_register_that_no_policy_speaks_of_is_held_to_others() -> None:
    verified = check(FAKE.document())
    strict = policy(f'[pcrs]\n0 = ["{"ab" * 48}"]\nothers = "zero"')
    with pytest.raises(AppraisalRejected) as caught:
        appraise(verified, strict, REPORT_DATA, NOW).require()
    expected = [f"PCR{index}" for index in range(1, 17)]
    assert [check["check"] for check in caught.value.checks] == expected


@given(st.binary(max_size=200))
def test_any_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        NitroDocument.from_bytes(data)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(0, 40) | st.text(), inner, max_size=4)
        | st.builds(_cbor.Tagged, st.integers(0, 2**32), inner)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_cbor_comes_back(value: Any) -> None:
    data = _cbor.encode(value)
    decoded = _cbor.decode(data, "value", 1 << 20)
    assert decoded == value
    assert _cbor.encode(decoded) == data


@given(st.binary(max_size=40))
def test_cbor_that_parses_has_one_encoding(data: bytes) -> None:
    try:
        value = _cbor.decode(data, "value", 1 << 20)
    except Malformed:
        return
    assert _cbor.encode(value) == data


@pytest.mark.parametrize(
    "data",
    [
        "",
        "1800",  # 0 in two bytes
        "190001",
        "5f40ff",  # indefinite
        "9fff",
        "bfff",
        "a200000000",  # a key twice
        "a14000",  # a key that is no key
        "f90000",  # a float
        "f7",  # undefined
        "f818",  # a simple value
        "5bffffffffffffffff",  # longer than all
        "9bffffffffffffffff",
        "62c328",  # not UTF-8
        "0000",  # a tail
        "1c",  # reserved
        "81" * 17 + "00",  # too deep
    ],
)
def test_cbor_in_another_encoding(data: str) -> None:
    with pytest.raises(Malformed):
        _cbor.decode(bytes.fromhex(data), "value", 1 << 20)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("9fff", []),
        ("bfff", {}),
        ("9f019f02ff8103ff", [1, [2], [3]]),
        ("bf0182020361619f04ffff", {1: [2, 3], "a": [4]}),
        ("a101bf02f6ff", {1: {2: None}}),
    ],
)
def test_cbor_of_indefinite_length_where_it_is_asked_for(data: str, value: object) -> None:
    octets = bytes.fromhex(data)
    assert _cbor.decode(octets, "value", 1 << 20, indefinite=True) == value
    with pytest.raises(Malformed, match="not CBOR in its one encoding"):
        _cbor.decode(octets, "value", 1 << 20)


@pytest.mark.parametrize(
    "data",
    [
        "9f",
        "9f01",
        "bf",
        "bf01ff",  # a key without a value
        "bf010201ff",
        "bf01020103ff",  # a key twice
        "ff",
        "81ff",
        "5f40ff",  # strings have a length
        "7f60ff",
        "df00ff",
        "9fffff",
        "9f" * 18 + "ff" * 18,  # too deep
    ],
)
def test_cbor_of_indefinite_length_that_is_none(data: str) -> None:
    with pytest.raises(Malformed):
        _cbor.decode(bytes.fromhex(data), "value", 1 << 20, indefinite=True)


def test_cbor_that_is_too_long() -> None:
    with pytest.raises(Malformed, match="too long"):
        _cbor.decode(b"\x00" * 3, "value", 2)

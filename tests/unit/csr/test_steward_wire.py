"""CMW records, challenges on the wire, PkiPath and bundles."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats import cmw
from garrison.formats.challenge_wire import Offer, decode_challenge, encode_challenge
from garrison.formats.csr import (
    MAX_ANSWER,
    MAX_BUNDLE,
    MAX_BUNDLE_REQUESTS,
    build_request,
    decode_bundle,
    decode_bundle_answer,
    decode_pki_path,
    encode_bundle,
    encode_bundle_answer,
    encode_pki_path,
)
from garrison.formats.evidence import Evidence

KEY = ec.generate_private_key(ec.SECP256R1())
REQUEST = build_request(KEY, evidence=None, challenge=None, workload=None)


def certificate(name: str) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(KEY, hashes.SHA256())
    )


CHAIN = tuple(certificate(name) for name in ("root", "leaf"))


@pytest.mark.parametrize("length", [0, 1, 23, 24, 255, 256, 65535, 65536])
def test_cmw_is_the_cbor_that_others_write(length: int) -> None:
    evidence = Evidence("application/x", b"p" * length)
    data = cmw.encode(evidence)
    assert data == cbor2.dumps(["application/x", b"p" * length], canonical=True)
    assert cmw.decode(data) == evidence


@pytest.mark.parametrize(
    "data",
    [
        b"",
        cbor2.dumps(["a/b"]),
        cbor2.dumps(["a/b", b"x", 4]),
        cbor2.dumps([42, b"x"]),
        cbor2.dumps([b"a/b", b"x"]),
        cbor2.dumps(["a/b", "x"]),
        cbor2.dumps(["ab", b"x"]),
        cbor2.dumps(["a/\n", b"x"]),
        cbor2.dumps(["a/é", b"x"]),
        cbor2.dumps(["a/" + "b" * 300, b"x"]),
        cbor2.dumps(["a/b", b"x"]) + b"\0",
        cbor2.dumps(cbor2.CBORTag(1, ["a/b", b"x"])),
        bytes.fromhex("9f63612f624178ff"),  # indefinite length
        bytes.fromhex("8263612f62580178"),  # one byte of content with an over-long length
        bytes.fromhex("8263612f625bffffffffffffffff"),
        bytes.fromhex("8263612f625affffffff"),
    ],
)
def test_other_cbor_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        cmw.decode(data)
    assert "not a CMW record" in str(caught.value)


@given(st.binary(max_size=100).map(lambda tail: b"\x82" + tail))
def test_what_cmw_accepts_it_writes_again(data: bytes) -> None:
    try:
        evidence = cmw.decode(data)
    except Malformed:
        return
    assert cmw.encode(evidence) == data


def test_offer_comes_back() -> None:
    offer = Offer(b"\xff" * 57, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    data = offer.to_bytes()
    assert data.endswith(b'"expires":"2026-01-02T03:04:05Z"}')
    assert Offer.from_bytes(data) == offer


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"challenge": 1, "expires": "2026-01-02T03:04:05Z"}',
        b'{"challenge": "YQ", "expires": 1}',
        b'{"challenge": "YQ", "expires": "tomorrow"}',
        b'{"challenge": "Y Q", "expires": "2026-01-02T03:04:05Z"}',
        b'{"challenge": "", "expires": "2026-01-02T03:04:05Z"}',
        b"[" * 2000,
        b" " * 5000,
        b"\xff",
        # One form of each time: the library takes these for the same as with zeros.
        b'{"challenge":"AA","expires":"2026-1-2T03:04:05Z"}',
        b'{"challenge":"AA","expires":"2026-01-02T3:4:5Z"}',
    ],
)
def test_other_offers_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Offer.from_bytes(data)


@given(st.binary(min_size=1, max_size=256))
def test_challenge_text_has_one_form(challenge: bytes) -> None:
    text = encode_challenge(challenge)
    assert decode_challenge(text) == challenge
    with pytest.raises(Malformed):
        decode_challenge(text + "=")


@given(st.text(max_size=20))
def test_challenge_from_any_text_is_malformed_or_canonical(text: str) -> None:
    try:
        challenge = decode_challenge(text)
    except Malformed:
        return
    assert encode_challenge(challenge) == text


def test_pki_path_keeps_the_order_and_the_bytes() -> None:
    data = encode_pki_path(CHAIN)
    # SEQUENCE OF Certificate, nothing around it.
    assert data[4:].startswith(CHAIN[0].public_bytes(Encoding.DER))
    assert data.endswith(CHAIN[1].public_bytes(Encoding.DER))
    assert decode_pki_path(data) == CHAIN


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"\x31\x00", bytes(MAX_ANSWER + 1)], ids=len)
def test_other_pki_paths_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode_pki_path(data)


@given(st.integers(0, len(encode_pki_path(CHAIN)) - 1))
def test_truncated_pki_path_is_malformed(length: int) -> None:
    with pytest.raises(Malformed):
        decode_pki_path(encode_pki_path(CHAIN)[:length])


def test_tail_after_a_pki_path_is_malformed() -> None:
    with pytest.raises(Malformed):
        decode_pki_path(encode_pki_path(CHAIN) + b"\0")


def test_bundle_keeps_the_order_and_the_bytes() -> None:
    other = build_request(KEY, evidence=Evidence("a/b", b""), challenge=None, workload=None)
    assert decode_bundle(encode_bundle([REQUEST, other])) == (REQUEST, other)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode_bundle([]), "wrong number of requests; found 0"),
        (encode_bundle([REQUEST] * (MAX_BUNDLE_REQUESTS + 1)), "wrong number of requests"),
        (REQUEST, "not DER of the right form"),
        (encode_bundle([REQUEST]) + b"\0", "not DER"),
        (bytes(MAX_BUNDLE + 1), "too long"),
    ],
    ids=["none", "too many", "no bundle", "tail", "too long"],
)
def test_other_bundles_are_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        decode_bundle(data)
    assert reason in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_no_bundle(data: bytes) -> None:
    for decode in (decode_bundle, decode_bundle_answer, decode_pki_path):
        with pytest.raises(Malformed):
            decode(b"\x30" + data)


def test_bundle_answer_comes_back() -> None:
    assert decode_bundle_answer(encode_bundle_answer(CHAIN[:1], CHAIN[1:])) == (
        CHAIN[:1],
        CHAIN[1:],
    )

"""Signed tags: what counts as a signature, and nothing else."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed, Unverified
from garrison.formats.oci_name import parse_name
from garrison.formats.signed_tag import (
    SigningKey,
    load_signing_key,
    load_tag_keys,
    payload_entry,
    sign,
    verify,
)
from garrison.formats.slug import Slug
from garrison.formats.tree import DIRECTORY_TYPE, Entry

NAME = Slug.parse("d.test/jane/chat:1.0.0")
ENTRY = Entry.of(b"{}", DIRECTORY_TYPE)
P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
KEYS = (P256.public_key(), ED25519.public_key(), RSA.public_key())


def private_pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def encode(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode()


@pytest.mark.parametrize("key", [P256, ED25519])
def test_what_is_signed_is_verified_with_that_key_alone(key: SigningKey) -> None:
    data = sign(ENTRY, NAME, key)
    assert verify(data, NAME, KEYS) == payload_entry(data) == ENTRY
    with pytest.raises(Unverified, match="not signed with a key that is trusted"):
        verify(data, NAME, tuple(other for other in KEYS if other != key.public_key()))
    with pytest.raises(Unverified):
        verify(data, NAME, ())


@pytest.mark.parametrize(
    ("key", "algorithm"), [(P256, "ES256"), (ED25519, "EdDSA"), (RSA, "RS256")]
)
def test_another_library_agrees(key: Any, algorithm: str) -> None:
    header = {"kid": "x", "slug": str(NAME)}
    compact = jwt.PyJWS().encode(ENTRY.to_bytes(), key, algorithm, headers=header)
    protected, payload, signature = compact.split(".")
    item = {"protected": protected, "signature": signature, "header": {"kid": "any"}}
    other = {"protected": encode(b'{"alg":"none"}'), "signature": ""}
    for signatures in (item, {"signatures": [other, item]}):
        document = {"payload": payload, **signatures}
        assert verify(json.dumps(document).encode(), NAME, KEYS) == ENTRY
    document = json.loads(sign(ENTRY, NAME, P256))
    compact = ".".join(document[name] for name in ("protected", "payload", "signature"))
    assert jwt.PyJWS().decode(compact, P256.public_key(), ["ES256"]) == ENTRY.to_bytes()


def _with_header(**header: Any) -> bytes:
    """A tag with this protected header, signed by a key that is trusted."""
    document = json.loads(sign(ENTRY, NAME, ED25519))
    document["protected"] = encode(json.dumps(header).encode())
    signed = f"{document['protected']}.{document['payload']}".encode()
    return json.dumps({**document, "signature": encode(ED25519.sign(signed))}).encode()


def test_headers_that_change_what_a_signature_means_are_refused() -> None:
    slug = str(NAME)
    assert verify(_with_header(alg="EdDSA", slug=slug), NAME, KEYS) == ENTRY
    critical = {"alg": "EdDSA", "crit": ["b64"], "b64": False}
    for header in (critical, {"alg": "none"}, {"alg": "ES256"}, {}):
        with pytest.raises(Unverified, match="not signed with a key that is trusted"):
            verify(_with_header(**header, slug=slug), NAME, KEYS)


@pytest.mark.parametrize(
    "other",
    [
        "d.test/jane/chat:0.9.0", "d.test/jane/other:1.0.0", "d.test/eve/chat:1.0.0",
        "other.test/jane/chat:1.0.0", "oci://d.test/jane/chat:1.0.0",
    ],
)  # fmt: skip
def test_a_signature_for_another_name_is_refused(other: str) -> None:
    signed = sign(ENTRY, parse_name(other), P256)
    assert verify(signed, parse_name(other), KEYS) == ENTRY
    with pytest.raises(Unverified, match="signed for another tag") as caught:
        verify(signed, NAME, KEYS)
    assert (caught.value.found, caught.value.expected) == (repr(other), str(NAME))


def test_a_signature_that_names_nothing_is_refused() -> None:
    """As the original's form has it: it would be as good for any tag."""
    for header, found in (({}, "none"), ({"slug": None}, "None"), ({"slug": [str(NAME)]}, "[")):
        with pytest.raises(Unverified, match="signed for another tag") as caught:
            verify(_with_header(alg="EdDSA", **header), NAME, KEYS)
        assert str(caught.value.found).startswith(found)


def test_a_name_outside_of_what_is_signed_has_no_meaning() -> None:
    document = json.loads(_with_header(alg="EdDSA"))
    for place in (document, document.setdefault("header", {})):
        place["slug"] = str(NAME)
    with pytest.raises(Unverified, match="signed for another tag"):
        verify(json.dumps(document).encode(), NAME, KEYS)


def test_one_content_is_signed_for_two_names() -> None:
    old = parse_name("d.test/jane/chat:0.9.0")
    both = [json.loads(sign(ENTRY, name, P256)) for name in (old, NAME)]
    data = json.dumps({"payload": both[0]["payload"], "signatures": both}).encode()
    assert verify(data, old, KEYS) == verify(data, NAME, KEYS) == ENTRY


@pytest.mark.parametrize("name", ["payload", "protected", "signature"])
def test_a_changed_bit_anywhere_is_found(name: str) -> None:
    document = json.loads(sign(ENTRY, NAME, P256))
    raw = bytearray(urlsafe_b64decode(document[name] + "=="))
    for place in range(len(raw)):
        raw[place] ^= 1
        document[name] = encode(bytes(raw))
        raw[place] ^= 1
        with pytest.raises((Unverified, Malformed)):
            verify(json.dumps(document).encode(), NAME, KEYS)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", b'{"payload":1}', b'{"payload":"="}', b'{"payload":"e30"}',
        b'{"payload":"e30","payload":"e30"}', b'{"payload":"e30","signatures":[]}',
        b'{"payload":"e30","signatures":[1]}', b'{"payload":"e30","signatures":{}}',
        b'{"payload":"e30","protected":"e31","signature":""}', b"x" * 70_000,
    ],
)  # fmt: skip
def test_what_is_no_signed_tag_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        verify(data, NAME, KEYS)


@given(st.binary(max_size=300))
def test_nothing_else_is_raised(data: bytes) -> None:
    with pytest.raises((Malformed, Unverified)):
        verify(data, NAME, KEYS)


def test_keys_are_read_strictly() -> None:
    pem = b"".join(map(public_pem, KEYS))
    assert load_tag_keys(b"# ours\n" + pem, field="k") == KEYS
    assert load_signing_key(private_pem(ED25519), field="k").public_key() == KEYS[1]
    assert isinstance(load_signing_key(private_pem(P256), field="k"), ec.EllipticCurvePrivateKey)
    weak = rsa.generate_private_key(65537, 1024).public_key()  # noqa: S505 - to be refused
    other = ec.generate_private_key(ec.SECP384R1())
    for wrong in (b"", private_pem(P256), public_pem(weak), public_pem(other.public_key())):
        with pytest.raises(Malformed, match="key"):
            load_tag_keys(wrong, field="k")
    for wrong in (b"", public_pem(KEYS[0]), private_pem(other), private_pem(RSA)):
        with pytest.raises(Malformed, match="not a key that signs tags"):
            load_signing_key(wrong, field="k")

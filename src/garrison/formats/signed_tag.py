"""Signed tags: a JWS (RFC 7515) in JSON, whose payload is the tag's entry.

The original's form, flattened or general (`application/jose+json`): `payload`, and one signature or
a list, each with a `protected` header. Ours are made with ES256 or EdDSA (Ed25519), and verified
with the keys that whoever relies on them names; RS256 is verified besides. Which key it was is
found by trying: a `kid` is the signer's word. What is not in the protected header has no meaning,
and a critical extension (`crit`) is refused, for none is known.

The payload is the original's, and does not say which tag it is of. So the protected header has a
member of ours, `slug`, the whole name of the tag; the original's clients pass over it. Without it
a registry could answer the signed tag of an old version, or of another repository, for any other.
The same form signs workloads in OCI registries, where `slug` begins with `oci://`.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from garrison.errors import Malformed, Unverified
from garrison.formats.tree import ENTRY_TYPE, Entry

if TYPE_CHECKING:
    from garrison.formats.oci_name import Name

JWS_TYPE = "application/jose+json"

TagKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey
SigningKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

# A signed tag holds the entry in base64, and signatures with their certificates.
MAX_SIGNED = 64 * 1024
_MAX_SIGNATURES = 16
# The member of the protected header (RFC 7515, section 4.3) that names the tag.
_SLUG = "slug"
_MIN_RSA_BITS = 2048
# RFC 7518, section 3.4: R and S, 32 bytes each.
_ES256_HALF = 32
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


def payload_entry(data: bytes, where: str = "signed tag") -> Entry:
    """The entry in a signed tag, whose signature is not looked at.

    Raises:
        Malformed: `data` is not a signed tag.
    """
    field = f"{where}: payload"
    return Entry.from_bytes(_decode(_document(data, where).get("payload"), field), field)


def verify(data: bytes, name: Name, keys: tuple[TagKey, ...]) -> Entry:
    """The entry in a signed tag, if one of its signatures is by one of `keys`, and for `name`.

    Raises:
        Malformed: `data` is not a signed tag.
        Unverified: none is.
    """
    where = f"tag {name}"
    document = _document(data, where)
    signatures = document.get("signatures", [document])
    if not isinstance(signatures, list) or not 0 < len(signatures) <= _MAX_SIGNATURES:
        raise Malformed("not a list of signatures", field=where)
    others: list[str] = []
    for item in signatures:
        if not isinstance(item, dict):
            raise Malformed("not an object", field=f"{where}: signature")
        protected = item.get("protected", "")
        header = _json(_decode(protected, f"{where}: protected"), f"{where}: protected")
        if "crit" in header:
            continue
        signature = _decode(item.get("signature"), f"{where}: signature")
        signed = f"{protected}.{document['payload']}".encode()
        if not any(_is_by(key, header.get("alg"), signature, signed) for key in keys):
            continue
        if header.get(_SLUG) == str(name):
            return payload_entry(data, where)
        others.append(repr(header[_SLUG])[:300] if _SLUG in header else "none")
    if others:
        raise Unverified(
            "signed for another tag",
            field=f"{where}: {_SLUG} in the signature",
            found=", ".join(others),
            expected=str(name),
            hint="whoever signed this did not sign it under this name",
        )
    raise Unverified(
        "not signed with a key that is trusted for it",
        field=where,
        found=f"{len(signatures)} signatures of others",
        expected=f"one by one of {len(keys)} keys",
    )


def sign(entry: Entry, name: Name, key: SigningKey) -> bytes:
    """The signed tag of `entry`, under this `name` and no other."""
    algorithm = "EdDSA" if isinstance(key, ed25519.Ed25519PrivateKey) else "ES256"
    protected = _encode(_dump({"alg": algorithm, "cty": ENTRY_TYPE, _SLUG: str(name)}))
    payload = _encode(entry.to_bytes())
    signed = f"{protected}.{payload}".encode()
    if isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(signed)
    else:
        halves = decode_dss_signature(key.sign(signed, ec.ECDSA(SHA256())))
        signature = b"".join(half.to_bytes(_ES256_HALF, "big") for half in halves)
    return _dump({"payload": payload, "protected": protected, "signature": _encode(signature)})


def load_tag_keys(pem: bytes, *, field: str) -> tuple[TagKey, ...]:
    """Read public keys in PEM, at least one.

    Raises:
        Malformed: there is none, or one is of another kind.
    """
    keys = tuple(_public_key(match, field) for match in _PEM.findall(pem))
    if not keys:
        raise Malformed("no public key", field=field, expected="PEM, BEGIN PUBLIC KEY")
    return keys


def load_signing_key(pem: bytes, *, field: str) -> SigningKey:
    """Read a private key in PEM, on P-256 or Ed25519, which is not encrypted.

    Raises:
        Malformed: it is anything else.
    """
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        # What it is instead may be a secret.
        key = None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise Malformed(
        "not a key that signs tags", field=field, expected="P-256 or Ed25519, PEM, not encrypted"
    )


def _public_key(pem: bytes, field: str) -> TagKey:
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise Malformed("not a public key", field=field) from error
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return key
    raise Malformed(
        "not a key for tags",
        field=field,
        expected=f"P-256, Ed25519, or RSA of {_MIN_RSA_BITS} bits or more",
    )


def _is_by(key: TagKey, algorithm: object, signature: bytes, signed: bytes) -> bool:
    """Whether `key` made the signature, with the one algorithm that belongs to it."""
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            if algorithm != "EdDSA":
                return False
            key.verify(signature, signed)
        elif isinstance(key, rsa.RSAPublicKey):
            if algorithm != "RS256":
                return False
            key.verify(signature, signed, padding.PKCS1v15(), SHA256())
        else:
            if algorithm != "ES256" or len(signature) != 2 * _ES256_HALF:
                return False
            halves = signature[:_ES256_HALF], signature[_ES256_HALF:]
            der = encode_dss_signature(*(int.from_bytes(half, "big") for half in halves))
            key.verify(der, signed, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def _document(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > MAX_SIGNED:
        raise Malformed("too long", field=where, expected=f"at most {MAX_SIGNED} bytes")
    document = _json(data, where)
    if not isinstance(document.get("payload"), str):
        raise Malformed("has no payload", field=where, expected="JWS JSON serialization")
    return document


def _json(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON, with each name once", field=where) from error
    if not isinstance(value, dict):
        raise Malformed("not an object", field=where)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return value


def _decode(text: object, where: str) -> bytes:
    if not isinstance(text, str) or _BASE64URL.fullmatch(text) is None:
        raise Malformed("not base64url", field=where, expected="without padding")
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise Malformed("not base64url", field=where) from error
    if _encode(data) != text:
        raise Malformed("not base64url", field=where, expected="its one spelling")
    return data


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()

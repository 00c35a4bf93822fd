"""A public key as a JSON Web Key (RFC 7517), with the one algorithm that it is for.

Algorithms are those of RFC 7518, section 3.1, and ES256K of RFC 8812: RS256, RS384, RS512, PS256,
PS384, PS512, ES256, ES384, ES512, ES256K.

Refused: a key without `alg`, private and symmetric keys, short RSA keys, numbers with zeros in
front, and points that are not on their curve. Members that are unknown are let be, as the RFC asks.
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from garrison.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Mapping

    PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

# An RSA key of the most bits, with members of any kind beside it.
MAX_SIZE = 16 * 1024
# What a verification costs grows with the square of the bits.
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
# RFC 7518, section 6.2.1.1, and RFC 8812, section 3.1: the curve's name and its coordinates' size.
CURVES: Mapping[str, tuple[str, type[ec.EllipticCurve], int]] = {
    "ES256": ("P-256", ec.SECP256R1, 32),
    "ES384": ("P-384", ec.SECP384R1, 48),
    "ES512": ("P-521", ec.SECP521R1, 66),
    "ES256K": ("secp256k1", ec.SECP256K1, 32),
}
RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS = (*CURVES, *RSA)


def encode(algorithm: str, key: PublicKey) -> bytes:
    """Write `key` for `algorithm`, one of `ALGORITHMS` that fits it."""
    value = {"kty": "RSA", "alg": algorithm}
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        for name, number in (("n", numbers.n), ("e", numbers.e)):
            value[name] = _text(number.to_bytes((number.bit_length() + 7) // 8, "big"))
    else:
        curve, _, size = CURVES[algorithm]
        point = key.public_numbers()
        value.update(kty="EC", crv=curve)
        value.update(x=_text(point.x.to_bytes(size, "big")), y=_text(point.y.to_bytes(size, "big")))
    return json.dumps(value, separators=(",", ":")).encode()


def decode(data: bytes) -> tuple[str, PublicKey]:
    """Read a key, and the algorithm that it is for.

    Raises:
        Malformed: it is none, or one that is refused.
    """
    try:
        value = {} if len(data) > MAX_SIZE else json.loads(data.decode())
    except (ValueError, RecursionError):
        value = {}
    if not isinstance(value, dict) or "kty" not in value:
        raise _malformed("not a JSON Web Key", repr(data[:80]), "a JSON object with kty")
    if any(name in value for name in ("d", "k")):
        raise _malformed("not a public key", "a private or a symmetric one", "a public one")
    algorithm = value.get("alg")
    if algorithm not in ALGORITHMS:
        raise _malformed("unknown algorithm", repr(algorithm)[:80], ", ".join(ALGORITHMS))
    kind, curve = ("EC", CURVES[algorithm][0]) if algorithm in CURVES else ("RSA", None)
    if (value["kty"], value.get("crv")) != (kind, curve):
        found = f"kty {value['kty']!r}, crv {value.get('crv')!r}"[:120]
        raise _malformed(f"not a key for {algorithm}", found, f"kty {kind}, crv {curve}")
    try:
        return algorithm, _point(value, algorithm) if kind == "EC" else _modulus(value)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _malformed(f"not a key for {algorithm}", error, "a key of that algorithm") from error


def _point(value: Mapping[str, Any], algorithm: str) -> ec.EllipticCurvePublicKey:
    _, curve, size = CURVES[algorithm]
    x, y = _bytes(value, "x"), _bytes(value, "y")
    if (len(x), len(y)) != (size, size):
        raise _malformed("wrong size", f"x of {len(x)} bytes, y of {len(y)}", f"{size} each")
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve()
    )
    return numbers.public_key()


def _modulus(value: Mapping[str, Any]) -> rsa.RSAPublicKey:
    modulus, exponent = _bytes(value, "n"), _bytes(value, "e")
    if modulus[:1] == b"\0" or exponent[:1] == b"\0" or len(exponent) > 4:
        raise _malformed("not an RSA key", "zeros in front, or a large e", "the shortest form")
    number = int.from_bytes(modulus, "big")
    if not MIN_RSA_BITS <= number.bit_length() <= MAX_RSA_BITS:
        expected = f"{MIN_RSA_BITS} to {MAX_RSA_BITS}"
        raise _malformed("not an RSA key", f"{number.bit_length()} bits", expected)
    return rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), number).public_key()


def _bytes(value: Mapping[str, Any], name: str) -> bytes:
    text = value.get(name)
    try:
        if isinstance(text, str) and text.isascii():
            data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
            # One encoding only.
            if _text(data) == text:
                return data
    except (ValueError, binascii.Error):
        pass
    raise _malformed("not base64url", f"{name} = {text!r}"[:80], "base64url without padding")


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _malformed(message: str, found: object, expected: str) -> Malformed:
    return Malformed(message, field="public key", found=found, expected=expected)

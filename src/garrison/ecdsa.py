"""ECDSA on P-256 and P-384 (FIPS 186-5, section 6), as evidence and certificates are signed.

By AWS-LC, which the package `awscrt` brings. The library that does everything else here,
`cryptography`, has its OpenSSL compute on P-384 with general code: with a key that was never seen
a verification takes it 590 µs and AWS-LC 220, a signature 240 and 95 (`bench/steward.py`). What
is signed with P-384 (AMD SEV-SNP, AWS Nitro, and our own certificates) is most of what an
attestation costs. Nothing but mathematics is asked of it: keys are given to it in the one form
that is written here, so that nothing else it could read counts.

Loaded with the first signature, for it is large, and a keep verifies none.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

# RFC 5480, section 2: all of a SubjectPublicKeyInfo that stands before an uncompressed point
# (SEC 1, section 2.3.3: 04, and the coordinates) where the curve has its name; by its curve.
_HEADS: dict[str, bytes] = {
    "secp256r1": bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"),
    "secp384r1": bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200"),
}
_BY_SIZE = {65: "secp256r1", 97: "secp384r1"}
_UNCOMPRESSED = 4
# Certificates that sign again: vendors' issuers, and chips.
_REMEMBERED = 256


def point_of_spki(spki: bytes) -> bytes | None:
    """The point of a key on P-256 or P-384; None if `spki` is any other, or written otherwise.

    Whether it is on the curve `is_signed` finds.
    """
    for name, head in _HEADS.items():
        point = spki[len(head) :]
        is_whole = _BY_SIZE.get(len(point)) == name and point[0] == _UNCOMPRESSED
        if spki.startswith(head) and is_whole:
            return point
    return None


def curve_at(point: bytes) -> str:
    """The name of the curve of an uncompressed point: secp256r1 or secp384r1.

    Raises:
        ValueError: it is of neither.
    """
    name = _BY_SIZE.get(len(point))
    if name is None or point[0] != _UNCOMPRESSED:
        raise ValueError("not an uncompressed point of P-256 or P-384")
    return name


def point_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """The point of `key`, uncompressed."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


@lru_cache(_REMEMBERED)
def point_in(certificate: x509.Certificate, curve: str) -> bytes | None:
    """The point of a certificate's key; None if that is not on `curve`.

    Remembered, for to read the key takes 15 µs, and of P-384 an inversion in the field 45 more.
    """
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != curve:
        return None
    return point_of(key)


def is_signed(point: bytes, signature: bytes, data: bytes, algorithm: str) -> bool:
    """Whether the key at `point` made `signature` of `data`.

    Args:
        point: uncompressed, 65 bytes of P-256 or 97 of P-384.
        signature: DER, as RFC 3279, section 2.2.3 has it; of any other form it is not one.
        data: what was signed.
        algorithm: the hash, as `hashlib` calls it.

    Raises:
        ValueError: there is no such point.
    """
    head = _HEADS[curve_at(point)]
    try:
        key = _library().new_key_from_der_data(head + point)
    except RuntimeError as error:
        raise ValueError("not a point of the curve") from error
    return bool(key.verify(hashlib.new(algorithm, data).digest(), signature) is True)


def is_signed_by(
    key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes, algorithm: hashes.HashAlgorithm
) -> bool:
    """The same with a key of any curve."""
    if key.curve.name in _HEADS:
        return is_signed(point_of(key), signature, data, algorithm.name)
    try:
        key.verify(signature, data, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True


def signer(key: ec.EllipticCurvePrivateKey, algorithm: str) -> Callable[[bytes], bytes]:
    """What signs with `key`, on P-256 or P-384, hashing as `hashlib` calls it; DER."""
    private = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    loaded = _library().new_key_from_der_data(private)

    def sign(data: bytes) -> bytes:
        signature: bytes = loaded.sign(hashlib.new(algorithm, data).digest())
        return signature

    return sign


@lru_cache(1)
def _library() -> Any:
    from awscrt.crypto import EC

    return EC

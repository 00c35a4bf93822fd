"""The signature of a COSE_Sign1 message (RFC 9052, section 4.4), by a key already trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from garrison import ecdsa
from garrison.errors import Unverified
from garrison.formats.cose import Algorithm

if TYPE_CHECKING:
    from garrison.formats.cose import CoseSign1

# RFC 9053 leaves curve and hash independent; evidence always pairs them so.
_CURVES: dict[Algorithm, tuple[type[ec.EllipticCurve], hashes.HashAlgorithm]] = {
    Algorithm.ES256: (ec.SECP256R1, hashes.SHA256()),
    Algorithm.ES384: (ec.SECP384R1, hashes.SHA384()),
    Algorithm.ES512: (ec.SECP521R1, hashes.SHA512()),
}


def der_signature(raw: bytes) -> bytes:
    """The DER form of r and s, big-endian, one as long as the other (RFC 9053, section 2.1)."""
    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))


def check_signature(message: CoseSign1, key: ec.EllipticCurvePublicKey, field: str) -> None:
    """Refuse `message`, which errors call `field`, unless `key` signed it.

    Raises:
        Unverified: the key is of another curve than the algorithm, or the signature is wrong.
    """
    curve, digest = _CURVES[message.algorithm]
    if not isinstance(key.curve, curve):
        raise Unverified(
            "the key does not fit the algorithm",
            field=field,
            found=f"{message.algorithm.name} with a key on {key.curve.name}",
            expected=curve.name,
        )
    if not ecdsa.is_signed_by(
        key, der_signature(message.signature), message.signed_bytes(), digest
    ):
        raise Unverified(
            "the signature is wrong", field=field, expected="one by the key that it names"
        )

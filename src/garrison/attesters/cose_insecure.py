"""COSE_Sign1 messages, signed, with any header and any key: for simulators, and for tests."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from garrison.formats import _cbor
from garrison.formats.cose import Algorithm, CoseSign1, protected_header

_HASHES: dict[Algorithm, hashes.HashAlgorithm] = {
    Algorithm.ES256: hashes.SHA256(),
    Algorithm.ES384: hashes.SHA384(),
    Algorithm.ES512: hashes.SHA512(),
}


def sign(
    payload: bytes, key: ec.EllipticCurvePrivateKey, algorithm: Algorithm, *, tagged: bool = True
) -> CoseSign1:
    """Sign `payload` with `key`, which need not be of the algorithm's curve."""
    message = CoseSign1(
        tagged, protected_header(algorithm), _cbor.encode({}), algorithm, payload, b""
    )
    half = algorithm.signature_size // 2
    # A signature of another curve may be too long: what is left of it is no less wrong.
    r, s = (
        value % (1 << 8 * half)
        for value in decode_dss_signature(
            key.sign(message.signed_bytes(), ec.ECDSA(_HASHES[algorithm]))
        )
    )
    signature = r.to_bytes(half, "big") + s.to_bytes(half, "big")
    return CoseSign1(tagged, message.protected, message.unprotected, algorithm, payload, signature)

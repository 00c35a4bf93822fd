"""Keys that sign SNP guests: made, read, digested, and used.

Two keys of P-384 in PKCS#8 PEM: the ID key signs the ID block of one image, the author key signs
the ID key. Signatures are deterministic (RFC 6979), so that the same input gives the same file.
It refuses keys of another kind, and never writes over a key.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from garrison.errors import Malformed, Unverified
from garrison.formats.snp_id_block import (
    IdAuth,
    IdBlock,
    IdKeySignature,
    SnpPublicKey,
    SnpSignature,
)


def create() -> bytes:
    """Make a key: PKCS#8 PEM."""
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load(pem: bytes, field: str) -> ec.EllipticCurvePrivateKey:
    """Read a key; errors call it `field`.

    Raises:
        Malformed: it is not a private key of P-384 in PEM.
    """
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        # The reason stays out: it could quote the key.
        raise _not_a_key(field) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _not_a_key(field)
    return key


def public(key: ec.EllipticCurvePrivateKey) -> SnpPublicKey:
    """The public half, as firmware has it; its `digest()` is what reports hold."""
    numbers = key.public_key().public_numbers()
    return SnpPublicKey(numbers.x, numbers.y)


def sign_id_key(
    author: ec.EllipticCurvePrivateKey, id_key: ec.EllipticCurvePrivateKey
) -> IdKeySignature:
    """Have the author vouch for the ID key."""
    return IdKeySignature(_sign(author, public(id_key).to_bytes()), public(author))


def sign_id_block(
    block: IdBlock, id_key: ec.EllipticCurvePrivateKey, author: IdKeySignature
) -> IdAuth:
    """Sign an ID block.

    Raises:
        Unverified: `author` does not vouch for `id_key`: firmware would refuse the launch.
    """
    auth = IdAuth(_sign(id_key, block.to_bytes()), public(id_key), author)
    check(block, auth)
    return auth


def check(block: IdBlock, auth: IdAuth) -> None:
    """Check both signatures, as firmware does at the end of a launch.

    Raises:
        Unverified: one is wrong.
    """
    _verify(auth.id_key, auth.id_block_signature, block.to_bytes(), "ID block")
    author = auth.author
    _verify(author.author_key, author.id_key_signature, auth.id_key.to_bytes(), "ID key")


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> SnpSignature:
    algorithm = ec.ECDSA(hashes.SHA384(), deterministic_signing=True)
    return SnpSignature(*decode_dss_signature(key.sign(data, algorithm)))


def _verify(key: SnpPublicKey, signature: SnpSignature, data: bytes, what: str) -> None:
    try:
        point = ec.EllipticCurvePublicNumbers(key.x, key.y, ec.SECP384R1()).public_key()
        encoded = encode_dss_signature(signature.r, signature.s)
        point.verify(encoded, data, ec.ECDSA(hashes.SHA384()))
    except (ValueError, InvalidSignature) as error:  # a ValueError: no point of the curve
        raise Unverified(
            "the signature is wrong", field=what, expected="made by the key that stands beside it"
        ) from error


def _not_a_key(field: str) -> Malformed:
    return Malformed(
        "not a key for SEV", field=field, expected="a P-384 private key, PKCS#8 PEM, unencrypted"
    )

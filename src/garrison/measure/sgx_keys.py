"""Keys that sign SGX enclaves: made, read, digested, and used.

RSA-3072 with exponent 3, which is what the processor demands, in PKCS#1 PEM. It refuses other
keys. Signatures are RSASSA-PKCS1-v1_5 with SHA-256, which is deterministic.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from garrison.errors import Malformed, Unverified
from garrison.formats.sgx_sigstruct import EXPONENT, MODULUS_SIZE, Sigstruct, SigstructBody


def create() -> bytes:
    """Make a key: PKCS#1 PEM."""
    key = rsa.generate_private_key(EXPONENT, 8 * MODULUS_SIZE)
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def load(pem: bytes, field: str) -> rsa.RSAPrivateKey:
    """Read a key; errors call it `field`.

    Raises:
        Malformed: it is not a private key of RSA-3072 with exponent 3 in PEM.
    """
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise _not_a_key(field) from error
    if (
        not isinstance(key, rsa.RSAPrivateKey)
        or key.key_size != 8 * MODULUS_SIZE
        or key.public_key().public_numbers().e != EXPONENT
    ):
        raise _not_a_key(field)
    return key


def sign(
    body: SigstructBody, key: rsa.RSAPrivateKey, *, date: int = 0, software_defined: int = 0
) -> Sigstruct:
    """Sign an enclave; `date` in binary-coded decimal, 0 as the original's."""
    modulus = key.public_key().public_numbers().n
    unsigned = Sigstruct(0, date, software_defined, modulus, 0, body, 0, 0)
    data = unsigned.author_bytes() + body.to_bytes()
    s = int.from_bytes(key.sign(data, padding.PKCS1v15(), hashes.SHA256()), "big")
    return Sigstruct(0, date, software_defined, modulus, s, body, *_quotients(s, modulus))


def check(sigstruct: Sigstruct) -> None:
    """Check a signature, and the two quotients, as EINIT does.

    Raises:
        Unverified: one is wrong.
    """
    s, modulus = sigstruct.signature, sigstruct.modulus
    try:
        rsa.RSAPublicNumbers(EXPONENT, modulus).public_key().verify(
            s.to_bytes(MODULUS_SIZE, "big"),
            sigstruct.author_bytes() + sigstruct.body.to_bytes(),
            padding.PKCS1v15(),
            hashes.SHA256(),
        )
    except (ValueError, InvalidSignature) as error:  # a ValueError: no RSA modulus
        raise Unverified("the signature is wrong", field="SIGSTRUCT: SIGNATURE") from error
    if (sigstruct.q1, sigstruct.q2) != _quotients(s, modulus):
        raise Unverified("not those of the signature", field="SIGSTRUCT: Q1 and Q2")


def _quotients(s: int, modulus: int) -> tuple[int, int]:
    q1, rest = divmod(s * s, modulus)
    return q1, s * rest // modulus


def _not_a_key(field: str) -> Malformed:
    return Malformed(
        "not a key for SGX",
        field=field,
        expected="an RSA-3072 private key with exponent 3, PEM, unencrypted",
    )

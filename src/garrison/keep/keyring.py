"""Keys that a workload uses and never sees: they are made in the keep, and stay in its memory.

A key is for one algorithm, and known by a UUID. It signs and verifies what is hashed piece by
piece, so that a message of any length takes no room. Signatures have the form of RFC 7518,
section 3: of an elliptic curve both numbers, each as long as the curve's, one after the other.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from garrison.errors import Malformed, Unverified
from garrison.formats import jwk

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding

    PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

# As strong as SHA-256 and P-256 (NIST SP 800-57 part 1, table 2).
_RSA_BITS = 3072
_HASHES: dict[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}
# Stands before whatever a workload signs with the keep's own key. TLS signs what begins with
# spaces (RFC 8446, section 4.4.3), a certificate request or a certificate is DER and begins with
# 0x30, a JWS is base64: none of them can be made of this, so that a workload cannot use its keep's
# key to get a certificate for another.
IDENTITY_PREFIX = b"garrison: signed by a workload\0"


class Feed(Protocol):
    """Takes a message piece by piece, and then answers."""

    def add(self, data: memoryview) -> None:
        """Take a piece.

        Raises:
            Malformed: that is too much.
        """

    def answer(self) -> bytes:
        """The answer to all pieces together.

        Raises:
            GarrisonError: there is none.
        """


class Key:
    """A key for one algorithm: a pair, or only the public half of somebody else's.

    Args:
        algorithm: one of `jwk.ALGORITHMS`.
        public: the public half.
        private: the private one; None where it is somebody else's.
        prefix: stands before each message.
    """

    def __init__(
        self,
        algorithm: str,
        public: jwk.PublicKey,
        private: PrivateKey | None = None,
        prefix: bytes = b"",
    ) -> None:
        self.algorithm = algorithm
        self._public = public
        self._private = private
        self._prefix = prefix

    @classmethod
    def generate(cls, algorithm: str) -> Key:
        """Make a new pair.

        Raises:
            Malformed: there is no such algorithm.
        """
        private: PrivateKey
        if algorithm in jwk.CURVES:
            private = ec.generate_private_key(jwk.CURVES[algorithm][1]())
        elif algorithm in jwk.RSA:
            private = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
        else:
            raise Malformed(
                "unknown algorithm",
                field="/key/generate",
                found=repr(algorithm[:40]),
                expected=", ".join(jwk.ALGORITHMS),
            )
        return cls(algorithm, private.public_key(), private)

    def can_sign(self) -> bool:
        """Whether it has its private half."""
        return self._private is not None

    def share(self) -> bytes:
        """The public half, as a JSON Web Key."""
        return jwk.encode(self.algorithm, self._public)

    def signing(self) -> Feed:
        """Begin to sign a message."""
        if self._private is None:
            raise RuntimeError("somebody else's key cannot sign")
        return _Signing(self._private, self._hash(), self._padding(), self._prefix)

    def verifying(self) -> Feed:
        """Begin to verify: the signature first, then the message."""
        size = self._public.key_size
        size = (size + 7) // 8 * (1 if isinstance(self._public, rsa.RSAPublicKey) else 2)
        return _Verifying(self._public, self._hash(), self._padding(), self._prefix, size)

    def _hash(self) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512:
        return _HASHES[self.algorithm[2:5]]()

    def _padding(self) -> AsymmetricPadding:
        if self.algorithm.startswith("PS"):
            # RFC 7518, section 3.5: the salt is as long as the hash.
            algorithm = self._hash()
            return padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
        return padding.PKCS1v15()


class _Signing:
    def __init__(
        self,
        key: PrivateKey,
        algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512,
        padded: AsymmetricPadding,
        prefix: bytes,
    ) -> None:
        self._key = key
        self._padded = padded
        self._algorithm = utils.Prehashed(algorithm)
        self._hash = hashes.Hash(algorithm)
        self._hash.update(prefix)

    def add(self, data: memoryview) -> None:
        self._hash.update(data)

    def answer(self) -> bytes:
        digest = self._hash.finalize()
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(digest, self._padded, self._algorithm)
        size = (self._key.key_size + 7) // 8
        signature = self._key.sign(digest, ec.ECDSA(self._algorithm))
        return b"".join(
            number.to_bytes(size, "big") for number in utils.decode_dss_signature(signature)
        )


class _Verifying:
    def __init__(
        self,
        key: jwk.PublicKey,
        algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512,
        padded: AsymmetricPadding,
        prefix: bytes,
        size: int,
    ) -> None:
        self._key = key
        self._padded = padded
        self._algorithm = utils.Prehashed(algorithm)
        self._hash = hashes.Hash(algorithm)
        self._hash.update(prefix)
        self._signature = bytearray()
        self._size = size

    def add(self, data: memoryview) -> None:
        count = self._size - len(self._signature)
        self._signature += data[:count]
        self._hash.update(data[count:])

    def answer(self) -> bytes:
        digest, signature = self._hash.finalize(), bytes(self._signature)
        try:
            if isinstance(self._key, rsa.RSAPublicKey):
                self._key.verify(signature, digest, self._padded, self._algorithm)
            else:
                half = self._size // 2
                numbers = (signature[:half], signature[half:])
                encoded = utils.encode_dss_signature(
                    *(int.from_bytes(number, "big") for number in numbers)
                )
                self._key.verify(encoded, digest, ec.ECDSA(self._algorithm))
        except InvalidSignature:
            raise Unverified("the signature is not of this key and message", field="key") from None
        return b"verified\n"


class Keyring:
    """The keys of one workload."""

    def __init__(self) -> None:
        self._keys: dict[str, Key] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def names(self) -> list[str]:
        """The UUIDs of all keys."""
        return list(self._keys)

    def get(self, name: str) -> Key | None:
        """The key of that UUID, if there is one."""
        return self._keys.get(name)

    def generate(self, algorithm: str) -> str:
        """Make a pair, and give its UUID.

        Raises:
            Malformed: there is no such algorithm.
        """
        return self._add(Key.generate(algorithm))

    def trust(self, public: bytes) -> str:
        """Take somebody's public key, a JSON Web Key, and give its UUID.

        Raises:
            Malformed: it is none.
        """
        return self._add(Key(*jwk.decode(public)))

    def _add(self, key: Key) -> str:
        name = str(uuid.uuid4())
        self._keys[name] = key
        return name

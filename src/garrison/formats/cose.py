"""COSE_Sign1 (RFC 9052, section 4.2): a payload, signed once, as Nitro and CCA evidence is.

    COSE_Sign1 = #6.18([ protected bstr, unprotected map, payload bstr, signature bstr ])

The tag is optional. The protected bytes and the payload are kept exactly as they came, since the
signature is over them. The protected header names the algorithm. Either header may have a key
identifier, the protected one a content type and the unprotected one a certificate chain: hints
that are not looked at. Any other parameter, `crit` among them, is refused.

Whether the signature is right is for `garrison.verification.cose`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from garrison.errors import Malformed
from garrison.formats import _cbor

_TAG_SIGN1 = 18
# RFC 9052, section 3.1: the header parameters that may be there.
_ALGORITHM, _CONTENT_TYPE, _KEY_ID = 1, 3, 4
# RFC 9360, section 2: x5chain.
_CERTIFICATES = 33
# Room for the algorithm and a key identifier that is a hash.
_MAX_PROTECTED = 256


class Algorithm(IntEnum):
    """ECDSA by curve and hash (RFC 9053, section 2.1); the values of COSE."""

    ES256 = -7
    ES384 = -35
    ES512 = -36

    @property
    def signature_size(self) -> int:
        """The bytes of r and s together."""
        return {Algorithm.ES256: 64, Algorithm.ES384: 96, Algorithm.ES512: 132}[self]


@dataclass(frozen=True, slots=True)
class CoseSign1:
    """A signed message.

    Attributes:
        tagged: whether it has its tag.
        protected: the protected header, encoded.
        unprotected: the unprotected header, encoded.
        algorithm: what the protected header says that signed it.
        payload: what is signed.
        signature: r and s, big-endian, of equal size.
    """

    tagged: bool
    protected: bytes
    unprotected: bytes
    algorithm: Algorithm
    payload: bytes
    signature: bytes

    @classmethod
    def from_bytes(cls, data: bytes, what: str, limit: int) -> CoseSign1:
        """Read a message of at most `limit` bytes, which errors call `what`.

        Raises:
            Malformed: it is anything else than the module says.
        """
        value = _cbor.decode(data, what, limit)
        tagged = isinstance(value, _cbor.Tagged) and value.tag == _TAG_SIGN1
        parts = value.value if tagged else value
        if type(parts) is not list or [type(part) for part in parts] != [bytes, dict, bytes, bytes]:
            raise Malformed(
                "not COSE_Sign1",
                field=what,
                found=_cbor.name(value),
                expected="[protected, unprotected, payload, signature], with tag 18 or without",
            )
        protected, unprotected, payload, signature = parts
        hints = _cbor.Fields(unprotected, f"{what}: unprotected header")
        hints.ignore(_KEY_ID, _CERTIFICATES)
        hints.done()
        algorithm = _algorithm(protected, what)
        if len(signature) != algorithm.signature_size:
            raise Malformed(
                "wrong size",
                field=f"{what}: signature",
                found=f"{len(signature)} bytes",
                expected=f"{algorithm.signature_size} for {algorithm.name}",
            )
        return cls(tagged, protected, _cbor.encode(unprotected), algorithm, payload, signature)

    def to_bytes(self) -> bytes:
        """Write the message."""
        unprotected = _cbor.decode(self.unprotected, "unprotected header", len(self.unprotected))
        parts = [self.protected, unprotected, self.payload, self.signature]
        return _cbor.encode(_cbor.Tagged(_TAG_SIGN1, parts) if self.tagged else parts)

    def signed_bytes(self) -> bytes:
        """What the signature is over (RFC 9052, section 4.4), with no external data."""
        return _cbor.encode(["Signature1", self.protected, b"", self.payload])


def protected_header(algorithm: Algorithm) -> bytes:
    """The protected header that names `algorithm` and nothing else."""
    return _cbor.encode({_ALGORITHM: int(algorithm)})


def _algorithm(protected: bytes, what: str) -> Algorithm:
    field = f"{what}: protected header"
    header = _cbor.Fields(_cbor.decode(protected, field, _MAX_PROTECTED), field)
    number = header.take(_ALGORITHM, int, "algorithm")
    header.ignore(_CONTENT_TYPE, _KEY_ID)
    header.done()
    try:
        return Algorithm(number)
    except ValueError as error:
        raise Malformed(
            "unknown algorithm",
            field=field,
            found=number,
            expected=", ".join(f"{item.name} ({item})" for item in Algorithm),
        ) from error

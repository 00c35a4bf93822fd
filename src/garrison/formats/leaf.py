"""A leaf certificate in DER: X.509 version 3 (RFC 5280, section 4.1), signed with ECDSA.

It says only what its caller gives it: it is what `cryptography`'s builder would write, byte for
byte, at a fraction of the price. The builder writes the key anew for each certificate, and for the
key identifier once more, and of a P-384 key each costs an inversion; here it stands as it came.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import SignatureAlgorithmOID

from garrison.formats._der import SEQUENCE, decode, value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric import ec

# X.680, section 8.4, and X.690, section 8.1.2: the tags that stand here.
_BOOLEAN, _INTEGER, _BIT_STRING, _OCTET_STRING = 0x01, 0x02, 0x03, 0x04
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_VERSION, _EXTENSIONS = 0xA0, 0xA3
# RFC 5280, section 4.1.2.5: from this year on, times have four digits of the year.
_FOUR_DIGITS = 2050


@asn1.sequence
class _Spki:
    algorithm: asn1.TLV
    key: asn1.BitString


# RFC 5758, section 3.2: ECDSA's identifiers have no parameters.
_ALGORITHMS: dict[type[hashes.HashAlgorithm], bytes] = {
    algorithm: value_of(SEQUENCE, asn1.encode_der(oid))
    for algorithm, oid in (
        (hashes.SHA256, SignatureAlgorithmOID.ECDSA_WITH_SHA256),
        (hashes.SHA384, SignatureAlgorithmOID.ECDSA_WITH_SHA384),
    )
}
_V3 = value_of(_VERSION, asn1.encode_der(2))
_CRITICAL = value_of(_BOOLEAN, b"\xff")


def extension(oid: x509.ObjectIdentifier, value: bytes, *, critical: bool = False) -> bytes:
    """An extension, DER, of which `value` is the value, DER too."""
    return value_of(
        SEQUENCE,
        _encoded(oid),
        _CRITICAL if critical else b"",
        value_of(_OCTET_STRING, value),
    )


@lru_cache(32)
def _encoded(oid: x509.ObjectIdentifier) -> bytes:
    return asn1.encode_der(oid)


def extension_of(value: x509.ExtensionType, *, critical: bool = False) -> bytes:
    """One of the library's, DER."""
    return extension(value.oid, value.public_bytes(), critical=critical)


def key_identifier(spki: bytes) -> bytes:
    """The extension with a key's identifier (RFC 5280, section 4.2.1.2, method 1), DER.

    Raises:
        Malformed: `spki` is no key.
    """
    key = decode(_Spki, spki, "public key").key
    # It names the key, and no more: nothing rests on it.
    digest = hashlib.sha1(key.as_bytes(), usedforsecurity=False).digest()
    return extension_of(x509.SubjectKeyIdentifier(digest))


def spki_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """The SubjectPublicKeyInfo of `key`, DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class Leaf:
    """All that a leaf certificate says.

    Attributes:
        serial: its serial number, positive.
        issuer: the name of its issuer, DER.
        start: from when it is good, UTC; fractions of a second are cut off.
        end: until when, UTC.
        subject: whose it is.
        spki: the key, SubjectPublicKeyInfo, DER.
        extensions: DER each, in this order.
    """

    serial: int
    issuer: bytes
    start: datetime
    end: datetime
    subject: x509.Name
    spki: bytes
    extensions: Sequence[bytes]

    def signed(self, sign: Callable[[bytes], bytes], algorithm: hashes.HashAlgorithm) -> bytes:
        """The certificate, DER.

        Args:
            sign: signs with ECDSA and `algorithm`; gives DER.
            algorithm: SHA-256 or SHA-384.
        """
        name = _ALGORITHMS[type(algorithm)]
        tbs = value_of(
            SEQUENCE,
            _V3,
            value_of(_INTEGER, self.serial.to_bytes(self.serial.bit_length() // 8 + 1)),
            name,
            self.issuer,
            value_of(SEQUENCE, _time(self.start), _time(self.end)),
            self.subject.public_bytes(),
            self.spki,
            value_of(_EXTENSIONS, value_of(SEQUENCE, *self.extensions)),
        )
        # No bit of the last byte is unused.
        return value_of(SEQUENCE, tbs, name, value_of(_BIT_STRING, b"\0", sign(tbs)))


def _time(moment: datetime) -> bytes:
    if moment.year >= _FOUR_DIGITS:
        return value_of(_GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode())
    return value_of(_UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode())

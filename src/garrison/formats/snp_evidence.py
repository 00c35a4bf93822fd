"""SNP evidence as it travels, and the endorsements that verify it.

Garrison's own form (`garrison.formats.evidence.SNP_MEDIA_TYPE`) is a CBOR map in its one
deterministic encoding (RFC 8949, section 4.2.1):

    { "report": bstr, "certificates": [ * bstr ] }     ; DER, the signing key's first

The original Enarx keeps send DER:

    SEQUENCE { SEQUENCE { vcek Certificate,
                          crl SEQUENCE { SEQUENCE OF SEQUENCE { url UTF8String,
                                                                crl CertificateList } } },
               report OCTET STRING }

Nothing here is believed: certificates and lists that came with evidence are hints, of which
verification holds each to the vendor's root. What they hold is read there, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat import asn1

from garrison.errors import Malformed
from garrison.formats._der import check_size, decode
from garrison.formats.snp import REPORT_SIZE
from garrison.formats.snp_certificate import MAX_CERTIFICATE

# The chain has three; a host may add the other intermediate.
MAX_CERTIFICATES = 4
MAX_EVIDENCE = REPORT_SIZE + MAX_CERTIFICATES * MAX_CERTIFICATE + 64
# The original sends one list for each product.
MAX_CRLS = 8
# What fits into a certificate request, which bounds it on its way here.
MAX_ENARX_EVIDENCE = 128 * 1024

# RFC 8949, section 3.1: major types, shifted to where they stand in the initial byte.
_BYTES = 2 << 5
_TEXT = 3 << 5
_ARRAY = 4 << 5
_MAP = 5 << 5


@asn1.sequence
class _CrlEntry:
    url: str
    crl: asn1.TLV


@asn1.sequence
class _Crls:
    items: list[_CrlEntry]


@asn1.sequence
class _Endorsements:
    vcek: asn1.TLV
    crls: _Crls


@asn1.sequence
class _EnarxEvidence:
    endorsements: _Endorsements
    report: bytes


@dataclass(frozen=True, slots=True)
class SnpEndorsements:
    """The certificates, DER, that vouch for a report's signature.

    Attributes:
        leaf: the certificate of the key that signs reports: VCEK or VLEK.
        issuer: its issuer's: ASK or ASVK.
        root: the issuer's issuer's: ARK.
        crl: the root's revocation list; None if there is none.
    """

    leaf: bytes
    issuer: bytes
    root: bytes
    crl: bytes | None


@dataclass(frozen=True, slots=True)
class SnpEvidence:
    """A report, and the certificates (DER, leaf first) that its host had for it."""

    report: bytes
    certificates: tuple[bytes, ...]

    @classmethod
    def from_bytes(cls, data: bytes) -> SnpEvidence:
        """Read Garrison's own form.

        Raises:
            Malformed: `data` is not exactly one map as above, in its deterministic encoding.
        """
        check_size(data, MAX_EVIDENCE, "SNP evidence")
        rest = _expect(data, _key("report", head=_MAP | 2))
        report, rest = _byte_string(rest, "report")
        rest = _expect(rest, _key("certificates"))
        count = rest[0] - _ARRAY if rest else -1
        if not 0 <= count <= MAX_CERTIFICATES:
            raise _malformed(rest[:1].hex(), f"an array of at most {MAX_CERTIFICATES}")
        rest = rest[1:]
        certificates = []
        for _ in range(count):
            certificate, rest = _byte_string(rest, "certificate")
            certificates.append(certificate)
        if rest:
            raise _malformed(f"{len(rest)} bytes after the end", "none")
        return cls(report, tuple(certificates))

    @classmethod
    def from_enarx(cls, der: bytes) -> tuple[SnpEvidence, tuple[bytes, ...]]:
        """Read the form of the original: the evidence, and the revocation lists beside it.

        Raises:
            Malformed: `der` is anything else.
        """
        check_size(der, MAX_ENARX_EVIDENCE, "SNP evidence")
        evidence = decode(_EnarxEvidence, der, "SNP evidence")
        crls = evidence.endorsements.crls.items
        if len(crls) > MAX_CRLS:
            raise _malformed(f"{len(crls)} revocation lists", f"at most {MAX_CRLS}")
        leaf = asn1.encode_der(evidence.endorsements.vcek)
        return cls(evidence.report, (leaf,)), tuple(asn1.encode_der(item.crl) for item in crls)

    def to_bytes(self) -> bytes:
        """Write Garrison's own form.

        Raises:
            Malformed: there are more certificates than a reader takes.
        """
        count = len(self.certificates)
        if count > MAX_CERTIFICATES:
            raise _malformed(f"{count} certificates", f"at most {MAX_CERTIFICATES}")
        return b"".join(
            (
                _key("report", head=_MAP | 2),
                _head(_BYTES, len(self.report)),
                self.report,
                _key("certificates"),
                _head(_ARRAY, count),
                *(_head(_BYTES, len(item)) + item for item in self.certificates),
            )
        )


def _head(major: int, length: int) -> bytes:
    """The shortest head; all lengths here are below `MAX_EVIDENCE`, which 2 bytes hold."""
    if length < 24:
        return bytes((major | length,))
    if length < 0x100:
        return bytes((major | 24, length))
    return bytes((major | 25,)) + length.to_bytes(2, "big")


def _key(name: str, head: int | None = None) -> bytes:
    start = b"" if head is None else bytes((head,))
    return start + _head(_TEXT, len(name)) + name.encode("ascii")


def _expect(data: bytes, prefix: bytes) -> bytes:
    if not data.startswith(prefix):
        raise _malformed(data[: len(prefix)].hex() or "nothing", prefix.hex())
    return data[len(prefix) :]


def _byte_string(data: bytes, what: str) -> tuple[bytes, bytes]:
    """Take one byte string from the front of `data`: its content, and the rest."""
    width = {24: 1, 25: 2}.get(data[0] - _BYTES, 0) if data else 0
    length = int.from_bytes(data[1 : 1 + width], "big") if width else (data or b"\0")[0] - _BYTES
    start = 1 + width
    if not 0 <= length < 0x10000 or data[:start] != _head(_BYTES, length):
        raise _malformed(data[:3].hex() or "nothing", f"a byte string with the {what}")
    content = data[start : start + length]
    if len(content) != length:
        raise _malformed(f"{len(content)} bytes of {what}", str(length))
    return content, data[start + length :]


def _malformed(found: str, expected: str) -> Malformed:
    return Malformed("not SNP evidence", field="SNP evidence", found=found, expected=expected)

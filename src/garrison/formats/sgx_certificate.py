"""The certificate of a platform's provisioning certification key (PCK), and chains in PEM.

Intel, "SGX PCK Certificate and Certificate Revocation List Profile Specification", revision
1.4, table 2: the extension 1.2.840.113741.1.13.1 tells the platform and its TCB.

It reads, strictly, and does not judge: no signature is checked here.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec

from garrison.errors import Malformed
from garrison.formats._der import check_size, decode, inside
from garrison.formats.snp_certificate import MAX_CERTIFICATE, common_name, load_certificate

COMPONENTS = 16
# Leaf, intermediate and root, in base64.
MAX_CHAIN = 3 * 2 * MAX_CERTIFICATE
_MAX_CERTIFICATES = 3
# Chains and certificates are the same for every quote of a platform: each is read once.
_REMEMBERED = 256

_OID = "1.2.840.113741.1.13.1"
_OID_PPID = f"{_OID}.1"
_OID_TCB = f"{_OID}.2"
_OID_PCE_ID = f"{_OID}.3"
_OID_FMSPC = f"{_OID}.4"
_OID_SGX_TYPE = f"{_OID}.5"
_OID_PCE_SVN = f"{_OID_TCB}.17"
_OID_CPU_SVN = f"{_OID_TCB}.18"

# RFC 7468, its strict form: no other white space than line breaks.
_BREAK = rb"(?:\r?\n)"
_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----%b((?:[A-Za-z0-9+/=]+%b)+)-----END CERTIFICATE-----%b*"
    % (_BREAK, _BREAK, _BREAK)
)


@asn1.sequence
class _Entry:
    oid: x509.ObjectIdentifier
    value: asn1.TLV


@asn1.sequence
class _Entries:
    items: list[_Entry]


@lru_cache(_REMEMBERED)
def load_chain(pem: bytes, field: str) -> tuple[x509.Certificate, ...]:
    """Read one to three certificates in PEM, in any order, with the NULs that quotes end with.

    Raises:
        Malformed: it is anything else.
    """
    check_size(pem, MAX_CHAIN, field)
    rest = pem.rstrip(b"\0")
    certificates: list[x509.Certificate] = []
    while rest:
        match = _PEM.match(rest)
        if match is None or len(certificates) == _MAX_CERTIFICATES:
            raise Malformed(
                "not PEM of certificates", field=field, expected=f"1 to {_MAX_CERTIFICATES}"
            )
        text = b"".join(match[1].split())
        try:
            der = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise Malformed("not base64", field=field) from error
        if base64.b64encode(der) != text:
            raise Malformed("not the one base64 of its bytes", field=field)
        certificates.append(load_certificate(der, field))
        rest = rest[match.end() :]
    if not certificates:
        raise Malformed("no certificate", field=field, expected=f"1 to {_MAX_CERTIFICATES}")
    return tuple(certificates)


@dataclass(frozen=True, slots=True)
class PckCertificate:
    """A PCK's certificate, and what its extension says.

    Attributes:
        certificate: the certificate.
        key: its key, P-256.
        issuer_name: the common name of its issuer.
        fmspc: family, model, stepping, platform type and custom SKU: 6 bytes.
        pce_id: which provisioning enclave: 2 bytes.
        ppid: the platform's provisioning identifier.
        components: the security versions of the 16 components of its TCB.
        pce_svn: the provisioning enclave's security version.
        cpu_svn: the CPU's, opaque.
        sgx_type: 0 standard, 1 scalable, 2 scalable with integrity.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePublicKey
    issuer_name: str
    fmspc: bytes
    pce_id: bytes
    ppid: bytes
    components: tuple[int, ...]
    pce_svn: int
    cpu_svn: bytes
    sgx_type: int

    @classmethod
    @lru_cache(_REMEMBERED)
    def from_certificate(cls, certificate: x509.Certificate) -> PckCertificate:
        """Read the extension of `certificate`.

        Raises:
            Malformed: it has none, or not the right one.
        """
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise Malformed("wrong kind of key", field="PCK certificate key", expected="P-256")
        extension = next(
            (
                each.value.value
                for each in certificate.extensions
                if each.oid.dotted_string == _OID
                and isinstance(each.value, x509.UnrecognizedExtension)
            ),
            None,
        )
        if extension is None:
            raise Malformed("missing extension", field="PCK certificate", expected=_OID)
        values = _entries(extension, "PCK certificate: SGX extensions")
        tcb = _entries(_value(values, _OID_TCB), "PCK certificate: TCB")
        return cls(
            certificate=certificate,
            key=key,
            issuer_name=common_name(certificate.issuer, "PCK certificate issuer"),
            fmspc=_octets(values, _OID_FMSPC, 6),
            pce_id=_octets(values, _OID_PCE_ID, 2),
            ppid=_octets(values, _OID_PPID, 16),
            components=tuple(
                _number(tcb, f"{_OID_TCB}.{index}", 0xFF) for index in range(1, COMPONENTS + 1)
            ),
            pce_svn=_number(tcb, _OID_PCE_SVN, 0xFFFF),
            cpu_svn=_octets(tcb, _OID_CPU_SVN, 16),
            sgx_type=_sgx_type(_value(values, _OID_SGX_TYPE)),
        )


def _entries(der: bytes, field: str) -> dict[str, bytes]:
    """A SEQUENCE OF SEQUENCE { OBJECT IDENTIFIER, ANY }, by identifier."""
    found: dict[str, bytes] = {}
    for entry in decode(_Entries, inside(der), field).items:
        oid = entry.oid.dotted_string
        if oid in found:
            raise Malformed("there twice", field=field, found=oid)
        found[oid] = asn1.encode_der(entry.value)
    return found


def _value(values: dict[str, bytes], oid: str) -> bytes:
    if oid not in values:
        raise Malformed("missing entry", field="PCK certificate: SGX extensions", expected=oid)
    return values[oid]


def _octets(values: dict[str, bytes], oid: str, size: int) -> bytes:
    data = decode(bytes, _value(values, oid), f"PCK certificate: {oid}")
    if len(data) != size:
        raise Malformed(
            "wrong length",
            field=f"PCK certificate: {oid}",
            found=f"{len(data)} bytes",
            expected=f"{size} bytes",
        )
    return data


def _number(values: dict[str, bytes], oid: str, limit: int) -> int:
    number = decode(int, _value(values, oid), f"PCK certificate: {oid}")
    if not 0 <= number <= limit:
        raise Malformed(
            "out of range",
            field=f"PCK certificate: {oid}",
            found=number,
            expected=f"0 to {limit}",
        )
    return number


def _sgx_type(der: bytes) -> int:
    # ENUMERATED of one byte, which the library has no type for.
    if len(der) != 3 or der[:2] != b"\x0a\x01" or der[2] > 2:
        raise Malformed("unknown SGX type", field="PCK certificate: SGX type", found=der.hex()[:16])
    return der[2]

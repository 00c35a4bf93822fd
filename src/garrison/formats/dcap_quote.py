"""Intel's ECDSA quotes, of SGX enclaves and TDX guests: bytes to values and back.

Intel SGX ECDSA Quote Library Reference, DCAP API, appendix A.4 (version 3: SGX). Intel TDX DCAP
Quoting Library API, revision 0.9, appendix A.3 (versions 4 and 5: SGX or TDX).

    header          48 bytes
    body descriptor u16 type, u32 size         version 5 only
    body            384 SGX, 584 TDX 1.0, 648 TDX 1.5 (version 5 only)
    u32 size, signature data                   ends exactly there
    what follows                               padding of the quote's buffer, not evidence

It refuses every other version, key type, vendor and body. What follows the signature data is
kept for the same bytes to come out, and means nothing: drivers return the whole buffer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

from garrison.errors import Malformed
from garrison.formats._cursor import Cursor
from garrison.formats._der import check_size
from garrison.formats.sgx_report import SGX_REPORT_SIZE, SgxReport
from garrison.formats.tdx_report import TD10_REPORT_SIZE, TD15_REPORT_SIZE, TdReport

# Genuine quotes have 4 to 9 KB; the kernel's interface returns at most 16 KB of them.
MAX_QUOTE = 32 * 1024
VERSIONS = (3, 4, 5)
# A.4, table "Attestation key type": 2 is ECDSA-256-with-P-256. 3 was never supported.
_ECDSA_P256 = 2
# A.4, "QE Vendor ID" of Intel's quoting enclave.
INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
# Of as many platforms' quoting enclaves.
_REMEMBERED = 256
_SIGNATURE_SIZE = 64
_KEY_SIZE = 64


class TeeType(IntEnum):
    """What a quote is about."""

    SGX = 0
    TDX = 0x81


class BodyType(IntEnum):
    """A.3.1, "Quote Body Descriptor" of version 5."""

    SGX = 1
    TD10 = 2
    TD15 = 3


_BODY_SIZES = {
    BodyType.SGX: SGX_REPORT_SIZE,
    BodyType.TD10: TD10_REPORT_SIZE,
    BodyType.TD15: TD15_REPORT_SIZE,
}


class CertificationKind(IntEnum):
    """A.4, table "QE Certification Data": how the quote says which key certifies its QE."""

    PPID_PLAIN = 1
    PPID_RSA2048 = 2
    PPID_RSA3072 = 3
    PCK_LEAF = 4
    PCK_CHAIN = 5
    QE_REPORT = 6


_TEE_TYPES = frozenset(TeeType)
# What certifies the quoting enclave's report; that is no certification data of itself.
_CERTIFIED_BY = frozenset(CertificationKind) - {CertificationKind.QE_REPORT}


@dataclass(frozen=True, slots=True)
class Header:
    """The first 48 bytes.

    Attributes:
        version: 3, 4 or 5.
        tee: what the quote is about.
        qe_svn: the quoting enclave's security version; 0 for TDX.
        pce_svn: the provisioning enclave's; 0 for TDX.
        user_data: what the platform's software keeps there, 20 bytes.
    """

    version: int
    tee: TeeType
    qe_svn: int
    pce_svn: int
    user_data: bytes

    @classmethod
    def from_cursor(cls, cursor: Cursor) -> Header:
        """Read a header.

        Raises:
            Malformed: it is not one of a quote of these versions.
        """
        version = cursor.integer(2, "version")
        if version not in VERSIONS:
            raise Malformed(
                "unknown version",
                field="quote: version",
                found=version,
                expected=" | ".join(map(str, VERSIONS)),
            )
        key_type = cursor.integer(2, "attestation key type")
        if key_type != _ECDSA_P256:
            raise Malformed(
                "unknown attestation key type",
                field="quote: attestation key type",
                found=key_type,
                expected=f"{_ECDSA_P256}, ECDSA P-256",
            )
        number = cursor.integer(4, "TEE type")
        if number not in _TEE_TYPES or (version == 3 and number != TeeType.SGX):
            raise Malformed(
                "unknown TEE type",
                field="quote: TEE type",
                found=f"{number:#x}",
                expected="0x0" if version == 3 else "0x0 | 0x81",
            )
        qe_svn, pce_svn = cursor.integer(2, "QE SVN"), cursor.integer(2, "PCE SVN")
        vendor = cursor.take(16, "QE vendor")
        if vendor != INTEL_QE_VENDOR:
            raise Malformed(
                "unknown vendor",
                field="quote: QE vendor",
                found=vendor.hex(),
                expected=INTEL_QE_VENDOR.hex(),
            )
        return cls(version, TeeType(number), qe_svn, pce_svn, cursor.take(20, "user data"))

    def to_bytes(self) -> bytes:
        """Write the 48 bytes."""
        return b"".join(
            (
                self.version.to_bytes(2, "little"),
                _ECDSA_P256.to_bytes(2, "little"),
                self.tee.to_bytes(4, "little"),
                self.qe_svn.to_bytes(2, "little"),
                self.pce_svn.to_bytes(2, "little"),
                INTEL_QE_VENDOR,
                self.user_data,
            )
        )


@lru_cache(_REMEMBERED)
def read_qe_report(data: bytes) -> SgxReport:
    """Read the report of a quoting enclave, which is the same until the platform starts again.

    Raises:
        Malformed: it is anything else.
    """
    return SgxReport.from_bytes(data)


@dataclass(frozen=True, slots=True)
class SignatureData:
    """The signature of a quote, and what certifies the key that made it.

    Attributes:
        signature: r and s, 32 bytes each, big-endian, by the attestation key.
        attestation_key: its public key: x and y, 32 bytes each, big-endian.
        qe_report: the report body of the quoting enclave, which binds that key; as it was signed.
        qe_signature: the PCK's signature of it.
        qe_auth_data: what that binding includes besides the key.
        kind: what `certification` is.
        certification: which key the PCK is.
    """

    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_signature: bytes
    qe_auth_data: bytes
    kind: CertificationKind
    certification: bytes

    @classmethod
    def from_bytes(cls, data: bytes, version: int) -> SignatureData:
        """Read the signature data of a quote of `version`.

        Raises:
            Malformed: it is anything else.
        """
        cursor = Cursor(data, "quote signature data")
        signature = cursor.take(_SIGNATURE_SIZE, "signature")
        key = cursor.take(_KEY_SIZE, "attestation key")
        if version > 3:
            # Since version 4 the quoting enclave's part is certification data of its own.
            kind = cursor.integer(2, "certification data type")
            if kind != CertificationKind.QE_REPORT:
                raise Malformed(
                    "unknown type",
                    field="quote: certification data type",
                    found=kind,
                    expected=int(CertificationKind.QE_REPORT),
                )
            inner = cursor.take(cursor.integer(4, "certification data size"), "certification data")
            cursor.end()
            cursor = Cursor(inner, "quote certification data")
        report = cursor.take(SGX_REPORT_SIZE, "QE report")
        read_qe_report(report)
        qe_signature = cursor.take(_SIGNATURE_SIZE, "QE report signature")
        auth = cursor.take(cursor.integer(2, "QE authentication data size"), "QE auth. data")
        number = cursor.integer(2, "QE certification data type")
        if number not in _CERTIFIED_BY:
            raise Malformed(
                "unknown type",
                field="quote: QE certification data type",
                found=number,
                expected="1 to 5",
            )
        certification = cursor.take(
            cursor.integer(4, "QE certification data size"), "QE certification data"
        )
        cursor.end()
        kind = CertificationKind(number)
        return cls(signature, key, report, qe_signature, auth, kind, certification)

    def to_bytes(self, version: int) -> bytes:
        """Write it as it stands in a quote of `version`."""
        inner = b"".join(
            (
                self.qe_report,
                self.qe_signature,
                len(self.qe_auth_data).to_bytes(2, "little"),
                self.qe_auth_data,
                self.kind.to_bytes(2, "little"),
                len(self.certification).to_bytes(4, "little"),
                self.certification,
            )
        )
        if version > 3:
            outer = CertificationKind.QE_REPORT.to_bytes(2, "little")
            inner = outer + len(inner).to_bytes(4, "little") + inner
        return self.signature + self.attestation_key + inner


@dataclass(frozen=True, slots=True)
class Quote:
    """A quote.

    Attributes:
        header: its header.
        body: what it says of the enclave or guest.
        signature: its signature data.
        trailing: what follows it in its buffer; not signed, and it means nothing.
    """

    header: Header
    body: SgxReport | TdReport
    signature: SignatureData
    trailing: bytes = b""
    # As it came; a quote that was made, or changed, has none.
    _as_it_came: bytes | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def signed(self) -> bytes:
        """What the signature covers: all before its size."""
        return self._encoded() if self._as_it_came is None else self._as_it_came

    def _encoded(self) -> bytes:
        body = self.body.to_bytes()
        descriptor = b""
        if self.header.version == 5:
            number = next(kind for kind, size in _BODY_SIZES.items() if size == len(body))
            descriptor = number.to_bytes(2, "little") + len(body).to_bytes(4, "little")
        return self.header.to_bytes() + descriptor + body

    @classmethod
    def from_bytes(cls, data: bytes) -> Quote:
        """Read a quote.

        Raises:
            Malformed: it is anything else.
        """
        check_size(data, MAX_QUOTE, "quote")
        cursor = Cursor(data, "quote")
        header = Header.from_cursor(cursor)
        kind = BodyType.SGX if header.tee is TeeType.SGX else BodyType.TD10
        if header.version == 5:
            number, size = cursor.integer(2, "body type"), cursor.integer(4, "body size")
            fitting = (kind,) if kind is BodyType.SGX else (BodyType.TD10, BodyType.TD15)
            found = next((each for each in fitting if each == number), None)
            if found is None or size != _BODY_SIZES[found]:
                raise Malformed(
                    "unknown body",
                    field="quote: body",
                    found=f"type {number} of {size} bytes",
                    expected=" | ".join(
                        f"type {each:d} of {_BODY_SIZES[each]} bytes" for each in fitting
                    ),
                )
            kind = found
        raw = cursor.take(_BODY_SIZES[kind], "body")
        covered = data[: cursor.offset]
        body: SgxReport | TdReport = (
            SgxReport.from_bytes(raw) if kind is BodyType.SGX else TdReport.from_bytes(raw)
        )
        signature = cursor.take(cursor.integer(4, "signature data size"), "signature data")
        signed_by = SignatureData.from_bytes(signature, header.version)
        quote = cls(header, body, signed_by, trailing=cursor.rest())
        object.__setattr__(quote, "_as_it_came", covered)
        return quote

    def to_bytes(self) -> bytes:
        """Write the quote."""
        signature = self.signature.to_bytes(self.header.version)
        size = len(signature).to_bytes(4, "little")
        return self._encoded() + size + signature + self.trailing

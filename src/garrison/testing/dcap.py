"""A fake Intel: its chains, lists, collateral and platforms, genuine or with any defect.

All is made in memory and verified by the true verifier.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from garrison.formats.dcap_collateral import DcapCollateral
from garrison.formats.dcap_quote import (
    CertificationKind,
    Header,
    Quote,
    SignatureData,
    TeeType,
)
from garrison.formats.sgx_report import SgxReport
from garrison.formats.tdx_report import TdReport
from garrison.verification.roots import Roots

if TYPE_CHECKING:
    from collections.abc import Sequence

# All chains and collateral here are good at this time.
NOW = datetime(2026, 1, 1, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
FMSPC = bytes.fromhex("00a067110000")
COMPONENTS = (7, 7, 2, 2, 3, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
PCE_SVN = 13
QE_SIGNER = b"\x51" * 32
QE_ATTRIBUTES = bytes.fromhex("1500000000000000e700000000000000")
# Serial numbers, for revocation.
CA_SERIAL, PCK_SERIAL, SIGNER_SERIAL = 2, 3, 4

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_OID = "1.2.840.113741.1.13.1"
_START = datetime(2025, 1, 1, tzinfo=UTC)
_END = datetime(2027, 1, 1, tzinfo=UTC)

Json = dict[str, Any]


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:  # noqa: ARG001 - what the cache goes by
    """The P-256 key called `name`, the same in all of the process."""
    return ec.generate_private_key(ec.SECP256R1())


def raw_signature(signer: str, data: bytes) -> bytes:
    """R and s of the key called `signer`, 32 bytes each."""
    r, s = decode_dss_signature(key(signer).sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _authority(signer: str) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key(signer).public_key())


def _der(tag: int, *parts: bytes) -> bytes:
    """One DER value."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    width = (size.bit_length() + 7) // 8
    return bytes((tag, 0x80 | width)) + size.to_bytes(width, "big") + content


def _entry(suffix: str, value: bytes) -> bytes:
    numbers = [int(part) for part in f"{_OID}{suffix}".split(".")]
    body = bytearray([numbers[0] * 40 + numbers[1]])
    for number in numbers[2:]:
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.insert(0, 0x80 | number & 0x7F)
        body += bytes(digits)
    return _der(0x30, _der(0x06, bytes(body)), value)


def _integer(number: int) -> bytes:
    return _der(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def sgx_extension(components: Sequence[int], pce_svn: int, fmspc: bytes) -> bytes:
    """The SGX extensions of a PCK certificate."""
    svns = [_entry(f".2.{index}", _integer(svn)) for index, svn in enumerate(components, 1)]
    # Intel's certificates have the components as CPUSVN too, each in a byte.
    cpu_svn = bytes(svn & 0xFF for svn in components).ljust(16, b"\0")
    tcb = (*svns, _entry(".2.17", _integer(pce_svn)), _entry(".2.18", _der(0x04, cpu_svn)))
    return _der(
        0x30,
        _entry(".1", _der(0x04, bytes(16))),
        _entry(".2", _der(0x30, *tcb)),
        _entry(".3", _der(0x04, bytes(2))),
        _entry(".4", _der(0x04, fmspc)),
        _entry(".5", _der(0x0A, b"\x01")),
    )


@dataclass(frozen=True, slots=True)
class FakeIntel:
    """A simulated Intel, and one machine.

    Attributes:
        ca: who issues its PCK certificate: `Platform` or `Processor`.
        components: the security versions in that certificate.
        pce_svn: the provisioning enclave's.
        fmspc: the platform.
        root: what the root's key is called.
        end: when the certificates end.
    """

    ca: str = "Platform"
    components: tuple[int, ...] = COMPONENTS
    pce_svn: int = PCE_SVN
    fmspc: bytes = FMSPC
    root: str = "root"
    end: datetime = _END

    def roots(self) -> Roots:
        """The roots of one who trusts this Intel as the simulated root `test`."""
        return Roots.load({"test": self.root_key_sha256})

    @property
    def root_key_sha256(self) -> str:
        """SHA-256 of the root's key, as a policy names it."""
        public = key(self.root).public_key()
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(spki).hexdigest()

    def certificate(self, subject: str, **changes: Any) -> x509.Certificate:
        """The certificate of `subject`: `root`, `ca`, `pck` or `signer`.

        Args:
            subject: whose.
            changes: `common`, `issuer`, `signed_by`, `is_ca`, `end` or `extension` in place of
                what is right.
        """
        root, ca = "Intel SGX Root CA", f"Intel SGX PCK {self.ca} CA"
        common, issuer, signer, serial = {
            "root": (root, root, self.root, 1),
            "ca": (ca, root, self.root, CA_SERIAL),
            "pck": ("Intel SGX PCK Certificate", ca, "ca", PCK_SERIAL),
            "signer": ("Intel SGX TCB Signing", root, self.root, SIGNER_SERIAL),
        }[subject]
        is_ca = changes.get("is_ca", subject in {"root", "ca"})
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(changes.get("common", common)))
            .issuer_name(_name(changes.get("issuer", issuer)))
            .public_key(key(self.root if subject == "root" else subject).public_key())
            .serial_number(serial)
            .not_valid_before(_START)
            .not_valid_after(changes.get("end", self.end))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not is_ca,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=is_ca,
                    crl_sign=is_ca,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
        )
        if subject == "pck":
            value = changes.get(
                "extension", sgx_extension(self.components, self.pce_svn, self.fmspc)
            )
            oid = x509.ObjectIdentifier(_OID)
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        return builder.sign(key(changes.get("signed_by", signer)), hashes.SHA256())

    def pem(self, *subjects: str) -> bytes:
        """The certificates of `subjects` in PEM."""
        return b"".join(self.certificate(name).public_bytes(Encoding.PEM) for name in subjects)

    def crl(self, issuer: str, revoked: Sequence[int] = (), end: datetime | None = None) -> bytes:
        """The revocation list of `issuer`: `root` or `ca`."""
        name = self.certificate(issuer).subject
        signer = self.root if issuer == "root" else issuer
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(name)
            .last_update(NOW - timedelta(days=1))
            .next_update(end or NOW + timedelta(days=29))
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(_authority(signer), critical=False)
        )
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_START)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(key(signer), hashes.SHA256()).public_bytes(Encoding.DER)

    def signed(self, member: str, inner: Json, signer: str = "signer") -> bytes:
        """Collateral as it is served."""
        text = json.dumps(inner, separators=(",", ":")).encode()
        signature = raw_signature(signer, text).hex().encode()
        return b'{"%s":%s,"signature":"%s"}' % (member.encode(), text, signature)

    def collateral(
        self,
        tee: TeeType,
        info: Json | None = None,
        identity: Json | None = None,
        **changes: Any,
    ) -> DcapCollateral:
        """All collateral.

        Args:
            tee: for quotes of which TEE.
            info: members of the TCB info in place of `tcb_info`'s.
            identity: members of the QE identity in place of `qe_identity`'s.
            changes: fields of `DcapCollateral` in place of what is right.
        """
        chain = self.pem("signer", "root")
        right = DcapCollateral(
            root_crl=self.crl("root"),
            pck_crl=self.crl("ca"),
            tcb_info=self.signed("tcbInfo", tcb_info(tee, self.fmspc) | (info or {})),
            tcb_info_chain=chain,
            qe_identity=self.signed("enclaveIdentity", qe_identity(tee) | (identity or {})),
            qe_identity_chain=chain,
        )
        return replace(right, **changes)


def level(status: str, *advisories: str, **tcb: Any) -> Json:
    """A TCB level."""
    return {
        "tcb": tcb,
        "tcbDate": "2025-03-01T00:00:00Z",
        "tcbStatus": status,
        "advisoryIDs": list(advisories),
    }


def platform_level(
    status: str,
    *advisories: str,
    components: Sequence[int] = COMPONENTS,
    pce_svn: int = PCE_SVN,
    tdx: Sequence[int] = (5, 0, 2),
) -> Json:
    """A TCB level of a platform; SGX does not look at `tdx`."""
    padded = [*tdx, *(16 - len(tdx)) * [0]]
    return level(
        status,
        *advisories,
        sgxtcbcomponents=[{"svn": svn} for svn in components],
        pcesvn=pce_svn,
        tdxtcbcomponents=[{"svn": svn} for svn in padded],
    )


def _dates() -> Json:
    return {
        "issueDate": (NOW - timedelta(days=2)).strftime(_TIME),
        "nextUpdate": (NOW + timedelta(days=28)).strftime(_TIME),
        "tcbEvaluationDataNumber": 17,
    }


def module(name: str | None = None, *levels: Json) -> Json:
    """A TDX module's identity: that of `name`, or the one of major version 0."""
    zero = {"mrsigner": 48 * "00", "attributes": 8 * "00", "attributesMask": 8 * "FF"}
    return zero if name is None else zero | {"id": name, "tcbLevels": list(levels)}


def tcb_info(tee: TeeType, fmspc: bytes) -> Json:
    """TCB info by which the fake platform is up to date."""
    info: Json = {"id": tee.name, "version": 3, **_dates()}
    info |= {"fmspc": fmspc.hex().upper(), "pceId": "0000", "tcbType": 0}
    if tee is TeeType.TDX:
        info |= {
            "tdxModule": module(),
            "tdxModuleIdentities": [module("TDX_01", level("UpToDate", isvsvn=4))],
        }
    return info | {"tcbLevels": [platform_level("UpToDate")]}


def qe_identity(tee: TeeType) -> Json:
    """The identity of the fake platform's quoting enclave."""
    return {
        "id": "QE" if tee is TeeType.SGX else "TD_QE",
        "version": 2,
        **_dates(),
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_SIGNER.hex(),
        "isvprodid": 1,
        "tcbLevels": [level("UpToDate", isvsvn=8)],
    }


def sgx_report(**changes: Any) -> SgxReport:
    """The report of an enclave; of the quoting enclave too, with changes."""
    report = SgxReport(
        cpu_svn=bytes(16),
        misc_select=bytes(4),
        isv_ext_prod_id=bytes(16),
        attributes=bytes.fromhex("0500000000000000e700000000000000"),
        mr_enclave=b"\xab" * 32,
        mr_signer=b"\xcd" * 32,
        config_id=bytes(64),
        isv_prod_id=1,
        isv_svn=8,
        config_svn=0,
        isv_family_id=bytes(16),
        report_data=REPORT_DATA,
    )
    return replace(report, **changes)


def td_report(**changes: Any) -> TdReport:
    """The report of a TD of TDX 1.0; of 1.5 with `tee_tcb_svn2` and `mr_service_td`."""
    report = TdReport(
        tee_tcb_svn=bytes((5, 1, 2)).ljust(16, b"\0"),
        mr_seam=b"\x01" * 48,
        mr_signer_seam=bytes(48),
        seam_attributes=bytes(8),
        td_attributes=1 << 28,
        xfam=0x600E7,
        mr_td=b"\xab" * 48,
        mr_config_id=bytes(48),
        mr_owner=bytes(48),
        mr_owner_config=bytes(48),
        rtmrs=tuple(bytes([index]) * 48 for index in range(4)),
        report_data=REPORT_DATA,
    )
    return replace(report, **changes)


@dataclass(frozen=True, slots=True)
class FakeQuoter:
    """The quoting enclave of a fake platform.

    Attributes:
        intel: whose platform.
        qe: what to change in its report: fields of `SgxReport`.
        auth: its authentication data.
    """

    intel: FakeIntel = field(default_factory=FakeIntel)
    qe: Json = field(default_factory=dict)
    auth: bytes = bytes(range(32))

    def quote(
        self, body: SgxReport | TdReport, version: int, pck: bytes | None = None, **changes: Any
    ) -> bytes:
        """A quote of `body`.

        Args:
            body: what it is of.
            version: 3, 4 or 5.
            pck: the PCK chain in place of the right one.
            changes: what to change in `SignatureData`.
        """
        tee = TeeType.SGX if isinstance(body, SgxReport) else TeeType.TDX
        point = (
            key("attestation")
            .public_key()
            .public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        )
        bound = hashlib.sha256(point + self.auth).digest().ljust(64, b"\0")
        arguments = {
            "attributes": QE_ATTRIBUTES,
            "mr_signer": QE_SIGNER,
            "report_data": bound,
        } | self.qe
        report = sgx_report(**arguments).to_bytes()
        chain = self.intel.pem("pck", "ca", "root") + b"\0" if pck is None else pck
        unsigned = SignatureData(
            signature=bytes(64),
            attestation_key=point,
            qe_report=report,
            qe_signature=raw_signature("pck", report),
            qe_auth_data=self.auth,
            kind=CertificationKind.PCK_CHAIN,
            certification=chain,
        )
        quote = Quote(Header(version, tee, 0, 0, bytes(20)), body, unsigned)
        signature = raw_signature("attestation", quote.signed)
        signed = replace(unsigned, **({"signature": signature} | changes))
        return replace(quote, signature=signed).to_bytes()

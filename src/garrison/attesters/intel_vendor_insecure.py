"""A simulated Intel: certificates, lists and collateral of the same form as Intel's.

For the simulator, and for tests. What it signs proves nothing: a steward believes it only where
its policy names this very root as a simulated one. The organisation in every name says so.

The forms: Intel, "SGX PCK Certificate and Certificate Revocation List Profile Specification",
revision 1.4, and "PCS API", version 4, for TCB info (version 3) and QE identity (version 2).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from garrison.attesters.simulator_directory_insecure import key_sha256
from garrison.formats.dcap_collateral import DcapCollateral
from garrison.formats.dcap_quote import TeeType
from garrison.formats.key_usage import key_usage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

FMSPC = bytes.fromhex("00a067110000")
# What a platform with current microcode and firmware has.
COMPONENTS = (7, 7, 2, 2, 3, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
PCE_SVN = 13
TDX_COMPONENTS = (5, 0, 2)
# The simulated quoting enclave: its signer, its version, and INIT, MODE64BIT and PROVISIONKEY.
QE_SIGNER = b"\x51" * 32
QE_SVN = 8
QE_ATTRIBUTES = bytes.fromhex("1500000000000000e700000000000000")
# Serial numbers, for revocation.
CA_SERIAL, PCK_SERIAL, SIGNER_SERIAL = 2, 3, 4

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_OID = "1.2.840.113741.1.13.1"

Json = dict[str, Any]
Keys = Callable[[str], ec.EllipticCurvePrivateKey]


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """R and s, 32 bytes each, as quotes and collateral have them."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


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


def sgx_extension(
    components: Sequence[int], pce_svn: int, fmspc: bytes, ppid: bytes = bytes(16)
) -> bytes:
    """The SGX extensions of a PCK certificate."""
    svns = [_entry(f".2.{index}", _integer(svn)) for index, svn in enumerate(components, 1)]
    # Intel's certificates have the components as CPUSVN too, each in a byte.
    cpu_svn = bytes(svn & 0xFF for svn in components).ljust(16, b"\0")
    tcb = (*svns, _entry(".2.17", _integer(pce_svn)), _entry(".2.18", _der(0x04, cpu_svn)))
    return _der(
        0x30,
        _entry(".1", _der(0x04, ppid)),
        _entry(".2", _der(0x30, *tcb)),
        _entry(".3", _der(0x04, bytes(2))),
        _entry(".4", _der(0x04, fmspc)),
        _entry(".5", _der(0x0A, b"\x01")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InsecureIntel:
    """A simulated Intel, and one machine.

    Attributes:
        keys: the P-256 keys: of the `root` (or what `root` says), `ca`, `pck` and `signer`.
        organisation: what stands in all names besides what Intel calls itself there; None: nothing.
        start: when the certificates begin.
        end: when they end.
        issued: when lists and documents were issued.
        expires: when they end.
        ca: who issues its PCK certificate: `Platform` or `Processor`.
        components: the security versions in that certificate.
        pce_svn: the provisioning enclave's.
        fmspc: the platform.
        ppid: the processor's identifier, 16 bytes.
        root: what the root's key is called.
    """

    keys: Keys
    organisation: str | None
    start: datetime
    end: datetime
    issued: datetime
    expires: datetime
    ca: str = "Platform"
    components: tuple[int, ...] = COMPONENTS
    pce_svn: int = PCE_SVN
    fmspc: bytes = FMSPC
    ppid: bytes = bytes(16)
    root: str = "root"

    @property
    def root_key_sha256(self) -> str:
        """SHA-256 of the root's key, as a policy names it."""
        return key_sha256(self.keys(self.root).public_key())

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
            .subject_name(self._name(changes.get("common", common)))
            .issuer_name(self._name(changes.get("issuer", issuer)))
            .public_key(self.keys(self.root if subject == "root" else subject).public_key())
            .serial_number(serial)
            .not_valid_before(self.start)
            .not_valid_after(changes.get("end", self.end))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(
                key_usage(digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca),
                critical=True,
            )
        )
        if subject == "pck":
            value = changes.get(
                "extension", sgx_extension(self.components, self.pce_svn, self.fmspc, self.ppid)
            )
            oid = x509.ObjectIdentifier(_OID)
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        return builder.sign(self.keys(changes.get("signed_by", signer)), hashes.SHA256())

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
            .last_update(self.issued)
            .next_update(end or self.expires)
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(self._authority(signer), critical=False)
        )
        for serial in revoked:
            entry = (
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self.start)
            )
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.keys(signer), hashes.SHA256()).public_bytes(Encoding.DER)

    def signed(self, member: str, inner: Json, signer: str = "signer") -> bytes:
        """Collateral as it is served."""
        text = json.dumps(inner, separators=(",", ":")).encode()
        signature = raw_signature(self.keys(signer), text).hex().encode()
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
            tcb_info=self.signed("tcbInfo", self.tcb_info(tee) | (info or {})),
            tcb_info_chain=chain,
            qe_identity=self.signed("enclaveIdentity", self.qe_identity(tee) | (identity or {})),
            qe_identity_chain=chain,
        )
        return replace(right, **changes)

    def tcb_info(self, tee: TeeType) -> Json:
        """TCB info by which the platform is up to date."""
        info: Json = {"id": tee.name, "version": 3, **self._dates()}
        info |= {"fmspc": self.fmspc.hex().upper(), "pceId": "0000", "tcbType": 0}
        if tee is TeeType.TDX:
            info |= {
                "tdxModule": module(),
                "tdxModuleIdentities": [module("TDX_01", level("UpToDate", isvsvn=4))],
            }
        return info | {"tcbLevels": [platform_level("UpToDate")]}

    def qe_identity(self, tee: TeeType) -> Json:
        """The identity of the platform's quoting enclave."""
        return {
            "id": "QE" if tee is TeeType.SGX else "TD_QE",
            "version": 2,
            **self._dates(),
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": QE_SIGNER.hex(),
            "isvprodid": 1,
            "tcbLevels": [level("UpToDate", isvsvn=QE_SVN)],
        }

    def _dates(self) -> Json:
        return {
            "issueDate": self.issued.strftime(_TIME),
            "nextUpdate": self.expires.strftime(_TIME),
            "tcbEvaluationDataNumber": 17,
        }

    def _name(self, common: str) -> x509.Name:
        names = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
        if self.organisation is not None:
            names.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.organisation))
        return x509.Name(names)

    def _authority(self, signer: str) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.keys(signer).public_key())


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
    tdx: Sequence[int] = TDX_COMPONENTS,
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


def module(name: str | None = None, *levels: Json) -> Json:
    """A TDX module's identity: that of `name`, or the one of major version 0."""
    zero = {"mrsigner": 48 * "00", "attributes": 8 * "00", "attributesMask": 8 * "FF"}
    return zero if name is None else zero | {"id": name, "tcbLevels": list(levels)}

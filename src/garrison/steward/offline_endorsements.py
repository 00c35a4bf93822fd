"""Endorsements in files, for evidence in files: told by what they hold, not by their names.

A file may hold certificates or revocation lists (DER or PEM, one or many), the certificate table
that a host hands to an SNP guest, JSON with certificates in it, or Intel's collateral: whole, in
one of the forms of `garrison.formats.dcap_bundle`, or in the parts that Intel serves. In a
directory, files that are none of these are passed over; a file that was named must be one. Hex
and base64 are taken off.

Nothing is judged here: verification holds each to the pinned roots.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from garrison import ecdsa
from garrison.endorsements.store import SnpEndorsementStore
from garrison.errors import Malformed, Misuse, Unavailable, Unverified
from garrison.formats.dcap_bundle import MAX_BUNDLE, read_bundle
from garrison.formats.dcap_collateral import DcapCollateral
from garrison.formats.snp import SIGNED_SIZE, Product, Report, SigningKey, Tcb
from garrison.formats.snp_certificate import VekCertificate, common_name, load_certificate, load_crl
from garrison.formats.snp_certificate_table import CertificateTable
from garrison.steward.offline_forms import certificates_in, unwrap

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from garrison.formats.sgx_certificate import PckCertificate
    from garrison.formats.snp_evidence import SnpEndorsements, SnpEvidence

# More than a directory of endorsements has.
_MAX_FILES = 256
_ROOT = "Intel SGX Root CA"
_SIGNERS = ("Intel SGX TCB Signing", _ROOT)
_VEKS = ("SEV-VCEK", "SEV-VLEK")
_PEM = re.compile(rb"-----BEGIN (CERTIFICATE|X509 CRL)-----(.+?)-----END \1-----", re.DOTALL)
_FIELD = "endorsements"
_KDS = "https://kdsintf.amd.com"


@dataclass(slots=True)
class Endorsements:
    """What was found.

    Attributes:
        certificates: all certificates, in the order in which they were found.
        crls: all revocation lists.
        whole: Intel's collateral, if a file had all of it.
        tcb_infos: TCB infos by themselves, JSON as served.
        qe_identities: the same of QE identities.
        unread: what is wrong with collateral that came beside the evidence.
    """

    certificates: list[x509.Certificate] = field(default_factory=list)
    crls: list[x509.CertificateRevocationList] = field(default_factory=list)
    whole: DcapCollateral | None = None
    tcb_infos: list[bytes] = field(default_factory=list)
    qe_identities: list[bytes] = field(default_factory=list)
    unread: Malformed | None = None

    def add_paths(self, paths: Iterable[Path]) -> None:
        """Read files, and all files of directories.

        Raises:
            Misuse: one cannot be read, or a directory has too many.
            Malformed: a file that was named holds nothing of the kind.
        """
        for path in paths:
            if not path.is_dir():
                self.add(read_file(path, MAX_BUNDLE), str(path))
                continue
            files = sorted(each for each in path.iterdir() if each.is_file())
            if len(files) > _MAX_FILES:
                raise Misuse(
                    "not a directory of endorsements",
                    field=str(path),
                    found=f"{len(files)} files",
                    expected=f"at most {_MAX_FILES}",
                )
            for each in files:
                if each.stat().st_size <= MAX_BUNDLE:
                    self.try_add(read_file(each, MAX_BUNDLE))

    def try_add(self, data: bytes) -> None:
        """Take what `data` holds, if it holds any."""
        try:
            self.add(data, _FIELD)
        except Malformed:
            return

    def add(self, data: bytes, where: str) -> None:
        """Take what `data` holds.

        Raises:
            Malformed: it holds nothing of the kind.
        """
        data = unwrap(data).data
        text = data.strip()
        if text.startswith(b"{"):
            self._add_json(text, where)
            return
        armoured = list(_PEM.finditer(data))
        if armoured:
            for match in armoured:
                self._add_pem(match[2], match[1] == b"CERTIFICATE", where)
            return
        if data[:1] == b"\x30":
            try:
                self.certificates.append(load_certificate(data, where))
            except Malformed:
                self.crls.append(load_crl(data, where))
            return
        table = CertificateTable.from_bytes(data)
        if not table.entries:
            raise Malformed("no endorsements", field=where, expected="certificates or collateral")
        for _, content in table.entries:
            # Certificates and lists, DER or PEM, and no table in a table in a table.
            if content[:1] == b"\x30" or _PEM.search(content):
                self.try_add(content)

    def _add_pem(self, body: bytes, is_certificate: bool, where: str) -> None:
        try:
            der = base64.b64decode(b"".join(body.split()), validate=True)
        except ValueError as error:
            raise Malformed("not PEM", field=where) from error
        if is_certificate:
            self.certificates.append(load_certificate(der, where))
        else:
            self.crls.append(load_crl(der, where))

    def _add_json(self, text: bytes, where: str) -> None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Malformed("not JSON", field=where) from error
        if "tcbInfo" in value and isinstance(value["tcbInfo"], dict) and "signature" in value:
            self.tcb_infos.append(text)
        elif isinstance(value.get("enclaveIdentity"), dict) and "signature" in value:
            self.qe_identities.append(text)
        elif certificates := certificates_in(value):
            # As Azure's host agent and guests' tools hand them on.
            for certificate in certificates:
                self.add(certificate, where)
        else:
            self.whole = read_bundle(text)

    def store(self) -> SnpEndorsementStore:
        """All that may be a chain of AMD's."""
        return SnpEndorsementStore(tuple(self.certificates), tuple(self.crls))

    def veks(self) -> tuple[bytes, ...]:
        """The certificates of chips and providers, DER."""
        return tuple(
            each.public_bytes(Encoding.DER) for each in self.certificates if _name(each) in _VEKS
        )

    def signer_of(self, report: Report, now: datetime | None = None) -> bytes | None:
        """The certificate of the key that seems to have signed `report`; None if there is none.

        Of several the one whose key fits the signature goes first: a provider's many keys (VLEK)
        name no chip, and may be of one TCB version. Then that of its chip, kind of key and TCB
        version; of several for one key, as AMD issues at each request, that which is valid at
        `now`, the latest. Whatever it is, the verifier says whether it fits.
        """
        found: list[tuple[bool, bool, bool, bool, bool, float, bytes]] = []
        veks = self.veks()
        for der in veks:
            try:
                vek = VekCertificate.from_bytes(der)
            except Malformed:
                continue
            chip = b"" if vek.hwid is None else vek.hwid.rstrip(b"\0")
            other_key = len(veks) > 1 and not _fits(report, vek.certificate)
            other_chip = any(report.chip_id) and report.chip_id.rstrip(b"\0") != chip
            other_kind = vek.kind is not report.signing_key
            other_tcb = vek.tcb.to_bytes() != report.reported_tcb
            start, end = vek.certificate.not_valid_before_utc, vek.certificate.not_valid_after_utc
            other_time = now is not None and not start <= now <= end
            age = -start.timestamp()
            found.append((other_key, other_kind, other_chip, other_tcb, other_time, age, der))
        return min(found)[-1] if found else None

    def for_snp(self, evidence: SnpEvidence) -> SnpEndorsements:
        """The chain of the first certificate of `evidence`.

        Raises:
            Unverified: issuers of AMD's are here, and it names none of them.
            Unavailable: a certificate is not here.
            Malformed: what came with the evidence cannot be read.
        """
        try:
            return self.store().for_evidence(evidence)
        except Unavailable as error:
            issuers = [name for name in map(_name, self.certificates) if name.startswith("SEV-")]
            others = [name for name in issuers if name not in _VEKS]
            if evidence.certificates and others:
                raise Unverified(
                    "issued by another",
                    field="VEK certificate",
                    found=error.expected,
                    expected=" | ".join(dict.fromkeys(others)),
                ) from error
            raise _no_issuers(evidence, error) from error

    def collateral(self, tee: str, pck: PckCertificate) -> DcapCollateral:
        """Intel's collateral for a quote, whole or put together.

        Args:
            tee: `SGX` or `TDX`.
            pck: the platform's PCK certificate.

        Raises:
            Unavailable: there is not all of it.
        """
        if self.whole is not None:
            return self.whole
        lists = {_name(crl): crl.public_bytes(Encoding.DER) for crl in self.crls}
        chain = {_name(each): each.public_bytes(Encoding.PEM) for each in self.certificates}
        signers = b"".join(chain[name] for name in _SIGNERS if name in chain)
        parts = {
            f"revocation list of {_ROOT}": lists.get(_ROOT),
            f"revocation list of {pck.issuer_name}": lists.get(pck.issuer_name),
            f"TCB info for {tee}": _of(self.tcb_infos, "tcbInfo", tee, pck.fmspc.hex()),
            f"certificate of {_SIGNERS[0]}": signers if _SIGNERS[0] in chain else None,
        }
        root, issued, info, signed = parts.values()
        if root is None or issued is None or info is None or signed is None:
            raise Unavailable(
                "not all of Intel's collateral is there",
                field=f"collateral for FMSPC {pck.fmspc.hex()}",
                expected=", ".join(name for name, part in parts.items() if part is None),
            )
        identity = _of(self.qe_identities, "enclaveIdentity", {"SGX": "QE", "TDX": "TD_QE"}[tee])
        return DcapCollateral(root, issued, info, signed, identity, signed)


def read_file(path: Path, limit: int) -> bytes:
    """Read a file of at most `limit` bytes.

    Raises:
        Misuse: it cannot be read.
        Malformed: it is longer.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Misuse(f"cannot be read: {error.strerror}", field=str(path)) from error
    if len(data) > limit:
        raise Malformed("too long", field=str(path), expected=f"at most {limit} bytes")
    return data


def _no_issuers(evidence: SnpEvidence, error: Unavailable) -> Unavailable:
    """What to get, and where from, for a signer's certificate whose issuers are not here."""
    if not evidence.certificates:
        return error
    vek = VekCertificate.from_bytes(evidence.certificates[0])
    return Unavailable(
        error.message,
        field=error.field,
        expected=error.expected,
        hint=f"get the chain from {_KDS}/{vek.kind.name.lower()}/v1/{vek.product}/cert_chain, and"
        " give it with --endorsements",
    )


def no_signer(report: Report) -> Unavailable:
    """What to get, and where from, for a report that came without its signer's certificate."""
    return Unavailable(
        "the certificate of the key that signed the report is not there",
        field="SNP report",
        expected=f"the {report.signing_key.name} certificate, with the evidence or --certificate",
        hint=_where(report),
    )


def with_chip_hint(error: Unverified, evidence: SnpEvidence) -> Unverified:
    """The same, told where the right certificate is if that of another chip was given."""
    report = Report.from_bytes(evidence.report)
    hwid = VekCertificate.from_bytes(evidence.certificates[0]).hwid
    if error.hint or hwid is None or not any(report.chip_id):
        return error
    if report.chip_id.rstrip(b"\0") == hwid.rstrip(b"\0"):
        return error
    return Unverified(
        error.message,
        field=error.field,
        found=error.found,
        expected=error.expected,
        hint=f"the certificate is another chip's: {_where(report)}",
    )


def _where(report: Report) -> str:
    from garrison.endorsements import kds

    try:
        return f"get it from {kds.signer(report).url}"
    except Unavailable as error:
        why = error.message
        if report.signing_key is SigningKey.VCEK and any(report.chip_id):
            # Only older reports do not tell it, whose products lay out the version alike.
            urls = [
                kds.vcek(each, report.chip_id, Tcb.from_bytes(report.reported_tcb, each)).url
                for each in (Product.MILAN, Product.GENOA)
            ]
            return f"{why}; it is one of {' | '.join(urls)}"
        return f"{why}; {error.hint}" if error.hint else why


def _fits(report: Report, certificate: x509.Certificate) -> bool:
    """Whether the key of `certificate` made the signature of `report`: to choose, not to trust."""
    point = ecdsa.point_in(certificate, "secp384r1")
    signature, signed = encode_dss_signature(report.r, report.s), report.to_bytes()[:SIGNED_SIZE]
    return point is not None and ecdsa.is_signed(point, signature, signed, "sha384")


def _name(signed: x509.Certificate | x509.CertificateRevocationList) -> str:
    name = signed.subject if isinstance(signed, x509.Certificate) else signed.issuer
    try:
        return common_name(name, _FIELD)
    except Malformed:
        return ""


def _of(documents: list[bytes], member: str, name: str, fmspc: str = "") -> bytes | None:
    """The document of that name; of several that of the platform, if there is one."""
    found = [each for each in documents if json.loads(each)[member].get("id") == name]
    platform = (
        each for each in found if str(json.loads(each)[member].get("fmspc")).lower() == fmspc
    )
    return next(platform, found[0] if found else None)

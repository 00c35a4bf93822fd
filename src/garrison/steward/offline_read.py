"""Evidence in files: finding out what it is, and reading it. Nothing is verified here.

What a file wraps its evidence in is taken off first (`garrison.steward.offline_forms`). The kind is
then known by the first bytes: an SNP report, alone or with the certificates that a host hands out
with it; a quote; a Nitro document; a CCA token; Azure's evidence or its paravisor's report;
Garrison's own evidence (CMW, CBOR or JSON); or a certificate request with evidence in it. An
RA-TLS certificate has a quote in it. A directory holds one of them, under a known name or alone of
its kind, with the endorsements that came with it, there or in a directory of its own, or the
certificate of a chip alone, whose chain can be verified. Anything else is refused, as are files
beyond their bound.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from garrison.errors import GarrisonError, Malformed, Misuse
from garrison.formats import cmw
from garrison.formats.azure import AZURE_MEDIA_TYPE, AzureEvidence, HclReport
from garrison.formats.cca import CcaToken
from garrison.formats.ccel import read_log, replay
from garrison.formats.csr import EnarxEvidence, Request
from garrison.formats.dcap_bundle import read_bundle
from garrison.formats.dcap_quote import Quote
from garrison.formats.evidence import (
    CCA_MEDIA_TYPE,
    REPORT_DATA_SIZE,
    SGX_MEDIA_TYPE,
    SNP_MEDIA_TYPE,
    TDX_MEDIA_TYPE,
    Evidence,
    Tee,
    bound_report_data,
)
from garrison.formats.nitro import NITRO_MEDIA_TYPE, NitroDocument
from garrison.formats.sgx_evidence import EnarxSgxEvidence
from garrison.formats.snp import REPORT_SIZE, VERSIONS, Report
from garrison.formats.snp_certificate import VekCertificate
from garrison.formats.snp_certificate_table import CertificateTable
from garrison.formats.snp_evidence import SnpEvidence
from garrison.formats.tdx_report import TdReport
from garrison.steward.offline_binary import QUOTE
from garrison.steward.offline_certified import certified_evidence
from garrison.steward.offline_claims import nitro_claims, snp_claims, vek_claims
from garrison.steward.offline_endorsements import Endorsements, read_file
from garrison.steward.offline_forms import unwrap
from garrison.steward.offline_kinds import Kind, claims_of, read_trust_anchors, tee_of
from garrison.steward.offline_mistaken import refuse_mistaken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from garrison.verification.cca import PlatformKey

# A service's whole answer, with logs and a GPU's evidence beside a quote in hex; evidence itself is
# bounded by its readers.
_MAX_FILE = 2 << 20
# What evidence is called in a directory, in the order in which it is looked for.
_EVIDENCE = (
    "evidence.json",
    "request.csr.der",
    "request.csr",
    "hcl_report.bin",
    "token.cbor",
    "quote.bin",
    "quote.dat",
    "report.bin",
    "attestation-report.bin",
    "attestation_report.bin",
    "attestation.bin",
    "report.dat",
    "document.cbor",
    "attestation_document.bin",
)
# Where tools put the endorsements, beside evidence.
_BESIDE = ("certs", "certificates", "collateral", "endorsements")
_EVENT_LOGS = ("ccel_data.bin", "ccel.bin", "event_log.bin")
_MAX_LOG = 4 << 20
# First bytes: a DER SEQUENCE; a CMW record, a CBOR array of two; COSE_Sign1, untagged and tagged.
_DER = b"\x30"
_CMW = b"\x82"
_COSE = (b"\x84", b"\xd2\x84")
_PEM = b"-----BEGIN"
# An SNP report has four bytes of version.
_SNP = tuple(version.to_bytes(4, "little") for version in VERSIONS)
# One of another version, to be refused by name: SIGNATURE_ALGO (34h) is 1, ECDSA P-384.
_OTHER_SNP = re.compile(rb"[\x01-\x1f]\0\0\0.{48}\x01\0\0\0", re.DOTALL)
# CBOR tags 399 and 907.
_CCA = (b"\xd9\x01\x8f", b"\xd9\x03\x8b")
_HCL = b"HCLA"
_READERS: dict[str, Callable[[bytes], Kind]] = {
    SGX_MEDIA_TYPE: Quote.from_bytes,
    TDX_MEDIA_TYPE: Quote.from_bytes,
    AZURE_MEDIA_TYPE: AzureEvidence.from_bytes,
    CCA_MEDIA_TYPE: CcaToken.from_bytes,
}


@dataclass(frozen=True, slots=True)
class VekChain:
    """The certificate of a chip or provider, by itself: whether AMD issued it can be told."""

    leaf: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """Evidence as it was found, unverified.

    Attributes:
        evidence: the evidence: a report with certificates, or a document.
        raw: its bytes.
        endorsements: what came with it.
        binding: the report data that it must have; None where nobody said.
        layers: what it was wrapped in.
        original: the evidence of an original's request for SGX, with the collateral in it.
        event_log: the registers that a log beside a TD's quote leads to.
    """

    evidence: SnpEvidence | NitroDocument | VekChain | Kind
    raw: bytes
    endorsements: Endorsements
    binding: bytes | None = None
    layers: tuple[str, ...] = ()
    original: EnarxSgxEvidence | None = None
    event_log: tuple[bytes, ...] | None = None

    @property
    def tee(self) -> Tee:
        """The kind of evidence."""
        if isinstance(self.evidence, Kind):
            return Tee(tee_of(self.evidence))
        return Tee.NITRO if isinstance(self.evidence, NitroDocument) else Tee.SNP

    @property
    def what(self) -> str:
        """What it was taken for, in words."""
        evidence, layers = self.evidence, "".join(f", out of {each}" for each in self.layers)
        request = "" if self.binding is None else ", in a certificate request"
        if isinstance(evidence, Quote):
            name = "an SGX" if self.tee is Tee.SGX else "a TDX"
            kind = f"{name} quote, version {evidence.header.version}"
            if evidence.trailing:
                kind += f", with {len(evidence.trailing)} bytes of padding"
        elif isinstance(evidence, SnpEvidence):
            version = int.from_bytes(evidence.report[:4], "little")
            kind = (
                f"an SNP report, version {version}, with {len(evidence.certificates)} certificates"
            )
        elif isinstance(evidence, VekChain):
            kind = "the certificate of an SNP signing key, without a report"
        elif isinstance(evidence, NitroDocument):
            kind = "a Nitro attestation document"
        elif isinstance(evidence, CcaToken):
            kind = "an Arm CCA token"
        elif isinstance(evidence, AzureEvidence):
            kind = f"Azure evidence, on {'SNP' if evidence.td_quote is None else 'TDX'}"
        else:
            kind = f"an Azure paravisor's report, on {evidence.kind.name}"
        return kind + request + layers

    def claims(self) -> dict[str, str]:
        """What the evidence says of itself: name and value of each field.

        Raises:
            Malformed: it cannot be read.
        """
        if isinstance(self.evidence, NitroDocument):
            return dict(nitro_claims(self.evidence))
        if isinstance(self.evidence, VekChain):
            return dict(vek_claims(VekCertificate.from_bytes(self.evidence.leaf)))
        if isinstance(self.evidence, Kind):
            claims = dict(claims_of(self.evidence))
            if self.event_log is not None and isinstance(self.evidence, Quote):
                claims["event log"] = _log_claim(self.evidence, self.event_log)
            return claims
        return dict(snp_claims(Report.from_bytes(self.evidence.report)))


def read(
    path: Path,
    *,
    certificates: Sequence[Path] = (),
    endorsements: Sequence[Path] = (),
    tee: Tee | None = None,
    now: datetime | None = None,
) -> Found:
    """Read evidence.

    Args:
        path: a file, or a directory with evidence under a name of `_EVIDENCE`.
        certificates: certificates to go with a report, the signing key's first.
        endorsements: files and directories of endorsements.
        tee: what it must be; None to find out by its first bytes.
        now: the time, for of several certificates of a key one is chosen.

    Raises:
        Misuse: a file cannot be read or is not there, or `certificates` do not belong to it.
        Malformed: it is no evidence that is known here.
        Unverified: a certificate request is not signed by its own key.
    """
    gathered = Endorsements()
    gathered.add_paths(certificates)
    if path.is_dir():
        found = _read_directory(path, gathered)
    else:
        found = _read(read_file(path, _MAX_FILE), gathered)
    gathered.add_paths(endorsements)
    if tee is not None and found.tee is not tee:
        raise Malformed("another kind of evidence", field=str(path), found=found.tee, expected=tee)
    signed_by_chip = found.tee is Tee.SNP or isinstance(found.evidence, AzureEvidence | HclReport)
    if certificates and not signed_by_chip:
        raise Misuse(
            "certificates go with a report of SNP or Azure",
            field="--certificate",
            found=found.tee,
            expected="none",
        )
    return _with_signer(found, now)


def of_evidence(
    evidence: Evidence | EnarxEvidence,
    raw: bytes,
    endorsements: Endorsements,
    binding: bytes | None = None,
) -> Found:
    """Read evidence that came in an envelope.

    Raises:
        Malformed: it cannot be read, or its media type is unknown.
    """
    if isinstance(evidence, EnarxEvidence):
        if evidence.tee is Tee.SGX:
            sgx = EnarxSgxEvidence.from_der(evidence.der)
            quote = Quote.from_bytes(sgx.quote)
            return Found(quote, sgx.quote, endorsements, binding, original=sgx)
        if evidence.tee is not Tee.SNP:
            raise _unknown(evidence.tee.value)
        original, crls = SnpEvidence.from_enarx(evidence.der)
        for crl in crls:
            endorsements.add(crl, "SNP evidence: revocation list")
        return Found(original, raw, endorsements, binding)
    reader = _READERS.get(evidence.media_type)
    if reader is not None:
        return Found(reader(evidence.payload), evidence.payload, endorsements, binding)
    if evidence.media_type == SNP_MEDIA_TYPE:
        return Found(SnpEvidence.from_bytes(evidence.payload), raw, endorsements, binding)
    if evidence.media_type == NITRO_MEDIA_TYPE:
        document = NitroDocument.from_bytes(evidence.payload)
        return Found(document, evidence.payload, endorsements, binding)
    raise _unknown(evidence.media_type)


def of_request(data: bytes, endorsements: Endorsements) -> Found:
    """Read the evidence in a certificate request; it must be bound to the request's key.

    Raises:
        Malformed: it is not a request, or there is no evidence in it that is known here.
        Unverified: it is not signed by its own key.
    """
    request = Request.from_der(data)
    if request.evidence is None:
        raise Malformed("no evidence", field="certificate request", expected="evidence of a TEE")
    if request.challenge is None:
        original = request.evidence
        sgx = isinstance(original, EnarxEvidence) and original.tee is Tee.SGX
        digest = hashlib.sha256 if sgx else hashlib.sha384
        binding = digest(request.spki).digest().ljust(REPORT_DATA_SIZE, b"\0")
    else:
        binding = bound_report_data(request.spki, request.challenge)
    return of_evidence(request.evidence, data, endorsements, binding)


def _read(file: bytes, endorsements: Endorsements, *, certified: bool = False) -> Found:
    unwrapped = unwrap(file)
    for certificate in unwrapped.certificates:
        endorsements.try_add(certificate)
    if unwrapped.collateral is not None:
        try:
            endorsements.whole = read_bundle(unwrapped.collateral)
        except Malformed as error:
            # The evidence can be read all the same, and collateral given that is whole.
            endorsements.unread = error
    if certified and unwrapped.data.startswith((_DER, _PEM)):
        raise Malformed("a certificate or request in a certificate", field="evidence")
    found = _sniff(unwrapped.data, endorsements)
    return replace(found, layers=(*unwrapped.layers, *found.layers))


def _sniff(data: bytes, endorsements: Endorsements) -> Found:
    """Tell what `data` is, by its first bytes."""
    if len(data) >= REPORT_SIZE and (data.startswith(_SNP) or _OTHER_SNP.match(data)):
        return _report(data, endorsements)
    if data.startswith((_DER, _PEM)):
        return _certificate_or_request(data, endorsements)
    if data.startswith(_CMW):
        return of_evidence(cmw.decode(data), data, endorsements)
    if data.startswith(_COSE):
        return Found(NitroDocument.from_bytes(data), data, endorsements)
    for first, reader in (
        (QUOTE, Quote.from_bytes),
        (_CCA, CcaToken.from_bytes),
        (_HCL, HclReport.from_bytes),
    ):
        if data.startswith(first):
            return Found(reader(data), data, endorsements)
    refuse_mistaken(data)
    text = data.lstrip()
    if text.startswith(b"{"):
        return Found(AzureEvidence.from_bytes(data), data, endorsements)
    if text.startswith(b"["):
        return of_evidence(cmw.decode_json(data), data, endorsements)
    raise _unknown(f"{len(data)} bytes, from {data[:4].hex() or 'nothing'}")


def _report(data: bytes, endorsements: Endorsements) -> Found:
    """A report, and what follows it: nothing, zeros of its buffer, or a host's certificates."""
    report, rest = data[:REPORT_SIZE], data[REPORT_SIZE:]
    certificates: tuple[bytes, ...] = ()
    layers: tuple[str, ...] = ()
    if rest.startswith(_PEM):
        endorsements.add(rest, "what follows the SNP report")
        layers = ("a report with PEM behind it",)
    elif any(rest):
        table = _table(rest)
        # Some hosts put PEM into it, which is among the endorsements then.
        certificates = tuple(each for each in table.chain() if each.startswith(_DER))
        layers = ("an extended report",)
        for _, content in table.entries:
            endorsements.try_add(content)
    elif rest:
        layers = (f"a buffer with {len(rest)} zeros",)
    return Found(SnpEvidence(report, certificates), report, endorsements, layers=layers)


def _table(rest: bytes) -> CertificateTable:
    try:
        return CertificateTable.from_bytes(rest)
    except Malformed as error:
        raise Malformed(
            f"neither a host's certificate table nor zeros ({error.field}: {error.message})",
            field="what follows the SNP report",
            found=f"{len(rest)} bytes",
            hint=f"the report alone is the first {REPORT_SIZE} bytes",
        ) from error


def _certificate_or_request(data: bytes, endorsements: Endorsements) -> Found:
    """The certificate of a chip, one with evidence in it, or a certificate request."""
    leaf = _vek(data)
    if leaf is not None:
        return Found(leaf, leaf.leaf, endorsements)
    certified = certified_evidence(data)
    if certified is not None:
        inner = _read(certified, endorsements, certified=True)
        return replace(inner, layers=("an RA-TLS certificate", *inner.layers))
    refuse_mistaken(data)
    return of_request(data, endorsements)


def _vek(data: bytes) -> VekChain | None:
    found = Endorsements()
    found.try_add(data)
    veks = found.veks()
    return VekChain(veks[0]) if veks else None


def _with_signer(found: Found, now: datetime | None) -> Found:
    """Add the certificate of the key that signed a report, if it came beside it."""
    evidence = found.evidence
    if isinstance(evidence, SnpEvidence) and not evidence.certificates:
        leaf = found.endorsements.signer_of(Report.from_bytes(evidence.report), now)
        if leaf is not None:
            return replace(found, evidence=replace(evidence, certificates=(leaf,)))
    return found


def _read_directory(path: Path, endorsements: Endorsements) -> Found:
    name = next((name for name in _EVIDENCE if (path / name).exists()), None)
    found, file = None, _only_evidence(path) if name is None else path / name
    if file is not None:
        found = _read(read_file(file, _MAX_FILE), endorsements)
    endorsements.add_paths([path, *(path / each for each in _BESIDE if (path / each).is_dir())])
    if found is None:
        veks = endorsements.veks()
        if not veks:
            raise Misuse(
                "no evidence in this directory",
                field=str(path),
                expected=f"{', '.join(_EVIDENCE)}, or an SNP signing key's certificate",
            )
        found = Found(VekChain(veks[0]), veks[0], endorsements)
    log = next((path / name for name in _EVENT_LOGS if (path / name).exists()), None)
    if log is not None and isinstance(found.evidence, Quote):
        found = replace(found, event_log=replay(read_log(read_file(log, _MAX_LOG))))
    return found


def _only_evidence(path: Path) -> Path | None:
    """The one file that can be read as evidence, whatever its name; None if there is none.

    Raises:
        Misuse: there are several, and none of them has a name that says which is meant.
    """
    files = []
    for file in sorted(path.iterdir()):
        try:
            found = _read(read_file(file, _MAX_FILE), Endorsements()) if file.is_file() else None
        except GarrisonError:
            # An endorsement, a log, a note: there may be all kinds of files beside evidence.
            continue
        if found is not None and not isinstance(found.evidence, VekChain):
            files.append(file)
    if len(files) > 1:
        raise Misuse(
            "several pieces of evidence in this directory",
            field=str(path),
            found=", ".join(file.name for file in files[:8]),
            expected=f"one, or one that is called {_EVIDENCE[0]} or the like",
            hint="name the file itself; what is beside it goes with --endorsements",
        )
    return files[0] if files else None


def _log_claim(quote: Quote, registers: tuple[bytes, ...]) -> str:
    if not isinstance(quote.body, TdReport):
        return "there, and not looked at: it is not a TD's"
    wrong = [
        f"RTMR{index}"
        for index, (found, wanted) in enumerate(zip(quote.body.rtmrs, registers, strict=True))
        if found != wanted
    ]
    return f"does not lead to {', '.join(wrong)}" if wrong else "leads to all RTMRs"


def load_trust_anchors(path: Path) -> tuple[PlatformKey, ...]:
    """Read a file of CCA platforms' keys.

    Raises:
        Misuse: it cannot be read.
        Malformed: it holds anything else.
        Unverified: a key is none.
    """
    return read_trust_anchors(read_file(path, _MAX_FILE))


def _unknown(found: str) -> Malformed:
    return Malformed(
        "unknown kind of evidence",
        field="evidence",
        found=found,
        expected="an SNP report, a quote, a Nitro document, a CCA token, Azure's evidence, a CMW"
        " record or a certificate request",
    )

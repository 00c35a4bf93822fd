"""Evidence in files: finding out what it is, and reading it. Nothing is verified here.

The kind is known by the first bytes. A file may be an SNP report, a quote, a Nitro document, a CCA
token, Azure's evidence or its paravisor's report, Garrison's own evidence (CMW, CBOR or JSON), or
a certificate request with evidence in it; a directory holds one of them under a known name, with
the certificates or the collateral that came with it. Anything else is refused, as are files
beyond their bound.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.errors import Malformed, Misuse
from garrison.formats import cmw
from garrison.formats.azure import AZURE_MEDIA_TYPE, AzureEvidence, HclReport
from garrison.formats.cca import CcaToken
from garrison.formats.csr import MAX_REQUEST, EnarxEvidence, Request
from garrison.formats.dcap_bundle import MAX_BUNDLE, read_bundle
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
from garrison.formats.sgx_evidence import quote_from_enarx
from garrison.formats.snp import REPORT_SIZE, Report
from garrison.formats.snp_evidence import SnpEvidence
from garrison.steward.offline_claims import nitro_claims, snp_claims
from garrison.steward.offline_kinds import (
    Kind,
    claims_of,
    read_trust_anchors,
    tee_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from garrison.formats.dcap_collateral import DcapCollateral
    from garrison.verification.cca import PlatformKey

# The longest of what is read is a certificate request.
_MAX_FILE = MAX_REQUEST
_REPORT = "report.bin"
_LEAF = "vek.der"
_DOCUMENT = "document.cbor"
_TD_QUOTE = "quote.bin"
_CCA_FILE = "token.cbor"
_AZURE = "evidence.json"
_BLOB = "hcl_report.bin"
_COLLATERAL = "collateral.json"
# First bytes: a DER SEQUENCE; a CMW record, a CBOR array of two; COSE_Sign1, untagged and tagged.
_DER = b"\x30"
_CMW = b"\x82"
_COSE = (b"\x84", b"\xd2\x84")
_PEM = b"-----BEGIN"
# Version, and 2 for ECDSA-256 with P-256, of two bytes each. An SNP report has four of version.
_QUOTE = (b"\x03\0\x02\0", b"\x04\0\x02\0", b"\x05\0\x02\0")
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
class Found:
    """Evidence as it was found, unverified.

    Attributes:
        evidence: the evidence: a report with certificates, or a document.
        crls: revocation lists that came with it, DER.
        binding: the report data that it must have; None where nobody said.
        endorsements: directories that came with it.
        collateral: Intel's collateral that came with it.
        certificates: AMD's that came with Azure's evidence, DER, the signing key's first.
    """

    evidence: SnpEvidence | NitroDocument | Kind
    raw: bytes
    crls: tuple[bytes, ...] = ()
    binding: bytes | None = None
    endorsements: tuple[Path, ...] = ()
    collateral: DcapCollateral | None = None
    certificates: tuple[bytes, ...] = ()

    @property
    def tee(self) -> Tee:
        """The kind of evidence."""
        if isinstance(self.evidence, Kind):
            return Tee(tee_of(self.evidence))
        return Tee.SNP if isinstance(self.evidence, SnpEvidence) else Tee.NITRO

    def claims(self) -> dict[str, str]:
        """What the evidence says of itself: name and value of each field.

        Raises:
            Malformed: it cannot be read.
        """
        if isinstance(self.evidence, NitroDocument):
            return dict(nitro_claims(self.evidence))
        if isinstance(self.evidence, Kind):
            return dict(claims_of(self.evidence))
        return dict(snp_claims(Report.from_bytes(self.evidence.report)))


def read(path: Path, *, certificates: Sequence[Path] = (), tee: Tee | None = None) -> Found:
    """Read evidence.

    Args:
        path: a file, or a directory with `report.bin` and `vek.der`, or with `document.cbor`.
        certificates: certificates to go with a bare report, the signing key's first.
        tee: what it must be; None to find out by its first bytes.

    Raises:
        Misuse: a file cannot be read or is not there, or `certificates` do not belong to it.
        Malformed: it is no evidence that is known here.
        Unverified: a certificate request is not signed by its own key.
    """
    found = _read_directory(path) if path.is_dir() else _read(path, certificates)
    if tee is not None and found.tee is not tee:
        raise Malformed("another kind of evidence", field=str(path), found=found.tee, expected=tee)
    bare = isinstance(found.evidence, HclReport) or len(found.raw) == REPORT_SIZE
    if certificates and (path.is_dir() or not bare):
        raise Misuse(
            "certificates go with a bare report", field="--certificate", found=path, expected="none"
        )
    return found


def of_evidence(
    evidence: Evidence | EnarxEvidence, raw: bytes, binding: bytes | None = None
) -> Found:
    """Read evidence that came in an envelope.

    Raises:
        Malformed: it cannot be read, or its media type is unknown.
    """
    if isinstance(evidence, EnarxEvidence):
        if evidence.tee is Tee.SGX:
            quote = quote_from_enarx(evidence.der)
            return Found(Quote.from_bytes(quote), quote, binding=binding)
        if evidence.tee is not Tee.SNP:
            raise _unknown(evidence.tee.value)
        original, crls = SnpEvidence.from_enarx(evidence.der)
        return Found(original, raw, crls, binding)
    reader = _READERS.get(evidence.media_type)
    if reader is not None:
        return Found(reader(evidence.payload), evidence.payload, binding=binding)
    if evidence.media_type == SNP_MEDIA_TYPE:
        return Found(SnpEvidence.from_bytes(evidence.payload), raw, binding=binding)
    if evidence.media_type == NITRO_MEDIA_TYPE:
        document = NitroDocument.from_bytes(evidence.payload)
        return Found(document, evidence.payload, binding=binding)
    raise _unknown(evidence.media_type)


def of_request(data: bytes) -> Found:
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
    return of_evidence(request.evidence, data, binding)


def _read(path: Path, certificates: Sequence[Path]) -> Found:
    data = _file(path)
    if len(data) == REPORT_SIZE and not data.startswith(_QUOTE):
        chain = tuple(_file(certificate) for certificate in certificates)
        return Found(SnpEvidence(data, chain), data)
    if data.startswith(_PEM):
        return of_request(_from_pem(data))
    if data.startswith(_DER):
        return of_request(data)
    if data.startswith(_CMW):
        return of_evidence(cmw.decode(data), data)
    if data.startswith(_COSE):
        return Found(NitroDocument.from_bytes(data), data)
    for first, reader in (
        (_QUOTE, Quote.from_bytes),
        (_CCA, CcaToken.from_bytes),
        (_HCL, HclReport.from_bytes),
    ):
        if data.startswith(first):
            chain = tuple(_file(certificate) for certificate in certificates)
            return Found(reader(data), data, certificates=chain)
    text = data.lstrip()
    if text.startswith(b"{"):
        return Found(AzureEvidence.from_bytes(data), data)
    if text.startswith(b"["):
        return of_evidence(_from_json(data), data)
    raise _unknown(f"{len(data)} bytes, from {data[:4].hex() or 'nothing'}")


def _from_pem(data: bytes) -> bytes:
    try:
        return x509.load_pem_x509_csr(data).public_bytes(Encoding.DER)
    except ValueError as error:
        raise Malformed("not a certificate request in PEM", field="evidence") from error


def _from_json(data: bytes) -> Evidence:
    """A CMW record in JSON: media type and base64url."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON", field="CMW record") from error
    match value:
        case [str(media_type), str(text)]:
            try:
                padded = text.encode("ascii") + b"=" * (-len(text) % 4)
                payload = base64.b64decode(padded, altchars=b"-_", validate=True)
            except ValueError as error:
                raise Malformed("not base64url", field="CMW record: value") from error
            return Evidence(media_type, payload)
    raise Malformed("wrong form", field="CMW record", expected='["media type", "base64url"]')


def _read_directory(path: Path) -> Found:
    bundle = path / _COLLATERAL
    collateral = load_collateral(bundle) if bundle.exists() else None
    for name in (_AZURE, _BLOB, _CCA_FILE, _TD_QUOTE):
        if (path / name).exists():
            found = _read(path / name, ())
            if (path / _LEAF).exists():
                leaf = _file(path / _LEAF)
                found = replace(found, endorsements=(path,), certificates=(leaf,))
            return replace(found, collateral=collateral)
    if (path / _REPORT).exists():
        report, leaf = _file(path / _REPORT), _file(path / _LEAF)
        return Found(SnpEvidence(report, (leaf,)), report, endorsements=(path,))
    if (path / _DOCUMENT).exists():
        data = _file(path / _DOCUMENT)
        return Found(NitroDocument.from_bytes(data), data)
    names = (_AZURE, _BLOB, _CCA_FILE, _TD_QUOTE, _DOCUMENT)
    raise Misuse(
        "no evidence in this directory",
        field=str(path),
        expected=f"{_REPORT} with {_LEAF}, or {', '.join(names)}",
    )


def load_collateral(path: Path) -> DcapCollateral:
    """Read a file of Intel's collateral.

    Raises:
        Misuse: it cannot be read.
        Malformed: it is not collateral.
    """
    return read_bundle(_file(path, MAX_BUNDLE))


def load_trust_anchors(path: Path) -> tuple[PlatformKey, ...]:
    """Read a file of CCA platforms' keys.

    Raises:
        Misuse: it cannot be read.
        Malformed: it holds anything else.
    """
    return read_trust_anchors(_file(path))


def _file(path: Path, limit: int = _MAX_FILE) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Misuse(f"cannot be read: {error.strerror}", field=str(path)) from error
    if len(data) > limit:
        raise Malformed("too long", field=str(path), expected=f"at most {limit} bytes")
    return data


def _unknown(found: str) -> Malformed:
    return Malformed(
        "unknown kind of evidence",
        field="evidence",
        found=found,
        expected="an SNP report, a quote, a Nitro document, a CCA token, Azure's evidence, a CMW"
        " record or a certificate request",
    )

"""Evidence in files, verified and appraised without a network and without issuing anything.

What is read: an SNP report with its certificates, an SGX or TDX quote, a Nitro document, a CCA
token, Azure's evidence or its paravisor's report, a directory that holds one of them, Garrison's
own evidence (CMW, CBOR or JSON), and a certificate request (DER or PEM) with evidence inside.
`read` says what the evidence claims, before anybody has verified a word of it; `judge` verifies,
and holds it to a policy where there is one. Without a policy nothing is admitted: genuine evidence
is called genuine, and no more.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.appraisal import nitro as nitro_appraisal
from garrison.appraisal import snp as snp_appraisal
from garrison.endorsements.store import SnpEndorsementStore
from garrison.errors import Malformed, Misuse, Rejected, Unverified
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
    Means,
    claims_of,
    judge_kind,
    read_trust_anchors,
    tee_of,
)
from garrison.steward.policy import Policy, TeePolicies, read_policy_file
from garrison.verification import nitro, snp
from garrison.verification.roots import Roots

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from garrison.appraisal.result import AttestationResult
    from garrison.formats.dcap_collateral import DcapCollateral
    from garrison.verification.cca import PlatformKey

# The longest of what is read is a certificate request.
_MAX_FILE = MAX_REQUEST
# Offline nothing is certified: an original's policy, which names no domain, needs none.
_NO_DOMAIN = "offline.invalid"
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


def load_policies(path: Path) -> TeePolicies:
    """Read a steward's policy, an original's, or a document of the TEEs' sections alone.

    Raises:
        Misuse: the file cannot be read.
        Malformed: it is none of them.
    """
    table = read_policy_file(path, _NO_DOMAIN)
    if "trust_domain" in table:
        return Policy.load(path, _NO_DOMAIN).tees
    found = TeePolicies.from_table(table, path.parent)
    table.done()
    return found


@dataclass(frozen=True, slots=True)
class Judgement:
    """Genuine evidence: the root that vouches for it, and what a policy makes of it.

    Attributes:
        root: the name of the root.
        simulated: whether it is a simulated one: then it proves nothing.
        crl_checked: whether a revocation list was there to be checked; None where the TEE has none.
        facts: what the certificates say of the platform.
        result: every check; None without a policy.
    """

    root: str
    simulated: bool
    crl_checked: bool | None
    facts: Mapping[str, str]
    result: AttestationResult | None


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


def judge(
    found: Found,
    policies: TeePolicies | None,
    *,
    now: datetime,
    endorsements: Sequence[Path] = (),
    report_data: bytes | None = None,
    collateral: DcapCollateral | None = None,
    platforms: tuple[PlatformKey, ...] = (),
) -> Judgement:
    """Verify `found`, and hold it to `policies`.

    Args:
        found: the evidence.
        policies: what is admitted; None to verify alone.
        now: the time.
        endorsements: directories of endorsements, beside those of evidence and policy.
        report_data: what the evidence must be bound to, 64 bytes. It goes before what a
            certificate request binds it to.
        collateral: Intel's, for a quote; it goes before what came with the evidence.
        platforms: keys of CCA platforms that are trusted, beside the policy's.

    Raises:
        Malformed: it cannot be read.
        Unverified: it is not genuine, or, where no policy says so, bound to something else.
        Rejected: the policy does not speak of this TEE. Failed checks are in the result instead.
        Unavailable: endorsements are missing.
    """
    wanted = report_data or found.binding
    if isinstance(found.evidence, NitroDocument):
        judged = _judge_nitro(found.raw, policies, wanted, now)
    elif isinstance(found.evidence, Kind):
        store = SnpEndorsementStore.load(
            (
                *found.endorsements,
                *endorsements,
                *(() if policies is None or policies.snp is None else policies.snp.endorsements),
            )
        )
        means = Means(now, store, collateral or found.collateral, platforms, found.certificates)
        genuine = judge_kind(found.evidence, found.raw, policies, wanted, means)
        if policies is None and not isinstance(found.evidence, AzureEvidence):
            _check_binding(genuine.bound, wanted)
        judged = Judgement(
            genuine.root, genuine.simulated, genuine.crl_checked, genuine.facts, genuine.result
        )
    else:
        judged = _judge_snp(found, found.evidence, policies, wanted, (now, endorsements))
    if judged.result is not None and wanted is None:
        return replace(judged, result=_without_binding(judged.result))
    return judged


def _judge_nitro(
    document: bytes, policies: TeePolicies | None, wanted: bytes | None, now: datetime
) -> Judgement:
    policy = None if policies is None else _spoken_of(policies.nitro, Tee.NITRO)
    verified = nitro.verify(document, Roots.load() if policy is None else policy.roots(), now)
    claims = verified.value
    shown = claims.document.user_data or b""
    result = None
    if policy is None:
        _check_binding(shown, wanted)
    else:
        result = nitro_appraisal.appraise(verified, policy, wanted or shown, now)
    verified_facts = {"made at": claims.timestamp.isoformat()}
    return Judgement(claims.anchor.name, claims.anchor.simulated, None, verified_facts, result)


def _judge_snp(
    found: Found,
    evidence: SnpEvidence,
    policies: TeePolicies | None,
    wanted: bytes | None,
    circumstances: tuple[datetime, Sequence[Path]],
) -> Judgement:
    now, endorsements = circumstances
    policy = None if policies is None else _spoken_of(policies.snp, Tee.SNP)
    store = SnpEndorsementStore.load(
        (*found.endorsements, *endorsements, *(() if policy is None else policy.endorsements))
    )
    roots = Roots.load() if policy is None else policy.roots()
    verified = snp.verify(evidence.report, store.for_evidence(evidence, found.crls), roots, now)
    claims = verified.value
    shown = claims.report.report_data
    result = None
    if policy is None:
        _check_binding(shown, wanted)
    else:
        result = snp_appraisal.appraise(verified, policy, wanted or shown, now)
    facts = {"product": claims.product.value, "reported TCB version": str(claims.tcb)}
    if claims.csp_id is not None:
        facts["provider"] = claims.csp_id
    anchor = claims.anchor
    return Judgement(anchor.name, anchor.simulated, claims.crl_checked, facts, result)


def _check_binding(shown: bytes, wanted: bytes | None) -> None:
    if wanted is not None and shown != wanted:
        raise Unverified(
            "the evidence is bound to another key or challenge",
            field="report data",
            found=shown.hex() or "none",
            expected=wanted.hex(),
        )


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


P = TypeVar("P", snp_appraisal.SnpPolicy, nitro_appraisal.NitroPolicy)


def _spoken_of(policy: P | None, tee: Tee) -> P:
    if policy is None:
        raise Rejected("the policy does not admit this TEE", field="evidence", found=tee.value)
    return policy


def _without_binding(result: AttestationResult) -> AttestationResult:
    """Nobody said what the evidence must be bound to: that check would compare it with itself."""
    first, *others = result.checks
    unbound = replace(first, wanted="any: nobody said what it must be bound to")
    return replace(result, checks=(unbound, *others))

"""Evidence in files, verified and appraised without a network and without issuing anything.

What is read: an SNP report with its certificates, a directory that holds both, a Nitro document,
Garrison's own evidence (CMW, CBOR), and a certificate request with evidence inside. `read` says
what the evidence claims, before anybody has verified a word of it; `judge` verifies, and
holds it to a policy where there is one. Without a policy nothing is admitted: genuine evidence
is called genuine, and no more.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from garrison.appraisal import nitro as nitro_appraisal
from garrison.appraisal import snp as snp_appraisal
from garrison.endorsements.store import SnpEndorsementStore
from garrison.errors import Malformed, Misuse, Rejected, Unverified
from garrison.formats import cmw
from garrison.formats.csr import MAX_REQUEST, EnarxEvidence, Request
from garrison.formats.evidence import (
    REPORT_DATA_SIZE,
    SNP_MEDIA_TYPE,
    Evidence,
    Tee,
    bound_report_data,
)
from garrison.formats.nitro import NITRO_MEDIA_TYPE, NitroDocument
from garrison.formats.snp import REPORT_SIZE, Report, Tcb
from garrison.formats.snp_evidence import SnpEvidence
from garrison.steward.policy import Policy, TeePolicies, read_policy_file
from garrison.verification import nitro, snp
from garrison.verification.roots import Roots

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from garrison.appraisal.result import AttestationResult

# The longest of what is read is a certificate request.
_MAX_FILE = MAX_REQUEST
_REPORT = "report.bin"
_LEAF = "vek.der"
_DOCUMENT = "document.cbor"
# First bytes: a DER SEQUENCE; a CMW record, a CBOR array of two; COSE_Sign1, untagged and tagged.
_DER = b"\x30"
_CMW = b"\x82"
_COSE = (b"\x84", b"\xd2\x84")


@dataclass(frozen=True, slots=True)
class Found:
    """Evidence as it was found, unverified.

    Attributes:
        evidence: the evidence: a report with certificates, or a document.
        crls: revocation lists that came with it, DER.
        binding: the report data that it must have; None where nobody said.
        endorsements: directories that came with it.
    """

    evidence: SnpEvidence | NitroDocument
    raw: bytes
    crls: tuple[bytes, ...] = ()
    binding: bytes | None = None
    endorsements: tuple[Path, ...] = ()

    @property
    def tee(self) -> Tee:
        """The kind of evidence."""
        return Tee.SNP if isinstance(self.evidence, SnpEvidence) else Tee.NITRO

    def claims(self) -> dict[str, str]:
        """What the evidence says of itself: name and value of each field.

        Raises:
            Malformed: it cannot be read.
        """
        if isinstance(self.evidence, NitroDocument):
            return dict(_nitro_claims(self.evidence))
        return dict(_snp_claims(Report.from_bytes(self.evidence.report)))


def load_policies(path: Path) -> TeePolicies:
    """Read a steward's policy, or a document of the TEEs' sections alone.

    Raises:
        Misuse: the file cannot be read.
        Malformed: it is neither.
    """
    table = read_policy_file(path)
    if "trust_domain" in table:
        return Policy.load(path).tees
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
    if certificates and (path.is_dir() or len(found.raw) != REPORT_SIZE):
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
) -> Judgement:
    """Verify `found`, and hold it to `policies`.

    Args:
        found: the evidence.
        policies: what is admitted; None to verify alone.
        now: the time.
        endorsements: directories of endorsements, beside those of evidence and policy.
        report_data: what the evidence must be bound to, 64 bytes. It goes before what a
            certificate request binds it to.

    Raises:
        Malformed: it cannot be read.
        Unverified: it is not genuine, or, where no policy says so, bound to something else.
        Rejected: the policy does not speak of this TEE. Failed checks are in the result instead.
        Unavailable: endorsements are missing.
    """
    wanted = report_data or found.binding
    if isinstance(found.evidence, NitroDocument):
        judged = _judge_nitro(found.raw, policies, wanted, now)
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
        if evidence.tee is not Tee.SNP:
            raise _unknown(evidence.tee.value)
        original, crls = SnpEvidence.from_enarx(evidence.der)
        return Found(original, raw, crls, binding)
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
        binding = hashlib.sha384(request.spki).digest().ljust(REPORT_DATA_SIZE, b"\0")
    else:
        binding = bound_report_data(request.spki, request.challenge)
    return of_evidence(request.evidence, data, binding)


def _read(path: Path, certificates: Sequence[Path]) -> Found:
    data = _file(path)
    if len(data) == REPORT_SIZE:
        chain = tuple(_file(certificate) for certificate in certificates)
        return Found(SnpEvidence(data, chain), data)
    if data.startswith(_DER):
        return of_request(data)
    if data.startswith(_CMW):
        return of_evidence(cmw.decode(data), data)
    if data.startswith(_COSE):
        return Found(NitroDocument.from_bytes(data), data)
    raise _unknown(f"{len(data)} bytes, from {data[:4].hex() or 'nothing'}")


def _read_directory(path: Path) -> Found:
    if (path / _REPORT).exists():
        report, leaf = _file(path / _REPORT), _file(path / _LEAF)
        return Found(SnpEvidence(report, (leaf,)), report, endorsements=(path,))
    if (path / _DOCUMENT).exists():
        data = _file(path / _DOCUMENT)
        return Found(NitroDocument.from_bytes(data), data)
    raise Misuse(
        "no evidence in this directory",
        field=str(path),
        expected=f"{_REPORT} with {_LEAF}, or {_DOCUMENT}",
    )


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise Misuse(f"cannot be read: {error.strerror}", field=str(path)) from error
    if len(data) > _MAX_FILE:
        raise Malformed("too long", field=str(path), expected=f"at most {_MAX_FILE} bytes")
    return data


def _unknown(found: str) -> Malformed:
    return Malformed(
        "unknown kind of evidence",
        field="evidence",
        found=found,
        expected="an SNP report, a Nitro document, a CMW record or a certificate request",
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


def _snp_claims(report: Report) -> Iterator[tuple[str, str]]:
    policy, platform = report.policy, report.platform_info
    yield "version", str(report.version)
    yield "guest SVN", str(report.guest_svn)
    yield "guest policy", f"{policy.bits:#x}"
    yield "guest policy: least ABI", f"{policy.abi[0]}.{policy.abi[1]}"
    yield "guest policy: multithreading", _allowed(yes=policy.smt)
    yield "guest policy: migration agent", _allowed(yes=policy.migrate_ma)
    yield "guest policy: debugging by the host", _allowed(yes=policy.debug)
    yield "guest policy: single socket only", "yes" if policy.single_socket else "no"
    yield "family ID", report.family_id.hex()
    yield "image ID", report.image_id.hex()
    yield "VMPL", str(report.vmpl)
    yield "platform", f"{platform.bits:#x}"
    yield "platform: multithreading", "on" if platform.smt else "off"
    yield "platform: TSME", "on" if platform.tsme else "off"
    yield "platform: ECC memory", "on" if platform.ecc else "off"
    yield "signed by", report.signing_key.name
    yield "report data", report.report_data.hex()
    yield "launch measurement", report.measurement.hex()
    yield "host data", report.host_data.hex()
    yield "identity key digest", report.id_key_digest.hex()
    yield "author key digest", report.author_key_digest.hex() if report.author_key_en else "none"
    yield "report ID", report.report_id.hex()
    yield "migration agent's report ID", report.report_id_ma.hex()
    yield "processor", "not told" if report.cpuid is None else str(report.cpuid)
    yield "chip ID", report.chip_id.hex() if any(report.chip_id) else "masked"
    for name, tcb in (
        ("reported", report.reported_tcb),
        ("current", report.current_tcb),
        ("committed", report.committed_tcb),
        ("launch", report.launch_tcb),
    ):
        product = None if report.cpuid is None else report.cpuid.product
        # How the bytes are laid out is the product's, which older reports do not tell.
        text = tcb.hex() if product is None else str(Tcb.from_bytes(tcb, product))
        yield f"{name} TCB version", text
    for name, version in (
        ("current", report.current_version),
        ("committed", report.committed_version),
    ):
        yield f"{name} firmware", f"{version.major}.{version.minor} build {version.build}"
    yield "launch mitigations", f"{report.launch_mit_vector:#x}"
    yield "current mitigations", f"{report.current_mit_vector:#x}"


def _nitro_claims(document: NitroDocument) -> Iterator[tuple[str, str]]:
    yield "module", document.module_id
    yield "timestamp", str(document.timestamp)
    for index, pcr in enumerate(document.pcrs):
        yield f"PCR{index}", pcr.hex()
    for name, value in (
        ("public key", document.public_key),
        ("user data", document.user_data),
        ("nonce", document.nonce),
    ):
        yield name, "none" if value is None else value.hex()


def _allowed(*, yes: bool) -> str:
    return "allowed" if yes else "not allowed"

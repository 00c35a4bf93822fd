"""Quotes, Azure's evidence and CCA tokens in files: what they claim, and whether they are genuine.

For `garrison.steward.offline`, as its other kinds: nothing is fetched. Intel's collateral and the
keys of CCA platforms are what the user names; without collateral a quote is not called genuine,
however good its chain, because its platform may be revoked: unless the user says that it may.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode
from dataclasses import dataclass, replace
from hmac import compare_digest
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from garrison.appraisal import azure as azure_appraisal
from garrison.appraisal import cca as cca_appraisal
from garrison.appraisal import sgx as sgx_appraisal
from garrison.appraisal import snp as snp_appraisal
from garrison.appraisal import tdx as tdx_appraisal
from garrison.endorsements.source import simulated_collateral
from garrison.errors import Malformed, Rejected, Unavailable, Unverified
from garrison.formats.azure import AzureEvidence, HclReport, ReportType, quote_nonce
from garrison.formats.cca import EXTENSIBLE_MEASUREMENTS, CcaToken, public_key
from garrison.formats.dcap_quote import Quote, TeeType
from garrison.formats.evidence import REPORT_DATA_SIZE
from garrison.formats.snp import Report
from garrison.formats.snp_evidence import SnpEvidence
from garrison.formats.tpm import Quote as TpmQuote
from garrison.steward.appraisers import azure_snp_evidence, sgx_claims, tdx_claims
from garrison.steward.offline_claims import azure_claims, cca_claims, quote_claims
from garrison.steward.offline_endorsements import no_signer
from garrison.verification import azure, cca, dcap, snp
from garrison.verification.cca import PlatformKey
from garrison.verification.roots import Roots

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from garrison.appraisal.dcap import DcapPolicy
    from garrison.appraisal.result import AttestationResult
    from garrison.formats.dcap_collateral import DcapCollateral
    from garrison.formats.sgx_evidence import EnarxSgxEvidence
    from garrison.formats.snp_evidence import SnpEndorsements
    from garrison.steward.offline_endorsements import Endorsements
    from garrison.steward.policy import TeePolicies
    from garrison.verification.snp import SnpClaims
    from garrison.verification.verified import Verified

# What kinds this module judges.
Kind = Quote | AzureEvidence | HclReport | CcaToken
_JWK_CURVES: dict[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_GIVE = "give it with --collateral or --endorsements"
# More platforms than a person names by hand.
_MAX_ANCHORS = 1024


@dataclass(frozen=True, slots=True)
class Means:
    """What there is to verify with.

    Attributes:
        now: the time.
        endorsements: certificates, lists and collateral.
        platforms: keys of CCA platforms that the user trusts, beside the policy's.
        by_baseline: whether there is no policy but the baseline.
        insecure_signatures_only: whether signatures do where there is no collateral.
        original: the evidence of an original's request, which brings collateral along.
    """

    now: datetime
    endorsements: Endorsements
    platforms: tuple[PlatformKey, ...]
    by_baseline: bool
    insecure_signatures_only: bool = False
    original: EnarxSgxEvidence | None = None


@dataclass(frozen=True, slots=True)
class Genuine:
    """What verification showed.

    Attributes:
        root: the name of the root, or platform key, that vouches for the evidence.
        simulated: whether that proves nothing.
        crl_checked: whether revocation lists were checked; None where the TEE has none.
        facts: what was verified of the platform.
        bound: what the evidence is bound to.
        result: every check by the policy; None where there was nothing to hold to it.
        lacks: what was not looked at.
    """

    root: str
    simulated: bool
    crl_checked: bool | None
    facts: dict[str, str]
    bound: bytes
    result: AttestationResult | None
    lacks: tuple[str, ...] = ()


def tee_of(kind: Kind) -> str:
    """The TEE, as `garrison.formats.evidence.Tee` calls it."""
    if isinstance(kind, Quote):
        return "sgx" if kind.header.tee is TeeType.SGX else "tdx"
    return "cca" if isinstance(kind, CcaToken) else "azure"


def claims_of(kind: Kind) -> Iterator[tuple[str, str]]:
    """What the evidence says of itself.

    Raises:
        Malformed: a part of it cannot be read.
    """
    if isinstance(kind, Quote):
        return quote_claims(kind)
    return cca_claims(kind) if isinstance(kind, CcaToken) else azure_claims(kind)


def judge_kind(
    kind: Kind, raw: bytes, tees: TeePolicies, wanted: bytes | None, means: Means
) -> Genuine:
    """Verify evidence of these kinds, and hold it to `tees`.

    Args:
        kind: the evidence.
        raw: its bytes.
        tees: what is admitted.
        wanted: the report data that bind it; None where nobody said.
        means: what to verify with.

    Raises:
        Malformed: it cannot be read.
        Unverified: it is not genuine.
        Rejected: the policy does not speak of this TEE.
        Unavailable: collateral or certificates are missing.
    """
    if isinstance(kind, CcaToken):
        found = _cca(raw, tees, wanted, means)
    elif getattr(tees, tee_of(kind)) is None:
        raise _unspoken(tee_of(kind))
    elif isinstance(kind, Quote):
        found = _quote(raw, tees, wanted, means)
    elif isinstance(kind, HclReport):
        return _blob(kind, wanted, means)
    else:
        return _azure(kind, tees, wanted, means)
    # With a policy this is one of its checks, if there are any.
    is_checked = not means.by_baseline and found.result is not None
    if not is_checked and wanted is not None and found.bound != wanted:
        raise Unverified(
            "the evidence is bound to another key or challenge",
            field="report data",
            found=found.bound.hex() or "none",
            expected=wanted.hex(),
        )
    return found


def read_trust_anchors(data: bytes) -> tuple[PlatformKey, ...]:
    """Read keys of CCA platforms: a JSON array of `implementation-id`, `instance-id` and `pkey`.

    The identifiers are hex, the key is a JWK.

    Raises:
        Malformed: it is anything else.
        Unverified: a key is not a point on its curve: whatever names it, nothing is signed by it.
    """
    field = "trust anchors"
    try:
        anchors = json.loads(data)
        if not isinstance(anchors, list) or not 0 < len(anchors) <= _MAX_ANCHORS:
            raise Malformed("not a list of keys", field=field)
        return tuple(
            PlatformKey(
                name=f"{anchor['instance-id']} of the given trust anchors",
                implementation_id=bytes.fromhex(anchor["implementation-id"]),
                instance_id=bytes.fromhex(anchor["instance-id"]),
                key=_anchor_key(
                    _JWK_CURVES[anchor["pkey"]["crv"]],
                    urlsafe_b64decode(anchor["pkey"]["x"] + "=="),
                    urlsafe_b64decode(anchor["pkey"]["y"] + "=="),
                ),
                simulated=False,
            )
            for anchor in anchors
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed(
            "cannot be read", field=field, expected="implementation-id, instance-id, pkey (JWK)"
        ) from error


def _anchor_key(curve: ec.EllipticCurve, x: bytes, y: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return public_key(curve, x, y, "trust anchors")
    except Malformed as error:
        raise Unverified(
            "not a key", field="trust anchors", found=error.found, expected=error.expected
        ) from error


def _quote(raw: bytes, tees: TeePolicies, wanted: bytes | None, means: Means) -> Genuine:
    enclave = Quote.from_bytes(raw).header.tee is TeeType.SGX
    section = tees.sgx if enclave else tees.tdx
    if section is None:
        raise _unspoken("sgx" if enclave else "tdx")
    roots = section.platform.roots()
    collateral = _collateral(raw, section.platform, means)
    if collateral is None:
        return _signatures_only(raw, roots, means.now)
    verified = dcap.verify(raw, collateral, roots, means.now)
    claims = verified.value
    bound = claims.report.report_data
    if isinstance(section, sgx_appraisal.SgxPolicy):
        enclave_claims = sgx_claims(verified)
        result = sgx_appraisal.appraise(enclave_claims, section, wanted or bound, means.now)
    else:
        td_claims = tdx_claims(verified)
        result = tdx_appraisal.appraise(td_claims, section, wanted or bound, means.now)
    return _of_intel(claims.platform, bound, result)


def _of_intel(
    platform: dcap.DcapPlatform, bound: bytes, result: AttestationResult | None
) -> Genuine:
    facts = {
        "FMSPC": platform.fmspc.hex(),
        "PCK issuer": platform.issuer,
        "TCB status": platform.tcb.status.value,
        "advisories": ", ".join(platform.tcb.advisories) or "none",
        "valid until": platform.valid_until.isoformat(),
    }
    anchor = platform.anchor
    return Genuine(anchor.name, anchor.simulated, True, facts, bound, result)  # noqa: FBT003 - named in the class


def _signatures_only(raw: bytes, roots: Roots, now: datetime) -> Genuine:
    """What a quote is worth without collateral, for who has said that this is enough."""
    chain = dcap.verify_quote_chain(raw, roots, now).value
    facts = {"FMSPC": chain.pck.fmspc.hex(), "PCK issuer": chain.pck.issuer_name}
    return Genuine(
        chain.anchor.name,
        chain.anchor.simulated,
        False,  # noqa: FBT003 - named in the class
        facts,
        chain.quote.body.report_data,
        None,
        ("its signatures are good, and that is all: no collateral, TCB status or policy",),
    )


def _collateral(quote: bytes, policy: DcapPolicy, means: Means) -> DcapCollateral | None:
    """What verifies the quote; None where signatures are to do.

    Raises:
        Malformed: the quote cannot be read.
        Unverified: its signatures or its chain are not good.
        Unavailable: there is none, and signatures are not enough.
    """
    chain = dcap.verify_quote_chain(quote, policy.roots(), means.now).value
    pck = chain.pck
    directory = policy.simulated_endorsements.get(chain.anchor.name)
    try:
        return means.endorsements.collateral(chain.quote.header.tee.name, pck)
    except Unavailable as error:
        if chain.anchor.simulated and directory is not None:
            return simulated_collateral(directory)
        if means.original is not None:
            return means.original.collateral(pck.issuer_name)
        if means.insecure_signatures_only:
            return None
        unread = means.endorsements.unread
        raise Unavailable(
            "the quote's signatures and chain are good, but whether its platform is to be trusted"
            " Intel's collateral must say",
            field=f"collateral for FMSPC {pck.fmspc.hex()}, {pck.issuer_name}",
            expected=error.expected,
            hint=_GIVE if unread is None else f"{_GIVE}; beside the quote there is {unread}",
        ) from error


def _cca(raw: bytes, tees: TeePolicies, wanted: bytes | None, means: Means) -> Genuine:
    section = tees.cca
    if section is None and not means.by_baseline:
        raise _unspoken("cca")
    keys = (*means.platforms, *(() if section is None else section.platforms))
    if not keys:
        raise Unavailable(
            "no platform's key is known",
            field="CCA platform token",
            hint="name it with --trust-anchors, or in the policy's [[cca.platforms]]",
        )
    verified = cca.verify(raw, keys)
    token, anchor = verified.value.token, verified.value.anchor
    bound = token.realm.challenge
    policy = section or replace(_CCA_BASELINE, platforms=keys)
    result = cca_appraisal.appraise(verified, policy, wanted or bound, means.now)
    facts = {"platform lifecycle": token.platform.state.value}
    return Genuine(anchor.name, anchor.simulated, None, facts, bound, result)


# What `garrison.steward.offline.BASELINE` says of the other TEEs: not one whose host may debug it.
_CCA_BASELINE = cca_appraisal.CcaPolicy(
    initial_measurements=None,
    extensible_measurements=dict.fromkeys(range(EXTENSIBLE_MEASUREMENTS)),
    personalization_values=None,
    configurations=None,
    software=None,
    lifecycle=("secured",),
    platforms=(),
)


def _azure(
    evidence: AzureEvidence, tees: TeePolicies, wanted: bytes | None, means: Means
) -> Genuine:
    quoted = TpmQuote.from_bytes(evidence.message).extra_data
    # As the TPM has it: whoever is asked for the binding is told this.
    nonce = quoted if wanted is None else quote_nonce(wanted)
    if means.by_baseline and not compare_digest(quoted, nonce):
        raise Unverified(
            "the evidence is bound to another key or challenge",
            field="TPM quote: nonce",
            found=quoted.hex() or "none",
            expected=nonce.hex(),
        )
    if evidence.td_quote is not None:
        return _azure_tdx(evidence, evidence.td_quote, tees, nonce, means)
    policy, own = tees.snp, tees.azure
    if policy is None or own is None:
        raise _unspoken("azure on snp")
    means.endorsements.add_paths(policy.endorsements)
    hardware_evidence = azure_snp_evidence(evidence)
    endorsements = _store(hardware_evidence, means)
    verified = azure.verify_snp(evidence, endorsements, policy.roots(), means.now)
    hardware = verified.value.hardware.value

    def appraise(found: Verified[SnpClaims], data: bytes) -> AttestationResult:
        asked_by = azure_appraisal.of_paravisor(policy)
        return snp_appraisal.appraise(found, asked_by, data, means.now)

    result = azure_appraisal.appraise(verified, own, nonce, appraise, means.now)
    facts = {"product": hardware.product.value, "VM": verified.value.runtime.vm_id}
    anchor = hardware.anchor
    return Genuine(anchor.name, anchor.simulated, hardware.crl_checked, facts, b"", result)


def _azure_tdx(
    evidence: AzureEvidence, quote: bytes, tees: TeePolicies, nonce: bytes, means: Means
) -> Genuine:
    policy, own = tees.tdx, tees.azure
    if policy is None or own is None:
        raise _unspoken("azure on tdx")
    roots = policy.platform.roots()
    collateral = _collateral(quote, policy.platform, replace(means, insecure_signatures_only=False))
    if collateral is None:
        raise RuntimeError("collateral was asked for")
    verified = azure.verify_tdx(evidence, collateral, roots, means.now)

    def appraise(found: Verified[dcap.TdxClaims], data: bytes) -> AttestationResult:
        return tdx_appraisal.appraise(found, policy, data, means.now)

    result = azure_appraisal.appraise(verified, own, nonce, appraise, means.now)
    return _of_intel(verified.value.hardware.value.platform, b"", result)


def _store(evidence: SnpEvidence, means: Means) -> SnpEndorsements:
    """The chain for a report that may have come without its first certificate."""
    if not evidence.certificates:
        report = Report.from_bytes(evidence.report)
        leaf = means.endorsements.signer_of(report, means.now)
        if leaf is None:
            raise no_signer(report)
        evidence = replace(evidence, certificates=(leaf,))
    return means.endorsements.for_snp(evidence)


def _blob(blob: HclReport, wanted: bytes | None, means: Means) -> Genuine:
    """A paravisor's report alone: genuine or not, but nothing binds it to a sender."""
    if blob.kind is not ReportType.SNP:
        raise Unavailable(
            "only its own machine can verify the hardware's report in it",
            field="Azure HCL report",
            found=f"a TDREPORT, on {blob.kind.name}",
            expected="a TD quote of it, and the TPM's quote",
            hint="Azure's evidence has all of it, in JSON: hcl_report, tpm_quote, td_quote",
        )
    if not means.by_baseline or wanted is not None:
        raise Unverified(
            "a paravisor's report alone shows neither who sends it nor what was booted",
            field="Azure HCL report",
            found="no quote of the TPM",
            expected="the TPM's quote too",
        )
    endorsements = _store(SnpEvidence(blob.hardware, ()), means)
    verified = snp.verify(blob.hardware, endorsements, Roots.load(), means.now)
    claims = verified.value
    expected = hashlib.sha256(blob.runtime).digest().ljust(REPORT_DATA_SIZE, b"\0")
    if not compare_digest(claims.report.report_data, expected):
        raise Unverified(
            "the hardware vouches for other runtime data",
            field="Azure HCL report: report data",
            found=claims.report.report_data.hex(),
            expected=expected.hex(),
        )
    facts = {"product": claims.product.value}
    anchor = claims.anchor
    return Genuine(
        anchor.name,
        anchor.simulated,
        claims.crl_checked,
        facts,
        b"",
        None,
        ("the TPM was not asked to quote: the report is bound to nobody",),
    )


def _unspoken(found: str) -> Rejected:
    return Rejected("the policy does not admit this TEE", field="evidence", found=found)

"""Evidence in files, verified and appraised without a network and without issuing anything.

`garrison.steward.offline_read` says what the evidence claims, before anybody has verified a word
of it; `judge` verifies, and holds it to a policy where there is one. Without a policy nothing is
admitted: genuine evidence is called genuine, and no more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from garrison.appraisal import nitro as nitro_appraisal
from garrison.appraisal import snp as snp_appraisal
from garrison.endorsements.store import SnpEndorsementStore
from garrison.errors import Rejected, Unverified
from garrison.formats.azure import AzureEvidence
from garrison.formats.evidence import Tee
from garrison.formats.nitro import NitroDocument
from garrison.steward.deny import Deny
from garrison.steward.offline_kinds import Kind, Means, judge_kind
from garrison.steward.policy import Policy, TeePolicies, read_policy_file
from garrison.verification import nitro, snp
from garrison.verification.roots import Roots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from garrison.appraisal.result import AttestationResult
    from garrison.formats.dcap_collateral import DcapCollateral
    from garrison.formats.snp_evidence import SnpEvidence
    from garrison.steward.offline_read import Found
    from garrison.verification.cca import PlatformKey

# Offline nothing is certified: an original's policy, which names no domain, needs none.
_NO_DOMAIN = "offline.invalid"


def load_policies(path: Path) -> tuple[TeePolicies, Deny]:
    """Read a steward's policy, an original's, or a document of the TEEs' sections alone.

    Raises:
        Misuse: the file cannot be read.
        Malformed: it is none of them.
    """
    table = read_policy_file(path, _NO_DOMAIN)
    if "trust_domain" in table:
        policy = Policy.load(path, _NO_DOMAIN)
        return policy.tees, policy.deny
    found = TeePolicies.from_table(table, path.parent)
    table.done()
    return found, Deny()


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


def judge(
    found: Found,
    policies: TeePolicies | None,
    deny: Deny,
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
        deny: what is not, whatever the rest says.
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
    if judged.result is None:
        return judged
    result = judged.result if wanted is not None else _without_binding(judged.result)
    return replace(judged, result=deny.judge(result))


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

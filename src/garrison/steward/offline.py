"""Evidence in files, verified and appraised without a network and without issuing anything.

`garrison.steward.offline_read` says what the evidence claims, before anybody has verified a word
of it; `judge` verifies, and holds it to a policy. Where the user gives none it is held to
`BASELINE`, what nobody should do without: no TEE that its host may debug, no platform that its
vendor calls out of date. Whoever passes that is called genuine, and not admitted: which keeps
are wanted only a policy can say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from garrison.appraisal import nitro as nitro_appraisal
from garrison.appraisal import snp as snp_appraisal
from garrison.appraisal.reference import ANY
from garrison.errors import Misuse, Rejected, Unverified
from garrison.formats.azure import AzureEvidence
from garrison.formats.evidence import Tee
from garrison.formats.nitro import NitroDocument
from garrison.formats.snp import Report
from garrison.formats.snp_evidence import SnpEvidence
from garrison.formats.strict_toml import Table
from garrison.formats.tpm import Quote
from garrison.steward.offline_endorsements import no_signer, with_chip_hint
from garrison.steward.offline_kinds import Genuine, Means, judge_kind
from garrison.steward.offline_read import VekChain
from garrison.steward.policy import Policy, TeePolicies, read_policy_file
from garrison.verification import nitro, snp
from garrison.verification.roots import Roots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from garrison.appraisal.result import AttestationResult
    from garrison.steward.deny import Deny
    from garrison.steward.offline_read import Found
    from garrison.verification.cca import PlatformKey

# Offline nothing is certified: an original's policy, which names no domain, needs none.
_NO_DOMAIN = "offline.invalid"
# The statuses of Intel's that a platform may have which lacks no update.
STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
)
BASELINE = """
[snp]
measurements = "any"
products = "any"
minimum_tcb = "any"
id_key_digests = "any"
author_key_digests = "any"
host_data = "any"
chip_ids = "any"
vmpl = "any"
abi_minimum = "any"
smt = true
single_socket = false
crl = "optional"
endorsements = []
[nitro.pcrs]
others = "any"
[sgx]
measurements = "any"
signers = "any"
config_ids = "any"
features = "any"
misc_select = "any"
tcb_statuses = {statuses}
advisories = "any"
minimum_tcb_evaluation = "any"
[tdx]
mr_td = "any"
mr_seam = "any"
mr_config_id = "any"
mr_owner = "any"
mr_owner_config = "any"
mr_service_td = "any"
migratable = true
perfmon = true
sept_ve_disable = false
tcb_statuses = {statuses}
advisories = "any"
minimum_tcb_evaluation = "any"
[tdx.rtmrs]
others = "any"
[azure]
secure_boot = "any"
console = "any"
[azure.pcrs]
others = "any"
"""


def load_policies(path: Path) -> tuple[TeePolicies, Deny]:
    """Read a steward's policy, an original's, or a document of the TEEs' sections alone.

    Raises:
        Misuse: the file cannot be read.
        Malformed: it is none of them.
    """
    from garrison.steward.deny import Deny

    table = read_policy_file(path, _NO_DOMAIN)
    if "trust_domain" in table:
        policy = Policy.load(path, _NO_DOMAIN)
        return policy.tees, policy.deny
    found = TeePolicies.from_table(table, path.parent)
    table.done()
    return found, Deny()


def baseline(base: Path, statuses: Sequence[str] = ()) -> TeePolicies:
    """What evidence is held to where there is no policy.

    Args:
        base: a directory; the baseline names no files.
        statuses: statuses of Intel's that are admitted besides `STATUSES`.

    Raises:
        Malformed: one of `statuses` is none.
    """
    listed = ", ".join(f'"{each}"' for each in dict.fromkeys((*STATUSES, *statuses)))
    text = BASELINE.format(statuses=f"[{listed}]")
    return TeePolicies.from_table(Table.parse(text, source="TCB status"), base)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Genuine evidence: the root that vouches for it, and what a policy makes of it.

    Attributes:
        root: the name of the root.
        simulated: whether it is a simulated one: then it proves nothing.
        crl_checked: whether a revocation list was there to be checked; None where the TEE has none.
        facts: what the certificates say of the platform.
        result: every check; None where there is nothing that a policy could be held to.
        by_baseline: whether the checks are those of the baseline.
        lacks: what was not looked at, for a user to know.
    """

    root: str
    simulated: bool
    crl_checked: bool | None
    facts: Mapping[str, str]
    result: AttestationResult | None
    by_baseline: bool
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What evidence is held to.

    Attributes:
        now: the time.
        policies: what is admitted.
        deny: what is not, whatever the rest says.
        by_baseline: whether `policies` are those of the baseline.
        report_data: what the evidence must be bound to, 64 bytes. It goes before what a
            certificate request binds it to.
        platforms: keys of CCA platforms that are trusted, beside the policy's.
        nonce: what a TPM of Azure's, or a Nitro document, must have quoted, as it stands there.
        insecure_signatures_only: whether a quote without collateral may be called genuine for its
            signatures alone, which says nothing of whether its platform was revoked.
    """

    now: datetime
    policies: TeePolicies
    deny: Deny
    by_baseline: bool
    report_data: bytes | None = None
    platforms: tuple[PlatformKey, ...] = ()
    nonce: bytes | None = None
    insecure_signatures_only: bool = False


def judge(found: Found, wanted: Wanted) -> Judgement:
    """Verify `found`, and hold it to what is wanted.

    Raises:
        Malformed: it cannot be read.
        Unverified: it is not genuine, or, where no policy says so, bound to something else.
        Rejected: the policy does not speak of this TEE. Failed checks are in the result instead.
        Unavailable: endorsements are missing.
    """
    bound = wanted.report_data or found.binding
    evidence, policies = found.evidence, wanted.policies
    if wanted.nonce is not None:
        _check_nonce(found, wanted.nonce)
    if isinstance(evidence, VekChain):
        genuine = _judge_chain(found, evidence, policies, bound, wanted)
    elif isinstance(evidence, NitroDocument):
        genuine = _judge_nitro(found.raw, policies, bound, wanted)
    elif isinstance(evidence, SnpEvidence):
        genuine = _judge_snp(found, evidence, policies, bound, wanted)
    else:
        means = Means(
            wanted.now,
            found.endorsements,
            wanted.platforms,
            wanted.by_baseline,
            wanted.insecure_signatures_only,
            found.original,
        )
        genuine = judge_kind(evidence, found.raw, policies, bound, means)
    result = genuine.result
    is_bound = bound is not None or wanted.nonce is not None
    if result is not None:
        result = wanted.deny.judge(result if bound is not None else _without_binding(result))
    return Judgement(
        genuine.root,
        genuine.simulated,
        genuine.crl_checked,
        genuine.facts,
        result,
        wanted.by_baseline,
        (*genuine.lacks, *(() if is_bound or result is None else (_UNBOUND,))),
    )


_UNBOUND = "nobody said what the evidence must be bound to: it may be somebody else's, or old"


def _judge_nitro(
    document: bytes, policies: TeePolicies, bound: bytes | None, wanted: Wanted
) -> Genuine:
    policy = _spoken_of(policies.nitro, Tee.NITRO)
    verified = nitro.verify(document, policy.roots(), wanted.now)
    claims = verified.value
    shown = claims.document.user_data or b""
    _check_binding(shown, bound, wanted)
    result = nitro_appraisal.appraise(verified, policy, bound or shown, wanted.now)
    verified_facts = {"made at": claims.timestamp.isoformat()}
    anchor = claims.anchor
    return Genuine(anchor.name, anchor.simulated, None, verified_facts, shown, result)


def _judge_snp(
    found: Found,
    evidence: SnpEvidence,
    policies: TeePolicies,
    bound: bytes | None,
    wanted: Wanted,
) -> Genuine:
    policy = _spoken_of(policies.snp, Tee.SNP)
    found.endorsements.add_paths(policy.endorsements)
    if not evidence.certificates:
        raise no_signer(Report.from_bytes(evidence.report))
    endorsements = found.endorsements.for_snp(evidence)
    try:
        verified = snp.verify(evidence.report, endorsements, policy.roots(), wanted.now)
    except Unverified as error:
        raise with_chip_hint(error, evidence) from error
    claims = verified.value
    shown = claims.report.report_data
    _check_binding(shown, bound, wanted)
    result = snp_appraisal.appraise(verified, policy, bound or shown, wanted.now)
    facts = {"product": claims.product.value, "reported TCB version": str(claims.tcb)}
    if claims.csp_id is not None:
        facts["provider"] = claims.csp_id
    anchor = claims.anchor
    return Genuine(anchor.name, anchor.simulated, claims.crl_checked, facts, shown, result)


def _judge_chain(
    found: Found, chain: VekChain, policies: TeePolicies, bound: bytes | None, wanted: Wanted
) -> Genuine:
    """A certificate alone, which anybody can have: it satisfies nobody who wants more than that."""
    roots = Roots.load() if policies.snp is None else policies.snp.roots()
    evidence = SnpEvidence(b"", (chain.leaf,))
    verified = snp.verify_chain(found.endorsements.for_snp(evidence), roots, wanted.now)
    if not wanted.by_baseline:
        raise Rejected(
            "a certificate attests nothing that a policy could admit",
            field="evidence",
            found="an SNP signing key's certificate",
            expected="a report, with that certificate",
        )
    if bound is not None:
        raise Unverified(
            "a certificate is bound to nothing",
            field="report data",
            found="none",
            expected=bound.hex(),
        )
    facts = {"product": verified.vek.product.value, "TCB version": str(verified.vek.tcb)}
    return Genuine(
        verified.anchor.name,
        verified.anchor.simulated,
        verified.crl_checked,
        facts,
        b"",
        None,
        ("there is no report: the key is genuine, and nothing is attested",),
    )


def _check_binding(shown: bytes, bound: bytes | None, wanted: Wanted) -> None:
    """With a policy this is one of its checks; by the baseline alone it is a question of whose."""
    if wanted.by_baseline and bound is not None and shown != bound:
        raise Unverified(
            "the evidence is bound to another key or challenge",
            field="report data",
            found=shown.hex() or "none",
            expected=bound.hex(),
        )


def _check_nonce(found: Found, nonce: bytes) -> None:
    evidence = found.evidence
    if isinstance(evidence, AzureEvidence):
        quoted: bytes | None = Quote.from_bytes(evidence.message).extra_data
    elif isinstance(evidence, NitroDocument):
        quoted = evidence.nonce
    else:
        raise Misuse(
            "this evidence has none",
            field="--nonce",
            found=found.tee,
            expected="Azure's, or a Nitro document",
            hint="what SNP, SGX, TDX and CCA bind is --report-data",
        )
    if quoted != nonce:
        raise Unverified(
            "another nonce",
            field="nonce",
            found="none" if quoted is None else quoted.hex(),
            expected=nonce.hex(),
        )


P = TypeVar("P", snp_appraisal.SnpPolicy, nitro_appraisal.NitroPolicy)


def _spoken_of(policy: P | None, tee: Tee) -> P:
    if policy is None:
        raise Rejected("the policy does not admit this TEE", field="evidence", found=tee.value)
    return policy


def _without_binding(result: AttestationResult) -> AttestationResult:
    """Nobody said what the evidence must be bound to: that check would compare it with itself."""
    first, *others = result.checks
    unbound = replace(first, wanted=f"{ANY}: nobody said what it must be bound to")
    return replace(result, checks=(unbound, *others))

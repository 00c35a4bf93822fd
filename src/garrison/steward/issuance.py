"""Issuance, sans-I/O: a request and a time in, a certificate or a refusal out.

It goes in two steps, because a workload's digest must be looked up in between:

`examine`
    1. The request has the right form, and is signed by the key it holds.
    2. It carries evidence.
    3. The evidence answers a challenge of this steward; or the policy says that it need not.
    4. The key has the strength of the TEE's own.
    5. The evidence is genuine, is bound to that key and that challenge, and the policy admits
       the platform and the keep that it shows.
    6. The policy denies neither the platform, nor the keep, nor the workload, and admits the
       kind of name that is asked for, and the DNS names.
`issue`
    7. The drawbridge gives the tag the digest that the keep runs.
    8. A certificate says what was verified, for as long as the policy says.

The first step that fails ends it. Nothing of the request enters the certificate but the key,
and a name whose every part was checked.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from garrison.errors import GarrisonError, Rejected
from garrison.formats.azure import AZURE_MEDIA_TYPE
from garrison.formats.csr import EnarxEvidence, Request
from garrison.formats.deny_list import DenyList
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
from garrison.formats.identity import WorkloadIdentity
from garrison.formats.nitro import NITRO_MEDIA_TYPE
from garrison.formats.oci_name import OciName
from garrison.service import metrics
from garrison.service.problem import title_of
from garrison.service.stages import stage
from garrison.steward.certificates import issue_certificate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from pathlib import Path

    from cryptography import x509

    from garrison.appraisal.result import AttestationResult
    from garrison.endorsements.source import EndorsementSource
    from garrison.formats.oci_name import Name
    from garrison.steward.authority import Authority
    from garrison.steward.challenge import Challenges
    from garrison.steward.policy import Policy


# The TCB status in a certificate for simulated evidence, whatever its TCB versions say.
INSECURE_SIMULATED = "InsecureSimulated"

_ATTESTATIONS = metrics.Counter(
    "garrison_attestations", "Evidence appraised, by TEE and outcome.", "tee", "outcome"
)


_PLATFORM = b"garrison steward platform\0"


class NoEvidence(Rejected):
    """The request carries no evidence at all: the sender does not say what it is."""


class Appraiser(Protocol):
    """Verifies the evidence of one TEE, and appraises it by the steward's policy."""

    def appraise(
        self, evidence: Evidence | EnarxEvidence, expected_report_data: bytes, now: datetime
    ) -> AttestationResult:
        """Verify `evidence` and collect every check.

        Args:
            evidence: the evidence.
            expected_report_data: what it must be bound to, 64 bytes.
            now: the time.

        Raises:
            Malformed: it cannot be read.
            Unverified: it is not genuine.
            Unavailable: the vendor's endorsements for it cannot be had.
        """


@dataclass(frozen=True, slots=True)
class Steward:
    """All that issuance depends on.

    `appraisers` holds those TEEs that the policy admits. `server_names` are the DNS names under
    which the steward itself serves, and which therefore no keep may have. `endorsements` is what
    the appraisers ask, for the service to keep it fresh, and `directory` is where revocations
    are read from; issuance itself touches neither.
    """

    authority: Authority
    policy: Policy
    challenges: Challenges
    appraisers: Mapping[Tee, Appraiser]
    server_names: frozenset[str] = frozenset()
    endorsements: EndorsementSource | None = None
    directory: Path | None = None

    def platform(self, chip_id: str) -> bytes | None:
        """The name for a processor that certificates have, by which it can be denied.

        Only the replicas of this steward can tell whose it is.
        """
        if not chip_id:
            return None
        # A chip's identifier is written with and without the zeros that pad it.
        chip = bytes.fromhex(chip_id).rstrip(b"\0")
        return hmac.digest(self.authority.challenge_key, _PLATFORM + chip, "sha256")[:16]

    def deny_list(self, revoked: Iterable[int] = ()) -> DenyList:
        """What running keeps are told: the policy's `[deny]`, and serials revoked by hand."""
        deny = self.policy.deny
        platforms = (self.platform(chip) for chip in deny.chip_ids)
        return DenyList(
            deny.poll_seconds,
            measurements=frozenset(map(bytes.fromhex, deny.measurements)),
            slugs=frozenset(deny.slugs),
            serials=frozenset((*deny.serials, *revoked)),
            platforms=frozenset(name for name in platforms if name is not None),
        )


@dataclass(frozen=True, slots=True)
class Examined:
    """A request whose evidence is verified and admitted.

    Attributes:
        request: the request.
        result: what the evidence shows.
        identity: what the certificate is to say, if the digest is right.
        dns_names: the DNS names it is to have.
    """

    request: Request
    result: AttestationResult
    identity: WorkloadIdentity
    dns_names: tuple[str, ...]

    @property
    def lookup(self) -> Name | None:
        """The tag whose digest the caller must look up for `issue`; None for other kinds."""
        return self.identity.slug


# Keys are as strong as what the TEE signs with (the original's rule too).
_CURVES = {
    Tee.SNP: "secp384r1",
    Tee.NITRO: "secp384r1",
    Tee.TDX: "secp256r1",
    Tee.SGX: "secp256r1",
    # No weaker than any that may sign beneath.
    Tee.AZURE: "secp384r1",
    Tee.CCA: "secp384r1",
}
_MEDIA_TYPES = {
    SNP_MEDIA_TYPE: Tee.SNP,
    NITRO_MEDIA_TYPE: Tee.NITRO,
    SGX_MEDIA_TYPE: Tee.SGX,
    TDX_MEDIA_TYPE: Tee.TDX,
    AZURE_MEDIA_TYPE: Tee.AZURE,
    CCA_MEDIA_TYPE: Tee.CCA,
}


def examine(data: bytes, steward: Steward, now: datetime) -> Examined:
    """Steps 1 to 6.

    Args:
        data: the certificate request, DER.
        steward: whose policy decides.
        now: the time.

    Raises:
        NoEvidence: the request carries none.
        Malformed: request, challenge or evidence does not have the form it must have.
        Unverified: request, challenge or evidence is not genuine.
        Rejected: the policy does not admit what is shown or what is asked for.
        Unavailable: the vendor's endorsements cannot be had.
    """
    # 1. Form and signature.
    with stage("parse"):
        request = Request.from_der(data)
    # 2. Evidence.
    if request.evidence is None:
        raise NoEvidence(
            "no evidence", field="certificate request", expected="evidence of a TEE", hint=_HINT
        )
    tee, appraiser = appraiser_for(request.evidence, steward)
    # 3. Freshness.
    expected = _expected_report_data(request, tee, steward, now)
    # 4. Strength.
    curve = _CURVES[tee]
    if request.curve != curve:
        raise Rejected(
            "weaker or other than what the TEE signs with",
            field="certificate request key",
            found=request.curve,
            expected=curve,
        )
    # 5. Verification and appraisal.
    result = counted(appraiser, tee, request.evidence, expected, now)
    result.require()
    # 6. What is denied, and names.
    steward.policy.deny.check(result, None if request.workload is None else request.workload.slug)
    identity = _identity(request, result, tee, steward)
    return Examined(request, result, identity, _dns_names(request, steward.policy))


def issue(
    examined: Examined, steward: Steward, registry_digest: bytes | None, now: datetime
) -> x509.Certificate:
    """Steps 7 and 8.

    Args:
        examined: what `examine` found.
        steward: who signs.
        registry_digest: the digest that the drawbridge gives `examined.lookup`; None where
            there is nothing to look up.
        now: the time.

    Raises:
        Rejected: the keep runs something else than the tag holds.
        Unavailable: the root has expired.
        RuntimeError: a digest was not looked up; the caller is wrong.
    """
    identity = examined.identity
    # 7. The digest.
    if (registry_digest is None) != (examined.lookup is None):
        raise RuntimeError("a digest must be looked up exactly where a slug is asked for")
    if registry_digest is not None and registry_digest != identity.digest:
        raise Rejected(
            "the drawbridge holds another workload under this name",
            field=f"digest of {identity.slug}",
            found="" if identity.digest is None else identity.digest.hex(),
            expected=registry_digest.hex(),
            hint="the keep runs other files than were published: fetch and start it again",
        )
    # 8. The certificate.
    with stage("sign"):
        return issue_certificate(
            steward.authority,
            examined.request.spki,
            identity,
            dns_names=examined.dns_names,
            lifetime=steward.policy.lifetime,
            now=now,
        )


def appraiser_for(evidence: Evidence | EnarxEvidence, steward: Steward) -> tuple[Tee, Appraiser]:
    """The TEE that `evidence` is of, and who appraises it.

    Raises:
        Rejected: the policy does not admit it, or it is of no kind that is known.
    """
    tee = _tee_of(evidence)
    appraiser = steward.appraisers.get(tee)
    if appraiser is None:
        raise Rejected(
            "the policy does not admit this TEE",
            field="evidence",
            found=tee.value,
            expected=", ".join(admitted.value for admitted in steward.appraisers),
        )
    return tee, appraiser


def counted(
    appraiser: Appraiser,
    tee: Tee,
    evidence: Evidence | EnarxEvidence,
    expected_report_data: bytes,
    now: datetime,
) -> AttestationResult:
    """What `appraiser` finds, counted by TEE and outcome."""
    try:
        result = appraiser.appraise(evidence, expected_report_data, now)
    except GarrisonError as error:
        _ATTESTATIONS.add(tee.value, title_of(error))
        raise
    try:
        result.require()
    except Rejected:
        _ATTESTATIONS.add(tee.value, "rejected")
    else:
        _ATTESTATIONS.add(tee.value, "admitted")
    return result


_HINT = "run the keep in a TEE, or with a simulator that the steward's policy names"


def _tee_of(evidence: Evidence | EnarxEvidence) -> Tee:
    if isinstance(evidence, EnarxEvidence):
        return evidence.tee
    tee = _MEDIA_TYPES.get(evidence.media_type)
    if tee is None:
        raise Rejected(
            "unknown kind of evidence",
            field="evidence media type",
            found=evidence.media_type,
            expected=", ".join(_MEDIA_TYPES),
        )
    return tee


def _expected_report_data(request: Request, tee: Tee, steward: Steward, now: datetime) -> bytes:
    if request.challenge is not None:
        steward.challenges.check(request.challenge, now)
        return bound_report_data(request.spki, request.challenge)
    if steward.policy.challenge_required:
        raise Rejected(
            "no challenge",
            field="certificate request",
            expected="challengePassword with a challenge of this steward",
            hint="get one with GET /challenge, and bind the evidence to it",
        )
    # The original's binding: the digest of the key alone.
    digest = hashlib.sha256 if tee is Tee.SGX else hashlib.sha384
    return digest(request.spki).digest().ljust(REPORT_DATA_SIZE, b"\0")


def _identity(
    request: Request, result: AttestationResult, tee: Tee, steward: Steward
) -> WorkloadIdentity:
    policy = steward.policy
    asked = request.workload
    slug, digest = (None, None) if asked is None else (asked.slug, asked.digest)
    if slug is not None:
        is_oci = isinstance(slug, OciName)
        named = policy.oci_registries if is_oci else policy.drawbridges
        if slug.host not in named:
            raise Rejected(
                f"the policy does not name this {'OCI registry' if is_oci else 'drawbridge'}",
                field="slug",
                found=slug,
                expected=", ".join(named) or "none at all",
            )
    if slug is None and digest is not None and not policy.local_workloads:
        raise Rejected(
            "the policy does not admit local workloads",
            field="workload",
            found=f"digest {digest.hex()} without a slug",
            expected="a workload that a drawbridge of the policy holds",
            hint="publish the workload, or set local_workloads = true in the steward's policy",
        )
    return WorkloadIdentity(
        slug=slug,
        digest=digest,
        tee=tee.value,
        measurement=result.measurement,
        # A peer must see in the certificate that nothing stands behind it.
        tcb_status=INSECURE_SIMULATED if result.simulated else result.tcb_status,
        # The measured keep asks, and enforces it; that it does is what the measurement says.
        policy=None if asked is None else asked.policy,
        platform=steward.platform(result.claims.get("chip_id", "")),
    )


def _dns_names(request: Request, policy: Policy) -> tuple[str, ...]:
    """Those asked for, if the policy admits all of them; where none is asked for, all it admits."""
    foreign = [name for name in request.dns_names if name not in policy.dns_names]
    if foreign:
        raise Rejected(
            "the policy does not admit these DNS names",
            field="subjectAltName",
            found=", ".join(foreign),
            expected=", ".join(policy.dns_names) or "none at all",
        )
    return request.dns_names or policy.dns_names

"""The TEEs that this steward can verify: from evidence to attestation result, by its policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from garrison.appraisal import nitro as nitro_appraisal
from garrison.appraisal.snp import appraise
from garrison.errors import Malformed
from garrison.formats.csr import EnarxEvidence
from garrison.formats.snp_evidence import SnpEvidence
from garrison.verification import nitro
from garrison.verification.snp import verify

if TYPE_CHECKING:
    from datetime import datetime

    from garrison.appraisal.result import AttestationResult
    from garrison.appraisal.snp import SnpPolicy
    from garrison.endorsements.source import EndorsementSource
    from garrison.formats.evidence import Evidence


class SnpAppraiser:
    """SEV-SNP: endorsements from where the policy says, AMD's roots and those it names."""

    def __init__(self, policy: SnpPolicy, source: EndorsementSource) -> None:
        """Take `policy`, and where its endorsements come from.

        Raises:
            Misuse: a simulated root is a vendor's.
        """
        self._policy = policy
        self._roots = policy.roots()
        self._source = source

    def appraise(
        self, evidence: Evidence | EnarxEvidence, expected_report_data: bytes, now: datetime
    ) -> AttestationResult:
        """See `garrison.steward.issuance.Appraiser.appraise`."""
        crls: tuple[bytes, ...] = ()
        if isinstance(evidence, EnarxEvidence):
            snp, crls = SnpEvidence.from_enarx(evidence.der)
        else:
            snp = SnpEvidence.from_bytes(evidence.payload)
        endorsements = self._source.for_snp(snp, crls)
        verified = verify(snp.report, endorsements, self._roots, now)
        return appraise(verified, self._policy, expected_report_data, now)


class NitroAppraiser:
    """Nitro enclaves: the document carries its chain, up to AWS's root or one the policy names."""

    def __init__(self, policy: nitro_appraisal.NitroPolicy) -> None:
        """Take `policy`.

        Raises:
            Misuse: a simulated root is a vendor's.
        """
        self._policy = policy
        self._roots = policy.roots()

    def appraise(
        self, evidence: Evidence | EnarxEvidence, expected_report_data: bytes, now: datetime
    ) -> AttestationResult:
        """See `garrison.steward.issuance.Appraiser.appraise`."""
        if isinstance(evidence, EnarxEvidence):
            raise Malformed("the original has no such evidence", field="evidence", found="nitro")
        verified = nitro.verify(evidence.payload, self._roots, now)
        return nitro_appraisal.appraise(verified, self._policy, expected_report_data, now)

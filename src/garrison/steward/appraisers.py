"""The TEEs that this steward can verify: from evidence to attestation result, by its policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from garrison.appraisal import azure as azure_appraisal
from garrison.appraisal import cca as cca_appraisal
from garrison.appraisal import nitro as nitro_appraisal
from garrison.appraisal import sgx as sgx_appraisal
from garrison.appraisal import tdx as tdx_appraisal
from garrison.appraisal.snp import appraise
from garrison.endorsements.pcs import Ca, IntelTee
from garrison.errors import Malformed, Rejected, Unavailable, Unverified
from garrison.formats.azure import AzureEvidence, HclReport, quote_nonce
from garrison.formats.csr import EnarxEvidence
from garrison.formats.evidence import Tee
from garrison.formats.sgx_evidence import EnarxSgxEvidence
from garrison.formats.snp_evidence import SnpEvidence
from garrison.service.stages import stage
from garrison.verification import azure, cca, nitro
from garrison.verification.dcap import SgxClaims, TdxClaims, verify_quote_chain
from garrison.verification.dcap import verify as verify_quote
from garrison.verification.snp import verify

if TYPE_CHECKING:
    from datetime import datetime

    from garrison.appraisal.result import AttestationResult
    from garrison.appraisal.snp import SnpPolicy
    from garrison.endorsements.source import EndorsementSource
    from garrison.formats.dcap_collateral import DcapCollateral
    from garrison.formats.evidence import Evidence
    from garrison.steward.issuance import Appraiser
    from garrison.steward.policy import TeePolicies
    from garrison.verification.dcap import QuoteChain
    from garrison.verification.snp import SnpClaims
    from garrison.verification.verified import Verified


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
        with stage("endorsements"):
            endorsements = self._source.for_snp(snp, crls)
        with stage("verify"):
            verified = verify(snp.report, endorsements, self._roots, now)
        with stage("appraise"):
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
        with stage("verify"):
            verified = nitro.verify(_payload(evidence, Tee.NITRO), self._roots, now)
        with stage("appraise"):
            return nitro_appraisal.appraise(verified, self._policy, expected_report_data, now)


class SgxAppraiser:
    """SGX enclaves: collateral from where the policy says, Intel's root and those it names.

    Where there is none, that of the original's keeps may do, if the policy admits what it lacks.
    """

    def __init__(self, policy: sgx_appraisal.SgxPolicy, source: EndorsementSource) -> None:
        """Take `policy`, and where its collateral comes from.

        Raises:
            Misuse: a simulated root is a vendor's.
        """
        self._policy = policy
        self._roots = policy.platform.roots()
        self._source = source

    def appraise(
        self, evidence: Evidence | EnarxEvidence, expected_report_data: bytes, now: datetime
    ) -> AttestationResult:
        """See `garrison.steward.issuance.Appraiser.appraise`."""
        original = None
        if isinstance(evidence, EnarxEvidence):
            original = EnarxSgxEvidence.from_der(evidence.der)
            quote = original.quote
        else:
            quote = evidence.payload
        with stage("chain"):
            chain = verify_quote_chain(quote, self._roots, now)
        with stage("endorsements"):
            try:
                collateral = collateral_for(chain, IntelTee.SGX, self._source)
            except Unavailable:
                if original is None or self._policy.platform.qe_identity_required:
                    raise
                collateral = original.collateral(chain.value.pck.issuer_name)
        with stage("verify"):
            verified = sgx_claims(verify_quote(chain, collateral, self._roots, now))
        with stage("appraise"):
            return sgx_appraisal.appraise(verified, self._policy, expected_report_data, now)


class TdxAppraiser:
    """TDX guests: collateral from where the policy says, Intel's root and those it names."""

    def __init__(self, policy: tdx_appraisal.TdxPolicy, source: EndorsementSource) -> None:
        """Take `policy`, and where its collateral comes from.

        Raises:
            Misuse: a simulated root is a vendor's.
        """
        self._policy = policy
        self._roots = policy.platform.roots()
        self._source = source

    def appraise(
        self, evidence: Evidence | EnarxEvidence, expected_report_data: bytes, now: datetime
    ) -> AttestationResult:
        """See `garrison.steward.issuance.Appraiser.appraise`."""
        quote = _payload(evidence, Tee.TDX)
        with stage("chain"):
            chain = verify_quote_chain(quote, self._roots, now)
        with stage("endorsements"):
            collateral = collateral_for(chain, IntelTee.TDX, self._source)
        with stage("verify"):
            verified = tdx_claims(verify_quote(chain, collateral, self._roots, now))
        with stage("appraise"):
            return tdx_appraisal.appraise(verified, self._policy, expected_report_data, now)


class AzureAppraiser:
    """VMs behind Azure's paravisor: its own policy, and that of the hardware beneath."""

    def __init__(
        self, policy: azure_appraisal.AzurePolicy, tees: TeePolicies, source: EndorsementSource
    ) -> None:
        """Take `policy`, those of the hardware, and where endorsements come from.

        Raises:
            Misuse: a simulated root is a vendor's.
        """
        self._policy = policy
        self._snp = None
        if tees.snp is not None:
            self._snp = (azure_appraisal.of_paravisor(tees.snp), tees.snp.roots())
        self._tdx = None if tees.tdx is None else (tees.tdx, tees.tdx.platform.roots())
        self._source = source

    def appraise(
        self, evidence: Evidence | EnarxEvidence, expected_report_data: bytes, now: datetime
    ) -> AttestationResult:
        """See `garrison.steward.issuance.Appraiser.appraise`."""
        parsed = AzureEvidence.from_bytes(_payload(evidence, Tee.AZURE))
        nonce = quote_nonce(expected_report_data)
        if parsed.td_quote is not None:
            if self._tdx is None:
                raise _beneath(Tee.TDX)
            tdx_policy, roots = self._tdx
            with stage("chain"):
                chain = verify_quote_chain(parsed.td_quote, roots, now)
            with stage("endorsements"):
                collateral = collateral_for(chain, IntelTee.TDX, self._source)

            def on_tdx(verified: Verified[TdxClaims], report_data: bytes) -> AttestationResult:
                return tdx_appraisal.appraise(verified, tdx_policy, report_data, now)

            with stage("verify"):
                guest = azure.verify_tdx(parsed, collateral, roots, now)
            with stage("appraise"):
                return azure_appraisal.appraise(guest, self._policy, nonce, on_tdx, now)
        if self._snp is None:
            raise _beneath(Tee.SNP)
        snp_policy, roots = self._snp

        def on_snp(verified: Verified[SnpClaims], report_data: bytes) -> AttestationResult:
            return appraise(verified, snp_policy, report_data, now)

        with stage("endorsements"):
            endorsements = self._source.for_snp(azure_snp_evidence(parsed))
        with stage("verify"):
            vm = azure.verify_snp(parsed, endorsements, roots, now)
        with stage("appraise"):
            return azure_appraisal.appraise(vm, self._policy, nonce, on_snp, now)


class CcaAppraiser:
    """Arm CCA realms, on the platforms that the policy names."""

    def __init__(self, policy: cca_appraisal.CcaPolicy) -> None:
        """Take `policy`."""
        self._policy = policy

    def appraise(
        self, evidence: Evidence | EnarxEvidence, expected_report_data: bytes, now: datetime
    ) -> AttestationResult:
        """See `garrison.steward.issuance.Appraiser.appraise`."""
        with stage("verify"):
            verified = cca.verify(_payload(evidence, Tee.CCA), self._policy.platforms)
        with stage("appraise"):
            return cca_appraisal.appraise(verified, self._policy, expected_report_data, now)


def appraisers_of(tees: TeePolicies, source: EndorsementSource) -> dict[Tee, Appraiser]:
    """An appraiser for each TEE that `tees` speaks of, with endorsements from `source`.

    Raises:
        Misuse: a simulated root is a vendor's.
    """
    found: dict[Tee, Appraiser] = {}
    if tees.snp is not None:
        found[Tee.SNP] = SnpAppraiser(tees.snp, source)
    if tees.nitro is not None:
        found[Tee.NITRO] = NitroAppraiser(tees.nitro)
    if tees.sgx is not None:
        found[Tee.SGX] = SgxAppraiser(tees.sgx, source)
    if tees.tdx is not None:
        found[Tee.TDX] = TdxAppraiser(tees.tdx, source)
    if tees.azure is not None:
        found[Tee.AZURE] = AzureAppraiser(tees.azure, tees, source)
    if tees.cca is not None:
        found[Tee.CCA] = CcaAppraiser(tees.cca)
    return found


def collateral_for(
    chain: Verified[QuoteChain], tee: IntelTee, source: EndorsementSource
) -> DcapCollateral:
    """Intel's collateral for a quote; nothing is looked for unless its chain is good.

    Raises:
        Unavailable: the collateral cannot be had.
    """
    pck = chain.value.pck
    ca = Ca.PLATFORM if "Platform" in pck.issuer_name else Ca.PROCESSOR
    anchor = chain.value.anchor
    root = anchor.name if anchor.simulated else None
    return source.for_dcap(tee, pck.fmspc.hex(), ca, root)


def sgx_claims(verified: Verified[SgxClaims] | Verified[TdxClaims]) -> Verified[SgxClaims]:
    """The claims of an enclave.

    Raises:
        Unverified: they are a TD's.
    """
    if not isinstance(verified.value, SgxClaims):
        raise _other_body("a TD", "an SGX enclave")
    return verified


def tdx_claims(verified: Verified[SgxClaims] | Verified[TdxClaims]) -> Verified[TdxClaims]:
    """The claims of a TD.

    Raises:
        Unverified: they are an enclave's.
    """
    if not isinstance(verified.value, TdxClaims):
        raise _other_body("an SGX enclave", "a TD")
    return verified


def azure_snp_evidence(evidence: AzureEvidence) -> SnpEvidence:
    """The SNP report in Azure's evidence, and the chip's certificate if it came with it.

    Raises:
        Malformed: the blob cannot be read.
    """
    report = HclReport.from_bytes(evidence.report).hardware
    return SnpEvidence(report, () if evidence.vcek is None else (evidence.vcek,))


def _payload(evidence: Evidence | EnarxEvidence, tee: Tee) -> bytes:
    if isinstance(evidence, EnarxEvidence):
        raise Malformed("the original has no such evidence", field="evidence", found=tee.value)
    return evidence.payload


def _beneath(tee: Tee) -> Rejected:
    return Rejected(
        "the policy does not admit the hardware beneath",
        field="Azure evidence",
        found=tee.value,
        expected=f"a section [{tee.value}] in the policy",
    )


def _other_body(found: str, expected: str) -> Unverified:
    return Unverified("a quote of something else", field="quote", found=found, expected=expected)

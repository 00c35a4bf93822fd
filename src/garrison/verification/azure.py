"""Verification of evidence of Azure's confidential VMs: the TPM's quote, back to the hardware.

The chain of trust: the CPU's vendor signs the hardware's report; the report holds the digest of
the paravisor's runtime data; these hold the virtual TPM's key; that key signs the registers and
the guest's nonce. The hardware's part is verified here by its own verifier, and from the very
bytes that the rest is held to: claims from elsewhere cannot be passed in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from garrison.errors import Malformed, Unverified
from garrison.formats.azure import HclReport, ReportType, RuntimeData
from garrison.formats.evidence import REPORT_DATA_SIZE
from garrison.formats.tpm import PCR_COUNT, Quote
from garrison.verification import dcap, snp
from garrison.verification.verified import Verified, mint

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from garrison.formats.azure import AttestationKey, AzureEvidence
    from garrison.formats.dcap_collateral import DcapCollateral
    from garrison.formats.snp_evidence import SnpEndorsements
    from garrison.verification.roots import Roots

T = TypeVar("T")

# NIST SP 800-57 part 1, table 2: what is acceptable until 2030. Azure's keys have this size.
_MIN_KEY_BITS = 2048


@dataclass(frozen=True, slots=True)
class AzureClaims(Generic[T]):
    """What genuine evidence shows.

    Attributes:
        hardware: what the hardware's report shows.
        kind: the hardware.
        report_data: the report data on which hardware and runtime data agree.
        runtime: what the paravisor says of the VM.
        quote: what the TPM quoted.
        pcrs: its registers.
    """

    hardware: Verified[T]
    kind: ReportType
    report_data: bytes
    runtime: RuntimeData
    quote: Quote
    pcrs: tuple[bytes, ...]


def verify_snp(
    evidence: AzureEvidence, endorsements: SnpEndorsements, roots: Roots, now: datetime
) -> Verified[AzureClaims[snp.SnpClaims]]:
    """Verify evidence of a VM on SNP.

    1. The blob, the runtime data and the quote have the form they must have.
    2. The hardware's report is genuine (`garrison.verification.snp`).
    3. Its report data are the digest of the runtime data, and zeros.
    4. The runtime data's key (AK) signed the quote (RSASSA-PKCS1-v1_5 with SHA-256).
    5. The quote is over all registers of the SHA-256 bank, and over these values.

    Left out: the qualified name in the quote, which says where the TPM keeps the key; that it is
    the paravisor's, the report says. The nonce is for appraisal.

    Raises:
        Malformed: step 1 fails.
        Unverified: another step fails.
    """

    def hardware(report: bytes) -> tuple[Verified[snp.SnpClaims], bytes]:
        verified = snp.verify(report, endorsements, roots, now)
        return verified, verified.value.report.report_data

    return _verify(evidence, ReportType.SNP, hardware)


def verify_tdx(
    evidence: AzureEvidence, collateral: DcapCollateral, roots: Roots, now: datetime
) -> Verified[AzureClaims[dcap.TdxClaims]]:
    """Verify evidence of a VM on TDX: the steps of `verify_snp`, with the quote for the report.

    Left out besides: the TDREPORT in the blob, which only its own machine can check; the quote
    that the evidence has is another of the same TD, and it is held to the runtime data.

    Raises:
        Malformed: step 1 fails, or there is no quote.
        Unverified: another step fails.
    """

    def hardware(_report: bytes) -> tuple[Verified[dcap.TdxClaims], bytes]:
        if evidence.td_quote is None:
            raise Malformed("missing", field="Azure evidence: td_quote", expected="a TDX quote")
        verified = dcap.verify(evidence.td_quote, collateral, roots, now)
        claims = verified.value
        if not isinstance(claims, dcap.TdxClaims):
            raise Unverified(
                "another kind of hardware",
                field="Azure evidence: td_quote",
                found="a quote of an SGX enclave",
                expected="a quote of a TD",
            )
        return cast("Verified[dcap.TdxClaims]", verified), claims.report.report_data

    return _verify(evidence, ReportType.TDX, hardware)


def _verify(
    evidence: AzureEvidence,
    kind: ReportType,
    hardware: Callable[[bytes], tuple[Verified[T], bytes]],
) -> Verified[AzureClaims[T]]:
    """The steps above; `hardware` verifies the blob's report, and gives its report data too."""
    # 1. Form.
    blob = HclReport.from_bytes(evidence.report)
    if blob.kind is not kind:
        raise Unverified(
            "another kind of hardware",
            field="Azure HCL report: report type",
            found=blob.kind.name,
            expected=kind.name,
        )
    runtime = RuntimeData.from_bytes(blob.runtime)
    quote = Quote.from_bytes(evidence.message)
    # 2. Hardware.
    verified, report_data = hardware(blob.hardware)
    # 3. Runtime data.
    expected = hashlib.sha256(blob.runtime).digest().ljust(REPORT_DATA_SIZE, b"\0")
    if not compare_digest(report_data, expected):
        raise Unverified(
            "the hardware vouches for other runtime data",
            field="Azure HCL report: report data",
            found=report_data.hex(),
            expected=expected.hex(),
        )
    # 4. Signature.
    _check_signature(evidence, runtime.key)
    # 5. Registers.
    if quote.selection != tuple(range(PCR_COUNT)):
        raise Unverified(
            "not all registers are quoted",
            field="TPM quote: pcrSelect",
            found=", ".join(map(str, quote.selection)) or "none",
            expected=f"0 to {PCR_COUNT - 1}",
        )
    digest = hashlib.sha256(b"".join(evidence.pcrs)).digest()
    if not compare_digest(quote.digest, digest):
        raise Unverified(
            "the quote is over other registers",
            field="TPM quote: pcrDigest",
            found=quote.digest.hex(),
            expected=digest.hex(),
        )
    return mint(AzureClaims(verified, kind, report_data, runtime, quote, evidence.pcrs))


def _check_signature(evidence: AzureEvidence, key: AttestationKey) -> None:
    field = "Azure runtime data: HCLAkPub"
    try:
        public = rsa.RSAPublicNumbers(key.exponent, key.modulus).public_key()
    except ValueError as error:
        raise Unverified("not an RSA key", field=field) from error
    if public.key_size < _MIN_KEY_BITS:
        raise Unverified(
            "the key is too short",
            field=field,
            found=f"{public.key_size} bits",
            expected=f"at least {_MIN_KEY_BITS}",
        )
    try:
        public.verify(evidence.signature, evidence.message, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as error:
        raise Unverified(
            "the signature is wrong", field="TPM quote", expected="one by HCLAkPub"
        ) from error

"""Verification of Intel's quotes, of SGX enclaves and TDX guests: up to Intel's root.

It says whether a quote is genuine, what it is of, and what Intel says of the platform's TCB;
whether that is wanted is for appraisal. It refuses collateral that is not Intel's, not current
or of another platform, and platforms that Intel lists no TCB level for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from garrison.errors import Unverified
from garrison.formats.dcap_collateral import EnclaveIdentity, Signed, TcbInfo
from garrison.formats.dcap_quote import CertificationKind, Quote
from garrison.formats.sgx_certificate import load_chain
from garrison.formats.sgx_report import SgxReport
from garrison.formats.snp_certificate import load_crl
from garrison.verification.dcap_chain import (
    check_crl,
    check_der_signature,
    check_not_revoked,
    check_pck,
    check_root,
    check_tcb_signer,
    check_window,
    der_signature,
)
from garrison.verification.dcap_tcb import evaluate
from garrison.verification.verified import Verified, mint

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography import x509

    from garrison.formats.dcap_collateral import DcapCollateral
    from garrison.formats.sgx_certificate import PckCertificate
    from garrison.formats.tdx_report import TdReport
    from garrison.verification.dcap_tcb import TcbVerdict
    from garrison.verification.roots import Anchor, Roots


@dataclass(frozen=True, slots=True)
class DcapPlatform:
    """The platform that a genuine quote was made on.

    Attributes:
        fmspc: its family, model, stepping, platform type and custom SKU, 6 bytes.
        issuer: who issued its certificate: the Processor or the Platform CA.
        tcb: what Intel says of its TCB.
        evaluation: the lowest number of Intel's evaluations that this is by.
        valid_until: when the first of certificates, lists and collateral ends.
        anchor: the root that vouches for it.
    """

    fmspc: bytes
    issuer: str
    tcb: TcbVerdict
    evaluation: int
    valid_until: datetime
    anchor: Anchor


@dataclass(frozen=True, slots=True)
class SgxClaims:
    """What a genuine quote of an SGX enclave shows."""

    report: SgxReport
    platform: DcapPlatform


@dataclass(frozen=True, slots=True)
class TdxClaims:
    """What a genuine quote of a TD shows."""

    report: TdReport
    platform: DcapPlatform


@dataclass(frozen=True, slots=True)
class QuoteChain:
    """A quote whose signatures are good up to a root, and its chain; revocation not yet checked."""

    quote: Quote
    pck: PckCertificate
    issuer: x509.Certificate
    root: x509.Certificate
    anchor: Anchor


def verify(
    quote: bytes, collateral: DcapCollateral, roots: Roots, now: datetime
) -> Verified[SgxClaims] | Verified[TdxClaims]:
    """Verify a quote.

    The documents: [Q] Intel SGX ECDSA Quote Library Reference, DCAP API, and Intel TDX DCAP
    Quoting Library API; [P] SGX PCK Certificate and CRL Profile; [S] PCS API, version 4.

    1. The quote has the form it must have ([Q] appendix A), and carries its PCK chain.
    2. The chain ends in a trusted root, self-signed and valid ([P] 2).
    3. The PCK certificate is issued by the Processor or Platform CA, that by the root; both are
       valid ([P] 2).
    4. The report of the quoting enclave is signed by the PCK ([Q] A.4).
    5. It is bound to the attestation key: its report data is SHA-256 of key and authentication
       data, of whatever length, and 32 zero bytes ([Q] A.4).
    6. Header and body are signed by the attestation key, ECDSA P-256 with SHA-256 ([Q] A.4).
    7. The root's revocation list is the root's and current; the intermediate is not on it.
    8. The PCK's is its own issuer's and current; the PCK is not on it ([P] 3).
    9. TCB info and QE identity are signed by the TCB signing certificate under the same root,
       valid and not revoked; the signature covers the exact bytes as served ([S]).
    10. Both are current.
    11. They are of this TEE, platform (FMSPC) and provisioning enclave (PCE ID); the quoting
        enclave and the TDX module are Intel's; levels match (`garrison.verification.dcap_tcb`).

    The time windows of steps 2, 3 and 7 to 10 seldom coincide: the earliest end governs.

    Left out: the SVNs in the quote's header, which repeat, unsigned by the PCK, what step 11
    takes from the QE report; comparing CPUSVN of the body with the certificate's, which Intel's
    collateral does not order.

    Args:
        quote: the quote, as the platform made it.
        collateral: Intel's collateral for the platform.
        roots: the trusted roots.
        now: the time.

    Raises:
        Malformed: the quote, a certificate, a list or the collateral cannot be read.
        Unverified: a step fails.
    """
    # 1. to 6. The quote.
    chain = verify_quote_chain(quote, roots, now)
    # 7. Root's revocation list.
    root_crl = load_crl(collateral.root_crl, "root revocation list")
    ends = [check_crl(root_crl, chain.root, now, "root revocation list")]
    check_not_revoked(chain.issuer, root_crl, "PCK chain: intermediate")
    # 8. PCK's revocation list.
    pck_crl = load_crl(collateral.pck_crl, "PCK revocation list")
    ends.append(check_crl(pck_crl, chain.issuer, now, "PCK revocation list"))
    check_not_revoked(chain.pck.certificate, pck_crl, "PCK certificate")
    # 9. Signatures of the collateral.
    info_signed = Signed.from_bytes(collateral.tcb_info, "tcbInfo")
    identity_signed = Signed.from_bytes(collateral.qe_identity, "enclaveIdentity")
    for signed, pem, field in (
        (info_signed, collateral.tcb_info_chain, "TCB info"),
        (identity_signed, collateral.qe_identity_chain, "QE identity"),
    ):
        signer = _check_signed(signed, pem, chain, root_crl, now, field)
        ends.append(signer.not_valid_after_utc)
    info = TcbInfo.from_json(info_signed.data)
    identity = EnclaveIdentity.from_json(identity_signed.data)
    # 10. Time windows.
    check_window(info.issued, info.expires, now, "TCB info")
    check_window(identity.issued, identity.expires, now, "QE identity")
    ends += [info.expires, identity.expires]
    ends += [each.not_valid_after_utc for each in (chain.root, chain.issuer, chain.pck.certificate)]
    # 11. TCB.
    body = chain.quote.body
    qe_report = SgxReport.from_bytes(chain.quote.signature.qe_report)
    platform = DcapPlatform(
        fmspc=chain.pck.fmspc,
        issuer=chain.pck.issuer_name,
        tcb=evaluate(info, identity, chain.pck, qe_report, body),
        evaluation=min(info.evaluation, identity.evaluation),
        valid_until=min(ends),
        anchor=chain.anchor,
    )
    if isinstance(body, SgxReport):
        return mint(SgxClaims(body, platform))
    return mint(TdxClaims(body, platform))


def verify_quote_chain(quote: bytes, roots: Roots, now: datetime) -> QuoteChain:
    """Steps 1 to 6 of `verify`: all that needs no collateral.

    A result without the other steps vouches for nothing: the platform may be revoked, outdated,
    or its quoting enclave not Intel's.

    Raises:
        Malformed: the quote or a certificate in it cannot be read.
        Unverified: a step fails.
    """
    # 1. Form.
    parsed = Quote.from_bytes(quote)
    signature = parsed.signature
    if signature.kind is not CertificationKind.PCK_CHAIN:
        raise Unverified(
            "the quote does not carry its PCK certificate chain",
            field="quote: QE certification data type",
            found=f"{signature.kind:d}",
            expected=f"{CertificationKind.PCK_CHAIN:d}",
            hint="have the platform registered, and its PCK certificate in the host's cache",
        )
    certificates = load_chain(signature.certification, "PCK chain")
    # 2. Root.
    root, anchor = check_root(certificates, roots, now, "PCK chain")
    # 3. PCK certificate.
    issuer, pck = check_pck(certificates, root, now)
    # 4. Report of the quoting enclave.
    check_der_signature(
        pck.certificate, der_signature(signature.qe_signature), signature.qe_report, "QE report"
    )
    # 5. Attestation key.
    qe_report = SgxReport.from_bytes(signature.qe_report)
    bound = hashlib.sha256(signature.attestation_key + signature.qe_auth_data).digest()
    if qe_report.report_data != bound.ljust(64, b"\0"):
        raise Unverified(
            "bound to another attestation key",
            field="QE report: REPORTDATA",
            found=qe_report.report_data.hex(),
            expected=bound.hex(),
        )
    # 6. Quote.
    _check_quote_signature(parsed)
    return QuoteChain(parsed, pck, issuer, root, anchor)


def _check_quote_signature(quote: Quote) -> None:
    point = b"\x04" + quote.signature.attestation_key
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError as error:
        raise Unverified("not a point of P-256", field="quote: attestation key") from error
    try:
        key.verify(
            der_signature(quote.signature.signature), quote.signed, ec.ECDSA(hashes.SHA256())
        )
    except InvalidSignature as error:
        raise Unverified(
            "the signature is wrong", field="quote", expected="one by the attestation key in it"
        ) from error


def _check_signed(
    signed: Signed,
    pem: bytes,
    chain: QuoteChain,
    root_crl: x509.CertificateRevocationList,
    now: datetime,
    field: str,
) -> x509.Certificate:
    """Step 9 for one document; the root that came with it is none of our business."""
    signer = check_tcb_signer(load_chain(pem, f"{field} chain"), chain.root, now, field)
    check_not_revoked(signer, root_crl, f"{field}: signer")
    check_der_signature(signer, der_signature(signed.signature), signed.data, field)
    return signer

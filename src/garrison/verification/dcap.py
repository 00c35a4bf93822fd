"""Verification of Intel's quotes, of SGX enclaves and TDX guests: up to Intel's root.

It says whether a quote is genuine, what it is of, and what Intel says of the platform's TCB;
whether that is wanted is for appraisal. It refuses collateral that is not Intel's, not current
or of another platform, and platforms that Intel lists no TCB level for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from garrison import ecdsa
from garrison.errors import Unverified
from garrison.formats.dcap_collateral import EnclaveIdentity, Signed, TcbInfo
from garrison.formats.dcap_quote import CertificationKind, Quote, read_qe_report
from garrison.formats.sgx_certificate import PckCertificate, load_chain
from garrison.formats.sgx_report import SgxReport
from garrison.formats.snp_certificate import load_crl
from garrison.verification.cose import der_signature
from garrison.verification.dcap_chain import (
    check_crl,
    check_der_signature,
    check_not_revoked,
    check_pck_chain,
    check_tcb_signer,
    check_window,
)
from garrison.verification.dcap_tcb import evaluate, platform_of
from garrison.verification.verified import Verified, mint
from garrison.verification.x509 import PLATFORMS, REMEMBERED, check_validity

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography import x509

    from garrison.formats.dcap_collateral import DcapCollateral
    from garrison.formats.tdx_report import TdReport
    from garrison.verification.dcap_tcb import TcbVerdict, TdPlatform
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
    qe_report: SgxReport


def verify(
    quote: bytes | Verified[QuoteChain], collateral: DcapCollateral, roots: Roots, now: datetime
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
    10. Both are current. Without a QE identity, which collateral of the original's keeps lacks,
        the quoting enclave of an SGX quote is held to Intel's signer and product alone; then
        the verdict says that nothing is known of its version, and a policy must admit that.
    11. They are of this TEE, platform (FMSPC) and provisioning enclave (PCE ID); the quoting
        enclave and the TDX module are Intel's; levels match (`garrison.verification.dcap_tcb`).

    The time windows of steps 2, 3 and 7 to 10 seldom coincide: the earliest end governs.

    Left out: the SVNs in the quote's header, which repeat, unsigned by the PCK, what step 11
    takes from the QE report; comparing CPUSVN of the body with the certificate's, which Intel's
    collateral does not order.

    Args:
        quote: the quote, as the platform made it; or what `verify_quote_chain` gave for it, by
            these roots and at this time.
        collateral: Intel's collateral for the platform.
        roots: the trusted roots.
        now: the time.

    Raises:
        Malformed: the quote, a certificate, a list or the collateral cannot be read.
        Unverified: a step fails.
    """
    # 1. to 6. The quote.
    chain = (verify_quote_chain(quote, roots, now) if isinstance(quote, bytes) else quote).value
    # 7. to 10. The collateral: what of it does not depend on the time, and then the time.
    genuine = _genuine(collateral, chain.issuer, chain.root)
    for start, end, field in genuine.windows:
        check_window(start, end, now, field)
    for certificate, field in genuine.signers:
        check_validity(certificate, now, field)
    check_not_revoked(chain.pck.certificate, genuine.pck_crl, "PCK certificate")
    info, identity = genuine.info, genuine.identity
    # 11. TCB.
    body = chain.quote.body
    platform = DcapPlatform(
        fmspc=chain.pck.fmspc,
        issuer=chain.pck.issuer_name,
        tcb=_verdict(
            genuine,
            chain.pck.certificate,
            chain.quote.signature.qe_report,
            platform_of(body),
        ),
        evaluation=min(each.evaluation for each in (info, identity) if each is not None),
        valid_until=min(genuine.ends, chain.pck.certificate.not_valid_after_utc),
        anchor=chain.anchor,
    )
    if isinstance(body, SgxReport):
        return mint(SgxClaims(body, platform))
    return mint(TdxClaims(body, platform))


def verify_quote_chain(quote: bytes, roots: Roots, now: datetime) -> Verified[QuoteChain]:
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
    # 2. Root. 3. PCK certificate.
    pck_chain = check_pck_chain(signature.certification, roots, now, "PCK chain")
    pck = pck_chain.pck
    # 4. Report of the quoting enclave. 5. Attestation key.
    qe_report = _certified(
        pck.certificate,
        signature.qe_report,
        signature.qe_signature,
        signature.attestation_key,
        signature.qe_auth_data,
    )
    # 6. Quote.
    _check_quote_signature(parsed)
    return mint(
        QuoteChain(parsed, pck, pck_chain.issuer, pck_chain.root, pck_chain.anchor, qe_report)
    )


@lru_cache(PLATFORMS)
def _certified(
    pck: x509.Certificate,
    qe_report: bytes,
    qe_signature: bytes,
    attestation_key: bytes,
    qe_auth_data: bytes,
) -> SgxReport:
    """Steps 4 and 5: the same for all quotes by an attestation key."""
    check_der_signature(pck, der_signature(qe_signature), qe_report, "QE report")
    found = read_qe_report(qe_report)
    bound = hashlib.sha256(attestation_key + qe_auth_data).digest()
    if found.report_data != bound.ljust(64, b"\0"):
        raise Unverified(
            "bound to another attestation key",
            field="QE report: REPORTDATA",
            found=found.report_data.hex(),
            expected=bound.hex(),
        )
    return found


@lru_cache(PLATFORMS)
def _verdict(
    genuine: _Genuine, pck: x509.Certificate, qe_report: bytes, platform: TdPlatform | None
) -> TcbVerdict:
    """Step 11: the same for all quotes of a platform, until it starts again."""
    found = PckCertificate.from_certificate(pck)
    return evaluate(genuine.info, genuine.identity, found, read_qe_report(qe_report), platform)


def _check_quote_signature(quote: Quote) -> None:
    point = b"\x04" + quote.signature.attestation_key
    signature = der_signature(quote.signature.signature)
    try:
        is_signed = ecdsa.is_signed(point, signature, quote.signed, "sha256")
    except ValueError as error:
        raise Unverified("not a point of P-256", field="quote: attestation key") from error
    if not is_signed:
        raise Unverified(
            "the signature is wrong", field="quote", expected="one by the attestation key in it"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Genuine:
    """Collateral whose every signature is good, and that revokes no issuer; at whatever time.

    Attributes:
        pck_crl: the list that a PCK certificate must not be on.
        info: the TCB info.
        identity: the QE identity, if there is one.
        windows: from when to when each document is good, and its name.
        signers: the certificates of those who signed, and their names.
        ends: when the first of all, and of the issuers' certificates, ends.
    """

    pck_crl: x509.CertificateRevocationList
    info: TcbInfo
    identity: EnclaveIdentity | None
    windows: tuple[tuple[datetime, datetime, str], ...]
    signers: tuple[tuple[x509.Certificate, str], ...]
    ends: datetime


@lru_cache(REMEMBERED)
def _genuine(
    collateral: DcapCollateral, issuer: x509.Certificate, root: x509.Certificate
) -> _Genuine:
    """Steps 7 to 10 of `verify`, but for the time and the PCK's own certificate.

    Remembered by content: it is the same for all quotes of a kind of platform.
    """
    # 7. Root's revocation list.
    name = "root revocation list"
    root_crl = load_crl(collateral.root_crl, name)
    windows = [(*check_crl(root_crl, root, name), name)]
    check_not_revoked(issuer, root_crl, "PCK chain: intermediate")
    # 8. PCK's revocation list.
    name = "PCK revocation list"
    pck_crl = load_crl(collateral.pck_crl, name)
    windows.append((*check_crl(pck_crl, issuer, name), name))
    # 9. and 10. Signatures of the collateral, and its time windows.
    signers = []

    def signed(document: bytes, member: str, pem: bytes, field: str) -> bytes:
        found = Signed.from_bytes(document, member)
        signer = check_tcb_signer(load_chain(pem, f"{field} chain"), root, field)
        check_not_revoked(signer, root_crl, f"{field}: signer")
        check_der_signature(signer, der_signature(found.signature), found.data, field)
        signers.append((signer, f"{field}: signer"))
        return found.data

    name = "TCB info"
    info = TcbInfo.from_json(
        signed(collateral.tcb_info, "tcbInfo", collateral.tcb_info_chain, name)
    )
    windows.append((info.issued, info.expires, name))
    identity = None
    if collateral.qe_identity is not None:
        name, chain = "QE identity", collateral.qe_identity_chain
        identity = EnclaveIdentity.from_json(
            signed(collateral.qe_identity, "enclaveIdentity", chain, name)
        )
        windows.append((identity.issued, identity.expires, name))
    certificates = (root, issuer, *(signer for signer, _ in signers))
    ends = [end for _, end, _ in windows]
    ends += [each.not_valid_after_utc for each in certificates]
    return _Genuine(pck_crl, info, identity, tuple(windows), tuple(signers), min(ends))

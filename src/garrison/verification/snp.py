"""Verification of an SNP report: from its signature to AMD's root.

It says whether a report is genuine and which platform made it; whether that platform and guest
are wanted is for appraisal. It refuses any chain that does not end in a trusted root, and any
disagreement between the report, its signing certificate and the chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from garrison import ecdsa
from garrison.errors import Unverified
from garrison.formats.snp import CHIP_ID_SIZE, SIGNED_SIZE, Product, Report, SigningKey, Tcb
from garrison.formats.snp_certificate import (
    VekCertificate,
    common_name,
    load_certificate,
    load_crl,
)
from garrison.verification.verified import Verified, mint
from garrison.verification.x509 import (
    PLATFORMS,
    REMEMBERED,
    check_ca,
    check_crl,
    check_crl_window,
    check_issued,
    check_validity,
)

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography import x509

    from garrison.formats.snp_evidence import SnpEndorsements
    from garrison.verification.roots import Anchor, Roots

_ISSUERS = {SigningKey.VCEK: "SEV", SigningKey.VLEK: "SEV-VLEK"}


@dataclass(frozen=True, slots=True)
class SnpClaims:
    """What a genuine report shows.

    Attributes:
        report: the report.
        product: the product line, on which report, certificate and chain agree.
        tcb: the reported TCB version, on which report and certificate agree.
        chip_id: the chip; None where the report masks it, or a VLEK signed it.
        csp_id: the cloud provider whose VLEK signed it; None for a VCEK.
        anchor: the root that vouches for it.
        crl_checked: whether the root's revocation list was there to be checked.
    """

    report: Report
    product: Product
    tcb: Tcb
    chip_id: bytes | None
    csp_id: str | None
    anchor: Anchor
    crl_checked: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """A genuine chain: its leaf, its root, and whether the root's revocation list was checked."""

    vek: VekCertificate
    anchor: Anchor
    crl_checked: bool


def verify(
    report: bytes, endorsements: SnpEndorsements, roots: Roots, now: datetime
) -> Verified[SnpClaims]:
    """Verify a report.

    1. The report and the certificates have the form they must have (56860 table 23; 57230).
    2. The ARK is a trusted root, self-signed, valid, and a certificate authority's.
    3. The revocation list, if there is one, is the ARK's and current.
    4. The ASK (of a VLEK: ASVK) is issued by the ARK, valid, a certificate authority's, and not
       revoked.
    5. The VCEK or VLEK is issued by it, and valid.
    6. It is the kind of key that the report says signed it (SIGNING_KEY).
    7. The report is signed by it (ECDSA P-384 with SHA-384 over bytes 0 to 29Fh).
    8. Root, issuer, certificate and report (CPUID, from version 3 on) name the same product.
    9. The certificate was made for the report's REPORTED_TCB. Not for the committed or the
       current one: a provider may let its VLEK lag behind both.
    10. The certificate's chip is the report's (VCEK; a VLEK has none).

    Left out: MASK_CHIP_KEY only matters to a host that asks for a VCEK by chip; the launch and
    committed TCB versions are the platform's history, for a policy to judge.

    Args:
        report: the report, as the firmware made it.
        endorsements: the certificates.
        roots: the trusted roots.
        now: the time.

    Raises:
        Malformed: step 1 fails.
        Unverified: another step fails.
    """
    # 1. Form. 2. to 5. Chain.
    parsed = Report.from_bytes(report)
    chain = verify_chain(endorsements, roots, now)
    vek = chain.vek
    # 6. Kind of key.
    if parsed.signing_key is not vek.kind:
        raise Unverified(
            "the report says that another kind of key signed it",
            field="SNP report: SIGNING_KEY",
            found=parsed.signing_key.name,
            expected=vek.kind.name,
        )
    # 7. Signature.
    _check_signature(report, parsed, vek.certificate)
    # 8. Product of the report.
    if parsed.cpuid is not None and parsed.cpuid.product is not vek.product:
        raise Unverified(
            "another product",
            field="SNP report: CPUID",
            found=parsed.cpuid.product or parsed.cpuid,
            expected=vek.product,
        )
    # 9. TCB version.
    tcb = Tcb.from_bytes(parsed.reported_tcb, vek.product)
    if tcb != vek.tcb:
        raise Unverified(
            "the certificate was made for another TCB version",
            field="SNP report: REPORTED_TCB",
            found=tcb,
            expected=vek.tcb,
            hint="get the VCEK certificate for the reported TCB version",
        )
    # 10. Chip.
    chip_id = _chip_id(parsed, vek)
    return mint(
        SnpClaims(
            report=parsed,
            product=vek.product,
            tcb=tcb,
            chip_id=chip_id,
            csp_id=vek.csp_id,
            anchor=chain.anchor,
            crl_checked=chain.crl_checked,
        )
    )


def verify_chain(endorsements: SnpEndorsements, roots: Roots, now: datetime) -> Chain:
    """Steps 1 to 5 and 8 of `verify`, as far as they concern the certificates.

    Raises:
        Malformed: a certificate or the revocation list cannot be read.
        Unverified: the chain is not genuine, or not of this time.
    """
    # 1. Form.
    vek = VekCertificate.from_bytes(endorsements.leaf)
    # 2. to 4. What vouches for it: what of that does not depend on the time, and then the time.
    found = _issuers(endorsements.issuer, endorsements.root, endorsements.crl, roots)
    check_validity(found.ark, now, "ARK certificate")
    if found.crl is not None:
        check_crl_window(found.crl, now, "ARK revocation list")
    check_validity(found.issuer, now, "ASK certificate")
    # 5. Leaf. The list is the ARK's, who issued no leaf: there is nothing in it to look up.
    _check_leaf(vek.certificate, found.issuer)
    check_validity(vek.certificate, now, "VEK certificate")
    # 8. Product of the issuers.
    _check_name(found.issuer_name, f"{_ISSUERS[vek.kind]}-{vek.product}", "ASK certificate subject")
    _check_name(found.ark_name, f"ARK-{vek.product}", "ARK certificate subject")
    return Chain(vek, found.anchor, found.crl is not None)


@dataclass(frozen=True, slots=True, eq=False)
class _Issuers:
    """Issuers whose every signature is good, and of whom none is revoked; at whatever time."""

    ark: x509.Certificate
    issuer: x509.Certificate
    crl: x509.CertificateRevocationList | None
    anchor: Anchor
    ark_name: str
    issuer_name: str


@lru_cache(REMEMBERED)
def _issuers(issuer_der: bytes, root: bytes, crl_der: bytes | None, roots: Roots) -> _Issuers:
    """Steps 1 to 4 of `verify`, but for the time and the leaf.

    Remembered by content: it is the same for all reports of a product.
    """
    # 1. Form.
    ark = load_certificate(root, "ARK certificate")
    issuer = load_certificate(issuer_der, "ASK certificate")
    crl = None if crl_der is None else load_crl(crl_der, "ARK revocation list")
    # 2. Root.
    anchor = roots.anchor(ark, "amd", "ARK certificate")
    check_issued(ark, ark, "ARK certificate")
    check_ca(ark, "ARK certificate")
    # 3. Revocation list.
    if crl is not None:
        check_crl(crl, ark, "ARK revocation list")
    # 4. Intermediate.
    check_issued(issuer, ark, "ASK certificate")
    check_ca(issuer, "ASK certificate")
    if crl is not None:
        _check_not_revoked(issuer, crl)
    return _Issuers(
        ark,
        issuer,
        crl,
        anchor,
        common_name(ark.subject, "ARK certificate subject"),
        common_name(issuer.subject, "ASK certificate subject"),
    )


@lru_cache(PLATFORMS)
def _check_leaf(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Step 5 of `verify`, but for the time: the same for all reports of a chip."""
    check_issued(certificate, issuer, "VEK certificate")


def _check_not_revoked(certificate: x509.Certificate, crl: x509.CertificateRevocationList) -> None:
    serial = certificate.serial_number
    if crl.get_revoked_certificate_by_serial_number(serial) is not None:
        raise Unverified("revoked", field="ASK certificate", found=f"serial number {serial:#x}")


def _check_signature(data: bytes, report: Report, vek: x509.Certificate) -> None:
    point, signature = ecdsa.point_in(vek, "secp384r1"), encode_dss_signature(report.r, report.s)
    if point is None or not ecdsa.is_signed(point, signature, data[:SIGNED_SIZE], "sha384"):
        raise Unverified(
            "the signature is wrong",
            field="SNP report",
            expected=f"one by the {report.signing_key.name} that came with it",
        )


def _check_name(found: str, expected: str, field: str) -> None:
    if found != expected:
        raise Unverified("another product", field=field, found=found, expected=expected)


def _chip_id(report: Report, vek: VekCertificate) -> bytes | None:
    if vek.hwid is None:
        # A VLEK is the provider's, for all of its chips. The report masks the chip, or tells
        # what no certificate confirms.
        return None
    if not any(report.chip_id):
        # The host asked for masking (SNP_CONFIG, MASK_CHIP_ID). Policy decides.
        return None
    if report.chip_id != vek.hwid.ljust(CHIP_ID_SIZE, b"\0"):
        raise Unverified(
            "the certificate is another chip's",
            field="SNP report: CHIP_ID",
            found=report.chip_id.hex(),
            expected=vek.hwid.hex(),
        )
    return vek.hwid

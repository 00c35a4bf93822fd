"""Intel's certificate chains: PCK and TCB signing, up to the pinned root, with revocation.

Intel, "SGX PCK Certificate and Certificate Revocation List Profile Specification", revision
1.4: every key is P-256, every signature ECDSA with SHA-256.

    Intel SGX Root CA
    |- Intel SGX PCK Processor CA or Platform CA -> Intel SGX PCK Certificate
    `- Intel SGX TCB Signing
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import SignatureAlgorithmOID

from garrison import ecdsa
from garrison.errors import Unverified
from garrison.formats.sgx_certificate import PckCertificate, load_chain
from garrison.formats.snp_certificate import common_name
from garrison.verification.x509 import (
    PLATFORMS,
    REMEMBERED,
    check_ca,
    check_link,
    check_validity,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from garrison.verification.roots import Anchor, Roots

PCK_ISSUERS = ("Intel SGX PCK Processor CA", "Intel SGX PCK Platform CA")
_PCK = "Intel SGX PCK Certificate"
_TCB_SIGNING = "Intel SGX TCB Signing"


@dataclass(frozen=True, slots=True, eq=False)
class PckChain:
    """The chain of a PCK, whose every signature is good; at whatever time."""

    root: x509.Certificate
    anchor: Anchor
    issuer: x509.Certificate
    pck: PckCertificate


def check_pck_chain(pem: bytes, roots: Roots, now: datetime, field: str) -> PckChain:
    """Follow the chain of a PCK from a trusted root down; revocation is for `check_not_revoked`.

    Args:
        pem: its certificates, in whatever order they came.
        roots: the trusted roots.
        now: the time.
        field: what errors call it.

    Raises:
        Malformed: a certificate cannot be read, or the leaf lacks what a PCK certificate has.
        Unverified: the chain is not genuine, or not of this time.
    """
    chain = _pck_chain(pem, roots, field)
    check_validity(chain.root, now, f"{field}: root")
    check_validity(chain.issuer, now, f"{field}: intermediate")
    check_validity(chain.pck.certificate, now, "PCK certificate")
    return chain


@lru_cache(PLATFORMS)
def _pck_chain(pem: bytes, roots: Roots, field: str) -> PckChain:
    """The chain, and what of it does not depend on the time."""
    certificates = load_chain(pem, field)
    found = [each for each in certificates if each.subject == each.issuer]
    if len(found) != 1:
        raise Unverified("not one root", field=field, found=len(found), expected=1)
    root = found[0]
    anchor = roots.anchor(root, "intel", f"{field}: root")
    check_issuer(root, root, f"{field}: root")
    check_ca(root, f"{field}: root")
    issuer = _named(certificates, PCK_ISSUERS, f"{field}: intermediate")
    leaf = _named(certificates, (_PCK,), f"{field}: leaf")
    check_issuer(issuer, root, f"{field}: intermediate")
    check_ca(issuer, f"{field}: intermediate")
    check_issued(leaf, issuer, "PCK certificate")
    _check_signer(leaf, "PCK certificate")
    return PckChain(root, anchor, issuer, PckCertificate.from_certificate(leaf))


def check_tcb_signer(
    certificates: Sequence[x509.Certificate], root: x509.Certificate, field: str
) -> x509.Certificate:
    """Find the signer of collateral: the TCB signing certificate, and no other under `root`.

    Raises:
        Unverified: it is not there, or not genuine. Whether it is of this time the caller says.
    """
    signer = _named(certificates, (_TCB_SIGNING,), f"{field}: signer")
    check_issued(signer, root, f"{field}: signer")
    _check_signer(signer, f"{field}: signer")
    return signer


def check_issued(certificate: x509.Certificate, issuer: x509.Certificate, field: str) -> None:
    """Refuse a certificate that `issuer` did not sign.

    Raises:
        Unverified: the names, the algorithm or the signature are wrong, or it has a critical
            extension that is not understood here.
    """
    check_link(certificate, issuer, field)
    _check_algorithm(certificate.signature_algorithm_oid, field)
    check_der_signature(issuer, certificate.signature, certificate.tbs_certificate_bytes, field)


@lru_cache(REMEMBERED)
def check_issuer(certificate: x509.Certificate, issuer: x509.Certificate, field: str) -> None:
    """The same, remembered: for what is no platform's, see `garrison.verification.x509`."""
    check_issued(certificate, issuer, field)


def check_crl(
    crl: x509.CertificateRevocationList, issuer: x509.Certificate, field: str
) -> tuple[datetime, datetime]:
    """Refuse a revocation list that `issuer` did not sign.

    Returns:
        From when to when it is current; whether it is now the caller says.

    Raises:
        Unverified: it is not genuine, or has no end.
    """
    _check_names(crl.issuer, issuer.subject, field)
    _check_algorithm(crl.signature_algorithm_oid, field)
    check_der_signature(issuer, crl.signature, crl.tbs_certlist_bytes, field)
    end = crl.next_update_utc
    if end is None:
        raise Unverified("has no end", field=field, expected="nextUpdate")
    return crl.last_update_utc, end


def check_window(start: datetime, end: datetime, now: datetime, field: str) -> None:
    """Refuse collateral that is not current.

    Raises:
        Unverified: it is not of this time.
    """
    if not start <= now <= end:
        raise Unverified(
            "not current",
            field=field,
            found=now.isoformat(),
            expected=f"{start.isoformat()} to {end.isoformat()}",
            hint="fetch the vendor's latest",
        )


def check_not_revoked(
    certificate: x509.Certificate, crl: x509.CertificateRevocationList, field: str
) -> None:
    """Refuse a certificate that `crl` lists.

    Raises:
        Unverified: it does.
    """
    serial = certificate.serial_number
    if crl.get_revoked_certificate_by_serial_number(serial) is not None:
        raise Unverified("revoked", field=field, found=f"serial number {serial:#x}")


def check_der_signature(
    issuer: x509.Certificate, signature: bytes, data: bytes, field: str
) -> None:
    """Refuse a DER signature that the key of `issuer` did not make.

    Raises:
        Unverified: it did not.
    """
    point = ecdsa.point_in(issuer, "secp256r1")
    if point is None:
        name = issuer.subject.rfc4514_string()
        raise Unverified("wrong kind of key", field=f"{field}: {name}", expected="P-256")
    if not ecdsa.is_signed(point, signature, data, "sha256"):
        name = issuer.subject.rfc4514_string()
        raise Unverified("the signature is wrong", field=field, expected=f"one by {name}")


def _check_names(found: x509.Name, expected: x509.Name, field: str) -> None:
    if found != expected:
        raise Unverified(
            "issued by another",
            field=field,
            found=found.rfc4514_string(),
            expected=expected.rfc4514_string(),
        )


def _check_algorithm(oid: x509.ObjectIdentifier, field: str) -> None:
    if oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise Unverified(
            "wrong signature algorithm",
            field=field,
            found=oid.dotted_string,
            expected="ECDSA with SHA-256",
        )


def _check_signer(certificate: x509.Certificate, field: str) -> None:
    """Refuse a leaf that may sign certificates, or may not sign anything else."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise Unverified(
            "not a signer's", field=field, found=f"no extension {error.oid.dotted_string}"
        ) from error
    if constraints.ca or usage.key_cert_sign or not usage.digital_signature:
        raise Unverified(
            "not a signer's",
            field=field,
            found=f"CA {constraints.ca}, keyCertSign {usage.key_cert_sign}, "
            f"digitalSignature {usage.digital_signature}",
            expected="digitalSignature alone",
        )


def _named(
    certificates: Sequence[x509.Certificate], names: tuple[str, ...], field: str
) -> x509.Certificate:
    found = [each for each in certificates if common_name(each.subject, field) in names]
    if len(found) != 1:
        raise Unverified(
            "not one certificate of that name",
            field=field,
            found=", ".join(common_name(each.subject, field) for each in certificates),
            expected=" | ".join(names),
        )
    return found[0]

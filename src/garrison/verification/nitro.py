"""Verification of a Nitro attestation document: from its signature to AWS's root.

It says whether a document is genuine; whether what ran is wanted is for appraisal. It refuses
any chain that does not begin with the pinned root, and every algorithm but AWS's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import SignatureAlgorithmOID

from garrison import ecdsa
from garrison.errors import Unverified
from garrison.formats.cose import Algorithm
from garrison.formats.nitro import NitroDocument
from garrison.formats.snp_certificate import load_certificate
from garrison.verification.cose import der_signature
from garrison.verification.verified import Verified, mint
from garrison.verification.x509 import (
    PLATFORMS,
    REMEMBERED,
    check_ca,
    check_link,
    check_validity,
)

if TYPE_CHECKING:
    from garrison.verification.roots import Anchor, Roots


_LEAF = "Nitro document: certificate"


@dataclass(frozen=True, slots=True)
class NitroClaims:
    """What a genuine document shows.

    Attributes:
        document: the document.
        timestamp: when the module says that it made it.
        anchor: the root that vouches for it.
        verified_at: the time at which its certificates were held to be valid.
    """

    document: NitroDocument
    timestamp: datetime
    anchor: Anchor
    verified_at: datetime


def verify(document: bytes, roots: Roots, now: datetime) -> Verified[NitroClaims]:
    """Verify a document.

    1. The document and its certificates have the form they must have.
    2. cabundle[0] is a trusted root.
    3. Each certificate is issued by the one before it (ECDSA P-384 with SHA-384), and valid at
       `now`; all but the leaf are certificate authorities', with room in their path lengths; the
       leaf is not.
    4. The document was made in the life of the leaf's key, by its own timestamp.
    5. It is signed by the leaf's key with ES384.

    Left out: revocation lists, which AWS's short-lived chains name and AWS's own procedure does
    not ask for. A leaf lives three hours: to verify a stored document, pass a time in them.

    Args:
        document: the document, as the module returned it.
        roots: the trusted roots.
        now: the time.

    Raises:
        Malformed: step 1 fails.
        Unverified: another step fails.
    """
    # 1. Form. 2. Root. 3. Chain: what of the issuers does not depend on the time; then the time.
    parsed = NitroDocument.from_bytes(document)
    issuers = _issuers(parsed.cabundle, roots)
    leaf = _leaf(parsed.certificate, issuers.certificates[-1])
    timestamp = datetime.fromtimestamp(parsed.timestamp / 1000, UTC)
    hint = f"a document is good for hours; verify a stored one at its time, {timestamp:%FT%TZ}"
    for index, certificate in enumerate(issuers.certificates):
        check_validity(certificate, now, _name(index), hint)
    check_validity(leaf, now, _LEAF, hint)
    # 4. Timestamp.
    check_validity(leaf, timestamp.replace(microsecond=0), "Nitro document: timestamp")
    # 5. Signature.
    if parsed.message.algorithm is not Algorithm.ES384:
        raise Unverified(
            "wrong signature algorithm",
            field="Nitro document",
            found=parsed.message.algorithm.name,
            expected="ES384",
        )
    message, point = parsed.message, _point(leaf, _LEAF)
    signature = der_signature(message.signature)
    if not ecdsa.is_signed(point, signature, message.signed_bytes(), "sha384"):
        raise Unverified(
            "the signature is wrong",
            field="Nitro document",
            expected="one by the key of its certificate",
        )
    return mint(NitroClaims(parsed, timestamp, issuers.anchor, now))


@dataclass(frozen=True, slots=True, eq=False)
class _Issuers:
    """Issuers whose every signature is good, the root first; at whatever time."""

    certificates: tuple[x509.Certificate, ...]
    anchor: Anchor


@lru_cache(REMEMBERED)
def _issuers(cabundle: tuple[bytes, ...], roots: Roots) -> _Issuers:
    """Steps 1 to 3 of `verify`, but for the time and the leaf.

    Remembered by content: it is the same for all enclaves of an instance.
    """
    # 1. Form.
    chain = [load_certificate(der, _name(index)) for index, der in enumerate(cabundle)]
    # 2. Root.
    anchor = roots.anchor(chain[0], "aws", _name(0))
    # 3. Chain.
    for index, certificate in enumerate(chain):
        field = _name(index)
        _check_issued(certificate, chain[max(index - 1, 0)], field)
        check_ca(certificate, field)
        _check_path_length(certificate, len(chain) - 1 - index, field)
    return _Issuers(tuple(chain), anchor)


def _name(index: int) -> str:
    return f"Nitro document: cabundle[{index}]"


def _point(certificate: x509.Certificate, field: str) -> bytes:
    """The point of the certificate's key, which is of the one kind that there may be."""
    point = ecdsa.point_in(certificate, "secp384r1")
    if point is None:
        raise Unverified("wrong kind of key", field=field, expected="ECDSA P-384")
    return point


def _check_issued(certificate: x509.Certificate, issuer: x509.Certificate, field: str) -> None:
    check_link(certificate, issuer, field)
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise Unverified(
            "wrong signature algorithm",
            field=field,
            found=certificate.signature_algorithm_oid.dotted_string,
            expected="ECDSA with SHA-384",
        )
    point = _point(issuer, f"{field}: issuer's key")
    signed = certificate.tbs_certificate_bytes
    if not ecdsa.is_signed(point, certificate.signature, signed, "sha384"):
        raise Unverified(
            "the signature is wrong",
            field=field,
            expected=f"one by {issuer.subject.rfc4514_string()}",
        )


def _check_path_length(certificate: x509.Certificate, below: int, field: str) -> None:
    """Refuse more certificate authorities `below` than `certificate` admits."""
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    if constraints.path_length is not None and below > constraints.path_length:
        raise Unverified(
            "the chain is too long",
            field=field,
            found=f"{below} issuers below it",
            expected=f"at most {constraints.path_length}",
        )


@lru_cache(PLATFORMS)
def _leaf(der: bytes, issuer: x509.Certificate) -> x509.Certificate:
    """Step 3 of `verify`, of the leaf, but for the time: all documents of an enclave have one."""
    leaf = load_certificate(der, _LEAF)
    _check_issued(leaf, issuer, _LEAF)
    try:
        constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        # RFC 5280, section 4.2.1.9: without the extension it is none.
        return leaf
    if constraints.ca:
        raise Unverified(
            "a certificate authority's", field=_LEAF, found="CA True", expected="an enclave's"
        )
    return leaf

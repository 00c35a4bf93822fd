"""What a steward publishes of itself: its roots as a SPIFFE bundle, and its revocation lists."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.errors import Malformed
from garrison.steward.authority import BACKDATE, Authority, Issuer, authority_key_identifier
from garrison.steward.revocation import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from garrison.steward.revocation import Revocation

# The longest life of a certificate: no list needs to outlive it by more.
CRL_LIFETIME = timedelta(days=1)
# A root changes once a year, with weeks of overlap.
_REFRESH_HINT_SECONDS = 3600
_REASONS = {
    Reason.KEY_COMPROMISE: x509.ReasonFlags.key_compromise,
    Reason.SUPERSEDED: x509.ReasonFlags.superseded,
    Reason.CESSATION_OF_OPERATION: x509.ReasonFlags.cessation_of_operation,
    Reason.PRIVILEGE_WITHDRAWN: x509.ReasonFlags.privilege_withdrawn,
}


def spiffe_bundle(authority: Authority) -> bytes:
    """The trust bundle of the authority's trust domain (SPIFFE Trust Domain and Bundle, 4).

    There is no `spiffe_sequence`: the standard wants it to grow with each change, and replicas
    have no common memory to count in.
    """
    keys = [_svid_key(root) for root in authority.roots]
    bundle = {"keys": keys, "spiffe_refresh_hint": _REFRESH_HINT_SECONDS}
    return json.dumps(bundle).encode("ascii")


def _svid_key(root: x509.Certificate) -> dict[str, object]:
    verifier = root.public_key()
    if not isinstance(verifier, ec.EllipticCurvePublicKey):
        raise Malformed("unsupported key", field="root.pem", expected="P-256 or P-384")
    public = verifier.public_numbers()
    size = (public.curve.key_size + 7) // 8
    return {
        "use": "x509-svid",
        "kty": "EC",
        "crv": f"P-{public.curve.key_size}",
        "x": _base64url(public.x.to_bytes(size, "big")),
        "y": _base64url(public.y.to_bytes(size, "big")),
        "x5c": [base64.b64encode(root.public_bytes(Encoding.DER)).decode("ascii")],
    }


def revocation_list(
    issuer: Issuer, denied: Sequence[int], revoked: Sequence[Revocation], now: datetime
) -> bytes:
    """The issuer's revocation list, DER, good for a day from `now`.

    Args:
        issuer: whose.
        denied: the serial numbers that the policy denies.
        revoked: what was revoked by hand.
        now: the time.

    A policy has no dates: what it denies is listed as revoked since the issuer's first day, so
    that nothing such a certificate ever signed seems good.
    """
    certificate = issuer.certificate
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(now - BACKDATE)
        .next_update(now + CRL_LIFETIME)
        .add_extension(authority_key_identifier(certificate), critical=False)
        # RFC 5280, section 5.2.3: it never falls, without a memory of the last one, and a list
        # that is made after a change has another number than the one before it.
        .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
    )
    by_hand = {item.serial: item for item in revoked}
    for serial in dict.fromkeys((*denied, *by_hand)):
        entry = x509.RevokedCertificateBuilder().serial_number(serial)
        item = by_hand.get(serial)
        if serial in denied or item is None:
            entry = entry.revocation_date(certificate.not_valid_before_utc)
        else:
            entry = entry.revocation_date(item.at)
            # RFC 5280, section 5.3.1: no reason is better than the reason "unspecified".
            if item.reason is not Reason.UNSPECIFIED:
                reason = x509.CRLReason(_REASONS[item.reason])
                entry = entry.add_extension(reason, critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, issuer.hash_algorithm).public_bytes(Encoding.DER)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")

"""The certificates that a steward signs: one profile, nothing copied from a request.

Leaf, X.509 v3, 16-byte random serial. Extensions, in this order: basic constraints (critical,
not a CA), key usage (critical, digital signature), extended key usage (server and client),
subject alternative name (one SPIFFE ID, then DNS names; critical where the subject is empty,
RFC 5280 4.2.1.6), `WorkloadIdentity`, subject and authority key identifiers.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from garrison.errors import Unavailable
from garrison.formats.identity import WORKLOAD_IDENTITY_OID, WorkloadIdentity
from garrison.formats.key_usage import key_usage
from garrison.formats.leaf import Leaf, extension, extension_of, key_identifier, spki_of
from garrison.steward.authority import BACKDATE, Authority, authority_key_identifier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_SERIAL_SIZE = 16
_OWN_LIFETIME = timedelta(minutes=10)


_NOT_A_CA = extension_of(x509.BasicConstraints(ca=False, path_length=None), critical=True)
_SIGNS = extension_of(key_usage(digital_signature=True), critical=True)
_BOTH = extension_of(
    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
)
_CLIENT = extension_of(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))


def issue_certificate(
    authority: Authority,
    spki: bytes,
    identity: WorkloadIdentity,
    *,
    dns_names: Sequence[str],
    lifetime: timedelta,
    now: datetime,
) -> x509.Certificate:
    """Certify that `identity` holds the key `spki`. The caller has verified that it is so.

    Args:
        authority: who signs.
        spki: the keep's key, SubjectPublicKeyInfo, DER.
        identity: what was verified of the keep.
        dns_names: DNS names it may be called by.
        lifetime: how long the certificate is good; never longer than the issuer.
        now: the time.

    Raises:
        Unavailable: the root is not valid at `now`.
        Malformed: the identity has no SPIFFE ID.
    """
    uri = identity.spiffe_id(authority.trust_domain)
    common_name = identity.common_name()
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
    names += [x509.DNSName(name) for name in dns_names]
    ours = extension(WORKLOAD_IDENTITY_OID, identity.to_der())
    return _sign(authority, spki, common_name, names, _BOTH, [ours], lifetime, now)


def issue_client_certificate(authority: Authority, now: datetime) -> tuple[bytes, bytes]:
    """Make a key and a certificate with which the steward shows itself to a drawbridge.

    Its SPIFFE ID is `spiffe://<trust domain>/steward`; it is for clients alone, for minutes.

    Returns:
        The chain and the private key, both PEM.

    Raises:
        Unavailable: the root is not valid at `now`.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.UniformResourceIdentifier(f"spiffe://{authority.trust_domain}/steward")]
    spki = spki_of(key.public_key())
    certificate = _sign(authority, spki, None, names, _CLIENT, [], _OWN_LIFETIME, now)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # The root is the drawbridge's own; what is between it and the leaf it is shown.
    chain = (certificate, *reversed(authority.path[1:]))
    return b"".join(item.public_bytes(Encoding.PEM) for item in chain), private


def _sign(
    authority: Authority,
    spki: bytes,
    common_name: str | None,
    names: Sequence[x509.GeneralName],
    usages: bytes,
    extensions: Sequence[bytes],
    lifetime: timedelta,
    now: datetime,
) -> x509.Certificate:
    issuer = authority.certificate
    if not issuer.not_valid_before_utc <= now < issuer.not_valid_after_utc:
        raise Unavailable(
            "the steward's issuing certificate is not valid now",
            field="root.pem" if authority.path == (issuer,) else "issuer.pem",
            found=f"{issuer.not_valid_before_utc} to {issuer.not_valid_after_utc}",
            expected=f"valid at {now}",
            hint="make a new one with `garrison steward rollover`, and distribute root.pem",
        )
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    leaf = Leaf(
        # Positive in 16 bytes (RFC 5280, 4.1.2.2).
        serial=(int.from_bytes(secrets.token_bytes(_SERIAL_SIZE)) >> 1) | 1,
        issuer=_name(issuer),
        start=max(now - BACKDATE, issuer.not_valid_before_utc),
        end=min(now + lifetime, issuer.not_valid_after_utc),
        subject=x509.Name(subject),
        spki=spki,
        extensions=(
            _NOT_A_CA,
            _SIGNS,
            usages,
            extension_of(x509.SubjectAlternativeName(names), critical=not subject),
            *extensions,
            key_identifier(spki),
            _authority(issuer),
        ),
    )
    return x509.load_der_x509_certificate(
        leaf.signed(authority.issuer.sign, authority.hash_algorithm)
    )


@lru_cache(8)
def _authority(issuer: x509.Certificate) -> bytes:
    """Who issues, which is the same for a year."""
    return extension_of(authority_key_identifier(issuer))


@lru_cache(8)
def _name(issuer: x509.Certificate) -> bytes:
    """What it is called, likewise."""
    return issuer.subject.public_bytes()

"""Certificate chains as TEE vendors make them: short, with a pinned root, checked link by link.

The web's path validation does not fit them: their leaves have no subject alternative name, and
AMD's no positive serial number. Each rule here is one that the vendor's certificates keep.

What is not checked, and why: name constraints and policies, which no such chain has; key
identifiers, which say nothing that the signature does not say.

What does not depend on the time each verifier finds once, and remembers by the content of all that
it is of, good answers alone: of issuers and vendors' lists `REMEMBERED` of each kind, and of what
certifies a platform's key, which is the same in all evidence of the platform, `PLATFORMS`. Times,
and what is revoked, are looked at again each time, and so is every signature of what is new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from garrison.errors import Unverified

if TYPE_CHECKING:
    from datetime import datetime

# AMD document 57230, section 3: every CA key is RSA-4096, and signs RSASSA-PSS with SHA-384,
# MGF1 with SHA-384, and a salt of 48 bytes.
_CA_KEY_BITS = 4096
_SALT = 48
_SHA384 = hashes.SHA384()
_PSS = padding.PSS(padding.MGF1(_SHA384), _SALT)
# Issuers and lists of all vendors are some dozens.
REMEMBERED = 128
# Platforms are more: of as many, those whose evidence came last. Some 16 kB each.
PLATFORMS = 256
# RFC 5280, section 4.2: what is critical must be understood. These are, by `check_ca`.
_KNOWN_CRITICAL = (ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE)


def check_validity(
    certificate: x509.Certificate, now: datetime, field: str, hint: str | None = None
) -> None:
    """Refuse a certificate that is not valid at `now`; `hint` says what to do then.

    Raises:
        Unverified: it is not yet, or no longer.
    """
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= now <= end:
        raise Unverified(
            "not yet valid" if now < start else "expired",
            field=field,
            found=now.isoformat(),
            expected=f"{start.isoformat()} to {end.isoformat()}",
            hint=hint,
        )


def check_ca(certificate: x509.Certificate, field: str) -> None:
    """Refuse a certificate that may not sign others.

    Raises:
        Unverified: it is no certificate authority's.
    """
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise Unverified(
            "not a certificate authority's",
            field=field,
            found=f"no extension {error.oid.dotted_string}",
            expected="basic constraints and key usage",
        ) from error
    if not constraints.ca or not usage.key_cert_sign:
        raise Unverified(
            "not a certificate authority's",
            field=field,
            found=f"CA {constraints.ca}, keyCertSign {usage.key_cert_sign}",
            expected="both",
        )


def check_link(certificate: x509.Certificate, issuer: x509.Certificate, field: str) -> None:
    """Refuse a certificate that does not name `issuer`, or that demands what is not understood.

    The signature is for the caller to check, as the vendor signs.

    Raises:
        Unverified: the names differ, or it has a critical extension that is not understood here.
    """
    if certificate.issuer != issuer.subject:
        raise Unverified(
            "issued by another",
            field=field,
            found=certificate.issuer.rfc4514_string(),
            expected=issuer.subject.rfc4514_string(),
        )
    critical = [
        extension.oid.dotted_string
        for extension in certificate.extensions
        if extension.critical and extension.oid not in _KNOWN_CRITICAL
    ]
    if critical:
        raise Unverified(
            "unknown critical extension",
            field=field,
            found=", ".join(critical),
            expected="none but basic constraints and key usage",
        )


def check_issued(certificate: x509.Certificate, issuer: x509.Certificate, field: str) -> None:
    """Refuse a certificate that `issuer` did not sign, as AMD signs.

    Raises:
        Unverified: the names, the algorithm or the signature are wrong, or it has a critical
            extension that is not understood here.
    """
    check_link(certificate, issuer, field)
    parameters = certificate.signature_algorithm_parameters
    _check_algorithm(certificate.signature_algorithm_oid, parameters, field)
    _check_hash(certificate, field)
    _check_signature(issuer, certificate.signature, certificate.tbs_certificate_bytes, field)


def check_crl(crl: x509.CertificateRevocationList, issuer: x509.Certificate, field: str) -> None:
    """Refuse a revocation list that `issuer` did not sign. `check_crl_window` looks at the time.

    Raises:
        Unverified: it is not genuine.
    """
    if crl.issuer != issuer.subject:
        raise Unverified(
            "issued by another",
            field=field,
            found=crl.issuer.rfc4514_string(),
            expected=issuer.subject.rfc4514_string(),
        )
    _check_algorithm(crl.signature_algorithm_oid, crl.signature_algorithm_parameters, field)
    _check_hash(crl, field)
    _check_signature(issuer, crl.signature, crl.tbs_certlist_bytes, field)


def check_crl_window(crl: x509.CertificateRevocationList, now: datetime, field: str) -> None:
    """Refuse a revocation list that is not current at `now`.

    Raises:
        Unverified: it is not of this time, or has no end.
    """
    start, end = crl.last_update_utc, crl.next_update_utc
    if end is None or not start <= now <= end:
        raise Unverified(
            "not current",
            field=field,
            found=now.isoformat(),
            expected=f"{start.isoformat()} to {end.isoformat() if end else 'an end'}",
            hint="fetch the vendor's latest revocation list",
        )


def _check_algorithm(oid: x509.ObjectIdentifier, parameters: object, field: str) -> None:
    if (
        oid != SignatureAlgorithmOID.RSASSA_PSS
        or not isinstance(parameters, padding.PSS)
        or parameters._salt_length != _SALT  # noqa: SLF001 - the library has no other way to tell
        or not isinstance(parameters.mgf, padding.MGF1)
        or not isinstance(parameters.mgf._algorithm, hashes.SHA384)  # noqa: SLF001 - see above
    ):
        raise Unverified(
            "wrong signature algorithm",
            field=field,
            found=oid.dotted_string,
            expected="RSASSA-PSS, SHA-384, salt of 48 bytes",
        )


def _check_hash(signed: x509.Certificate | x509.CertificateRevocationList, field: str) -> None:
    if not isinstance(signed.signature_hash_algorithm, hashes.SHA384):
        raise Unverified("wrong hash", field=field, expected="SHA-384")


def _ca_key(issuer: x509.Certificate, field: str) -> rsa.RSAPublicKey:
    key = issuer.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _CA_KEY_BITS:
        raise Unverified(
            "wrong kind of key",
            field=f"{field}: issuer's key",
            expected=f"RSA of {_CA_KEY_BITS} bits",
        )
    return key


def _check_signature(issuer: x509.Certificate, signature: bytes, data: bytes, field: str) -> None:
    key = _ca_key(issuer, field)
    try:
        key.verify(signature, data, _PSS, _SHA384)
    except InvalidSignature as error:
        raise Unverified(
            "the signature is wrong",
            field=field,
            expected=f"one by {issuer.subject.rfc4514_string()}",
        ) from error

"""The extension KeyUsage of certificates, by the bits that are one.

Source: RFC 5280, section 4.2.1.3.
"""

from __future__ import annotations

from cryptography import x509

_BITS = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def key_usage(**bits: bool) -> x509.KeyUsage:
    """The extension with these bits, by their names in `x509.KeyUsage`; the others are zero."""
    return x509.KeyUsage(**{**dict.fromkeys(_BITS, False), **bits})

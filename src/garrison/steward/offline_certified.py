"""Evidence in an extension of a certificate, as TLS servers in a TEE show it (RA-TLS).

What the evidence is bound to is the certificate's key, in one of several forms that the schemes
have. It is not held to that: who reads it here is told that it is bound to nobody.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

from cryptography.x509 import ObjectIdentifier, UnrecognizedExtension

from garrison.errors import Malformed
from garrison.formats.dcap_quote import MAX_QUOTE
from garrison.formats.snp_certificate import MAX_CERTIFICATE, load_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator

# A quote with the padding of its buffer, in a certificate.
_MAX_CERTIFIED = MAX_QUOTE + MAX_CERTIFICATE
# More than a server's chain has.
_MAX_CHAIN = 8
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_OIDS = frozenset(
    map(
        ObjectIdentifier,
        (
            # Intel's white paper "Integrating Remote Attestation with Transport Layer Security": a
            # quote. What others put beside it in that arc: an SNP report, a TD's quote.
            "1.2.840.113741.1337.6",
            "1.2.840.113741.1337.7",
            "1.2.840.113741.1337.8",
            # Open Enclave, `oidExtensionForSGX`: its report; and what came after it, its evidence.
            "1.2.840.113556.10.1.1",
            "1.2.840.113556.10.1.2",
            # TCG, DICE Attestation Architecture: a conceptual message wrapper.
            "2.23.133.5.4.9",
        ),
    )
)


def certified_evidence(data: bytes) -> bytes | None:
    """What is in the extension of a certificate, DER, or of the first of PEM that has one.

    None if there is none, or no certificate.
    """
    for der in _certificates(data):
        try:
            extensions = load_certificate(der, "certificate", _MAX_CERTIFIED).extensions
        except Malformed:
            continue
        for each in extensions:
            if each.oid in _OIDS and isinstance(each.value, UnrecognizedExtension):
                return each.value.value
    return None


def _certificates(data: bytes) -> Iterator[bytes]:
    if data.startswith(b"\x30"):
        yield data
        return
    for _, match in zip(range(_MAX_CHAIN), _PEM.finditer(data), strict=False):
        try:
            yield base64.b64decode(b"".join(match[1].split()), validate=True)
        except ValueError:
            continue

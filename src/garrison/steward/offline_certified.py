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
# Less than any has.
_MIN_EVIDENCE = 64
_OCTET_STRING = 0x04
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
            # Open Enclave: its report, and what came after it, its evidence. Azure's attestation
            # service has a quote in the former, and the number of a version in the latter.
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
                found = _octets(each.value.value)
                if len(found) >= _MIN_EVIDENCE:
                    return found
    return None


def _octets(value: bytes) -> bytes:
    """What is in an OCTET STRING, if `value` is one of at least 128 bytes, and nothing else."""
    if len(value) > 4 and value[0] == _OCTET_STRING and value[1] in {0x81, 0x82}:
        start = value[1] - 0x80 + 2
        if int.from_bytes(value[2:start], "big") == len(value) - start:
            return value[start:]
    return value


def _certificates(data: bytes) -> Iterator[bytes]:
    if data.startswith(b"\x30"):
        yield data
        return
    for _, match in zip(range(_MAX_CHAIN), _PEM.finditer(data), strict=False):
        try:
            yield base64.b64decode(b"".join(match[1].split()), validate=True)
        except ValueError:
            continue

"""Who a client certificate is. The TLS server has verified its chain to the steward's root.

Two kinds of certificate read something private here: a keep's, which carries a
`WorkloadIdentity`, and the steward's own, whose one SPIFFE ID is
`spiffe://<trust domain>/steward`. The steward gives that ID to nobody else: all that it
certifies is named by two path segments or more. Any other certificate is nobody's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cryptography import x509

from garrison.errors import Malformed
from garrison.formats.identity import CertifiedIdentity, WorkloadIdentity

if TYPE_CHECKING:
    from datetime import datetime

_STEWARD = re.compile(r"spiffe://[a-z0-9._-]{1,255}/steward")


class StewardId(str):
    """The SPIFFE ID of a steward."""

    __slots__ = ()


def reader_of(der: bytes | None, now: datetime) -> WorkloadIdentity | StewardId | None:
    """Who the certificate `der` is, or None for nobody.

    Args:
        der: the client's certificate, whose chain the TLS handshake verified; None for none.
        now: the time. A connection may be older than its certificate's last second.
    """
    if der is None:
        return None
    try:
        certificate = x509.load_der_x509_certificate(der)
        if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            return None
        identity = CertifiedIdentity.from_certificate(certificate)
        if identity is not None:
            return identity.workload
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    except (Malformed, ValueError, x509.ExtensionNotFound):
        # Not what a steward issues: it is nobody's, and opens nothing.
        return None
    if len(uris) == 1 and _STEWARD.fullmatch(uris[0]):
        return StewardId(uris[0])
    return None

"""TLS of the drawbridge's clients: version 1.3, a verified server, perhaps a client certificate."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import certifi

from garrison.errors import GarrisonError, Malformed, Misuse, Rejected, Unavailable, Unverified

if TYPE_CHECKING:
    import urllib3


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate chain, leaf first, and its key, both PEM, to show in the TLS handshake."""

    chain_pem: bytes
    key_pem: bytes


def client_context(
    host: str, ca_pem: str | None, certificate: ClientCertificate | None
) -> ssl.SSLContext:
    """Make the context of a client.

    Args:
        host: of the server, for messages.
        ca_pem: PEM certificates that may vouch for the server; None for the web's roots.
        certificate: what to show to the server.

    Raises:
        Malformed: the CA or the certificate is not PEM.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        if ca_pem is None:
            context.load_verify_locations(certifi.where())
        else:
            context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError) as error:
        raise Malformed("not PEM certificates", field=f"CA of {host}") from error
    if certificate is not None:
        _load(context, certificate)
    return context


def tls_failure(error: urllib3.exceptions.SSLError, host: str) -> GarrisonError:
    """What a failure of TLS with `host` means."""
    cause = error.args[0] if error.args else None
    reason = (cause.reason if isinstance(cause, ssl.SSLError) else None) or str(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Unverified(
            f"the certificate of the drawbridge does not verify: {cause.verify_message}",
            field=host,
            hint="give the CA that vouches for it with --ca-bundle",
        )
    # OpenSSL's names of the alerts that a server sends (RFC 8446, 6).
    if "ALERT" in reason:
        return Rejected(
            f"the drawbridge ends the TLS handshake ({reason})",
            field=host,
            hint="it may not accept this client's certificate",
        )
    return Unavailable(f"TLS with the drawbridge failed: {reason}", field=host)


def _load(context: ssl.SSLContext, certificate: ClientCertificate) -> None:
    """Give the certificate to `context`, which reads files only: one that is memory alone."""
    descriptor = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
    try:
        data = certificate.key_pem + certificate.chain_pem
        if os.write(descriptor, data) != len(data):
            raise Misuse("too large", field="client certificate")
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as error:
        raise Malformed("not a certificate and its key", field="client certificate") from error
    finally:
        os.close(descriptor)

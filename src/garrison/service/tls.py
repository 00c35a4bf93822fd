"""The TLS of both services: version 1.3 and nothing older, client certificates if there is a CA.

A client certificate is optional in the handshake, and one that does not verify ends it: what
a handler sees is verified or absent.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NoReturn

from garrison.errors import Misuse

if TYPE_CHECKING:
    from pathlib import Path


def server_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """Make the context of a TLS server.

    Args:
        certificate: PEM file with the server's chain, leaf first.
        key: PEM file with its private key, not encrypted.
        client_ca: PEM file with the roots of client certificates; None to ask for none.

    Raises:
        Misuse: a file cannot be read, or holds something else, or key and certificate differ.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A resumed session would carry a client's certificate past its expiry, and certificates
    # of keeps are short-lived on purpose.
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except OSError as error:  # ssl.SSLError is one
        raise Misuse(
            f"cannot use the TLS certificate and key ({_reason(error)})",
            found=f"{certificate}, {key}",
            expected="a certificate and its private key, in PEM",
        ) from error
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            raise Misuse(
                f"cannot use the file of client CAs ({_reason(error)})",
                found=client_ca,
                expected="certificates in PEM",
            ) from error
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _refuse_password() -> NoReturn:
    raise Misuse(
        "the TLS key is encrypted",
        hint="a service starts without a person: store the key unencrypted, readable by it alone",
    )

"""The TLS of both services: version 1.3 and nothing older, client certificates if there is a CA.

A client certificate is optional in the handshake, and one that does not verify ends it: what
a handler sees is verified or absent.

The files may be replaced while a service runs: the next handshake is made with the new ones, and
connections that are there know nothing of it. Files that cannot be used change nothing.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NoReturn

from garrison.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Tls:
    """The files of a TLS server, and the context that they make."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        """Read the files; see `server_context`.

        Raises:
            Misuse: they cannot be used.
        """
        self._files = (certificate, key, client_ca)
        self._seen = self._stamps()
        self._context = server_context(*self._files)

    @property
    def context(self) -> ssl.SSLContext:
        """What the next handshake is to be made with."""
        return self._context

    @property
    def has_changed(self) -> bool:
        """Whether a file is another than when they were last read, in use or refused."""
        return self._stamps() != self._seen

    def reload(self, check: Callable[[], None]) -> None:
        """Read the files again.

        Args:
            check: raises an error of ours if the certificate may not be used.

        Raises:
            Misuse: they cannot be used; the old ones stay in use.
        """
        # Before they are read: what is written meanwhile is seen as another change.
        self._seen = self._stamps()
        context = server_context(*self._files)
        check()
        self._context = context

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(None if path is None else _stamp(path) for path in self._files)


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
        # Not X509_STRICT, which refuses what the original's clients show, for want of a key
        # identifier. What a certificate opens is for the application to say.
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        # Being replaced, or gone: what it is read for tells that.
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _refuse_password() -> NoReturn:
    raise Misuse(
        "the TLS key is encrypted",
        hint="a service starts without a person: store the key unencrypted, readable by it alone",
    )

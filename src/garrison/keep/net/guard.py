"""What can end a connection after its handshake: the keep's own expiry, and a peer's revocation.

A TLS connection is judged once, by the certificates of that moment. Its handshake asks here too,
and once it stands it is kept here, so that it ends when the judgement would be another one. The
thread that learns of that is not the workload's: a stream is marked as failed, so that not even
data that came before is read from it, and its socket is shut down, which wakes whoever waits.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from garrison.errors import GarrisonError, Unavailable
from garrison.formats.identity import CertifiedIdentity

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography import x509

    from garrison.keep.net.stream import TlsStream

log = logging.getLogger("garrison.keep")


class Denial(Protocol):
    """A list of what is denied."""

    def check(self, certified: CertifiedIdentity, serial: int) -> None:
        """Judge a peer by its identity and its certificate's serial number.

        Raises:
            Rejected: it is denied.
        """
        ...


class Guard:
    """The TLS connections of one keep that stand, and what ends them. Safe in any thread."""

    def __init__(self) -> None:
        self._denied: Denial | None = None
        self._expired: datetime | None = None
        # Of each stream that stands, its peer's certificate where that certified an identity.
        # Changed and copied in single steps of the interpreter.
        self._open: dict[TlsStream, x509.Certificate | None] = {}

    def check_own(self) -> None:
        """Refuse new connections while the keep has no valid certificate.

        Raises:
            Unavailable: its certificate has expired.
        """
        if self._expired is not None:
            raise Unavailable(
                "the keep's certificate has expired, and the steward has not renewed it",
                field="certificate",
                found=f"valid until {self._expired.isoformat()}",
            )

    def check_peer(self, certificate: x509.Certificate) -> None:
        """Refuse a peer, certified by a steward, that is denied.

        Raises:
            Rejected: it is.
        """
        certified = CertifiedIdentity.from_certificate(certificate)
        if self._denied is not None and certified is not None:
            self._denied.check(certified, certificate.serial_number)

    def opened(self, stream: TlsStream, certificate: x509.Certificate | None) -> None:
        """Watch over `stream`, whose peer showed `certificate` as its identity."""
        self._open[stream] = certificate
        # What was learnt between the peer's check and now counts too.
        self._review(stream, certificate)

    def closed(self, stream: TlsStream) -> None:
        """Forget `stream`."""
        self._open.pop(stream, None)

    def renewed(self) -> None:
        """Admit new connections again: the keep has a valid certificate."""
        self._expired = None

    def expired(self, when: datetime, *, end: bool) -> None:
        """Admit no new connection, and with `end` end those that stand."""
        self._expired = when
        if not end:
            return
        streams = list(self._open)
        for stream in streams:
            stream.cut("the keep's certificate has expired")
        if streams:
            log.warning("ended %d connections: the keep's certificate has expired", len(streams))

    def deny(self, denied: Denial) -> None:
        """Take `denied` as what is denied, and end the connections of those peers."""
        self._denied = denied
        for stream, certificate in list(self._open.items()):
            self._review(stream, certificate)

    def _review(self, stream: TlsStream, certificate: x509.Certificate | None) -> None:
        if certificate is None:
            return
        try:
            self.check_peer(certificate)
        except GarrisonError as error:
            stream.cut("the peer was revoked")
            log.warning("ended a connection: %s %s: %s", error.field, error.found, error.message)

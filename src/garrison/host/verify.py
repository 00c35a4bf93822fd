"""What a tenant verifies before a keep on a foreign host counts as running.

The host says that a keep runs, and where. That word is worth nothing: the tenant connects to the
keep itself, and its certificate has to lead to the tenant's steward roots and name the slug, the
digest and the policy that were asked for. The handshake proves that the other end has the key of
that certificate, which the steward certified on evidence from a TEE. That no host in between has
the key follows from the measurement, not from the connection: it names the keep image, which
never gives its key away.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509

from garrison.errors import Malformed, Rejected, Unavailable, Unverified
from garrison.formats.digest import digest_text
from garrison.formats.identity import CertifiedIdentity

if TYPE_CHECKING:
    from garrison.formats.oci_name import Name


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the keep's certificate has to say.

    Attributes:
        slug: the workload.
        digest: SHA-256 of its root entry, as the tenant knows it.
        policy: digest of the deployment's policy; None if there is none.
        measurements: the launch measurements that the tenant trusts; None to leave that to the
            steward's policy.
    """

    slug: Name
    digest: bytes
    policy: bytes | None
    measurements: frozenset[bytes] | None = None

    def check(self, certificate: x509.Certificate) -> CertifiedIdentity:
        """Judge a certificate whose chain was verified.

        Raises:
            Unverified: it names no workload.
            Rejected: it names another.
            Malformed: it contradicts itself.
        """
        certified = CertifiedIdentity.from_certificate(certificate)
        if certified is None:
            raise Unverified("names no workload", field="the keep's certificate")
        found = certified.workload
        checks: list[tuple[str, object, object]] = [
            ("slug", found.slug, self.slug),
            ("digest", _text(found.digest), _text(self.digest)),
            ("policy", _text(found.policy), _text(self.policy)),
        ]
        if self.measurements is not None and found.measurement not in self.measurements:
            trusted = " or ".join(sorted(m.hex() for m in self.measurements))
            checks.append(("measurement", found.measurement.hex(), trusted))
        for name, got, expected in checks:
            if got != expected:
                raise Rejected(
                    "the host runs something else",
                    field=f"the keep's certificate: {name}",
                    found=got,
                    expected=expected,
                )
        return certified


def meet(host: str, port: int, roots_pem: str, *, seconds: float) -> x509.Certificate:
    """Do a TLS handshake with the keep at `host` and `port`, and return its certificate.

    No certificate is shown: a keep that wants one refuses afterwards, which proves no less. The
    host's name has no part in it. Validity is judged at the system's time, by OpenSSL.

    Args:
        host: where it is said to be.
        port: likewise.
        roots_pem: the steward's roots, which its chain must lead to.
        seconds: how long it may take.

    Raises:
        Unavailable: nobody answers there.
        Unverified: who answers has no such certificate.
        Malformed: `roots_pem` is not PEM certificates.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    where = f"{host}:{port}"
    try:
        context.load_verify_locations(cadata=roots_pem)
    except (ssl.SSLError, ValueError) as error:
        raise Malformed("not PEM certificates", field="steward roots") from error
    try:
        with (
            socket.create_connection((host, port), timeout=seconds) as connection,
            context.wrap_socket(connection) as secured,
        ):
            der = secured.getpeercert(binary_form=True)
    except ssl.SSLCertVerificationError as error:
        raise Unverified(
            f"its certificate is not under the steward's roots: {error.verify_message}",
            field=where,
        ) from error
    except OSError as error:
        raise Unavailable(f"no keep answers: {error}", field=where) from error
    if der is None:
        raise Unverified("shows no certificate", field=where)
    return x509.load_der_x509_certificate(der)


def _text(digest: bytes | None) -> str:
    return "none" if digest is None else digest_text(digest)

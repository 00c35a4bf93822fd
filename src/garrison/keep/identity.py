"""Who the keep is: a key that never leaves it, and certificates that the steward gives for it.

`Credentials.certify` is one round of attestation: a challenge, evidence bound to the key and the
challenge, a CSR that carries it, a certificate chain. What comes back is believed only if it
is for this key, for what was asked, and under the tenant's roots.

Which roots those are is the host's word, and it may have added one of its own. The first
certificate settles it: from then on only the root that it leads to counts, for the keep's peers and
for the steward itself, with those that the steward names under it (`garrison.keep.trust`). So
whoever believes this keep, and the keep, have a root in common.
"""

from __future__ import annotations

import json
import logging
import ssl
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import urllib3
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from garrison.drawbridge.retry import NOT_NOW, seconds_asked
from garrison.errors import Malformed, Misuse, Rejected, Unavailable, Unverified
from garrison.formats import deny_list
from garrison.formats.challenge_wire import Offer
from garrison.formats.csr import build_request, decode_pki_path
from garrison.formats.evidence import bound_report_data
from garrison.formats.identity import CertifiedIdentity, WorkloadIdentity
from garrison.http_pools import pools, read_body
from garrison.keep.retries import Away

if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.attesters.base import Attester
    from garrison.formats.evidence import Evidence

log = logging.getLogger("garrison.keep")

# What a deny list may have; certificates, a problem document, a challenge are far smaller.
_MAX_ANSWER = deny_list.MAX_SIZE
_TIMEOUT = urllib3.Timeout(connect=10, read=30)
_ATTESTING = threading.Lock()
_CURVES = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1}


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate chain, leaf first, for the keep's key, and what its leaf says."""

    chain: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey
    identity: CertifiedIdentity

    @property
    def leaf(self) -> x509.Certificate:
        """The keep's own certificate."""
        return self.chain[0]

    def chain_pem(self) -> bytes:
        """The chain, leaf first, as PEM."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.chain)

    def key_pem(self) -> bytes:
        """The private key, for a TLS library in this same process. Never write it anywhere."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class StewardClient:
    """The steward as the keep sees it: a challenge, and an answer to a CSR, over TLS."""

    def __init__(self, url: str, roots_pem: str) -> None:
        """Prepare to speak with the steward at `url`; nothing is sent yet.

        Args:
            url: `https://host[:port]`.
            roots_pem: the CA certificates that may vouch for its TLS.

        Raises:
            Misuse: the URL is not https.
            Malformed: the roots are not PEM certificates.
        """
        if not url.startswith("https://"):
            raise Misuse("not an https URL", field="steward", found=repr(url[:200]))
        self.url = url.rstrip("/")
        self._settled = False
        self.trust(tuple(load_roots(roots_pem)))

    def trust(self, roots: tuple[x509.Certificate, ...]) -> None:
        """Take `roots` as those that vouch for the steward and its certificates."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(
            cadata="".join(root.public_bytes(Encoding.PEM).decode() for root in roots)
        )
        self.roots = roots
        self._pool = pools(ssl_context=context, retries=False, timeout=_TIMEOUT)

    def settle(self, root: x509.Certificate) -> None:
        """Take `root`, of those that were given, as the only one; later calls change nothing."""
        if not self._settled:
            self._settled = True
            if self.roots != (root,):
                self.trust((root,))

    def bundle(self) -> tuple[x509.Certificate, ...]:
        """The steward's roots, as it tells them now.

        Raises:
            Unavailable: the steward cannot be reached, or fails.
            Malformed: its answer is not certificates.
        """
        answer = self._request("GET", "/bundle")
        if answer.status != 200:
            raise self._refusal(answer)
        return tuple(load_roots(answer.body.decode(errors="replace")))

    def deny_list(self) -> bytes | None:
        """What the steward denies (`garrison.formats.deny_list`); None if it tells no such thing.

        Raises:
            Unavailable: the steward cannot be reached, or fails.
        """
        answer = self._request("GET", "/deny")
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise self._refusal(answer)
        return answer.body

    def challenge(self) -> bytes:
        """Get a fresh challenge to bind evidence to.

        Raises:
            Unavailable: the steward cannot be reached, or fails.
            Malformed: its answer is not a challenge.
        """
        answer = self._request("GET", "/challenge")
        if answer.status != 200:
            raise self._refusal(answer)
        return Offer.from_bytes(answer.body).challenge

    def certify(self, request: bytes) -> list[x509.Certificate]:
        """Send a CSR (DER), and return the chain, leaf first.

        Raises:
            Rejected: the steward refuses, with its reasons.
            Unavailable: the steward cannot be reached, or fails.
            Malformed: its answer is not a certificate chain.
        """
        headers = {
            "Content-Type": "application/pkcs10",
            "Accept": "application/octet-stream, application/problem+json",
        }
        answer = self._request("POST", "/", body=request, headers=headers)
        if answer.status != 200:
            raise self._refusal(answer)
        return list(reversed(decode_pki_path(answer.body)))

    def _request(self, method: str, path: str, **arguments: Any) -> _Answer:
        try:
            response = self._pool.request(
                method, self.url + path, redirect=False, preload_content=False, **arguments
            )
            try:
                body = read_body(response, _MAX_ANSWER)
            finally:
                response.close()
        except urllib3.exceptions.SSLError as error:
            if error.args and isinstance(error.args[0], ssl.SSLEOFError | ssl.SSLZeroReturnError):
                # It goes, or what stands before it has none to pass this on to.
                raise Away("the steward ended the connection", field=self.url) from error
            raise Unverified(
                f"the steward's TLS certificate is not accepted: {error}",
                field=self.url,
                hint="give the root that vouches for it with --steward-root",
            ) from error
        except urllib3.exceptions.HTTPError as error:
            raise Away(f"the steward cannot be reached: {error}", field=self.url) from error
        if len(body) > _MAX_ANSWER:
            raise Malformed("too long an answer", field=self.url, expected=f"{_MAX_ANSWER} bytes")
        return _Answer(response.status, body, response.headers.get("Retry-After"))

    def _refusal(self, answer: _Answer) -> Exception:
        status = answer.status
        try:
            problem = _json_object(answer.body)
        except Malformed:
            problem = {}
        detail = _plain(problem.get("detail") or problem.get("title") or "no reason given")
        if status in NOT_NOW:
            away = Away(f"the steward cannot answer now ({status}): {detail}", field=self.url)
            away.retry_after = seconds_asked(answer.retry_after)
            return away
        if status >= 500:
            return Unavailable(f"the steward fails ({status}): {detail}", field=self.url)
        error = Refused(f"the steward refuses ({status}): {detail}", field=self.url)
        checks = problem.get("checks")
        if isinstance(checks, list):
            error.checks = [
                {str(key): _plain(value) for key, value in check.items() if value is not None}
                for check in checks[:50]
                if isinstance(check, dict)
            ]
        return error


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    retry_after: str | None


class Refused(Rejected):
    """The steward's refusal, with the checks that failed as it told them."""

    checks: list[dict[str, str]] = []  # noqa: RUF012  (replaced, never changed in place)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The keep's key, and how certificates are got for it."""

    key: ec.EllipticCurvePrivateKey
    attester: Attester
    steward: StewardClient

    @classmethod
    def generate(cls, attester: Attester, steward: StewardClient) -> Credentials:
        """Make a key on the curve that the TEE's own signatures have."""
        return cls(ec.generate_private_key(_CURVES[attester.curve]()), attester, steward)

    def attest(self, report_data: bytes) -> Evidence | None:
        """Obtain evidence, from any thread: of one request after the other.

        Some TEEs take the request and give the answer by files, which two at once would mix up.

        Raises:
            Unavailable: the TEE does not answer.
        """
        with _ATTESTING:
            return self.attester.attest(report_data)

    def certify(self, workload: WorkloadIdentity | None = None) -> Certified:
        """Attest, and get a certificate: for the keep, or for the `workload` that it runs.

        Raises:
            Rejected: the steward refuses.
            Unavailable: the steward cannot be reached, or fails.
            Unverified: what it answered is not for this key, not what was asked, or not
                under the tenant's roots.
            Malformed: what it answered cannot be read.
        """
        challenge = self.steward.challenge()
        spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        evidence = self.attest(bound_report_data(spki, challenge))
        request = build_request(self.key, evidence=evidence, challenge=challenge, workload=workload)
        chain = self.steward.certify(request)
        now = datetime.now(UTC)
        certified = self._check(chain, workload, now)
        log.info(
            "certified as %s (tee %s, until %s)",
            certified.identity.spiffe_id,
            certified.identity.workload.tee,
            certified.leaf.not_valid_after_utc.isoformat(),
        )
        return certified

    def _check(
        self, chain: list[x509.Certificate], asked: WorkloadIdentity | None, now: datetime
    ) -> Certified:
        if not chain:
            raise Malformed("no certificate", field=f"answer of {self.steward.url}")
        if chain[0].public_key() != self.key.public_key():
            raise Unverified("the steward certified another key", field=self.steward.url)
        store = Store(list(self.steward.roots))
        verifier = PolicyBuilder().store(store).time(now).build_client_verifier()
        try:
            root = verifier.verify(chain[0], chain[1:]).chain[-1]
        except VerificationError as error:
            raise Unverified(
                f"the steward's certificate does not lead to a root of --steward-root: {error}",
                field=self.steward.url,
            ) from error
        identity = CertifiedIdentity.from_certificate(chain[0])
        if identity is None:
            raise Unverified("the steward's certificate names no keep", field=self.steward.url)
        certified = identity.workload
        wanted = asked or WorkloadIdentity(slug=None, digest=None)
        if (certified.slug, certified.digest, certified.policy) != (
            wanted.slug,
            wanted.digest,
            wanted.policy,
        ):
            raise Unverified(
                "the steward certified another workload",
                field=self.steward.url,
                found=certified,
                expected=wanted,
            )
        self.steward.settle(root)
        return Certified(tuple(chain), self.key, identity)


def load_roots(pem: str) -> list[x509.Certificate]:
    """Read PEM certificates, at least one.

    Raises:
        Malformed: there is none, or one cannot be read.
    """
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise Malformed("not PEM certificates", field="steward roots") from error


def _json_object(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON", field="the steward's answer") from error
    if not isinstance(value, dict):
        raise Malformed("not a JSON object", field="the steward's answer")
    return value


def _plain(value: object) -> str:
    """Another party's words, fit for a terminal and a log."""
    return "".join(c if c.isprintable() else "?" for c in str(value)[:500])

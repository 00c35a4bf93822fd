"""TLS 1.3 and nothing older, with the peer checked inside the handshake.

OpenSSL verifies the chain and, where a rule says so, the host's name; the identity in the
certificate is read and judged in OpenSSL's verification callback, so that a refused peer gets a
TLS alert and the workload never sees a byte of it. The alert says little on purpose; the keep's
log has one line with the rule, what was presented and what was wanted.

Keys come from memory. There is no resumption: each connection is verified anew. OpenSSL sends
tickets all the same, for the binding has no way to say that there shall be none; they name sessions
of a cache that is off. Validity is judged by OpenSSL at the system's time, the one place where a
verification reads the clock, for it happens inside the library.
"""

from __future__ import annotations

import select
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import certifi
from cryptography import x509
from OpenSSL import SSL

from garrison.errors import GarrisonError, Misuse, Rejected, Unverified
from garrison.formats.endpoint import is_address
from garrison.keep.net.openssl import (
    NO_APPLICATION_PROTOCOL,
    PEER_DID_NOT_RETURN_A_CERTIFICATE,
    context_handle,
    failure,
    handle,
    lib,
    offer_protocols,
    reason,
    verify_error,
)
from garrison.keep.net.tls_stream import TlsStream

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric import ec
    from OpenSSL.crypto import X509

    from garrison.keep.net.guard import Guard
    from garrison.keep.net.policy import Policy

_SUITES = b"TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
# SSL_CTX_set1_curves_list(3): `*` sends a key share at once, `?` skips what the library lacks.
_GROUPS = b"?*X25519MLKEM768:*X25519:secp384r1:prime256v1"
# A steward's chain has two or three certificates, the web's rarely more than four.
_MAX_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the keep is on its connections.

    Attributes:
        chain: the certificate chain, leaf first.
        key: the leaf's private key; it stays in this process's memory.
    """

    chain: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey


class Contexts:
    """OpenSSL's contexts for one identity and one set of roots, made when first needed."""

    def __init__(self, identity: Identity | None, roots: Sequence[x509.Certificate]) -> None:
        self._identity = identity
        self._roots = tuple(roots)
        self._made: dict[tuple[bool, str, bool, tuple[str, ...]], SSL.Context] = {}

    def check_usable(self, policy: Policy) -> None:
        """Refuse what could only fail later, peer by peer.

        Raises:
            Misuse: a listener without a certificate, or peers to verify without roots.
        """
        if policy.incoming and self._identity is None:
            raise Misuse(
                "listening with TLS needs a certificate",
                field=policy.name,
                hint='name a steward to get one from, or set prot = "tcp"',
            )
        if policy.trust == "steward" and policy.needs_certificate and not self._roots:
            raise Misuse(
                "no steward's root to verify peers with",
                field=policy.name,
                expected=policy.wanted,
                hint="name the steward and its root",
            )

    def get(self, policy: Policy) -> SSL.Context:
        """The context for connections under `policy`."""
        key = (policy.incoming, policy.trust, policy.needs_certificate, policy.alpn)
        if key not in self._made:
            self._made[key] = self._make(policy)
        return self._made[key]

    def _make(self, policy: Policy) -> SSL.Context:
        context = SSL.Context(SSL.TLS_SERVER_METHOD if policy.incoming else SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_max_proto_version(SSL.TLS1_3_VERSION)
        context.set_tls13_ciphersuites(_SUITES)
        if lib.SSL_CTX_set1_curves_list(context_handle(context), _GROUPS) != 1:
            raise RuntimeError("this OpenSSL lacks a group that TLS 1.3 needs")
        context.set_options(
            SSL.OP_NO_TICKET | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_COMPRESSION
        )
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        if self._identity is not None:
            context.use_certificate(self._identity.chain[0])
            for certificate in self._identity.chain[1:]:
                context.add_extra_chain_cert(certificate)
            context.use_privatekey(self._identity.key)
            context.check_privatekey()
        offer_protocols(context, policy.alpn, incoming=policy.incoming)
        self._add_roots(context, policy)
        mode = SSL.VERIFY_PEER
        if policy.incoming and policy.needs_certificate:
            mode |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        context.set_verify_depth(_MAX_DEPTH)
        context.set_verify(mode, _verify)
        return context

    def _add_roots(self, context: SSL.Context, policy: Policy) -> None:
        if policy.trust == "web":
            context.load_verify_locations(certifi.where())
            return
        if policy.trust == "steward":
            roots: Sequence[x509.Certificate] = self._roots
        else:
            roots = x509.load_pem_x509_certificates(policy.trust.encode())
        store = context.get_cert_store()
        if store is None:
            raise RuntimeError("a fresh context has no certificate store")
        for root in roots:
            store.add_cert(_pyopenssl(root))


def _pyopenssl(certificate: x509.Certificate) -> X509:
    from OpenSSL.crypto import X509

    return X509.from_cryptography(certificate)


class _PeerCheck:
    """What the verification callback finds out about one peer."""

    def __init__(self, policy: Policy, guard: Guard) -> None:
        self.policy = policy
        self.guard = guard
        # The peer's, where what it says of a workload is believed.
        self.certificate: x509.Certificate | None = None
        self.peer: dict[str, Any] | None = None
        self.failure: BaseException | None = None

    def step(self, certificate: X509, code: int, depth: int, ok: bool) -> bool:
        """Judge one certificate of the chain, after OpenSSL did; the leaf, depth 0, comes last.

        No error may leave a callback: it is kept, and the handshake is refused.
        """
        try:
            if not ok:
                self.failure = Unverified(
                    f"the peer's certificate is not accepted: {verify_error(code)}",
                    field=self.policy.name,
                    found=_presented(certificate),
                    expected=self.policy.wanted,
                )
            elif depth == 0:
                shown = certificate.to_cryptography()
                peer = self.policy.admit(shown)
                if self.policy.believes_identity:
                    self.guard.check_peer(shown)
                    self.certificate = shown
                self.peer = peer
        except GarrisonError as error:
            self.failure = error
        except Exception as error:  # noqa: BLE001  (whatever a certificate can make a library do)
            self.failure = Unverified(
                "the peer's certificate cannot be read", field=self.policy.name, found=repr(error)
            )
        except BaseException as error:  # noqa: BLE001  (an interrupt: raised again after the call)
            self.failure = error
        return self.failure is None


def _verify(connection: SSL.Connection, certificate: X509, code: int, depth: int, ok: int) -> bool:
    check = connection.get_app_data()
    return isinstance(check, _PeerCheck) and check.step(certificate, code, depth, bool(ok))


def _presented(certificate: X509) -> str:
    """Name a certificate that nobody vouches for: escaped and bounded, for it goes to a log."""
    try:
        return repr(certificate.to_cryptography().subject.rfc4514_string()[:200])
    except ValueError:
        return "an unreadable certificate"


class Handshake:
    """A TLS handshake, advanced step by step on a socket that does not block."""

    def __init__(
        self,
        sock: socket.socket,
        context: SSL.Context,
        policy: Policy,
        guard: Guard,
        *,
        host: str = "",
    ) -> None:
        """Prepare the handshake; nothing is sent yet.

        Args:
            sock: the connected socket, which the handshake does not close.
            context: the context for `policy`, from `Contexts.get`.
            policy: what holds for the connection.
            guard: what ends it, now or later.
            host: whom an outgoing connection asked for.
        """
        self.policy = policy
        self._socket = sock
        self._connection = SSL.Connection(context, sock)
        # The binding sets it: one read would go on for as long as a peer sends what is no data,
        # such as key updates, and nothing ends a workload in a call of the library.
        lib.SSL_clear_mode(handle(self._connection), lib.SSL_MODE_AUTO_RETRY)
        self._check = _PeerCheck(policy, guard)
        self._connection.set_app_data(self._check)
        if policy.incoming:
            self._connection.set_accept_state()
            return
        self._connection.set_connect_state()
        if not is_address(host):
            # RFC 6066, section 3: names only, never addresses.
            self._connection.set_tlsext_host_name(host.encode())
        if policy.checks_host:
            _expect_host(self._connection, host)

    def step(self) -> int:
        """Go on as far as the socket lets.

        Returns:
            What to wait for, `select.EPOLLIN` or `select.EPOLLOUT`; 0 when it is done.

        Raises:
            Rejected: the rule does not admit the peer.
            Unverified: the peer's certificate is not genuine.
            Malformed: the peer's certificate contradicts itself.
            OSError: the connection failed, or the peer refused.
        """
        lib.ERR_clear_error()
        ssl = handle(self._connection)
        result = lib.SSL_do_handshake(ssl)
        if result == 1:
            if self._check.peer is None:
                self._check.peer = self._without_callback()
            if self.policy.alpn:
                self._check.peer = {**self._check.peer, "alpn": self._protocol()}
            return 0
        code = lib.SSL_get_error(ssl, result)
        if code == lib.SSL_ERROR_WANT_READ:
            return select.EPOLLIN
        if code == lib.SSL_ERROR_WANT_WRITE:
            return select.EPOLLOUT
        why = reason()
        error = failure(code)
        if self._check.failure is not None:
            raise self._check.failure
        if why == PEER_DID_NOT_RETURN_A_CERTIFICATE:
            self.policy.admit(None)
        if why == NO_APPLICATION_PROTOCOL:
            raise self._disagreement("none of these")
        raise error

    def _without_callback(self) -> dict[str, Any]:
        """Who the peer is if the callback was not asked: a client without a certificate."""
        if self._connection.get_peer_certificate(as_cryptography=True) is not None:
            raise Unverified("the peer's certificate was not verified", field=self.policy.name)
        return self.policy.admit(None)

    def _protocol(self) -> str:
        """The protocol that both sides agreed on."""
        agreed = self._connection.get_alpn_proto_negotiated().decode(errors="replace")
        if agreed not in self.policy.alpn:
            raise self._disagreement(agreed or "none")
        return agreed

    def _disagreement(self, found: str) -> Rejected:
        return Rejected(
            "no protocol is agreed on",
            field=f"{self.policy.name}.alpn",
            found=found,
            expected=", ".join(self.policy.alpn),
        )

    def stream(self) -> TlsStream:
        """The connection, after `step` returned 0."""
        if self._check.peer is None:
            raise RuntimeError("the handshake is not done")
        guard = self._check.guard
        stream = TlsStream(self._socket, self._connection, self._check.peer, guard.closed)
        guard.opened(stream, self._check.certificate)
        return stream


def _expect_host(connection: SSL.Connection, host: str) -> None:
    """Have OpenSSL compare the certificate's alternative names, never its subject, to `host`."""
    parameters = lib.SSL_get0_param(handle(connection))
    lib.X509_VERIFY_PARAM_set_hostflags(
        parameters,
        lib.X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | lib.X509_CHECK_FLAG_NEVER_CHECK_SUBJECT,
    )
    if is_address(host):
        name = ip_address(host).packed
        done = lib.X509_VERIFY_PARAM_set1_ip(parameters, name, len(name))
    else:
        name = host.encode()
        done = lib.X509_VERIFY_PARAM_set1_host(parameters, name, len(name))
    if done != 1:
        raise RuntimeError("OpenSSL does not take the host's name")

"""The network of one workload: connections and listeners as its configuration allows them."""

from __future__ import annotations

import errno
import logging
import select
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Literal

from garrison.errors import GarrisonError
from garrison.formats.endpoint import Endpoint, bracketed, is_address, parse_listen
from garrison.keep.net import policy as policies
from garrison.keep.net.guard import Guard
from garrison.keep.net.listener import HANDSHAKE_SECONDS, Listener, end, log_refusal
from garrison.keep.net.policy import ANONYMOUS, Policy
from garrison.keep.net.stream import Stream
from garrison.keep.net.tls import Contexts, Handshake, Identity

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from cryptography import x509

    from garrison.formats.deployment_policy import DeploymentPolicy
    from garrison.formats.enarx_toml import Config
    from garrison.keep.net.guard import Denial

__all__ = ["Identity", "Network"]

log = logging.getLogger("garrison.keep")

CONNECT_SECONDS = 10.0
# Events that the workload has not read; most workloads never read one.
_MAX_EVENTS = 1024
_BACKLOG = 512


class Network:
    """What the workload can reach, and who can reach it."""

    def __init__(
        self,
        config: Config,
        identity: Identity | None,
        roots: list[x509.Certificate],
        *,
        tenant: DeploymentPolicy | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        handshake_seconds: float = HANDSHAKE_SECONDS,
    ) -> None:
        """Prepare the network; nothing is opened yet.

        Args:
            config: the workload's configuration, which holds the rules.
            identity: who the keep is; None if it has no certificate.
            roots: the steward's root certificates.
            tenant: what the deployment narrows it to.
            connect_seconds: how long to try to reach a host.
            handshake_seconds: how long a TLS handshake may take.
        """
        self._config = config
        self._tenant = tenant
        self._guard = Guard()
        self._roots = tuple(roots)
        self._identity = identity
        self._contexts = Contexts(identity, self._roots)
        self._connect_seconds = connect_seconds
        self._handshake_seconds = handshake_seconds
        self._events: dict[str, deque[dict[str, Any]]] = {"con": deque(), "lis": deque()}

    def replace_identity(self, identity: Identity) -> None:
        """Use a renewed certificate for new connections; open ones go on. Safe in any thread."""
        self._identity = identity
        self._contexts = Contexts(identity, self._roots)
        self._guard.renewed()

    def replace_roots(self, roots: Sequence[x509.Certificate]) -> None:
        """Verify new connections under `roots`; open ones go on. Safe in any thread."""
        self._roots = tuple(roots)
        self._contexts = Contexts(self._identity, self._roots)

    def expire(self, when: datetime) -> None:
        """Open no more TLS connections, for the certificate's time was over at `when`.

        Those that stand end, unless the configuration lets them stay. Safe in any thread.
        """
        self._guard.expired(when, end=self._config.at_expiry == "end")

    def deny(self, denied: Denial) -> None:
        """Refuse peers that `denied` names, and end their connections. Safe in any thread."""
        self._guard.deny(denied)

    def connect(self, target: str) -> Stream:
        """Connect to `host[:port]`, and check who is there.

        Raises:
            Malformed: `target` is no endpoint.
            Rejected: the configuration denies it, or does not admit the peer.
            Unverified: the peer's certificate is not genuine.
            Misuse: the rule needs the steward's root, and none is known.
            OSError: the network failed, or the peer refused.
        """
        endpoint = Endpoint.parse(target, field="connection")
        policy, endpoint = policies.outgoing(self._config, endpoint)
        return self._connect(policies.narrowed(policy, self._tenant, endpoint), endpoint)

    def listen(self, target: str) -> Listener:
        """Listen on `port` or `addr:port`; on all addresses if there is none.

        Raises:
            Malformed: `target` is neither.
            Rejected: the configuration denies it.
            Misuse: TLS has no certificate to show, or no root to verify peers with.
            OSError: the address cannot be had.
        """
        endpoint = parse_listen(target, field="listener")
        policy = policies.incoming(self._config, endpoint.port or 0)
        return self._listen(policies.narrowed(policy, self._tenant, endpoint), endpoint)

    def preopened(self) -> list[tuple[str, Stream | Listener]]:
        """Open the listeners and connections of `[[files]]`, in order, each with its name.

        Raises:
            GarrisonError: as `connect` and `listen` do; what was open is closed again.
            OSError: likewise.
        """
        opened: list[tuple[str, Stream | Listener]] = []
        try:
            for index, file in enumerate(self._config.files or ()):
                if file.endpoint is None:
                    continue
                policy = Policy(f"files.{index}", file.rule, incoming=file.kind == "listen")
                policy = policies.narrowed(policy, self._tenant, file.endpoint)
                open_it = self._listen if policy.incoming else self._connect
                opened.append((file.name, open_it(policy, file.endpoint)))
        except BaseException:
            for _, resource in opened:
                resource.close()
            raise
        return opened

    def next_event(self, direction: Literal["con", "lis"]) -> dict[str, Any] | None:
        """Take the next connected (`con`) or accepted (`lis`) event, None if there is none."""
        events = self._events[direction]
        return events.popleft() if events else None

    def _record(self, direction: str, event: dict[str, Any]) -> None:
        events = self._events[direction]
        if len(events) < _MAX_EVENTS:
            events.append(event)

    def _connect(self, policy: Policy, endpoint: Endpoint) -> Stream:
        policy.check_allowed(str(endpoint))
        tls = policy.rule.prot == "tls"
        if tls:
            self._guard.check_own()
            self._contexts.check_usable(policy)
        port = endpoint.port or policy.rule.default_port
        sock = self._dial(endpoint.host, port)
        try:
            stream = self._secure(sock, policy, endpoint) if tls else Stream(sock, ANONYMOUS)
        except GarrisonError as error:
            end(sock)
            log_refusal(error, str(endpoint))
            raise
        except BaseException:
            sock.close()
            raise
        self._record("con", {"host": endpoint.host, "port": port, "peer": stream.peer})
        return stream

    def _dial(self, host: str, port: int) -> socket.socket:
        """Connect to the first of the host's addresses that answers."""
        flags = socket.AI_NUMERICHOST if is_address(host) else 0
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
        except socket.gaierror as error:
            raise OSError(
                errno.EHOSTUNREACH, f"{host} cannot be resolved: {error.strerror}"
            ) from error
        deadline = time.monotonic() + self._connect_seconds
        last: OSError = OSError(errno.EHOSTUNREACH, f"{host} has no address")
        for index, (family, kind, protocol, _, address) in enumerate(found):
            # The time that is left is for all that are left.
            share = (deadline - time.monotonic()) / (len(found) - index)
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(max(share, 0.001))
                sock.connect(address)
                sock.settimeout(0)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except TimeoutError:
                sock.close()
                last = TimeoutError(errno.ETIMEDOUT, f"{host} port {port} does not answer")
            except OSError as error:
                sock.close()
                last = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise last

    def _secure(self, sock: socket.socket, policy: Policy, endpoint: Endpoint) -> Stream:
        """Do the client's side of the handshake."""
        context = self._contexts.get(policy)
        handshake = Handshake(sock, context, policy, self._guard, host=endpoint.host)
        deadline = time.monotonic() + self._handshake_seconds
        poller = select.poll()
        while wanted := handshake.step():
            poller.register(sock, select.POLLIN if wanted == select.EPOLLIN else select.POLLOUT)
            left = deadline - time.monotonic()
            if left <= 0 or not poller.poll(left * 1000):
                raise TimeoutError(errno.ETIMEDOUT, f"{endpoint} does not finish the TLS handshake")
        return handshake.stream()

    def _listen(self, policy: Policy, endpoint: Endpoint) -> Listener:
        policy.check_allowed(str(endpoint))
        start = None
        if policy.rule.prot == "tls":
            self._contexts.check_usable(policy)

            def start(sock: socket.socket) -> Handshake:
                # Looked up each time: the identity may have been renewed.
                self._guard.check_own()
                return Handshake(sock, self._contexts.get(policy), policy, self._guard)

        sock = _listening(endpoint.host, endpoint.port or 0)
        return Listener(
            sock,
            start,
            lambda address, peer: self._record("lis", {"addr": address, "peer": peer}),
            handshake_seconds=self._handshake_seconds,
        )


def _listening(address: str, port: int) -> socket.socket:
    """A socket that listens; on `::` for both families, on IPv4 alone where IPv6 is missing."""
    everywhere = address == "::"
    try:
        sock = socket.create_server(
            (address, port),
            family=socket.AF_INET6 if ":" in address else socket.AF_INET,
            backlog=_BACKLOG,
            dualstack_ipv6=everywhere and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        if not everywhere or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise OSError(
                error.errno, f"cannot listen on {bracketed(address)}:{port}: {error.strerror}"
            ) from error
        log.info("no IPv6 here: listening on IPv4 only")
        sock = socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)  # noqa: S104  (asked for)
    sock.settimeout(0)
    return sock

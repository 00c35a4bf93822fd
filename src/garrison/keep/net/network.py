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
from garrison.formats.endpoint import Endpoint, bracketed, parse_listen
from garrison.formats.limits import Limits
from garrison.keep.engine.failures import Ended
from garrison.keep.net import policy as policies
from garrison.keep.net.datagrams import DatagramRules, Datagrams
from garrison.keep.net.dial import dial, happens, wait_for
from garrison.keep.net.guard import Guard, certificate_term, silence_term
from garrison.keep.net.listener import Listener, end, log_refusal
from garrison.keep.net.loopback import Loopback, LoopbackListener
from garrison.keep.net.places import Places
from garrison.keep.net.policy import ANONYMOUS, Policy
from garrison.keep.net.stream import Stream
from garrison.keep.net.tls import Contexts, Handshake, Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from cryptography import x509

    from garrison.formats.deployment_policy import DeploymentPolicy
    from garrison.formats.enarx_toml import Config
    from garrison.keep.net.dial import Wait
    from garrison.keep.net.guard import Denial

    # An address, a port, and whether it is of UDP.
    Listening = Callable[[str, int, bool], None]

__all__ = ["Identity", "Network"]

log = logging.getLogger("garrison.keep")

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
        limits: Limits | None = None,
        listening: Listening | None = None,
    ) -> None:
        """Prepare the network; nothing is opened yet.

        Args:
            config: the workload's configuration, which holds the rules.
            identity: who the keep is; None if it has no certificate.
            roots: the steward's root certificates.
            tenant: what the deployment narrows it to.
            limits: how many connections and handshakes there may be, and how long they take.
            listening: told of address and port, and whether it is of UDP, before the workload has
                a listener; raises OSError where nobody could reach it.
        """
        self._config = config
        self._tenant = tenant
        stays = config.at_expiry == "stay" and (tenant is None or tenant.at_expiry == "stay")
        self._guard = Guard(ends=not stays)
        if identity is not None:
            self._guard.hold(certificate_term(identity.chain[0]))
        self._roots = tuple(roots)
        self._identity = identity
        self._contexts = Contexts(identity, self._roots)
        self._limits = limits or Limits()
        self._places = Places(self._limits.connections)
        self._events: dict[str, deque[dict[str, Any]]] = {"con": deque(), "lis": deque()}
        self._listening = listening
        self._datagram_rules = DatagramRules(config, tenant, listening)
        # Made by the first listener of the workload's own: few have any.
        self._loopback: Loopback | None = None

    def chain(self) -> tuple[x509.Certificate, ...]:
        """The certificate chain that it shows now, leaf first; empty if it has none."""
        return () if self._identity is None else self._identity.chain

    def replace_identity(self, identity: Identity) -> None:
        """Use a renewed certificate for new connections; open ones go on. Safe in any thread."""
        self._identity = identity
        self._contexts = Contexts(identity, self._roots)
        self._guard.hold(certificate_term(identity.chain[0]))

    def replace_roots(self, roots: Sequence[x509.Certificate]) -> None:
        """Verify new connections under `roots`; open ones go on. Safe in any thread."""
        self._roots = tuple(roots)
        self._contexts = Contexts(self._identity, self._roots)

    def guarded(self) -> AbstractContextManager[None]:
        """Until the block ends, end what stands when the keep's time is over (`Guard`)."""
        return self._guard.watching()

    def heard(self) -> None:
        """The steward has said what is denied: its silence counts from now. Safe in any thread."""
        if self._limits.silence_seconds is not None:
            self._guard.hold(silence_term(self._limits.silence_seconds))

    @property
    def longest_silence(self) -> float | None:
        """For how long the steward may be silent; None for no bound."""
        return self._limits.silence_seconds

    def deny(self, denied: Denial) -> None:
        """Refuse peers that `denied` names, and end their connections. Safe in any thread."""
        self._guard.deny(denied)

    def connect(self, target: str, wait: Wait = wait_for) -> Stream:
        """Connect to `host[:port]`, and check who is there.

        Args:
            target: where to.
            wait: waits; what it raises ends the attempt.

        Raises:
            Malformed: `target` is no endpoint.
            Rejected: the configuration denies it, or does not admit the peer.
            Unverified: the peer's certificate is not genuine.
            Misuse: the rule needs the steward's root, and none is known.
            OSError: the network failed, or the peer refused.
        """
        endpoint = Endpoint.parse(target, field="connection")
        if self._loopback is not None:
            own = self._loopback.connect(endpoint.host, endpoint.port or 0)
            if own is not None:
                return own
        policy, endpoint = policies.outgoing(self._config, endpoint)
        return self._connect(policies.narrowed(policy, self._tenant, endpoint), endpoint, wait)

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

    def listen_within(self, address: str) -> LoopbackListener:
        """Listen on a port of a loopback address, for the workload alone.

        Raises:
            OSError: no port is left.
        """
        if self._loopback is None:
            self._loopback = Loopback(self._places, _named(self._config))
        return self._loopback.listen(address)

    def listen_all(self) -> list[Listener]:
        """Listen on every port that has a rule of its own for connections.

        Raises:
            GarrisonError: as `listen` does; what was open is closed again.
            OSError: likewise.
        """
        opened: list[Listener] = []
        try:
            for port, rule in self._config.incoming.items():
                if port != "default" and rule.prot in ("tls", "tcp"):
                    opened.append(self.listen(port))
        except BaseException:
            for listener in opened:
                listener.close()
            raise
        return opened

    def check_outgoing(self, target: str) -> None:
        """Refuse what `connect` would refuse before anything is sent.

        Raises:
            Malformed: `target` is no endpoint.
            Rejected: the configuration denies it.
        """
        policy, endpoint = policies.outgoing(self._config, Endpoint.parse(target, field="target"))
        policies.narrowed(policy, self._tenant, endpoint).check_allowed(str(endpoint))

    def speaks_udp(self) -> bool:
        """Whether any rule is for datagrams."""
        return self._datagram_rules.any()

    def datagrams(self, *, ipv6: bool) -> Datagrams:
        """Make a socket for datagrams, which counts as a connection; it is bound later.

        Raises:
            OSError: there are too many, or none of that kind.
        """
        place = self._places.take()
        try:
            made = Datagrams(self._datagram_rules, self._limits.connect_seconds, ipv6=ipv6)
        except BaseException:
            place.free()
            raise
        made.place = place
        return made

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

    def _connect(self, policy: Policy, endpoint: Endpoint, wait: Wait = wait_for) -> Stream:
        policies.check_host(endpoint)
        policy.check_allowed(str(endpoint))
        tls = policy.rule.prot == "tls"
        if tls:
            self._guard.check_own()
            self._contexts.check_usable(policy)
        port = endpoint.port or policy.rule.default_port
        place = self._places.take()
        try:
            sock = dial(endpoint.host, port, seconds=self._limits.connect_seconds, wait=wait)
            stream = self._secured(sock, policy, endpoint, wait) if tls else Stream(sock, ANONYMOUS)
        except BaseException:
            place.free()
            raise
        stream.place = place
        self._record("con", {"host": endpoint.host, "port": port, "peer": stream.peer})
        return stream

    def _secured(
        self, sock: socket.socket, policy: Policy, endpoint: Endpoint, wait: Wait
    ) -> Stream:
        """Do the client's side of the handshake, or close the socket."""
        try:
            return self._secure(sock, policy, endpoint, wait)
        except GarrisonError as error:
            if isinstance(error, Ended):
                sock.close()
            else:
                end(sock)
                log_refusal(error, str(endpoint))
            raise
        except BaseException:
            sock.close()
            raise

    def _secure(
        self, sock: socket.socket, policy: Policy, endpoint: Endpoint, wait: Wait
    ) -> Stream:
        context = self._contexts.get(policy)
        handshake = Handshake(sock, context, policy, self._guard, host=endpoint.host)
        deadline = time.monotonic() + self._limits.handshake_seconds
        while wanted := handshake.step():
            mask = select.POLLIN if wanted == select.EPOLLIN else select.POLLOUT
            if not happens(wait, sock.fileno(), mask, deadline):
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
        if self._listening is not None:
            try:
                self._listening(endpoint.host, sock.getsockname()[1], False)  # noqa: FBT003  (of TCP)
            except BaseException:
                sock.close()
                raise
        return Listener(
            sock,
            start,
            lambda address, peer: self._record("lis", {"addr": address, "peer": peer}),
            places=self._places,
            handshake_seconds=self._limits.handshake_seconds,
            max_handshakes=self._limits.handshakes,
            protocols=policy.alpn if policy.rule.prot == "tls" else (),
        )


def _named(config: Config) -> frozenset[int]:
    """The ports that the rules name."""
    named = {int(port) for port in config.incoming if port != "default"}
    for target in config.outgoing:
        if target != "default":
            named.add(Endpoint.parse(target, field="target").port or 0)
    return frozenset(named)


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

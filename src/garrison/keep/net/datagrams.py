"""Datagrams (UDP), where a rule says `prot = "udp"`: in the clear, and of nobody that is known.

There is no TLS here and no peer to check: anybody on the way reads, drops, changes and forges
datagrams, and their sources. What is left of the rules is who may be spoken with at all:

- A datagram goes where a rule for that host and port says `udp`, or back to where one came from
  on a port of `[network.incoming]`; nowhere else.
- A connected socket hears that host and port. One bound to a port with an incoming rule hears all.
  Any other hears those to whom it has sent, and addresses that a rule names as such. The rest is
  dropped, and the workload is not woken for it.

A rule is by name, and the keep resolves the name, as ever. What comes back from there is told under
that name.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from garrison.errors import Malformed, Rejected
from garrison.formats.endpoint import Endpoint
from garrison.keep.net import policy as policies
from garrison.keep.net.dial import addresses

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from typing import TypeVar

    from garrison.formats.deployment_policy import DeploymentPolicy
    from garrison.formats.enarx_toml import Config
    from garrison.keep.net.dial import Wait
    from garrison.keep.net.places import Place

    K = TypeVar("K")
    V = TypeVar("V")
    # An address as the host's sockets write it, and a port.
    Source = tuple[str, int]

log = logging.getLogger("garrison.keep")

# For how long what a name was resolved to is good: resolvers do not tell the time that it has.
_RESOLVED_SECONDS = 60.0
# Where one socket sends to, and from where it was sent to: what is beyond is forgotten, the oldest
# first. Who floods a port with forged sources costs some hundred kilobytes.
_MAX_TARGETS = 1024
_MAX_HEARD = 4096
# How many datagrams nobody may send are taken away in one call.
_MAX_DROPPED = 64


class DatagramRules:
    """What one workload may do with datagrams.

    Args:
        config: its configuration.
        tenant: what the deployment narrows it to.
        listening: told of each port that is open to all (`network.Network`).
    """

    def __init__(
        self,
        config: Config,
        tenant: DeploymentPolicy | None,
        listening: Callable[[str, int, bool], None] | None,
    ) -> None:
        self._config = config
        self._tenant = tenant
        self.listening = listening

    def any(self) -> bool:
        """Whether the configuration has a rule for datagrams."""
        return bool(self._config.udp_rules)

    def check_outgoing(self, target: Endpoint) -> None:
        """Refuse a host and port to which nothing may be sent.

        Raises:
            Rejected: no rule allows it.
        """
        policy, target = policies.outgoing(self._config, target)
        policy = policies.narrowed(policy, self._tenant, target)
        policy.check_allowed(str(target), datagrams=True)

    def check_incoming(self, local: Endpoint) -> None:
        """Refuse to be open to all on an address and port.

        Raises:
            Rejected: no rule allows it.
        """
        policy = policies.incoming(self._config, local.port or 0)
        policy = policies.narrowed(policy, self._tenant, local)
        policy.check_allowed(str(local), datagrams=True)


class Datagrams:
    """A socket for datagrams.

    Args:
        rules: what is allowed.
        seconds: how long resolving a name may take.
        ipv6: whether it is of IPv6, and of that alone; else it is of IPv4.

    Raises:
        OSError: the host has no such socket.

    Attributes:
        place: what it takes of the workload's connections.
    """

    place: Place | None = None

    def __init__(self, rules: DatagramRules, seconds: float, *, ipv6: bool) -> None:
        self._rules = rules
        self._seconds = seconds
        self._family = socket.AF_INET6 if ipv6 else socket.AF_INET
        self._options: dict[tuple[int, int], int] = {}
        if ipv6:
            # An IPv4 address in other clothes would be another spelling of a rule's host.
            self._options[socket.IPPROTO_IPV6, socket.IPV6_V6ONLY] = 1
        self._socket = self._made()
        # Whether a rule lets all send to its port; and where it was bound.
        self._open = False
        self._local: Any = None
        self._connected: tuple[Source, Endpoint] | None = None
        # Where to send what is for a host and port, and until when that is good; and who is there.
        self._targets: dict[Endpoint, tuple[Any, float]] = {}
        self._known: dict[Source, Endpoint] = {}
        # Who sent to a port that is open to all, and may be answered.
        self._heard: dict[Endpoint, None] = {}
        self._dropped = False

    def _made(self) -> socket.socket:
        made = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            made.settimeout(0)
            for (level, number), value in self._options.items():
                made.setsockopt(level, number, value)
        except BaseException:
            made.close()
            raise
        return made

    def bind(self, address: str, port: int) -> None:
        """Have an address and a port; with port 0 any that is free.

        A port that was asked for has to be allowed by a rule for incoming datagrams, and is open to
        all. So is any, where the rule is the default one; without it, it is for answers alone.

        Raises:
            Rejected: no rule allows the port.
            OSError: it cannot be had.
        """
        everybody = True
        try:
            self._rules.check_incoming(Endpoint(address, port))
        except Rejected:
            if port:
                raise
            everybody = False
        self._socket.bind((address, port))
        local = self._socket.getsockname()
        try:
            if everybody and self._rules.listening is not None:
                self._rules.listening(address, local[1], True)  # noqa: FBT003  (of UDP)
        except BaseException:
            # A socket cannot be bound twice.
            self._socket.close()
            self._socket = self._made()
            raise
        self._open, self._local = everybody, local

    def connect(self, target: Endpoint | None, wait: Wait) -> None:
        """Speak with one host and port alone; with any that rules allow, if it is None.

        Raises:
            Rejected: no rule allows it.
            OSError: the host cannot be found or reached.
        """
        if target is None:
            if self._connected is not None:
                self._start_anew()
            return
        address = self._resolved(target, wait)
        self._socket.connect(address)
        self._connected = (address[:2], target)

    def _start_anew(self) -> None:
        """Be connected to nobody: a new socket at the same place, for Python has no other way."""
        self._socket.close()
        self._socket = self._made()
        # Where that fails it stays as deaf as it was, and can be tried again.
        self._socket.bind(self._local)
        self._connected = None

    def send(self, data: memoryview, target: Endpoint | None, wait: Wait) -> None:
        """Send a datagram, to whom the socket is connected if there is no `target`.

        Raises:
            Rejected: no rule allows it.
            BlockingIOError: there is no room for it now.
            OSError: it cannot be sent, or it is too large.
        """
        if target is None or self._connected is not None:
            self._socket.send(data)
            return
        self._socket.sendto(data, self._resolved(target, wait))

    def _resolved(self, target: Endpoint, wait: Wait) -> Any:
        """The address to send to, if that is allowed.

        Raises:
            Rejected: no rule allows it.
            OSError: the name cannot be resolved, or has no address of the socket's family.
        """
        now = time.monotonic()
        address, until = self._targets.get(target, (None, 0.0))
        if now < until:
            return address
        if target not in self._heard:
            self._rules.check_outgoing(target)
        found = addresses(
            target.host, target.port or 0, wait, now + self._seconds, socket.SOCK_DGRAM
        )
        address = next((each[4] for each in found if each[0] == self._family), None)
        if address is None:
            raise OSError(errno.EHOSTUNREACH, f"{target.host} has no address of that kind")
        if target not in self._heard:
            # Of an answer nothing is kept: whoever it goes to may be forgotten with `_heard`.
            _keep(self._targets, target, (address, now + _RESOLVED_SECONDS), _MAX_TARGETS)
            _keep(self._known, address[:2], target, _MAX_TARGETS)
        return address

    def receive(self, room: memoryview) -> tuple[bytes, Endpoint] | None:
        """Take the next datagram that may be heard, and where it says it is from.

        Args:
            room: for the largest datagram, of 64 KiB.

        Returns:
            None if there is none now. The source is a name where it was sent to by that name.

        Raises:
            OSError: the host says what became of one that was sent.
        """
        for _ in range(_MAX_DROPPED):
            try:
                size, source = self._socket.recvfrom_into(room)
            except BlockingIOError:
                return None
            known = self._source(source[:2])
            if known is not None:
                return bytes(room[:size]), known
            if not self._dropped:
                self._dropped = True
                log.warning(
                    "dropped a datagram, and will drop more: from %s port %d, from where no rule"
                    " lets this socket hear",
                    *source[:2],
                )
        return None

    def _source(self, source: Source) -> Endpoint | None:
        """Whoever a datagram is from; None if it is not to be heard."""
        if self._connected is not None:
            # What came before it was connected may still be there, from anybody.
            return self._connected[1] if source == self._connected[0] else None
        known = self._known.get(source)
        if known is not None:
            return known
        # A zone names an interface of the host: it says nothing in a keep.
        address = ip_address(source[0].partition("%")[0])
        endpoint = Endpoint(address.compressed, source[1])
        if self._open:
            _keep(self._heard, endpoint, None, _MAX_HEARD)
            return endpoint
        try:
            self._rules.check_outgoing(endpoint)
        except (Malformed, Rejected):
            return None
        return endpoint

    def address(self) -> tuple[str, int]:
        """Its own address and port."""
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    def option(self, level: int, number: int, value: int) -> None:
        """Set an option of the host's socket.

        Raises:
            OSError: it cannot have that value.
        """
        self._socket.setsockopt(level, number, value)
        self._options[level, number] = value

    def fileno(self) -> int:
        """The host's socket; -1 once it is closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """End it; again is nothing."""
        self._socket.close()
        if self.place is not None:
            self.place.free()


def _keep(table: MutableMapping[K, V], key: K, value: V, most: int) -> None:
    """Note something as the newest; the oldest makes room."""
    table.pop(key, None)
    if len(table) >= most:
        del table[next(iter(table))]
    table[key] = value

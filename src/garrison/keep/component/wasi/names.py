"""Of wasi:sockets: addresses, what they stand for, and what goes wrong on the network."""

from __future__ import annotations

import _struct as struct  # `struct` is no more than this, and one file more to load
from ipaddress import IPv4Address, IPv6Address, ip_address

from garrison.errors import Malformed
from garrison.formats.endpoint import is_address, parse_host
from garrison.keep.component.callbacks import Failed
from garrison.keep.component.waiting import Moment
from garrison.keep.vfs.errno import NAMES, Errno, of_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeVar

    from garrison.keep.component.host import Host
    from garrison.keep.component.waiting import Pollable
    from garrison.keep.component.wasi.streams import Error

    P = ParamSpec("P")
    R = TypeVar("R")
    # A case of `ip-address` or `ip-socket-address`, and what it carries.
    Case = tuple[str, Any]

# Preview 1's errno and this package's error code, by the names that they have.
_CODES = {
    "ACCES": "access-denied", "PERM": "access-denied", "NOTSUP": "not-supported",
    "INVAL": "invalid-argument", "NOMEM": "out-of-memory", "TIMEDOUT": "timeout",
    "AGAIN": "would-block", "MFILE": "new-socket-limit", "NFILE": "new-socket-limit",
    "ADDRNOTAVAIL": "address-not-bindable", "ADDRINUSE": "address-in-use",
    "HOSTUNREACH": "remote-unreachable", "NETUNREACH": "remote-unreachable",
    "NETDOWN": "remote-unreachable", "CONNREFUSED": "connection-refused",
    "CONNRESET": "connection-reset", "PIPE": "connection-reset",
    "CONNABORTED": "connection-aborted", "MSGSIZE": "datagram-too-large",
    "NOTCONN": "invalid-state", "BADF": "invalid-state", "AFNOSUPPORT": "not-supported",
}  # fmt: skip

# RFC 919: every host of the own network, and so none.
_BROADCAST = IPv4Address("255.255.255.255")
# RFC 2544, appendix C.2.2: never a real host's. One of them for each name that is looked up.
_FIRST_NAME = int(IPv4Address("198.18.0.1"))
_MAX_NAMES = (1 << 17) - 2


def told(function: Callable[P, R]) -> Callable[P, R]:
    """Tell the component what goes wrong, by its own error codes."""

    def telling(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Errno as error:
            raise Failed(_CODES.get(NAMES[error.number], "unknown")) from error
        except OSError as error:
            raise Failed(_CODES.get(NAMES[of_host(error)], "unknown")) from error

    return telling


class Network:
    """The one network."""

    def drop(self) -> None:
        """End it."""


def instance_network_instance_network(_host: Host) -> Network:
    """Give it."""
    return Network()


def network_network_error_code(_host: Host, error: Error) -> str | None:
    """Tell what a stream's error means for the network."""
    return _CODES.get(NAMES[error.number])


def host_of(host: Host, address: IPv4Address | IPv6Address) -> str:
    """What a component means by an address: the name that it stands for, or itself."""
    number = int(address) - _FIRST_NAME
    if address.version == 4 and 0 <= number < len(host.names):
        return host.names[number]
    return address.compressed


def _number(host: Host, name: str) -> int:
    number = host.numbers.get(name)
    if number is None:
        number = len(host.names)
        if number >= _MAX_NAMES:
            raise Failed("temporary-resolver-failure")
        host.numbers[name] = number
        host.names.append(name)
    return number


def _ip(address: IPv4Address | IPv6Address) -> Case:
    packed = address.packed
    if address.version == 4:
        return "ipv4", tuple(packed)
    return "ipv6", struct.unpack(">8H", packed)


def socket_address(address: IPv4Address | IPv6Address, port: int) -> Case:
    """An `ip-socket-address`."""
    kind, ip = _ip(address)
    return kind, (port, ip) if kind == "ipv4" else (port, 0, ip, 0)


def parsed(given: Case) -> tuple[IPv4Address | IPv6Address, int]:
    """An address and a port, of an `ip-socket-address`."""
    kind, fields = given
    if kind == "ipv4":
        return IPv4Address(bytes(fields[1])), fields[0]
    return IPv6Address(struct.pack(">8H", *fields[2])), fields[0]


def told_address(host: str, port: int) -> Case:
    """What the host calls an address."""
    # A zone names an interface of the host: it says nothing in a keep.
    return socket_address(ip_address(host.partition("%")[0]), port)


def meant(host: Host, name: str, port: int) -> Case:
    """What a component knows a host by, which is a name or an address: `host_of`, backwards."""
    if is_address(name):
        return socket_address(ip_address(name), port)
    return socket_address(IPv4Address(_FIRST_NAME + _number(host, name)), port)


class Unconnected:
    """What sockets of both kinds have: a family, and what was begun and not finished.

    Attributes:
        family: "ipv4" or "ipv6".
        begun: "bind", "listen", "connect", or nothing.
    """

    def __init__(self, family: str) -> None:
        self.family = family
        self.begun = ""

    def begin(self, what: str, *, allowed: bool) -> None:
        """Begin something that is finished later.

        Raises:
            Failed: something else is under way, or the state does not allow it.
        """
        if self.begun:
            raise Failed("concurrency-conflict")
        if not allowed:
            raise Failed("invalid-state")
        self.begun = what

    def finish(self, what: str) -> None:
        """Finish it.

        Raises:
            Failed: it was not begun.
        """
        if self.begun != what:
            raise Failed("not-in-progress")
        self.begun = ""

    def address(self, given: Case) -> tuple[IPv4Address | IPv6Address, int]:
        """Read an address, which must be of its family.

        Raises:
            Failed: it is not.
        """
        address, port = parsed(given)
        # An IPv4 address in IPv6 clothes would be another spelling of a rule's host.
        if given[0] != self.family or getattr(address, "ipv4_mapped", None) is not None:
            raise Failed("invalid-argument")
        return address, port

    def remote_address(self, given: Case) -> tuple[IPv4Address | IPv6Address, int]:
        """Read the address and port of one other host.

        Raises:
            Failed: it is none.
        """
        address, port = self.address(given)
        if not port or address.is_unspecified or address.is_multicast or address == _BROADCAST:
            raise Failed("invalid-argument")
        return address, port


class Addresses:
    """What a name means, as it is asked for."""

    def __init__(self, address: IPv4Address | IPv6Address) -> None:
        self._left = [address]

    def take(self) -> Case | None:
        """The next address; None after the last."""
        return _ip(self._left.pop()) if self._left else None

    def drop(self) -> None:
        """End it."""


def ip_name_lookup_resolve_addresses(host: Host, _network: Network, name: str) -> Addresses:
    """Give an address that stands for a name; an address stands for itself."""
    try:
        name = parse_host(name.removeprefix("[").removesuffix("]"))
    except Malformed:
        raise Failed("invalid-argument") from None
    if is_address(name):
        return Addresses(ip_address(name))
    return Addresses(IPv4Address(_FIRST_NAME + _number(host, name)))


def resolve_address_stream_resolve_next_address(_host: Host, found: Addresses) -> Case | None:
    """Give the next one."""
    return found.take()


def resolve_address_stream_subscribe(_host: Host, _found: Addresses) -> Pollable:
    """Give what to wait for: nothing."""
    return Moment(0)

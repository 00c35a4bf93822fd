"""Network endpoints, `host[:port]` and `[addr:]port`, in one spelling each.

Rules are found by the name of a host, so a name may not have two spellings: letters are
lower-cased, a last dot is dropped, addresses are rewritten in their canonical form, an IPv4 address
in IPv6's clothes (`::ffff:127.0.0.1`) as itself, and the forms in which C libraries also accept an
address (`127.1`, `0x7f000001`) are refused.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from garrison.errors import Malformed

# RFC 1123, section 2.1, with the underscore that service names have (RFC 8552).
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host, a name or an address without brackets, and a port, None for the default one."""

    host: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str, *, field: str = "endpoint") -> Endpoint:
        """Read `host[:port]`, an IPv6 address in brackets.

        Raises:
            Malformed: `text` is anything else.
        """
        expected = "host or host:port, an IPv6 address in brackets"
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or ":" not in host:
                raise Malformed(
                    "not an endpoint", field=field, found=_shown(text), expected=expected
                )
        else:
            host, colon, rest = text.partition(":")
            rest = colon + rest
        if not rest:
            return cls(parse_host(host, field=field))
        if not rest.startswith(":"):
            raise Malformed("not an endpoint", field=field, found=_shown(text), expected=expected)
        return cls(parse_host(host, field=field), parse_port(rest[1:], field=field))

    def __str__(self) -> str:
        return bracketed(self.host) if self.port is None else f"{bracketed(self.host)}:{self.port}"


def parse_listen(text: str, *, field: str = "endpoint") -> Endpoint:
    """Read `port` or `addr:port` to listen on; the address is `::`, which is all, by default.

    Raises:
        Malformed: `text` is anything else.
    """
    address, colon, port = text.rpartition(":")
    if not colon:
        return Endpoint("::", parse_port(port, field=field, low=0))
    return Endpoint(parse_address(address, field=field), parse_port(port, field=field, low=0))


def parse_port(text: str, *, field: str = "port", low: int = 1) -> int:
    """Read a port from `low`, in decimal without leading zeros.

    Raises:
        Malformed: `text` is anything else.
    """
    if _PORT.fullmatch(text) is None or not low <= int(text) <= _MAX_PORT:
        raise Malformed(
            "not a port", field=field, found=_shown(text), expected=f"{low} to {_MAX_PORT}"
        )
    return int(text)


def parse_address(text: str, *, field: str = "address") -> str:
    """Read an IP address, with or without brackets, and return its canonical form.

    Raises:
        Malformed: `text` is anything else.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        # A zone (fe80::1%eth0) names an interface of the host: it says nothing in a keep.
        if "%" not in bare:
            address = ipaddress.ip_address(bare)
            return (getattr(address, "ipv4_mapped", None) or address).compressed
    except ValueError:
        pass
    raise Malformed("not an IP address", field=field, found=_shown(text))


def parse_host(text: str, *, field: str = "host") -> str:
    """Read a host's name or address, and return the one spelling that it has here.

    Raises:
        Malformed: `text` is neither.
    """
    name = text.lower().removesuffix(".") if text.isascii() else text
    if ":" in name:
        return parse_address(name, field=field)
    if _NAME.fullmatch(name) is None:
        raise Malformed("not a host", field=field, found=_shown(text), expected="a DNS name")
    last = name.rpartition(".")[2]
    if last.isdigit() or last.startswith("0x"):
        return parse_address(name, field=field)
    return name


def is_address(host: str) -> bool:
    """Whether `host`, as `parse_host` returned it, is an address and not a name."""
    return ":" in host or host.rpartition(".")[2].isdigit()


def bracketed(host: str) -> str:
    """Write `host` as it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def _shown(text: str) -> str:
    return repr(text[:80])

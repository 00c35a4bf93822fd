"""Random calls of `wasi:sockets/udp`, and of the names and polls with it (`call_fuzzer`).

    python -m garrison.testing.udp_fuzzer --seconds 600

The network is the keep's own, on loopback. Its one rule names one host and port, which answers now
and then; another, which no rule names, sends to every socket that there is.

A run fails, too, if what that one sent comes into the memory of what calls, or if anything came to
it.
"""

from __future__ import annotations

import logging
import socket
import sys
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

from garrison.formats.enarx_toml import Config, Rule
from garrison.keep.component import types as t
from garrison.keep.component.abi import codec
from garrison.keep.component.boundary import Boundary
from garrison.keep.component.handles import Handles
from garrison.keep.component.wasi.names import Network as NetworkHandle
from garrison.keep.component.wasi.names import socket_address
from garrison.keep.component.wasi.udp import Incoming, Outgoing, UdpSocket
from garrison.keep.net.network import Network
from garrison.testing import call_fuzzer
from garrison.testing.call_fuzzer import LISTS_AT, Asked, Calls, Choices

if TYPE_CHECKING:
    from collections import Counter

_INTERFACES = ("wasi:sockets/udp", "wasi:sockets/udp-create-socket", "wasi:sockets/network",
               "wasi:sockets/instance-network", "wasi:sockets/ip-name-lookup",
               "wasi:io/poll")  # fmt: skip
_TEXTS = (b"", b"localhost", b"localhost:53", b"127.0.0.1", b"::1", b"other.test", b"\xff",
          b"hello", b"x" * 2000, b"[::1]")  # fmt: skip
_FORGED = b"nobody may say this"
_ASKED = Asked(_INTERFACES)
# The first that stands for a name.
_STAND_IN = IPv4Address("198.18.0.1")


def _outside() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    made.settimeout(0)
    return made


class Run(Calls):
    """One instance of what calls.

    Args:
        choices: what it does.
        counts: how often each function came to which end; added to.
    """

    def __init__(self, choices: Choices, counts: Counter[tuple[str, str]]) -> None:
        self._named, self._other = _outside(), _outside()
        port, other = self._named.getsockname()[1], self._other.getsockname()[1]
        target = choices.one(("127.0.0.1", "localhost"))
        config = Config(outgoing={f"{target}:{port}": Rule("udp")})
        super().__init__(choices, counts, Network(config, None, []), _ASKED, _TEXTS)
        loopback = IPv4Address("127.0.0.1")
        right = [socket_address(loopback, port), socket_address(_STAND_IN, port)]
        nobody = IPv4Address(0)
        wrong = [
            *(socket_address(loopback, number) for number in (0, 53, other)),
            *(socket_address(_STAND_IN, number) for number in (0, other)),
            *(socket_address(nobody, number) for number in (0, port)),
            socket_address(IPv4Address("224.0.0.251"), port),
            socket_address(IPv4Address("255.255.255.255"), port),
            socket_address(IPv6Address(f"::ffff:{loopback}"), port),
            *(socket_address(IPv6Address(name), port) for name in ("::", "::1")),
        ]
        # Half of the times what can be spoken with, and a place that can be had.
        self._addresses = (right + [socket_address(nobody, 0)] * 2) * 4 + wrong
        self._give("wasi:sockets/network", "network", NetworkHandle())
        for _ in range(choices.below(3)):
            self._bound()

    def _bound(self) -> None:
        """A socket to go on with."""
        host: Any = self._state.host
        host.count()
        made = UdpSocket(host, "ipv4", host.network.datagrams(ipv6=False))
        made.datagrams.bind("127.0.0.1", 0)
        made.bound = True
        self._give("wasi:sockets/udp", "udp-socket", made)
        if self._choices.below(3):
            self._give("wasi:sockets/udp", "incoming-datagram-stream", Incoming(made, host))
            self._give("wasi:sockets/udp", "outgoing-datagram-stream", Outgoing(made, host))

    def _step(self) -> bool:
        for number in self.handles.numbers(_SOCKET):
            made: Any = self.handles.get(number, _SOCKET).thing
            host, port = made.datagrams.address()
            if not port or ":" in host:
                continue
            self._say(self._other, _FORGED, port)
            if not self._choices.below(4):
                self._say(self._named, self._choices.one((b"", b"answer", bytes(65507))), port)
        for number in self.handles.numbers(_OUTGOING):
            stream: Any = self.handles.get(number, _OUTGOING).thing
            if self._choices.below(4):
                # Else nearly all that it sends would be a trap.
                stream.permit()
        goes_on = super()._step()
        if _FORGED in self._memory.data:
            raise AssertionError("it heard whom no rule names")
        return goes_on

    def _say(self, sock: socket.socket, data: bytes, port: int) -> None:
        try:
            sock.sendto(data, ("127.0.0.1", port))
        except (BlockingIOError, ConnectionRefusedError):
            self._counts["what is said to it", "wait"] += 1

    def _flat(self, kind: t.Type) -> list[int]:
        if isinstance(kind, t.Variant) and kind.cases[0][0] == "ipv4":
            address = self._choices.one(self._addresses)
            flat = list(codec(kind).lower(Boundary(None, Handles()), address))
            if self._choices.rarely(160):
                flat[0] = 2
            return flat
        return super()._flat(kind)

    def _list(self, part: t.Type) -> list[int]:
        if not isinstance(part, t.Record) or self._choices.rarely(160):
            return super()._list(part)
        # Datagrams: `data`, and `remote-address`, which may be none.
        kind = codec(part.fields[1][1])
        each = codec(part)
        count = self._choices.below(5) if not self._choices.rarely() else 17
        for index in range(count):
            at = LISTS_AT + index * each.size
            view = memoryview(self._memory.data)[at : at + each.size]
            address = self._choices.one([None, *self._addresses])
            kind.store(Boundary(None, Handles()), address, view, each.size - kind.size)
            start, size = self._choices.one(self._memory.texts)
            view[:8] = start.to_bytes(4, "little") + size.to_bytes(4, "little")
        return [LISTS_AT, count]

    def _end(self) -> None:
        with self._named, self._other:
            try:
                found = self._other.recv(1 << 16)
            except BlockingIOError:
                return
            raise AssertionError(f"it sent to whom no rule names: {found!r}")


def _resource(name: str) -> t.Resource:
    return next(kind for kind in _ASKED.resources if kind.name == f"wasi:sockets/udp {name}")


_SOCKET, _OUTGOING = _resource("udp-socket"), _resource("outgoing-datagram-stream")


def run(data: bytes, counts: Counter[tuple[str, str]] | None = None) -> None:
    """Do what the bytes say, with a new instance after each trap.

    Raises:
        Exception: what should not come out of a call did.
    """
    call_fuzzer.run(data, Run, counts)


if __name__ == "__main__":
    # Each refusal is a line of the keep's log.
    logging.disable(logging.WARNING)
    sys.exit(call_fuzzer.main(run, len(_ASKED.functions)))

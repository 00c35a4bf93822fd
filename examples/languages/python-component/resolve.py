"""Asks the name server HOST:PORT by UDP for the IPv4 addresses of a NAME, and prints them.

It needs a rule: `[network.outgoing."HOST:PORT"]` with `prot = "udp"`. Nothing of it is protected.
"""

import encodings.idna  # noqa: F401  (what is not imported when it is built is not there)
import secrets
import socket
import struct
import sys

from wit_world import exports

_SECONDS = 20
# RFC 1035, sections 3.2.2, 3.2.4 and 4.1.1: an address, the Internet; recursion is desired.
_A, _IN, _RECURSION = 1, 1, 1 << 8


class Run(exports.Run):
    """`wasi:cli/run`."""

    def run(self) -> None:
        """Ask once."""
        host, _, port = sys.argv[1].partition(":")
        question = _question(sys.argv[2])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.settimeout(_SECONDS)
            server.connect((host, int(port)))
            server.send(question)
            answer = server.recv(4096)
            # Whoever is there may lie: an answer is to this question at least.
            while answer[:2] != question[:2]:
                answer = server.recv(4096)
        for address in _addresses(answer, len(question)):
            print(address)


def _question(name: str) -> bytes:
    """A message with one question (RFC 1035, section 4.1)."""
    header = struct.pack(">6H", secrets.randbits(16), _RECURSION, 1, 0, 0, 0)
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return header + labels + struct.pack(">BHH", 0, _A, _IN)


def _addresses(answer: bytes, at: int) -> list[str]:
    """Those in the records after the question, whose names are all pointers to it."""
    found = []
    for _ in range(struct.unpack_from(">H", answer, 6)[0]):
        _, kind, _, _, size = struct.unpack_from(">3HIH", answer, at)
        at += 12
        if kind == _A:
            found.append(socket.inet_ntoa(answer[at : at + size]))
        at += size
    return found

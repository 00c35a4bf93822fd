"""What a client may take of a service: time, bytes, connections. Each has a bound.

The defaults suit one machine's worth of clients; who runs a service may set each of them. What
a body may hold depends on what it is, so its size is the application's to bound.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one worker.

    Attributes:
        connections: open at once, those in their handshake too.
        connections_per_address: of those, from one IPv4 address or one IPv6 network of 64 bits.
        handshake_seconds: for the TLS handshake.
        head_seconds: from the first byte of a request to the end of its head.
        head_bytes: of a request's line and headers, and of trailers.
        head_fields: headers and trailers of a request.
        idle_seconds: that a connection may stay open between two requests, and after the last.
        pause_seconds: that a body may stop arriving.
        request_seconds: from the end of a request's head to the end of its answer.
        drain_seconds: for what is under way when the service is told to end.
    """

    connections: int = 2000
    # Several keeps stand behind one address, and so does a load balancer.
    connections_per_address: int = 500
    handshake_seconds: float = 10
    head_seconds: float = 15
    # A token is some 2 kB, a path in a tree at most 4.
    head_bytes: int = 32 * 1024
    head_fields: int = 100
    idle_seconds: float = 30
    pause_seconds: float = 30
    # 100 MB at 200 kB/s.
    request_seconds: float = 600
    drain_seconds: float = 10

    @property
    def turned_away(self) -> int:
        """How many connections beyond these may be open at once, to be told so."""
        return self.connections // 8 + 8


DEFAULTS = Limits()

"""The door of a service: it accepts connections, greets them with TLS, and counts them.

A connection beyond the limits is let in to be told so, with 503; when too many are being told,
it is closed without a word. Who holds many connections from one address takes no place from
others. A handshake has a time limit, and is made with the certificate that is in force when it
begins: a reload disturbs no connection.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
from collections import Counter
from typing import TYPE_CHECKING

from garrison.service import log, metrics
from garrison.service.connection import Connection

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from uvicorn import Config
    from uvicorn.server import ServerState

    from garrison.service.known import Lookup
    from garrison.service.limits import Limits
    from garrison.service.prompt import Prompt

# When there are no more descriptors, connections wait in the kernel's queue for so long.
_OUT_OF_FILES_SECONDS = 0.5
_OPEN = metrics.Gauge("garrison_connections", "Open connections, those in their handshake too.")
_TURNED_AWAY = metrics.Counter(
    "garrison_connections_turned_away", "Connections beyond the limits.", "how"
)
_FAILED = metrics.Counter("garrison_tls_handshake_failures", "TLS handshakes that failed.")
_OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Frontend:
    """The connections of one worker."""

    def __init__(
        self,
        listener: socket.socket,
        context: Callable[[], ssl.SSLContext | None],
        config: Config,
        state: ServerState,
        limits: Limits,
        *,
        known: Lookup | None = None,
        prompt: Prompt | None = None,
        is_counted: bool = True,
    ) -> None:
        """Prepare; `open` begins.

        Args:
            listener: listens already; other workers may share it.
            context: gives the TLS context for the next handshake; None for no TLS.
            config: uvicorn's, with the application.
            state: uvicorn's; here it is known which connections there are.
            limits: the bounds.
            known: finds answers that are known already; None where there are no such.
            prompt: answers requests at once; None where that cannot be.
            is_counted: whether its connections stand in the metrics.
        """
        self._known = known
        self._prompt = prompt
        self._is_counted = is_counted
        self._listener = listener
        self._context = context
        self._config = config
        self._state = state
        self._limits = limits
        self._greetings: set[asyncio.Task[None]] = set()
        self._places: Counter[str] = Counter()
        self._open = self._beyond = 0
        self._resuming: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Accept connections from now on."""
        self._listener.settimeout(0)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more. Those that are there stay."""
        if self._resuming is not None:
            self._resuming.cancel()
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()

    @property
    def is_empty(self) -> bool:
        """Whether there is no connection, and none on its way."""
        return not self._greetings and not self._state.connections

    def abort(self) -> None:
        """Cut off all connections, whatever is under way."""
        for task in list(self._greetings):
            task.cancel()
        for connection in list(self._state.connections):
            connection.transport.abort()

    def _accept(self) -> None:
        # One, and then the requests under way have their turn, and other workers theirs: none
        # takes all that arrive together. The loop calls again while there are more.
        try:
            accepted, address = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            # Others are of one connection, which broke before it was accepted: accept(2).
            if error.errno in _OUT_OF_FILES:
                self._pause(error)
            return
        accepted.settimeout(0)
        self._admit(accepted, place_of(address[0]))

    def _pause(self, error: OSError) -> None:
        log.record("accept", {"outcome": "paused", "reason": str(error)}, level=logging.ERROR)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener.fileno())
        self._resuming = loop.call_later(_OUT_OF_FILES_SECONDS, self.open)

    def _admit(self, accepted: socket.socket, place: str) -> None:
        is_beyond = (
            self._open >= self._limits.connections
            or self._places[place] >= self._limits.connections_per_address
        )
        if not is_beyond:
            self._open += 1
            self._places[place] += 1
            self._count(1)
        elif self._beyond < self._limits.turned_away:
            self._beyond += 1
            _TURNED_AWAY.add("told")
        else:
            _TURNED_AWAY.add("closed")
            accepted.close()
            return
        is_lost = False

        def lost() -> None:
            nonlocal is_lost
            if is_lost:
                return
            is_lost = True
            if is_beyond:
                self._beyond -= 1
                return
            self._open -= 1
            self._count(-1)
            self._places[place] -= 1
            if not self._places[place]:
                del self._places[place]

        def protocol() -> Connection:
            return Connection(
                self._config,
                self._state,
                {},
                self._limits,
                lost,
                known=None if is_beyond else self._known,
                prompt=None if is_beyond else self._prompt,
                is_beyond=is_beyond,
            )

        task = asyncio.get_running_loop().create_task(self._greet(accepted, protocol, lost))
        self._greetings.add(task)
        task.add_done_callback(self._greetings.discard)

    def _count(self, change: int) -> None:
        if self._is_counted:
            _OPEN.add(change)

    async def _greet(
        self,
        accepted: socket.socket,
        protocol: Callable[[], Connection],
        lost: Callable[[], None],
    ) -> None:
        """Make the handshake; from its end on the connection has a life of its own."""
        context = self._context()
        limits = self._limits
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                protocol,
                accepted,
                ssl=context,
                ssl_handshake_timeout=None if context is None else limits.handshake_seconds,
                # The last of an answer may still be on its way.
                ssl_shutdown_timeout=None if context is None else limits.idle_seconds,
            )
        except OSError:  # ssl.SSLError and TimeoutError are some
            if context is not None:
                _FAILED.add()
            lost()
        except BaseException:
            lost()
            raise


def place_of(host: str) -> str:
    """The part of the network that counts as one client: an IPv4 address, or 64 bits of IPv6."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))

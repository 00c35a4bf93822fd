"""Reach a host by TCP: resolve its name and try its addresses, within a time, interruptibly.

Whoever calls gives the function that waits; the keep's ends the wait by an exception when the
workload is to end. The resolver of the C library cannot be interrupted, so it runs in a thread of
its own, which is left alone when the time is over: it ends by its own timeout.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from garrison.formats.endpoint import is_address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    # What to wait for (descriptor, poll(2) events), and for how many seconds; what happened.
    Wait = Callable[[list[tuple[int, int]], float | None], Mapping[int, int]]


def wait_for(events: list[tuple[int, int]], seconds: float | None) -> dict[int, int]:
    """Wait until one of `events` (descriptor, poll(2) events) happens, or the time is over."""
    poller = select.poll()
    for descriptor, mask in events:
        poller.register(descriptor, mask)
    return dict(poller.poll(None if seconds is None else seconds * 1000))


def happens(wait: Wait, descriptor: int, mask: int, deadline: float) -> bool:
    """Whether `descriptor` is ready before the time `deadline`."""
    while (left := deadline - time.monotonic()) > 0:
        if wait([(descriptor, mask)], left):
            return True
    return False


def dial(host: str, port: int, *, seconds: float, wait: Wait = wait_for) -> socket.socket:
    """Connect to the first of the host's addresses that answers.

    Args:
        host: its name or address.
        port: its port.
        seconds: how long all may take.
        wait: waits.

    Returns:
        A socket that does not block.

    Raises:
        OSError: the host cannot be found or reached, or not in time.
    """
    deadline = time.monotonic() + seconds
    found = addresses(host, port, wait, deadline)
    last: OSError = OSError(errno.EHOSTUNREACH, f"{host} has no address")
    for index, (family, kind, protocol, _, address) in enumerate(found):
        now = time.monotonic()
        # The time that is left is for all that are left.
        share = now + (deadline - now) / (len(found) - index)
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(0)
            _reach(sock, address, wait, share)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise last


def _reach(sock: socket.socket, address: Any, wait: Wait, deadline: float) -> None:
    code = sock.connect_ex(address)
    if code == errno.EINPROGRESS:
        if not happens(wait, sock.fileno(), select.POLLOUT, deadline):
            raise TimeoutError(errno.ETIMEDOUT, f"{address[0]} port {address[1]} does not answer")
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, f"{address[0]} port {address[1]}: {os.strerror(code)}")


def addresses(
    host: str, port: int, wait: Wait, deadline: float, kind: int = socket.SOCK_STREAM
) -> list[Any]:
    """What `socket.getaddrinfo` finds.

    Args:
        host: a name or an address.
        port: a port.
        wait: waits.
        deadline: until when, on the monotonic clock.
        kind: of which sockets.

    Raises:
        OSError: nothing, or not in time.
    """
    if is_address(host):
        return socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)
    found: list[Any] = []
    failed: list[OSError] = []
    end, told = os.pipe()

    def resolve() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=kind))
        except OSError as error:
            failed.append(error)
        finally:
            os.close(told)

    try:
        threading.Thread(target=resolve, name="resolve", daemon=True).start()
        if not happens(wait, end, select.POLLIN, deadline):
            raise TimeoutError(errno.ETIMEDOUT, f"{host} is not resolved in time")
    finally:
        os.close(end)
    if failed:
        raise OSError(
            errno.EHOSTUNREACH, f"{host} cannot be resolved: {failed[0].strerror}"
        ) from failed[0]
    return found

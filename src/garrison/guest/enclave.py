"""The channels and the network card of a keep in an enclave, which has vsock alone.

It listens at the ports of `garrison.formats.vsock`, and takes the first that connects to each: an
enclave is reached by its parent only, and the parent is the host, which is trusted with nothing. A
second connection is refused: nobody takes over a channel later.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from garrison.formats.vsock import CARD, CARD_PORT, PORTS
from garrison.guest.card import start_card

if TYPE_CHECKING:
    from collections.abc import Callable


def listen(port: int) -> socket.socket:
    """Listen at a port of vsock.

    Raises:
        OSError: this machine has no vsock.
    """
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.bind((socket.VMADDR_CID_ANY, port))
    listener.listen(1)
    return listener


def accept_all(listen: Callable[[int], socket.socket] = listen) -> dict[str, socket.socket]:
    """Wait until the host has connected to every port, and return its connections by name.

    Raises:
        OSError: this machine has no vsock.
    """
    ports = {**PORTS, CARD: CARD_PORT}
    # All at once, so that the host may connect in any order.
    listeners = {name: listen(port) for name, port in ports.items()}
    accepted = {}
    for name, listener in listeners.items():
        with listener:
            accepted[name], _ = listener.accept()
    return accepted


def open_ports() -> dict[str, int]:
    """Open the channels; they do not block. The network card is there then, too.

    Raises:
        OSError: this machine has no vsock, or makes no card.
    """
    connections = accept_all()
    start_card(connections.pop(CARD))
    for each in connections.values():
        each.setblocking(False)  # noqa: FBT003  (socket's own)
    return {name: each.detach() for name, each in connections.items()}

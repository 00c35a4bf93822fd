"""An enclave takes one connection to each of its ports, in any order, and no second one."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from garrison.formats.vsock import CARD, CARD_PORT, PORTS
from garrison.guest import enclave, machine

if TYPE_CHECKING:
    from pathlib import Path


def test_one_connection_to_each_port(tmp_path: Path) -> None:
    ports = {**PORTS, CARD: CARD_PORT}

    def listen(port: int) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / str(port)))
        listener.listen(1)
        listening.append(port)
        if len(listening) == len(ports):
            all_listen.set()
        return listener

    listening: list[int] = []
    all_listen = threading.Event()
    found: dict[str, socket.socket] = {}
    thread = threading.Thread(target=lambda: found.update(enclave.accept_all(listen)), daemon=True)

    def connect(port: int) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.settimeout(30)
            stream.connect(str(tmp_path / str(port)))
        except OSError:
            stream.close()
            raise
        return stream

    thread.start()
    assert all_listen.wait(30)
    # The last first: whoever waits for another order would wait for ever.
    ours = {name: connect(port) for name, port in reversed(ports.items())}
    thread.join(30)
    assert found.keys() == ports.keys()
    for name, stream in ours.items():
        stream.sendall(name.encode())
        assert found[name].recv(100) == name.encode()
    for port in ports.values():
        with pytest.raises(ConnectionRefusedError):
            connect(port)
    for stream in (*ours.values(), *found.values()):
        stream.close()


def test_what_is_no_enclave(tmp_path: Path) -> None:
    assert not machine.is_enclave(str(tmp_path / "nsm"))
    (tmp_path / "nsm").touch()
    assert machine.is_enclave(str(tmp_path / "nsm"))

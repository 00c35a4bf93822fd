"""Sends back what it gets, and says who sent it. The keep does TLS on descriptor 3."""

import contextlib
import json
import socket
from pathlib import Path

LISTENER = 3

# What lies behind a descriptor cannot be asked in WASI, so it is said.
with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, LISTENER) as listener:
    print("listening", flush=True)
    while True:
        connection, _ = listener.accept()
        event = json.loads(Path("/net/peer/lis").read_text())
        print("peer", json.dumps(event["peer"]), flush=True)
        while data := connection.recv(16384):
            connection.sendall(data)
        # The files inside this Python take numbers of their own, so that it cannot close what it
        # accepted; it can end it, unless the client was gone before.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.detach()

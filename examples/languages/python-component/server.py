"""Sends back what it gets, on the port that is its argument, and says who sent it."""

import json
import socket
import sys
from pathlib import Path

from wit_world import exports


class Run(exports.Run):
    """`wasi:cli/run`."""

    def run(self) -> None:
        """Serve one client after the other."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", int(sys.argv[1])))
        listener.listen()
        print("listening", flush=True)
        while True:
            connection, _ = listener.accept()
            event = json.loads(Path("/net/peer/lis").read_text())
            print("peer", json.dumps(event["peer"]), flush=True)
            with connection:
                while data := connection.recv(4096):
                    connection.sendall(data)

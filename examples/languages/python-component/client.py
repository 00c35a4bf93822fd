"""Sends a line to HOST:PORT, and says who answered, and what."""

import encodings.idna  # noqa: F401  (what is not imported when it is built is not there)
import json
import socket
import sys
from pathlib import Path

from wit_world import exports


class Run(exports.Run):
    """`wasi:cli/run`."""

    def run(self) -> None:
        """Say one thing."""
        host, _, port = sys.argv[1].partition(":")
        with socket.create_connection((host, int(port))) as connection:
            event = json.loads(Path("/net/peer/con").read_text())
            print("peer", json.dumps(event["peer"]))
            connection.sendall(sys.argv[2].encode() + b"\n")
            print("echo", connection.makefile().readline().strip())

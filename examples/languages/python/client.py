"""Sends a line to HOST:PORT, and says who answered, and what."""

import json
import sys
from pathlib import Path

with Path(f"/net/con/{sys.argv[1]}").open("r+b", buffering=0) as connection:
    event = json.loads(Path("/net/peer/con").read_text())
    print("peer", json.dumps(event["peer"]))
    connection.write(sys.argv[2].encode() + b"\n")
    print("echo", connection.readline().decode().strip())

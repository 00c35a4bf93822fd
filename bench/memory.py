"""What a keep takes of the machine's memory, idle, for its first TLS connection, and each more.

python bench/memory.py
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import sys
import tempfile
from pathlib import Path

import peers

from garrison.testing.stack import free_port

_MORE = 199


def pss(pid: int) -> int:
    """The proportional set size of a process, in kilobytes (proc(5), smaps_rollup)."""
    found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def main() -> int:
    """Measure and print a table; there is no goal."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # a measurement
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as opened:
        folder = Path(name)
        guest = peers.compiled(peers.PROGRAMS / "echo.c", folder)
        made = opened.enter_context(peers.stack(folder))
        port = free_port()
        command = peers.keep_command(made, guest, port, folder)
        process = opened.enter_context(peers.running(command, port))

        def connect() -> int:
            plain = socket.create_connection(("127.0.0.1", port), 10)
            stream = opened.enter_context(context.wrap_socket(plain))
            stream.sendall(b"x")
            assert stream.recv(1) == b"x"
            return pss(process.pid)

        idle = pss(process.pid)
        first = connect()
        *_, busy = (connect() for _ in range(_MORE))
    print("| | kB |\n|---|---|")
    print(f"| an idle keep with an identity and a TLS listener | {idle:,} |")
    print(f"| the first TLS connection: what it is made with is loaded then | {first - idle:,} |")
    print(f"| each more, of {_MORE} | {(busy - first) / _MORE:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The network card of an enclave: its frames, and, with passt, connections through it.

What is made here is in a network namespace of its own.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats.vsock import MAX_FRAME, PacketReader, framed
from garrison.launch.monitor import Publication
from garrison.launch.network_card import PASST, network_card

if TYPE_CHECKING:
    from collections.abc import Callable

packets = st.lists(st.binary(min_size=14, max_size=200), max_size=5)


@given(packets, st.integers(1, 50))
def test_frames_come_as_they_were_sent(sent: list[bytes], step: int) -> None:
    stream = b"".join(map(framed, sent))
    reader = PacketReader()
    got: list[bytes] = []
    for start in range(0, len(stream), step):
        got += reader.feed(stream[start : start + step])
    assert got == sent


@pytest.mark.parametrize("size", [0, 13, MAX_FRAME + 1, 0xFFFFFFFF])
def test_a_length_that_no_frame_has(size: int) -> None:
    with pytest.raises(Malformed, match="no Ethernet frame"):
        PacketReader().feed(size.to_bytes(4, "big"))


@given(st.binary(max_size=100))
def test_any_bytes_are_frames_or_malformed(data: bytes) -> None:
    with suppress(Malformed):
        assert all(len(packet) >= 14 for packet in PacketReader().feed(data))


# In the namespace: the card, and what the guest does with it.
_GUEST = """
import socket, sys, time
from pathlib import Path
from garrison.guest import card, machine
stream, mode, port, root = socket.socket(fileno=int(sys.argv[1])), *sys.argv[2:]
card.start_card(stream)
(Path(root) / "run").mkdir()
(Path(root) / "sys/class/net/eth0").mkdir(parents=True)
machine.prepare({}, root=root)
machine.connect(root=root)
if mode == "ask":
    with socket.socket(type=socket.SOCK_DGRAM) as asking:
        asking.settimeout(30)
        asking.connect((machine.HOST, int(port)))
        asking.send(b"from the guest")
        whole = asking.recv(1 << 16)
    print(len(whole), whole[:20].decode(), flush=True)
    sys.exit()
if mode == "answer":
    with socket.socket(type=socket.SOCK_DGRAM) as answering:
        answering.bind(("", int(port)))
        answering.sendto(b"", (machine.HOST, 9))
        print("bound", flush=True)
        answering.settimeout(60)
        whole, source = answering.recvfrom(1 << 16)
        answering.sendto(whole[::-1], source)
    print(len(whole), whole[:20].decode(), flush=True)
    sys.exit()
if mode == "connect":
    peer = socket.create_connection((machine.HOST, int(port)), 30)
    peer.sendall(b"from the guest")
else:
    # As a keep does, which attests first: passt knows a guest that it has heard.
    socket.socket(type=socket.SOCK_DGRAM).sendto(b"", (machine.HOST, 9))
    time.sleep(0.5)
    listener = socket.create_server(("", int(port)))
    print("listening", flush=True)
    listener.settimeout(30)
    peer, _ = listener.accept()
peer.settimeout(30)
whole = b""
while data := peer.recv(1 << 16):
    whole += data
print(len(whole), whole[:20].decode(), flush=True)
"""


def _told(process: subprocess.Popen[str]) -> str:
    """What the guest says next; the card's process has its output, too, until passt ends."""
    assert process.stdout is not None
    return process.stdout.readline()


def _namespace(stream: socket.socket, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", _GUEST, str(stream.fileno()), *arguments],
        pass_fds=[stream.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def guest(tmp_path: object) -> Callable[..., subprocess.Popen[str]]:
    if shutil.which(PASST) is None:
        pytest.skip("needs passt (Debian: passt)")
    works = os.geteuid() == 0 and os.path.exists("/dev/net/tun")  # noqa: PTH110
    if not works or subprocess.run(["unshare", "--net", "true"], check=False).returncode:
        pytest.skip("needs root, /dev/net/tun and network namespaces")
    return _namespace


def test_a_guest_connects_to_its_host(
    guest: Callable[..., subprocess.Popen[str]], tmp_path: object
) -> None:
    ours, theirs = socket.socketpair()
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(60)
    heard: list[bytes] = []

    def serve() -> None:
        peer, _ = server.accept()
        with peer:
            heard.append(peer.recv(100))
            peer.sendall(b"from the host" + bytes(300_000))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with network_card(ours, ()), server:
        with theirs:
            process = guest(theirs, "connect", str(server.getsockname()[1]), str(tmp_path))
        with process:
            told = _told(process)
            assert process.wait(60) == 0
            thread.join(60)
    assert heard == [b"from the guest"]
    assert told.startswith("300013 from the host")


def test_a_published_port_leads_to_the_guest(
    guest: Callable[..., subprocess.Popen[str]], tmp_path: object
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ours, theirs = socket.socketpair()
    with network_card(ours, (Publication(8443, port, "127.0.0.1"),)):
        with theirs:
            process = guest(theirs, "listen", "8443", str(tmp_path))
        with process:
            assert _told(process) == "listening\n"
            with socket.create_connection(("127.0.0.1", port), 30) as peer:
                peer.sendall(b"through the card" + bytes(100_000))
            told = _told(process)
            assert process.wait(60) == 0
    assert told.startswith("100016 through the card")


def test_a_guest_sends_datagrams_to_its_host_and_hears_it(
    guest: Callable[..., subprocess.Popen[str]], tmp_path: object
) -> None:
    ours, theirs = socket.socketpair()
    heard: list[bytes] = []
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(60)

        def serve() -> None:
            data, source = server.recvfrom(1 << 16)
            heard.append(data)
            server.sendto(b"from the host" + bytes(1_000), source)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with network_card(ours, ()):
            with theirs:
                process = guest(theirs, "ask", str(server.getsockname()[1]), str(tmp_path))
            with process:
                told = _told(process)
                assert process.wait(60) == 0
                thread.join(60)
    assert heard == [b"from the guest"]
    assert told.startswith("1013 from the host")


def test_datagrams_reach_a_published_port_of_the_guest(
    guest: Callable[..., subprocess.Popen[str]], tmp_path: object
) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours, theirs = socket.socketpair()
    with network_card(ours, (Publication(5353, port, "127.0.0.1", udp=True),)):
        with theirs:
            process = guest(theirs, "answer", "5353", str(tmp_path))
        with process, socket.socket(type=socket.SOCK_DGRAM) as asking:
            assert _told(process) == "bound\n"
            asking.settimeout(0.5)
            answer = b""
            for _ in range(60):
                # Passt may not know the guest yet, and then drops it.
                asking.sendto(b"through the card", ("127.0.0.1", port))
                with suppress(TimeoutError):
                    answer = asking.recv(100)
                    break
            assert answer == b"drac eht hguorht"
            assert _told(process).startswith("16 through the card")
            assert process.wait(60) == 0

"""Handshakes that are cut, tampered with, or made of the wrong parts; sessions; floods."""

from __future__ import annotations

import gc
import os
import resource
import socket
import ssl
import struct
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garrison.errors import GarrisonError
from garrison.formats.enarx_toml import Config, Rule
from garrison.formats.limits import Limits
from garrison.formats.peer_rule import PeerRule
from garrison.keep.net.network import Network
from garrison.testing.tls import Authority, Leaf, workload
from garrison.testing.tls_pair import connecting, identity, serve_until

if TYPE_CHECKING:
    from garrison.keep.net.listener import Listener

AUTHORITY = Authority()
LEAF = AUTHORITY.issue(workload(), hosts=("localhost",))
FRIEND = workload("drawbridge.test/jane/friend:1.0.0")


def network(*, peers: tuple[PeerRule, ...] | None = None, **limits: float) -> Network:
    config = Config(
        incoming={"default": Rule(peers=peers)}, outgoing={"default": Rule(trust="steward")}
    )
    return Network(config, identity(LEAF), [AUTHORITY.root], limits=Limits(**limits))


def dial(listener: Listener) -> socket.socket:
    return socket.create_connection(("127.0.0.1", listener.port), timeout=30)


def check_alive(listener: Listener) -> None:
    """The listener serves on, and holds nothing of those who failed."""
    with connecting(network(), f"localhost:{listener.port}"):
        assert serve_until(listener, listener.ready)
        listener.accept().close()
    serve_until(listener, lambda: not listener._pending)


class Foreign:
    """A client of Python's own, whose every byte a test can change."""

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname="localhost", session=session
        )

    def step(self, received: bytes) -> bytes:
        """What it answers to `received`; raises ssl.SSLError if it gives up."""
        self._incoming.write(received)
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()


def trusting(leaf: Leaf | None = None, tmp_path: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=AUTHORITY.root_pem)
    if leaf is not None and tmp_path is not None:
        (tmp_path / "chain.pem").write_bytes(leaf.chain_pem())
        (tmp_path / "key.pem").write_bytes(leaf.key_pem())
        context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    return context


def receive(listener: Listener, sock: socket.socket) -> bytes:
    """What the listener sends next, b"" if it ends the connection."""
    sock.settimeout(0)
    received: list[bytes] = []

    def came() -> bool:
        try:
            received.append(sock.recv(1 << 16))
        except BlockingIOError:
            return False
        except ConnectionResetError:
            received.append(b"")
        return True

    serve_until(listener, came)
    return received[0]


def _end(sock: socket.socket, how: str) -> None:
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_client_that_goes_in_mid_handshake(how: str) -> None:
    ours = network()
    with closing(ours.listen("127.0.0.1:0")) as listener:
        for stage in (0, 1):
            length = None
            for cut in (0, 1, 5, 6, 50, -1):
                client = Foreign(trusting())
                sock = dial(listener)
                flight = client.step(b"")
                if stage == 1:
                    sock.sendall(flight)
                    flight = client.step(receive(listener, sock))
                assert flight
                length = len(flight) + cut if cut < 0 else cut
                sock.sendall(flight[:length])
                serve_until(listener, lambda: bool(listener._pending) or listener.ready())
                _end(sock, how)
                assert not serve_until(listener, lambda: not listener._pending)
        assert not ours._places._taken
        check_alive(listener)


def test_a_client_whose_flight_is_tampered_with_is_refused() -> None:
    with closing(network(handshake_seconds=5).listen("127.0.0.1:0")) as listener:
        # In the record of the Finished message: the header's type, version and length, the data.
        for place in (0, 1, 3, 4, 6, -1):
            client = Foreign(trusting())
            with dial(listener) as sock:
                sock.sendall(client.step(b""))
                flight = bytearray(client.step(receive(listener, sock)))
                # The change of cipher, which means nothing in TLS 1.3, comes first.
                start = 6 if flight[0] == 20 else 0
                flight[place if place < 0 else start + place] ^= 0x55
                sock.sendall(flight)
                sock.shutdown(socket.SHUT_WR)
                assert not serve_until(listener, lambda: not listener._pending)
        check_alive(listener)


@pytest.mark.parametrize("change", ["cut", "flip"])
def test_a_server_whose_flight_is_not_whole(change: str) -> None:
    def hostile(server: socket.socket, place: int) -> None:
        sock, _ = server.accept()
        with sock, closing(network().listen("127.0.0.1:0")) as real, dial(real) as behind:
            sock.settimeout(30)
            behind.sendall(sock.recv(1 << 16))
            flight = bytearray(receive(real, behind))
            where = len(flight) * place // 8
            if change == "cut":
                sock.sendall(flight[:where])
            else:
                flight[where] ^= 1
                sock.sendall(flight)

    for place in range(8):
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=hostile, args=(server, place))
            thread.start()
            with pytest.raises((OSError, GarrisonError)):
                network().connect(f"localhost:{server.getsockname()[1]}")
            thread.join(60)


@pytest.mark.parametrize(
    ("options", "alert"),
    [
        (["-ciphersuites", "TLS_AES_128_CCM_SHA256"], b"handshake failure"),
        # Its short tags are below what OpenSSL offers by itself.
        (
            ["-ciphersuites", "TLS_AES_128_CCM_8_SHA256", "-cipher", "DEFAULT@SECLEVEL=0"],
            b"handshake failure",
        ),
        (["-groups", "P-521"], b"handshake failure"),
        (["-groups", "ffdhe2048"], b"handshake failure"),
        (["-no_tls1_3"], b"protocol version"),
        (["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], b"protocol version"),
        (["-sigalgs", "RSA+SHA256"], b"handshake failure"),
    ],
    ids=["ccm", "ccm8", "p521", "ffdhe", "tls1.2", "tls1.1", "signature"],
)
def test_a_client_of_the_wrong_parts_gets_an_alert(options: list[str], alert: bytes) -> None:
    with closing(network().listen("127.0.0.1:0")) as listener:
        process = subprocess.Popen(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{listener.port}", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert not serve_until(listener, lambda: process.poll() is not None)
        output, _ = process.communicate(timeout=60)
        assert alert in output
        check_alive(listener)


@pytest.mark.parametrize("suite", ["TLS_AES_128_CCM_SHA256"])
def test_a_server_of_the_wrong_cipher_is_refused(suite: str, tmp_path: Path) -> None:
    (tmp_path / "chain.pem").write_bytes(LEAF.chain_pem())
    (tmp_path / "key.pem").write_bytes(LEAF.key_pem())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    process = subprocess.Popen(
        [
            "openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-ciphersuites", suite,
            "-cert", "chain.pem", "-key", "key.pem",
        ],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        while b"ACCEPT" not in process.stdout.readline():
            assert process.poll() is None
        with pytest.raises(OSError, match=r"reset|handshake failure"):
            network().connect(f"localhost:{port}")
    finally:
        process.kill()
        process.communicate()


def _shake(listener: Listener, client: Foreign) -> socket.socket:
    """The whole handshake, and a first answer, with which tickets would come."""
    sock = dial(listener)
    sock.sendall(client.step(b""))
    sock.sendall(client.step(receive(listener, sock)))
    assert serve_until(listener, listener.ready)
    stream = listener.accept()
    stream.write(memoryview(b"hello"))
    client._incoming.write(receive(listener, sock))
    assert client.tls.read(5) == b"hello"
    stream.close()
    return sock


def test_no_session_is_resumed_whoever_gave_the_ticket(tmp_path: Path) -> None:
    context = trusting(AUTHORITY.issue(workload()), tmp_path)
    with closing(network().listen("127.0.0.1:0")) as listener:
        client = Foreign(context)
        with _shake(listener, client):
            # OpenSSL gives tickets that name sessions which nobody keeps.
            ours = client.tls.session
        assert ours is not None
        again = Foreign(context, ours)
        with _shake(listener, again):
            assert not again.tls.session_reused
    # Those of a server with the same key that keeps its sessions in them.
    generous = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "own.pem").write_bytes(LEAF.chain_pem())
    (tmp_path / "own.key").write_bytes(LEAF.key_pem())
    generous.load_cert_chain(tmp_path / "own.pem", tmp_path / "own.key")
    first, incoming, outgoing = Foreign(context), ssl.MemoryBIO(), ssl.MemoryBIO()
    server = generous.wrap_bio(incoming, outgoing, server_side=True)
    for _ in range(3):
        incoming.write(first.step(outgoing.read()))
        try:
            server.do_handshake()
        except ssl.SSLWantReadError:
            continue
    server.write(b"hello")
    first._incoming.write(outgoing.read())
    assert first.tls.read(5) == b"hello"
    ticket = first.tls.session
    assert ticket is not None
    assert ticket.has_ticket
    with closing(network().listen("127.0.0.1:0")) as listener:
        client = Foreign(context, ticket)
        with _shake(listener, client):
            assert not client.tls.session_reused


def test_each_connection_is_judged_anew(tmp_path: Path) -> None:
    """Between two connections of one client, with what it kept, the rules change."""
    context = trusting(AUTHORITY.issue(FRIEND, hosts=("friend",)), tmp_path)
    any_ = (PeerRule.parse("any"),)
    nobody: tuple[PeerRule, ...] = ()
    with closing(network(peers=any_).listen("127.0.0.1:0")) as listener:
        client = Foreign(context)
        with _shake(listener, client):
            kept = client.tls.session
    with closing(network(peers=nobody).listen("127.0.0.1:0")) as listener:
        again = Foreign(context, kept)
        with dial(listener) as sock:
            sock.sendall(again.step(b""))
            sock.sendall(again.step(receive(listener, sock)))
            assert not serve_until(listener, lambda: not listener._pending)


_FLOOD = """
import socket, sys
port, count = map(int, sys.argv[1:])
socks = []
for index in range(count):
    sock = socket.create_connection(("127.0.0.1", port), timeout=120)
    # Nothing, a part of the header, or a header that announces more than comes.
    sock.send((b"", b"\\x16\\x03", b"\\x16\\x03\\x01\\x40\\x00" + b"\\1" * 900)[index % 3])
    socks.append(sock)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_ten_thousand_half_open_clients_take_bounded_memory() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - 100)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 100)), hard))
    try:
        with closing(network(handshake_seconds=600).listen("127.0.0.1:0")) as listener:
            check_alive(listener)
            gc.collect()
            before = _resident()
            with subprocess.Popen(
                [sys.executable, "-c", _FLOOD, str(listener.port), str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            ) as clients:
                assert clients.stdout is not None
                os.set_blocking(clients.stdout.fileno(), False)
                most = before

                def opened() -> bool:
                    nonlocal most
                    most = max(most, _resident())
                    assert clients.stdout is not None
                    return clients.stdout.read() == b"open\n"

                for _ in range(30):
                    try:
                        serve_until(listener, opened)
                        break
                    except TimeoutError:
                        continue
                assert len(listener._pending) == 256
                # And one who means it is served.
                with connecting(network(), f"localhost:{listener.port}"):
                    assert serve_until(listener, listener.ready)
                    stream = listener.accept()
                    stream.write(memoryview(b"hello"))
                    stream.close()
                most = max(most, _resident())
                clients.communicate()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    # 256 handshakes of some 30 KiB each, and what the interpreter takes for itself.
    assert most - before < 32 << 20, f"{(most - before) >> 20} MiB more, for {count} clients"
    print(f"{count} half-open clients: {(most - before) >> 10} KiB more")


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()

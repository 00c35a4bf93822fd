"""Property: who relays, reflects or replays the words of keeps and stewards gains nothing.

The attacker carries all traffic, and edits the launch requests of keeps on machines of his own. The
keeps and the steward are real processes.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import urllib3
from cryptography.x509 import load_der_x509_csr

from garrison.formats.csr import decode_pki_path
from garrison.testing.relay import Relay
from garrison.testing.stack import DNS_NAME, free_port
from garrison.testing.tls import Authority, Leaf, workload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.attacks.conftest import Attack

    from garrison.testing.stack import Process

pytestmark = [pytest.mark.xdist_group("attacks")]

_SECONDS = 30.0
# A keep attests and fetches before it connects.
_START_SECONDS = 120.0
_SECRET = b"confidential"


@pytest.fixture(scope="module")
def pair(attack: Attack) -> tuple[int, int]:
    """`listen:5.0.0` and `connect:5.0.0` admit each other: where one listens, and one connects."""
    slug = attack.stack.slug
    port, target = free_port(), free_port()
    table = f'[network.incoming.{port}]\npeers = ["{slug("connect:5.0.0")}"]\n'
    attack.publish("listen:5.0.0", attack.package("listen", str(port), network=table))
    table = f'[network.outgoing."localhost:{target}"]\npeers = ["{slug("listen:5.0.0")}"]\n'
    connect = attack.package("connect", f"localhost:{target}", network=table)
    attack.publish("connect:5.0.0", connect)
    return port, target


@contextmanager
def listening(attack: Attack, roots: str | None = None) -> Iterator[Process]:
    """The server of the pair, launched with `roots`."""
    changes = {} if roots is None else {"steward_roots": roots}
    server = attack.start("the server", attack.request("listen:5.0.0", **changes))
    try:
        server.expect("listening")
        yield server
    finally:
        server.stop()


def shown(leaf: Leaf, directory: Path, authority: str) -> ssl.SSLContext:
    """A client that shows `leaf`."""
    file = directory / "leaf.pem"
    file.write_bytes(leaf.key_pem() + leaf.chain_pem())
    context = ssl.create_default_context(cadata=authority)
    context.load_cert_chain(file)
    return context


def say(context: ssl.SSLContext, port: int) -> bytes:
    with (
        socket.create_connection(("localhost", port), timeout=_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=DNS_NAME) as tls,
    ):
        tls.sendall(b"good day")
        return tls.recv(100)


# The launch request: roots beside the genuine one.


def test_a_root_of_the_host_s_beside_the_steward_s(
    attack: Attack, pair: tuple[int, int], tmp_path: Path
) -> None:
    """The keep is certified by the genuine steward, and told of one more root.

    Under it the host certifies itself as the very workload that the keep admits.
    """
    mallory = Authority("Mallory")
    genuine = attack.stack.steward_root.read_text()
    impostor = mallory.issue(workload(attack.stack.slug("connect:5.0.0")), hosts=(DNS_NAME,))
    with listening(attack, genuine + mallory.root_pem) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            assert say(shown(impostor, tmp_path, genuine), pair[0]) == b""
        assert "the peer's certificate is not accepted" in server.expect("refused a peer")
        assert not any("heard" in line for line in server.lines)
        # What would be seen if it had worked.
        certified = attack.certified("connect:5.0.0")
        genuine_leaf = Leaf(certified.chain, certified.key)
        assert say(shown(genuine_leaf, tmp_path, genuine), pair[0]) == b"hello\n"


class _Proxy:
    """A steward of the host's own, which asks the genuine one for all that it answers."""

    def __init__(self, genuine: str, root_pem: str) -> None:
        self.seen: list[tuple[str, bytes, bytes]] = []
        self.changed: dict[str, bytes] = {}
        context = ssl.create_default_context(cadata=root_pem)
        self._pool = urllib3.PoolManager(ssl_context=context, retries=False)
        self._genuine = genuine

    def ask(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        answer = self._pool.request(method, self._genuine + path, body=body, headers=headers)
        self.seen.append((path, body, answer.data))
        return answer.status, self.changed.get(path, answer.data)


@contextmanager
def proxy(attack: Attack, leaf: Leaf) -> Iterator[tuple[str, _Proxy]]:
    asking = _Proxy(attack.stack.steward_url, attack.stack.steward_root.read_text())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _relay(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {k: v for k in ("Content-Type", "Accept") if (v := self.headers.get(k))}
            status, answer = asking.ask(self.command, self.path, body, headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = _relay  # noqa: N815  (the library's names)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Clients hang up on it: that is what is tested."""

    context = leaf.server_context()
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"https://localhost:{server.server_address[1]}", asking
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("roots", ["the host's", "both"])
def test_evidence_that_is_relayed_by_way_of_the_host_s_steward(attack: Attack, roots: str) -> None:
    """The keep attests to the host, who takes its request to the genuine steward.

    He gets a genuine certificate, for the keep's key, which he does not have; and the keep does
    not go on: under one root he is no steward, and under two his answers do not count.
    """
    mallory = Authority("Mallory")
    genuine = attack.stack.steward_root.read_text()
    given = mallory.root_pem + (genuine if roots == "both" else "")
    with proxy(attack, mallory.issue(hosts=("localhost",))) as (url, asked):
        done = attack.run(attack.request("plain:1.0.0", steward=url, steward_roots=given))
    assert done.returncode == 76, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    wanted = "--steward-root" if roots == "the host's" else "the steward's TLS certificate"
    assert wanted in done.stderr
    requests = [(body, answer) for path, body, answer in asked.seen if path == "/"]
    assert len(requests) == 1
    (body, answer) = requests[0]
    # What he has got: a certificate for the key that signed the request, and for no workload.
    assert decode_pki_path(answer)[-1].public_key() == load_der_x509_csr(body).public_key()


# Handshakes.


def test_a_handshake_that_is_reflected(attack: Attack, pair: tuple[int, int]) -> None:
    """Whatever the client says comes back to it."""
    _, target = pair
    with socket.create_server(("127.0.0.1", target)) as listener:
        listener.settimeout(_START_SECONDS)
        seen = bytearray()

        def mirror() -> None:
            plain, _ = listener.accept()
            plain.settimeout(_SECONDS)
            with plain, contextlib.suppress(OSError):
                while data := plain.recv(1 << 16):
                    seen.extend(data)
                    plain.sendall(data)

        thread = threading.Thread(target=mirror)
        thread.start()
        done = attack.run(attack.request("connect:5.0.0"))
        thread.join()
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("failed to connect")
    assert seen
    assert _SECRET not in seen


def test_a_client_that_is_led_to_itself(attack: Attack) -> None:
    """A workload that listens and connects is led back to its own listener: it is not its peer."""
    slug, port = attack.stack.slug, free_port()
    table = f'[network.outgoing."localhost:{port}"]\npeers = ["{slug("listen:5.0.0")}"]\n'
    attack.publish("connect:5.1.0", attack.package("connect", f"localhost:{port}", network=table))
    table = f'[network.incoming.{port}]\npeers = ["any"]\n'
    attack.publish("rogue:5.1.0", attack.package("listen", str(port), network=table))
    itself = attack.start("another", attack.request("rogue:5.1.0"))
    try:
        itself.expect("listening")
        done = attack.run(attack.request("connect:5.1.0"))
        assert done.returncode == 3
        assert "the peer is not admitted" in done.stderr
        assert slug("rogue:5.1.0") in done.stderr
        assert not any(_SECRET.decode() in line for line in itself.lines)
    finally:
        itself.stop()


def test_a_conversation_that_is_played_again(attack: Attack, pair: tuple[int, int]) -> None:
    """All that a genuine client said is said again: the server's part of it is another one."""
    port, target = pair
    with listening(attack) as server:
        said: list[bytes] = []
        with _Recorder(port, target, said):
            done = attack.run(attack.request("connect:5.0.0"))
        assert done.returncode == 0, done.stderr
        server.expect("heard confidential")
        before = len(server.lines)
        with socket.create_connection(("localhost", port), timeout=_SECONDS) as plain:
            answer = b""
            with contextlib.suppress(ConnectionError):
                for data in said:
                    plain.sendall(data)
                    answer = plain.recv(1 << 16) or answer
                # The last of it is an alert, whatever is in it: TLS hides that.
                while data := plain.recv(1 << 16):
                    answer = data
        assert b"hello" not in answer
        # Somebody else is heard as ever, and nobody was in between.
        with Relay(port, port=target):
            done = attack.run(attack.request("connect:5.0.0"))
        assert done.returncode == 0, done.stderr
        server.expect("heard confidential")
        heard = [line for line in server.lines[before:] if line.startswith(("peer ", "heard"))]
        assert len(heard) == 2


class _Recorder(Relay):
    """Keeps what the client said, apart from the answers."""

    def __init__(self, target: int, port: int, said: list[bytes]) -> None:
        super().__init__(target, port=port)
        self._said = said

    def _pump(self, source: socket.socket, sink: socket.socket, back: bool, harmed: bool) -> None:
        if back:
            super()._pump(source, sink, back, harmed)
            return
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._said.append(data)
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def test_two_connections_whose_ends_are_swapped(attack: Attack, pair: tuple[int, int]) -> None:
    """The host joins the first words of one client to the rest of another's."""
    port, target = pair
    with listening(attack) as server, socket.create_server(("127.0.0.1", target)) as listener:
        listener.settimeout(_START_SECONDS)
        clients = [
            attack.start(f"client {number}", attack.request("connect:5.0.0")) for number in (1, 2)
        ]
        (one, _), (two, _) = listener.accept(), listener.accept()
        with one, two, socket.create_connection(("localhost", port)) as upstream:
            for sock in (one, two, upstream):
                sock.settimeout(_SECONDS)
            upstream.sendall(one.recv(1 << 16))
            # What the server answers to the first goes to the second.
            two.recv(1 << 16)
            two.sendall(upstream.recv(1 << 16))
            with contextlib.suppress(OSError):
                upstream.sendall(two.recv(1 << 16))
                upstream.recv(1 << 16)
        assert [client.finish() for client in clients] == [3, 3]
        assert not any("heard" in line for line in server.lines)

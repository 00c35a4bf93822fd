"""Foreign, slow, silent and hostile peers, and what the configuration denies."""

from __future__ import annotations

import errno
import select
import socket
import ssl
import subprocess
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL

from garrison.errors import Malformed, Rejected
from garrison.formats.enarx_toml import Config, Rule
from garrison.formats.limits import Limits
from garrison.formats.peer_rule import PeerRule
from garrison.keep.net import network as network_module
from garrison.keep.net.listener import Listener
from garrison.keep.net.network import Network
from garrison.testing.tls import Authority, Leaf, workload
from garrison.testing.tls_pair import (
    connected,
    connecting,
    identity,
    read_exactly,
    serve_until,
    wait,
    write_all,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from garrison.keep.net.stream import Stream

AUTHORITY = Authority()
LEAF = AUTHORITY.issue(workload(), hosts=("localhost",))
STEWARD = Rule(trust="steward")


def network(
    *,
    incoming: Rule | None = None,
    outgoing: Rule = STEWARD,
    handshake_seconds: float = 5,
    **limits: int,
) -> Network:
    config = Config(
        incoming={} if incoming is None else {"default": incoming}, outgoing={"default": outgoing}
    )
    return Network(
        config,
        identity(LEAF),
        [AUTHORITY.root],
        limits=Limits(connect_seconds=2, handshake_seconds=handshake_seconds, **limits),
    )


@contextmanager
def listening(ours: Network) -> Iterator[Listener]:
    with closing(ours.listen("127.0.0.1:0")) as listener:
        yield listener


def dial(listener: Listener) -> socket.socket:
    return socket.create_connection(("127.0.0.1", listener.port), timeout=10)


def files(tmp_path: Path, leaf: Leaf) -> list[str]:
    (tmp_path / "chain.pem").write_bytes(leaf.chain_pem())
    (tmp_path / "key.pem").write_bytes(leaf.key_pem())
    return [
        "-cert",
        f"{tmp_path}/chain.pem",
        "-cert_chain",
        f"{tmp_path}/chain.pem",
        "-key",
        f"{tmp_path}/key.pem",
    ]


def s_client(listener: Listener, root: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [
        "openssl",
        "s_client",
        "-connect",
        f"127.0.0.1:{listener.port}",
        "-CAfile",
        str(root),
    ]
    return subprocess.Popen(
        [*command, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.parametrize("with_certificate", [True, False])
def test_openssl_speaks_with_us(tmp_path: Path, with_certificate: bool) -> None:
    root = tmp_path / "root.pem"
    root.write_text(AUTHORITY.root_pem)
    options = files(tmp_path, LEAF) if with_certificate else []
    with listening(network()) as listener:
        process = s_client(listener, root, "-tls1_3", "-quiet", "-verify_return_error", *options)
        assert serve_until(listener, listener.ready)
        stream = listener.accept()
        assert stream.peer["kind"] == ("keep" if with_certificate else "anonymous")
        assert process.stdin is not None
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        assert read_exactly(stream, 6) == b"hello\n"
        write_all(stream, b"world\n")
        stream.close()
        output, _ = process.communicate(timeout=10)
    assert b"world\n" in output


def test_no_session_can_be_resumed(tmp_path: Path) -> None:
    root = tmp_path / "root.pem"
    root.write_text(AUTHORITY.root_pem)
    session = tmp_path / "session.pem"
    outputs = []
    with listening(network()) as listener:
        for options in (["-sess_out", str(session)], ["-sess_in", str(session)]):
            if options[0] == "-sess_in" and not session.exists():
                break
            process = s_client(listener, root, "-tls1_3", *options)
            assert serve_until(listener, listener.ready)
            stream = listener.accept()
            assert process.stdin is not None
            process.stdin.write(b"x\n")
            process.stdin.flush()
            read_exactly(stream, 2)
            stream.close()
            outputs.append(process.communicate(timeout=10)[0])
    assert all(b"New, TLSv1.3" in output for output in outputs)
    assert not any(b"Reused" in output for output in outputs)


def test_a_refused_openssl_gets_an_alert(tmp_path: Path) -> None:
    root = tmp_path / "root.pem"
    root.write_text(AUTHORITY.root_pem)
    cases = [
        ([], b"certificate required"),
        (files(tmp_path, Authority().issue(workload())), b"alert"),
    ]
    with listening(network(incoming=Rule(peers=(PeerRule.parse("any"),)))) as listener:
        for options, alert in cases:
            process = s_client(listener, root, "-tls1_3", *options)
            assert not serve_until(listener, lambda done=process: done.poll() is not None)  # type: ignore[misc]  # bound at once
            output, _ = process.communicate(timeout=10)
            assert alert in output


def test_tls_1_2_is_refused_by_the_listener(tmp_path: Path) -> None:
    root = tmp_path / "root.pem"
    root.write_text(AUTHORITY.root_pem)
    with listening(network()) as listener:
        process = s_client(listener, root, "-tls1_2")
        assert not serve_until(listener, lambda: process.poll() is not None)
        output, _ = process.communicate(timeout=10)
    assert b"alert protocol version" in output


def foreign_server(tmp_path: Path, version: ssl.TLSVersion) -> ssl.SSLContext:
    files(tmp_path, LEAF)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
def test_a_foreign_server(tmp_path: Path, version: ssl.TLSVersion) -> None:
    context = foreign_server(tmp_path, version)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        connecting(network(), f"localhost:{server.getsockname()[1]}") as outcome,
    ):
        raw, _ = server.accept()
        with raw:
            raw.settimeout(10)
            if version == ssl.TLSVersion.TLSv1_2:
                with pytest.raises(ssl.SSLError):
                    context.wrap_socket(raw, server_side=True)
            else:
                with context.wrap_socket(raw, server_side=True) as theirs:
                    theirs.sendall(b"hello")
                    stream = wait_for(outcome)
                    assert not isinstance(stream, BaseException)
                    assert read_exactly(stream, 5) == b"hello"
    if version == ssl.TLSVersion.TLSv1_2:
        assert isinstance(outcome[0], ConnectionAbortedError)


def wait_for(outcome: list[Stream | BaseException]) -> Stream | BaseException:
    deadline = time.monotonic() + 10
    while not outcome and time.monotonic() < deadline:
        time.sleep(0.005)
    return outcome[0]


def test_garbage_ends_a_handshake(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "garrison.keep")
    with listening(network()) as listener:
        for garbage in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\xff\xff" + b"\0" * 100,
            b"\0" * 9,
        ):
            with dial(listener) as sock:
                sock.sendall(garbage)
                caplog.clear()
                assert not serve_until(listener, lambda: "dropped a handshake" in caplog.text)
                assert "Traceback" not in caplog.text
        with connecting(network(), f"localhost:{listener.port}"):
            assert serve_until(listener, listener.ready)
            listener.accept().close()


def test_silent_clients_hold_nobody_up() -> None:
    with listening(network(handshake_seconds=600)) as listener, ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(dial(listener)).sendall(b"\x16\x03\x01")
        started = time.monotonic()
        with connecting(network(), f"localhost:{listener.port}"):
            assert serve_until(listener, listener.ready)
            listener.accept().close()
        assert time.monotonic() - started < 60
        assert listener.timeout() is not None


def test_a_late_handshake_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "garrison.keep")
    with listening(network(handshake_seconds=0.2)) as listener:
        assert listener.timeout() is None
        with dial(listener) as sock:
            assert not serve_until(listener, lambda: listener.timeout() is not None)
            left = listener.timeout()
            assert left is not None
            assert 0 < left <= 0.2
            assert not serve_until(listener, lambda: listener.timeout() is None)
            assert sock.recv(100) == b""
    assert "no complete handshake in time" in caplog.text


def test_of_too_many_handshakes_the_oldest_goes() -> None:
    with listening(network(handshakes=8)) as listener, ExitStack() as stack:
        clients = [stack.enter_context(dial(listener)) for _ in range(12)]
        assert not serve_until(listener, lambda: len(listener._pending) == 8)
        gone = [client for client in clients if select.select([client], [], [], 0.05)[0]]
        assert gone == clients[:4]
        with connecting(network(), f"localhost:{listener.port}"):
            assert serve_until(listener, listener.ready)
            listener.accept().close()


def test_without_descriptors_the_queue_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(network(incoming=Rule("tcp"))) as listener:
        real, failures = listener._socket, [OSError(errno.EMFILE, "Too many open files")]

        class Failing:
            def accept(self) -> object:
                if failures:
                    raise failures.pop()
                return real.accept()

            def __getattr__(self, name: str) -> object:
                return getattr(real, name)

        monkeypatch.setattr(listener, "_socket", Failing())
        with dial(listener):
            assert not serve_until(listener, lambda: not failures)
            assert listener.timeout() is not None
            assert not select.select([listener], [], [], 0)[0]
            assert serve_until(listener, listener.ready)
            listener.accept().close()
        monkeypatch.setattr(listener, "_socket", real)
    assert "cannot accept connections for now" in caplog.text


def test_a_silent_server_has_a_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(TimeoutError, match="does not finish the TLS handshake"):
            network(handshake_seconds=0.1).connect(f"127.0.0.1:{port}")


def test_what_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        network().connect(f"127.0.0.1:{port}")
    with pytest.raises(OSError, match="cannot be resolved") as caught:
        network().connect("nowhere.invalid")
    assert caught.value.errno == errno.EHOSTUNREACH
    for target in ("", "127.1:80", "a b"):
        with pytest.raises(Malformed):
            network().connect(target)


def test_what_is_denied_is_never_tried() -> None:
    denied = network(incoming=Rule("deny"), outgoing=Rule("deny"))
    with pytest.raises(Rejected, match="denied") as caught:
        denied.connect("localhost")
    assert (caught.value.field, caught.value.found) == ("network.outgoing.default", "localhost:443")
    with pytest.raises(Rejected, match="denied"):
        denied.listen("0")


def test_plain_tcp_is_anonymous() -> None:
    plain = network(incoming=Rule("tcp"), outgoing=Rule("tcp"))
    with connected(plain, plain) as (accepted, dialled):
        assert accepted.peer == dialled.peer == {"kind": "anonymous"}
        write_all(dialled, b"hello")
        assert read_exactly(accepted, 5) == b"hello"
        assert not accepted.pending()
        assert not accepted.wants_write()


def test_listening_everywhere_takes_both_families() -> None:
    plain = network(incoming=Rule("tcp"))
    with closing(plain.listen("0")) as listener:
        families = ["127.0.0.1"] + (["::1"] if socket.has_dualstack_ipv6() else [])
        for host in families:
            with socket.create_connection((host, listener.port)):
                assert serve_until(listener, listener.ready)
                listener.accept().close()
            event = plain.next_event("lis")
            assert event is not None
            assert event["addr"].startswith("127.0.0.1:" if host == "127.0.0.1" else "[::1]:")
        with pytest.raises(OSError, match="cannot listen on"):
            plain.listen(f"127.0.0.1:{listener.port}")


def test_events_are_bounded_and_the_oldest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "_MAX_EVENTS", 2)
    plain = network(incoming=Rule("tcp"), outgoing=Rule("tcp"))
    for host in ("127.0.0.1", "localhost", "127.0.0.1"):
        with connected(plain, plain, host=host):
            pass
    events = [plain.next_event("con") for _ in range(3)]
    assert [event and event["host"] for event in events] == ["127.0.0.1", "localhost", None]


def test_descriptors_of_the_released_schema_are_opened() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = (
            "[[files]]\nkind = 'stdin'\n"
            f"[[files]]\nkind = 'connect'\nhost = 'localhost'\nport = {port}\nprot = 'tcp'\n"
            "[[files]]\nkind = 'listen'\nname = 'L'\naddr = '127.0.0.1'\nport = %d\n"
        )
        free = socket.create_server(("127.0.0.1", 0))
        taken = free.getsockname()[1]
        with free, pytest.raises(OSError, match="cannot listen on"):
            Network(Config.from_bytes((text % taken).encode()), identity(LEAF), []).preopened()
        opened = Network(Config.from_bytes((text % taken).encode()), identity(LEAF), []).preopened()
        assert [name for name, _ in opened] == ["localhost", "L"]
        assert isinstance(opened[1][1], Listener)
        for _, resource in opened:
            resource.close()


def test_a_closed_listener_closes_what_it_holds() -> None:
    listener = network().listen("127.0.0.1:0")
    with dial(listener) as half, ExitStack() as stack:
        outcome = stack.enter_context(connecting(network(), f"localhost:{listener.port}"))
        assert serve_until(listener, listener.ready)
        listener.close()
        assert half.recv(10) == b""
        stream = wait_for(outcome)
        assert not isinstance(stream, BaseException)
        assert wait(stream, stream.read_into, memoryview(bytearray(10))) == 0


def of_secret(secret: bytes, name: bytes, size: int) -> bytes:
    """RFC 8446, section 7.1, HKDF-Expand-Label without a context."""
    name = b"tls13 " + name
    info = size.to_bytes(2, "big") + bytes((len(name),)) + name + b"\0"
    return HKDFExpand(SHA384(), size, info).derive(secret)


def first_record(secret: bytes, inner: bytes) -> bytes:
    """RFC 8446, section 5.2: the first record under a traffic secret."""
    head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
    cipher = AESGCM(of_secret(secret, b"key", 32))
    return head + cipher.encrypt(of_secret(secret, b"iv", 12), inner, head)


def test_a_peer_that_updates_its_keys_without_end_holds_nobody_up() -> None:
    """A call that reads goes on for a record and no longer, so that who waits can be ended."""
    secrets: dict[bytes, bytes] = {}

    def kept(_connection: SSL.Connection, line: bytes) -> None:
        name, _, secret = line.split()
        secrets[name] = bytes.fromhex(secret.decode())

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_tls13_ciphersuites(b"TLS_AES_256_GCM_SHA384")
    context.set_keylog_callback(kept)
    with listening(network()) as listener, dial(listener) as raw:
        raw.settimeout(0)
        client = SSL.Connection(context, raw)
        client.set_connect_state()

        def shaken() -> bool:
            with suppress(SSL.WantReadError):
                client.do_handshake()
            return listener.ready()

        assert serve_until(listener, shaken)
        stream = listener.accept()
        secret, sent, updates = secrets[b"CLIENT_TRAFFIC_SECRET_0"], b"", 300
        for _ in range(updates):
            # Section 4.6.3: a KeyUpdate, to which nobody asks for an answer.
            sent += first_record(secret, b"\x18\0\0\x01\0" + b"\x16")
            secret = of_secret(secret, b"traffic upd", 48)
        raw.settimeout(30)
        raw.sendall(sent + first_record(secret, b"hello" + b"\x17"))
        waited = count = 0
        view = memoryview(bytearray(10))
        while not count:
            assert select.select([stream], [], [], 30)[0]
            try:
                count = stream.read_into(view)
            except BlockingIOError:
                waited += 1
        assert bytes(view[:count]) == b"hello"
        # All but the few records without data that a stream may begin with.
        assert waited >= updates - 10
        stream.close()

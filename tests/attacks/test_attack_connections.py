"""Property: each side of a connection knows who the other is, and speaks with nobody else.

The attacker stands in the middle of each connection with every certificate that he can get. The
keeps, the steward and the drawbridge are real processes.
"""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificates

from garrison.formats.leaf import spki_of
from garrison.steward.authority import Authority as StewardAuthority
from garrison.steward.certificates import issue_certificate
from garrison.testing.drawbridge import LyingServer
from garrison.testing.stack import DNS_NAME
from garrison.testing.tls import Authority, Leaf, keep, workload

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.attacks.conftest import Attack

    from garrison.keep.identity import Certified
    from garrison.testing.stack import Process

pytestmark = [pytest.mark.xdist_group("attacks")]

_SECONDS = 30.0
# What the attacker can show, and what the keep's log says of it.
_FOREIGN = "the peer's certificate is not accepted"
SHOWN = {
    "a self-made certificate": _FOREIGN,
    "another steward's certificate for the right workload": _FOREIGN,
    "the drawbridge's own certificate": _FOREIGN,
    "an expired certificate for the right workload": f"{_FOREIGN}: certificate has expired",
    "a genuine certificate of another workload": "rogue:1.0.0",
    "a genuine certificate of a keep without a workload": "certified for no workload",
}


def _leaf(certified: Certified) -> Leaf:
    return Leaf(certified.chain, certified.key)


def _shown(attack: Attack, kind: str, right: str) -> Leaf:
    """The certificate that the attacker shows where the workload `right` is expected."""
    if kind == "a self-made certificate":
        return Authority("Mallory").issue(hosts=("localhost",))
    if kind == "the drawbridge's own certificate":
        tls = attack.stack.directory / "drawbridge" / "tls"
        key = load_pem_private_key((tls / "server.key").read_bytes(), None)
        chain = load_pem_x509_certificates((tls / "server.pem").read_bytes())
        return Leaf(tuple(chain), key)  # type: ignore[arg-type]  # (made as an EC key)
    if kind == "a genuine certificate of another workload":
        return _leaf(attack.certified("rogue:1.0.0"))
    if kind == "a genuine certificate of a keep without a workload":
        return _leaf(attack.certified())
    if kind == "an expired certificate for the right workload":
        return _expired(attack, right)
    identity = workload(attack.stack.slug(right))
    return Authority("Another Steward").issue(identity, hosts=("localhost",))


def _expired(attack: Attack, name: str) -> Leaf:
    """A certificate of the genuine steward, of which nothing is wrong but its age."""
    authority = StewardAuthority.load(attack.stack.directory / "steward")
    key = generate_private_key(SECP256R1())
    measurement = bytes.fromhex(attack.stack.measurement)
    certificate = issue_certificate(
        authority,
        spki_of(key.public_key()),
        replace(attack.identity(name), tee="snp", measurement=measurement, tcb_status="UpToDate"),
        dns_names=[DNS_NAME],
        lifetime=timedelta(seconds=1),
        # The root itself is not much older.
        now=datetime.now(UTC) - timedelta(seconds=5),
    )
    return Leaf((certificate, authority.certificate), key)


def _load(context: ssl.SSLContext, leaf: Leaf, directory: Path) -> None:
    file = directory / "leaf.pem"
    file.write_bytes(leaf.key_pem() + leaf.chain_pem())
    context.load_cert_chain(file)


def _client(attack: Attack, leaf: Leaf | None, directory: Path) -> ssl.SSLContext:
    """A client that shows `leaf`, and knows the server by the steward's root."""
    context = ssl.create_default_context(cafile=str(attack.stack.steward_root))
    if leaf is not None:
        _load(context, leaf, directory)
    return context


def _say(context: ssl.SSLContext, port: int, words: bytes) -> bytes:
    """Connect to a keep, say something, and return what it answers; an alert is an error."""
    with (
        socket.create_connection(("localhost", port), timeout=_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=DNS_NAME) as tls,
    ):
        tls.sendall(words)
        return tls.recv(100)


# Keep and keep: the attacker connects.


def test_the_right_workload_is_heard(attack: Attack, server: Process, tmp_path: Path) -> None:
    """What the tests of lying clients would see if the attack had worked."""
    leaf = _leaf(attack.certified("connect:1.0.0"))
    assert _say(_client(attack, leaf, tmp_path), attack.port, b"good day") == b"hello\n"
    assert attack.stack.slug("connect:1.0.0") in server.expect("peer ")
    server.expect("heard good day")


@pytest.mark.parametrize("kind", SHOWN)
def test_a_client_that_lies(attack: Attack, server: Process, tmp_path: Path, kind: str) -> None:
    """A client shows a certificate that is not of the workload that the server admits."""
    context = _client(attack, _shown(attack, kind, "connect:1.0.0"), tmp_path)
    before = len(server.lines)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        assert _say(context, attack.port, b"let me in") == b""
    refusal = server.expect("peer")
    assert f"network.incoming.{attack.port}" in refusal
    assert SHOWN[kind] in refusal
    assert not any("heard" in line for line in server.lines[before:])


def test_a_client_that_shows_nothing(attack: Attack, server: Process, tmp_path: Path) -> None:
    """A client has no certificate at all."""
    before = len(server.lines)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        assert _say(_client(attack, None, tmp_path), attack.port, b"let me in") == b""
    assert attack.stack.slug("connect:1.0.0") in server.expect("anonymous")
    assert not any("heard" in line for line in server.lines[before:])


def test_the_host_launches_another_workload(attack: Attack, server: Process) -> None:
    """The launch request is edited: the same program, under another name."""
    done = attack.run(attack.request("rogue:1.0.0"))
    assert done.returncode == 3, done.stderr
    assert "rogue:1.0.0" in server.expect("the peer is not admitted")


def test_the_host_launches_with_its_own_steward(attack: Attack, server: Process) -> None:
    """The launch request is edited: the host's own steward, and its root, certify the workload."""
    own = attack.stack.directory / "own-steward"
    attack.stack.command("steward", "init", str(own), "--trust-domain", "demo.test")
    url = attack.start_steward(own, attack.stack.policy())
    root = (own / "root.pem").read_text()
    before = len(server.lines)
    done = attack.run(attack.request("connect:1.0.0", steward=url, steward_roots=root))
    assert done.returncode == 69, done.stderr
    assert "does not answer" in done.stderr
    assert "certificate" in done.stderr
    assert done.stdout == ""
    assert server.lines[before:] == []


def test_the_host_launches_with_roots_of_its_own(attack: Attack) -> None:
    """The launch request is edited: other roots than the steward's."""
    roots = Authority("Mallory").root_pem
    done = attack.run(attack.request("connect:1.0.0", steward_roots=roots))
    assert done.returncode == 76
    assert "--steward-root" in done.stderr
    assert done.stdout == ""


def test_one_request_twice_is_two_keeps(attack: Attack, tmp_path: Path) -> None:
    """The same launch request is used again: the second keep has a key of its own."""
    seen = []
    for _ in range(2):
        keep_process = attack.start("a keep", attack.request("open:1.0.0"))
        keep_process.expect("listening")
        context = _client(attack, None, tmp_path)
        with (
            socket.create_connection(("localhost", attack.open_port), timeout=_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=DNS_NAME) as tls,
        ):
            der = tls.getpeercert(binary_form=True)
            assert der is not None
            seen.append(load_der_x509_certificate(der))
        keep_process.stop()
    first, second = seen
    assert first.public_key() != second.public_key()
    assert first.serial_number != second.serial_number


# Keep and keep: the attacker answers.


@contextmanager
def _impostor(port: int, leaf: Leaf, directory: Path) -> Iterator[list[bytes]]:
    """A server on `port` that shows `leaf`; the list gets what a client tells it."""
    heard: list[bytes] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, leaf, directory)
    listener = socket.create_server(("127.0.0.1", port))
    listener.settimeout(_SECONDS)

    def serve() -> None:
        plain, _ = listener.accept()
        with plain:
            plain.settimeout(_SECONDS)
            try:
                with context.wrap_socket(plain, server_side=True) as tls:
                    heard.append(tls.recv(100))
                    tls.sendall(b"hello\n")
            except (ssl.SSLError, ConnectionError) as error:
                heard.append(type(error).__name__.encode())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield heard
    finally:
        thread.join()
        listener.close()


def test_the_right_server_is_told(attack: Attack, tmp_path: Path) -> None:
    """What the tests of lying servers would see if the attack had worked."""
    leaf = _leaf(attack.certified("listen:2.0.0"))
    with _impostor(attack.second_port, leaf, tmp_path) as heard:
        done = attack.run(attack.request("connect:2.0.0"))
    assert done.returncode == 0, done.stderr
    assert "answer hello" in done.stdout
    assert heard == [b"confidential\n"]


@pytest.mark.parametrize("kind", SHOWN)
def test_a_server_that_lies(attack: Attack, tmp_path: Path, kind: str) -> None:
    """The name leads to the attacker, who shows a certificate that the client does not admit."""
    leaf = _shown(attack, kind, "listen:2.0.0")
    with _impostor(attack.second_port, leaf, tmp_path) as heard:
        done = attack.run(attack.request("connect:2.0.0"))
    assert done.returncode == 3
    assert done.stdout.startswith("failed to connect")
    assert f"localhost:{attack.second_port}" in done.stderr
    assert SHOWN[kind] in done.stderr
    assert b"confidential\n" not in heard


# Keep and drawbridge, keep and steward: the attacker answers.


def _refused_at_once(done: subprocess.CompletedProcess[str], impostor: LyingServer) -> None:
    """Nothing was asked of the impostor, and nothing ran."""
    assert done.returncode == 76, done.stderr
    assert impostor.host in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert impostor.requested == []


IMPOSTORS = ["a self-made certificate", "a genuine certificate of another workload"]


@pytest.mark.parametrize("kind", IMPOSTORS)
def test_a_drawbridge_in_the_middle(attack: Attack, kind: str) -> None:
    """The drawbridge's name leads to the attacker."""
    with LyingServer(_shown(attack, kind, "plain:1.0.0")) as impostor:
        slug = impostor.tell_the_truth("demo/plain:1.0.0", attack.packages["plain:1.0.0"])
        done = attack.run(attack.request("plain:1.0.0", slug=str(slug)))
    _refused_at_once(done, impostor)
    assert "the certificate of the drawbridge does not verify" in done.stderr


@pytest.mark.parametrize("kind", ["a self-made certificate", "the drawbridge's own certificate"])
def test_a_steward_in_the_middle(attack: Attack, kind: str) -> None:
    """The steward's name leads to the attacker."""
    with LyingServer(_shown(attack, kind, "plain:1.0.0")) as impostor:
        done = attack.run(attack.request("plain:1.0.0", steward=f"https://{impostor.host}"))
    _refused_at_once(done, impostor)
    assert "the steward's TLS certificate is not accepted" in done.stderr


def test_a_steward_without_tls(attack: Attack) -> None:
    """The launch request is edited: a steward without TLS."""
    done = attack.run(attack.request("plain:1.0.0", steward="http://localhost:1"))
    assert done.returncode == 2
    assert "not an https URL" in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("speaks", [False, True], ids=["silent", "silent after the handshake"])
def test_a_steward_that_never_answers(attack: Attack, tmp_path: Path, *, speaks: bool) -> None:
    """The steward takes the connection, and then nothing comes: the keep gives up, and says so."""
    authority = Authority("Silent Steward")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, authority.issue(keep(), hosts=("localhost",)), tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def serve() -> None:
            plain, _ = listener.accept()
            held.append(context.wrap_socket(plain, server_side=True) if speaks else plain)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://localhost:{listener.getsockname()[1]}"
        # For a minute it asks again, and once more it waits for an answer.
        done = attack.run(
            attack.request("plain:1.0.0", steward=url, steward_roots=authority.root_pem),
            seconds=300,
        )
        thread.join()
        for connection in held:
            connection.close()
    assert done.returncode == 69, done.stderr
    assert url in done.stderr
    assert done.stdout == ""

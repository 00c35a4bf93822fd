"""Property: a machine that its host freezes past its certificate's time serves nobody with it.

On the `kvm` backend, where what is frozen is a whole machine, its clock's interrupts included.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.x509 import load_der_x509_certificate
from tests.machines import GROUP, keep_image

from garrison.testing.attacks import Host
from garrison.testing.configs import server_config
from garrison.testing.stack import Stack, free_port

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "languages"))
from build import LANGUAGES  # type: ignore[import-not-found]  # (not ours)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group(GROUP)]

_SECONDS = 60.0


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    # Long enough to boot where it is emulated.
    with Stack(tmp_path / "stack", image=keep_image(), lifetime_minutes=2) as stack:
        stack.start_services()
        stack.login()
        yield stack


def machine_of(pid: int) -> int:
    """The process of QEMU that a command has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (qemu,) = [c for c in children if "qemu" in Path(f"/proc/{c}/comm").read_text()]
    return int(qemu)


def answers(connection: ssl.SSLSocket) -> bool:
    """Whether anything comes back on a connection."""
    try:
        connection.sendall(b"there?")
        return connection.recv(6) != b""
    except OSError:
        return False


def test_a_machine_that_is_frozen_past_its_certificate(stack: Stack, tmp_path: Path) -> None:
    package, port = tmp_path / "package", free_port()
    package.mkdir()
    LANGUAGES["c"].build("server", package / "main.wasm")
    (package / "Enarx.toml").write_text(server_config(port, addr="::"))
    stack.register_repo("echo")
    stack.publish(package, "echo:0.1.0")
    keep = stack.deploy("echo:0.1.0", "the server")
    keep.expect("listening")
    qemu = machine_of(keep.pid)

    certified = Host(stack).certified("echo:0.1.0", measurement=stack.measurement)
    leaf = tmp_path / "leaf.pem"
    leaf.write_bytes(certified.key_pem() + certified.chain_pem())
    context = ssl.create_default_context(cafile=str(stack.steward_root))
    context.check_hostname = False
    context.load_cert_chain(leaf)
    plain = socket.create_connection(("localhost", port), timeout=_SECONDS)
    with context.wrap_socket(plain, server_hostname="localhost") as standing:
        standing.sendall(b"here")
        assert standing.recv(4) == b"here"
        der = standing.getpeercert(binary_form=True)
        assert der is not None
        until = load_der_x509_certificate(der).not_valid_after_utc
        stack.steward.stop()
        os.kill(qemu, signal.SIGSTOP)
        try:
            time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds()) + 1)
        finally:
            os.kill(qemu, signal.SIGCONT)
        # It ends what stands, and answers nobody with what it still holds. That a client would
        # refuse it anyway is left out: this one does not look at dates.
        assert "no TLS connection can be opened" in keep.expect("certificate has expired")
        assert not answers(standing)
        careless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE
        with (
            pytest.raises(OSError),  # noqa: PT011  (an alert, or the end, by who is faster)
            socket.create_connection(("localhost", port), timeout=_SECONDS) as another,
        ):
            careless.wrap_socket(another)
        assert "rule certificate" in keep.expect("refused a peer")

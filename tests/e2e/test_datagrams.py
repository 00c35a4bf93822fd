"""Datagrams of true programs: a name server is asked, from a keep and from a machine."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.machines import GROUP, keep_image

from garrison.testing.stack import GARRISON, Process
from garrison.testing.udp_guest import client, server

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "languages"))
from build import MissingError, python_component  # type: ignore[import-not-found]  # (not ours)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from garrison.testing.stack import Stack

_SECONDS = 120.0
_STREAMS = "".join(f'[{name}]\nkind = "host"\n' for name in ("stdout", "stderr"))
_ADDRESS = bytes([192, 0, 2, 7])


@contextmanager
def _answering(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """A server on loopback, until the end of the block; its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        port = int(made.getsockname()[1])

        def serve() -> None:
            while True:
                data, source = made.recvfrom(4096)
                if not data:
                    return
                made.sendto(answer(data), source)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield port
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", ("127.0.0.1", port))
            thread.join(_SECONDS)


def _resolved(question: bytes) -> bytes:
    """The answer to one question for an address (RFC 1035, section 4.1)."""
    assert question[12:].startswith(b"\3www\7example\4test\0\0\1\0\1")
    header = question[:2] + struct.pack(">5H", 0x8180, 1, 1, 0, 0)
    return header + question[12:] + struct.pack(">3HIH", 0xC00C, 1, 1, 60, 4) + _ADDRESS


@pytest.mark.slow
@pytest.mark.xdist_group("stack")
def test_an_attested_keep_asks_a_name_server(stack: Stack, tmp_path: Path) -> None:
    """By Python's own sockets, on whatever `componentize-py` makes of them."""
    try:
        python_component("resolve", tmp_path / "main.wasm")
    except MissingError as missing:
        pytest.skip(str(missing))
    package = tmp_path / "package"
    package.mkdir()
    (tmp_path / "main.wasm").rename(package / "main.wasm")
    stack.register_repo("resolver")
    with _answering(_resolved) as port:
        args = f'args = ["localhost:{port}", "www.example.test"]\n'
        rule = f'[network.outgoing."localhost:{port}"]\nprot = "udp"\n'
        (package / "Enarx.toml").write_text(args + _STREAMS + rule)
        stack.publish(package, "resolver:0.1.0")
        done = stack.run(*stack.deploy_arguments("resolver:0.1.0"), seconds=_SECONDS)
        assert (done.returncode, done.stdout) == (0, "192.0.2.7\n"), done.stderr
        policy = tmp_path / "policy.toml"
        policy.write_text('[network.outgoing.default]\nprot = "tcp"\n')
        narrowed = stack.deploy_arguments("resolver:0.1.0")
        narrowed[-1:-1] = ["--policy", str(policy)]
        done = stack.run(*narrowed, seconds=_SECONDS)
        assert (done.returncode != 0, done.stdout) == (True, "")
        assert "the tenant's policy allows no UDP" in done.stderr


def _package(folder: Path, wasm: bytes, rules: str) -> str:
    (folder / "main.wasm").write_bytes(wasm)
    (folder / "Enarx.toml").write_text(_STREAMS + rules)
    return str(folder)


@pytest.mark.slow
@pytest.mark.xdist_group(GROUP)
def test_a_machine_reaches_a_server_and_hears_it(tmp_path: Path) -> None:
    """QEMU's user-mode network has the host's loopback at 10.0.2.2."""
    image = keep_image()
    with _answering(lambda data: data[::-1]) as port:
        package = _package(
            tmp_path,
            client(port, "10.0.2.2", everywhere=True),
            f'[network.outgoing."10.0.2.2:{port}"]\nprot = "udp"\n',
        )
        done = subprocess.run(
            [*GARRISON, "run", "--backend", "kvm", "--image", str(image), package],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, "gnip"), done.stderr


@pytest.mark.slow
@pytest.mark.xdist_group(GROUP)
def test_a_machine_is_reached_where_its_port_was_published(tmp_path: Path) -> None:
    image = keep_image()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    package = _package(
        tmp_path, server(5353, everywhere=True), '[network.incoming.5353]\nprot = "udp"\n'
    )
    publish = f"127.0.0.1:{port}:5353/udp"
    run = [*GARRISON, "run", "--backend", "kvm", "--image", str(image), "--publish", publish]
    machine = Process("the machine", [*run, package], os.environ)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            _ask_until_answered(asking, port)
        machine.expect("hello")
        assert machine.finish() == 0
    finally:
        machine.stop()


def _ask_until_answered(asking: socket.socket, port: int) -> None:
    # Whoever is not there yet drops it.
    asking.settimeout(0.2)
    for _ in range(int(_SECONDS / 0.2)):
        asking.sendto(b"hello", ("127.0.0.1", port))
        try:
            assert asking.recv(100) == b"ping"
        except TimeoutError:
            continue
        return
    raise AssertionError("nobody answered")

"""Property: datagrams go to whom a rule names, and come from there, and from and to nobody else.

The keeps are real processes. Who can forge the source of a datagram is not kept out, and no test
says so: UDP is in the clear (docs/threat-model.md).
"""

from __future__ import annotations

import socket
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from garrison.testing.stack import GARRISON
from garrison.testing.udp_guest import client, server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_SECONDS = 60.0
# wasi:sockets/network, `error-code`, plus one: how the components end.
_ACCESS_DENIED, _NOT_SUPPORTED = 2, 3


@contextmanager
def _bound(address: str = "127.0.0.1", port: int = 0) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind((address, port))
        made.settimeout(_SECONDS)
        yield made


def _port(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def _run(tmp_path: Path, wasm: bytes, rules: str) -> tuple[int, str, str]:
    """Run a component in a keep: its exit code, what it printed, and the keep's log."""
    (tmp_path / "main.wasm").write_bytes(wasm)
    streams = "".join(f'[{name}]\nkind = "host"\n' for name in ("stdout", "stderr"))
    (tmp_path / "Enarx.toml").write_text(streams + rules)
    done = subprocess.run(
        [*GARRISON, "run", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@contextmanager
def _answering(
    sock: socket.socket, answer: Callable[[bytes, tuple[str, int]], object]
) -> Iterator[None]:
    def run() -> None:
        answer(*sock.recvfrom(100))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(_SECONDS)
    assert not thread.is_alive()


def test_the_answer_of_whom_a_rule_names_is_heard(tmp_path: Path) -> None:
    with _bound() as named, _answering(named, lambda data, to: named.sendto(data[::-1], to)):
        rules = f'[network.outgoing."localhost:{_port(named)}"]\nprot = "udp"\n'
        assert _run(tmp_path, client(_port(named)), rules)[:2] == (0, "gnip")


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ('[network.outgoing."localhost:9"]\nprot = "udp"\n', _ACCESS_DENIED),
        ('[network.outgoing."127.0.0.1"]\nprot = "udp"\n', _ACCESS_DENIED),
        (
            '[network.outgoing.localhost]\n[network.outgoing.default]\nprot = "udp"\n',
            _ACCESS_DENIED,
        ),
        ('[network.outgoing.default]\nprot = "tcp"\n', _NOT_SUPPORTED),
        ("", _NOT_SUPPORTED),
    ],
    ids=["another-port", "an-address-for-a-name", "tls-there", "tcp", "no-rule"],
)
def test_a_workload_that_sends_where_no_rule_says(tmp_path: Path, rules: str, code: int) -> None:
    """The workload is the attacker's: it wants to tell somebody what it knows."""
    with _bound() as accomplice:
        found, printed, log = _run(tmp_path, client(_port(accomplice)), rules)
        assert (found, printed) == (code, "")
        if code == _ACCESS_DENIED:
            assert f"refused to the workload: localhost:{_port(accomplice)}" in log
        accomplice.settimeout(0)
        with pytest.raises(BlockingIOError):
            accomplice.recv(1)


def test_strangers_that_answer_in_the_place_of_whom_a_rule_names(tmp_path: Path) -> None:
    """One has another port, one another address and the same port; both are first."""
    with _bound() as named, _bound("127.0.0.2", _port(named)) as twin, _bound() as stranger:

        def answer(data: bytes, to: tuple[str, int]) -> None:
            for _ in range(50):
                stranger.sendto(b"forged", to)
                twin.sendto(b"forged", to)
            named.sendto(data[::-1], to)

        rules = f'[network.outgoing."localhost:{_port(named)}"]\nprot = "udp"\n'
        with _answering(named, answer):
            code, printed, log = _run(tmp_path, client(_port(named)), rules)
        assert (code, printed) == (0, "gnip")
        assert log.count("dropped a datagram") == 1


@pytest.mark.parametrize("prot", ["tls", "tcp", "deny"])
def test_a_workload_that_is_open_where_no_rule_says(tmp_path: Path, prot: str) -> None:
    with _bound() as taken:
        port = _port(taken)
    rules = (
        f'[network.incoming.{port}]\nprot = "{prot}"\n[network.outgoing.default]\nprot = "udp"\n'
    )
    code, printed, log = _run(tmp_path, server(port), rules)
    assert (code, printed) == (_ACCESS_DENIED, "")
    assert f"refused to the workload: 127.0.0.1:{port}" in log

"""Datagrams of components that answer HTTP: the same rules, and for each request its own socket."""

from __future__ import annotations

import http.client
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from http_guest import Served, served  # type: ignore[import-not-found]

from garrison.formats.enarx_toml import Config, Rule
from garrison.keep.net.network import Network
from garrison.testing.stack import free_port
from garrison.testing.udp_guest import asking_handler, hearing_handler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_UDP = Rule("udp")
_SECONDS = 30.0


@contextmanager
def _keep(
    wasm: bytes,
    *,
    outgoing: Mapping[str, Rule] | None = None,
    incoming: Mapping[str, Rule] | None = None,
    seconds: int = 60,
) -> Iterator[Served]:
    """A keep that serves HTTP; when it has ended, none of its sockets is left."""
    port = free_port()
    rules = {str(port): Rule("tcp"), **(incoming or {})}
    network = Network(Config(incoming=rules, outgoing=dict(outgoing or {})), None, [])
    with served(wasm, network=network, port=port, limits={"http_seconds": seconds}) as keep:
        yield keep
    assert network._places._taken == set()


def _get(keep: Served) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", keep.port, timeout=_SECONDS)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@contextmanager
def _outside(answer: Callable[[socket.socket], None] | None = None) -> Iterator[socket.socket]:
    """A socket of another host's, in use until it is closed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(_SECONDS)
        if answer is None:
            yield made
            return
        thread = threading.Thread(target=answer, args=(made,), daemon=True)
        thread.start()
        yield made
        # An empty datagram is the end.
        made.sendto(b"", made.getsockname())
        thread.join(_SECONDS)
        assert not thread.is_alive()


def _port(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def test_each_request_asks_by_a_datagram_and_hears_the_answer_alone() -> None:
    sources = set()
    with _outside() as third:

        def answer(sock: socket.socket) -> None:
            while True:
                data, source = sock.recvfrom(100)
                if not data:
                    return
                sources.add(source)
                third.sendto(b"forged", source)
                sock.sendto(data[::-1], source)

        with (
            _outside(answer) as server,
            _keep(
                asking_handler(_port(server)), outgoing={f"localhost:{_port(server)}": _UDP}
            ) as keep,
        ):
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: _get(keep), range(40)))
            assert answers == [(200, b"gnip")] * 40
    assert len(sources) > 1


def test_who_waits_for_a_datagram_holds_up_no_other_request() -> None:
    def answer(sock: socket.socket) -> None:
        sources: set[tuple[str, int]] = set()
        while True:
            data, source = sock.recvfrom(100)
            if not data:
                return
            sources.add(source)
            if len(sources) == 3:
                for each in sources:
                    sock.sendto(data[::-1], each)

    with (
        _outside(answer) as server,
        _keep(asking_handler(_port(server)), outgoing={f"localhost:{_port(server)}": _UDP}) as keep,
    ):
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda _: _get(keep), range(3)))
        assert answers == [(200, b"gnip")] * 3


def test_a_request_whose_datagram_nobody_answers_ends_in_time() -> None:
    # On a busy machine its time may be over before it has asked.
    for seconds in (1, 4, 16):
        with (
            _outside() as server,
            _keep(
                asking_handler(_port(server)),
                outgoing={f"localhost:{_port(server)}": _UDP},
                seconds=seconds,
            ) as keep,
        ):
            assert _get(keep)[0] == 504
            server.settimeout(0)
            with suppress(BlockingIOError):
                assert server.recv(100) == b"ping"
                return
    pytest.fail("nothing was asked")


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        # wasi:sockets/network, `error-code`, plus one: access-denied, not-supported.
        ({"localhost:9": _UDP}, 2),
        ({"default": Rule("tcp")}, 3),
        ({}, 3),
    ],
    ids=["another-port", "tcp", "none"],
)
def test_nothing_goes_where_no_rule_for_datagrams_says(
    rules: dict[str, Rule], code: int, caplog: pytest.LogCaptureFixture
) -> None:
    with _outside() as server, _keep(asking_handler(_port(server)), outgoing=rules) as keep:
        assert _get(keep)[0] == 500
        assert f"the component ended itself, with {code}" in caplog.text
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.recv(1)


def test_a_port_for_datagrams_is_none_for_http() -> None:
    """A rule of `udp` beside the HTTP port's: the component binds it, the keep serves no HTTP."""
    with _outside() as taken:
        port = _port(taken)
    with (
        _outside() as client,
        _keep(hearing_handler(port), incoming={str(port): _UDP}) as keep,
    ):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
        # One after the other: the first has given the port back.
        for _ in range(2):
            with ThreadPoolExecutor(1) as pool:
                request = pool.submit(_get, keep)
                while not request.done():
                    client.sendto(b"hello", ("127.0.0.1", port))
                    threading.Event().wait(0.01)
                assert request.result() == (200, b"hello")


def test_a_port_without_a_rule_for_datagrams_is_not_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with _keep(hearing_handler(free_port()), outgoing={"default": _UDP}) as keep:
        assert _get(keep)[0] == 500
        assert "the component ended itself, with 2" in caplog.text

"""Reaching a host takes its time at most, ends when the workload ends, and takes a place."""

from __future__ import annotations

import errno
import socket
import threading
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from garrison.formats.enarx_toml import Config, Rule
from garrison.formats.limits import Limits
from garrison.keep.engine.failures import Interrupted
from garrison.keep.net import dial as dialling
from garrison.keep.net.network import Network
from garrison.testing.tls import Authority, workload
from garrison.testing.tls_pair import connected, connecting, identity, serve_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AUTHORITY = Authority()
LEAF = AUTHORITY.issue(workload(), hosts=("localhost",))


def network(prot: str = "tls", **limits: float) -> Network:
    rule = Rule("tcp") if prot == "tcp" else Rule(trust="steward")
    config = Config(incoming={"default": rule}, outgoing={"default": rule})
    return Network(config, identity(LEAF), [AUTHORITY.root], limits=Limits(**limits))


@contextmanager
def silent() -> Iterator[int]:
    """The port of a server that never takes a connection, its queue full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = server.getsockname()
        # Some more than the backlog get through.
        for _ in range(8):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(0)
            sock.connect_ex(address)
        yield address[1]


@contextmanager
def deaf_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A resolver that does not answer."""
    answer = threading.Event()

    def getaddrinfo(*_: object, **__: object) -> list[object]:
        answer.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "late")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", getaddrinfo)
        try:
            yield
        finally:
            answer.set()


def ended(events: list[tuple[int, int]], seconds: float | None) -> dict[int, int]:
    """As `Interrupts.wait` of a workload that is to end."""
    assert events
    assert seconds
    raise Interrupted(15)


def test_a_host_that_does_not_answer_has_a_deadline() -> None:
    with silent() as port, pytest.raises(TimeoutError, match="does not answer"):
        network(connect_seconds=0.2).connect(f"127.0.0.1:{port}")


def test_a_resolver_that_does_not_answer_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = network(connect_seconds=0.2)
    with deaf_resolver(monkeypatch), pytest.raises(TimeoutError, match="is not resolved in time"):
        ours.connect("host.test:443")


def test_each_wait_of_a_connection_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = network(connections=1)
    with silent() as port, pytest.raises(Interrupted):
        ours.connect(f"127.0.0.1:{port}", ended)
    with deaf_resolver(monkeypatch), pytest.raises(Interrupted):
        ours.connect("host.test:443", ended)
    with socket.create_server(("127.0.0.1", 0)) as server:
        # It is reached at once, and says nothing in the handshake.
        port = server.getsockname()[1]
        waits: list[Callable[..., dict[int, int]]] = [dialling.wait_for, ended]

        def wait(events: list[tuple[int, int]], seconds: float | None) -> dict[int, int]:
            return waits.pop(0)(events, seconds)

        with pytest.raises(Interrupted):
            ours.connect(f"127.0.0.1:{port}", wait)
    # None of them kept the one place.
    with silent() as port, pytest.raises(Interrupted):
        ours.connect(f"127.0.0.1:{port}", ended)


@pytest.mark.parametrize("prot", ["tls", "tcp"])
def test_a_connection_more_than_there_may_be_is_refused(
    prot: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours = network(prot, connections=1)
    with connected(network(prot), ours) as (_, dialled):
        for _ in range(3):
            with pytest.raises(OSError, match="as many connections as it may") as caught:
                ours.connect("localhost:1")
            assert caught.value.errno == errno.EMFILE
        dialled.close()
        dialled.close()
        with connected(network(prot), ours):
            pass
    said = [record.getMessage() for record in caplog.records if "limit" in record.getMessage()]
    assert said == ["the workload has reached a limit: limits.connections is 1; it is refused more"]


@pytest.mark.parametrize("prot", ["tls", "tcp"])
def test_clients_wait_until_there_is_a_place(prot: str) -> None:
    client = network(prot)
    with (
        closing(network(prot, connections=1).listen("127.0.0.1:0")) as listener,
        connecting(client, f"localhost:{listener.port}"),
    ):
        assert serve_until(listener, listener.ready)
        first = listener.accept()
        with connecting(client, f"localhost:{listener.port}"):
            # The listener leaves the queue alone, and asks to be asked again.
            assert not serve_until(listener, lambda: listener.timeout() is not None)
            assert not listener.ready()
            first.close()
            assert serve_until(listener, listener.ready)
            listener.accept().close()


def test_handshakes_give_their_places_back() -> None:
    ours = network(connections=2, handshake_seconds=1)
    with closing(ours.listen("127.0.0.1:0")) as listener:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", listener.port)) as sock:
                sock.sendall(b"garbage, as a client may send")
                assert not serve_until(listener, lambda: not listener._pending)
            with socket.create_connection(("127.0.0.1", listener.port)):
                serve_until(listener, lambda: bool(listener._pending))
                assert not serve_until(listener, lambda: not listener._pending)
        assert not ours._places._taken
        with connecting(network(), f"localhost:{listener.port}"):
            assert serve_until(listener, listener.ready)
    assert not listener._pending


def test_a_listener_that_closes_gives_all_places_back() -> None:
    ours = network(connections=8, handshake_seconds=30)
    with ExitStack() as stack:
        listener = stack.enter_context(closing(ours.listen("127.0.0.1:0")))
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", listener.port)))
        stack.enter_context(connecting(network(), f"localhost:{listener.port}"))
        assert serve_until(listener, listener.ready)
        assert len(ours._places._taken) == 4
        listener.close()
        assert not ours._places._taken
        stack.pop_all().close()

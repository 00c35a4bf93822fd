"""Programs in C, with the usual library, do what they do on any system."""

from __future__ import annotations

import json
import os
import posix
import socket
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from garrison.errors import Malformed, Rejected, Unavailable
from garrison.formats.limits import Limits
from garrison.keep.engine.failures import Trap
from garrison.keep.engine.library import wat2wasm
from garrison.keep.net.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Guest


def _stream(end: socket.socket, peer: dict[str, Any]) -> Stream:
    """A connection over one end of a socket pair."""
    end.settimeout(0)
    return Stream(end, peer)


class FakeListener:
    """Gives one stream, after its descriptor was readable for nothing once."""

    restless = True

    def __init__(self, stream: Stream) -> None:
        self._streams = [stream]
        self._signal = os.eventfd(1)
        self._asked = 0
        self.closed = False

    def fileno(self) -> int:
        return self._signal

    def ready(self) -> bool:
        self._asked += 1
        return self._asked > 2

    def accept(self) -> Stream:
        if not self.ready():
            raise BlockingIOError
        return self._streams.pop()

    def timeout(self) -> float | None:
        return 0.01

    def close(self) -> None:
        os.close(self._signal)
        self.closed = True


class FakeNetwork:
    def __init__(self, connect: Callable[[str], Stream], listener: FakeListener | None) -> None:
        self._connect = connect
        self._listener = listener
        self.listened: list[str] = []

    def connect(self, target: str, _wait: object) -> Stream:
        return self._connect(target)

    def listen(self, target: str) -> FakeListener:
        self.listened.append(target)
        assert self._listener is not None
        return self._listener

    def next_event(self, direction: str) -> dict[str, Any] | None:
        return {"direction": direction}


KEEP = {"kind": "keep", "workload": "h/u/r:1", "digest": "d"}


def test_arguments_and_environment_are_what_was_given(guest: Guest) -> None:
    lines = guest.run("args", "ä b", "", env={"A": "1=2"})
    assert lines == ["main.wasm", "args", "ä b", "", "A=1=2"]


def test_the_host_s_environment_does_not_leak(guest: Guest, monkeypatch: Any) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x")
    monkeypatch.setitem(posix.environ, b"SECRET_OF_THE_HOST", b"x")
    assert guest.run("args") == ["main.wasm", "args"]


def test_files_in_memory_work(guest: Guest) -> None:
    assert guest.run("files") == ["x1234", ".", "..", "l", "c"]


def test_rights_that_are_given_up_are_gone(guest: Guest) -> None:
    assert guest.run("rights") == []


def test_the_root_holds_what_the_keep_gives(guest: Guest) -> None:
    assert guest.run("list", "/") == [".", "..", "dev", "pkg", "tmp", "key"]


def test_devices_work(guest: Guest) -> None:
    assert guest.run("devices") == [".", "..", "null", "zero", "urandom"]


def test_the_package_s_files_are_read(guest: Guest) -> None:
    files = {"a/b/data.txt": b"inside", "main.wasm": b""}
    assert guest.run("cat", "/pkg/a/b/data.txt", files=files) == ["inside"]
    assert guest.run("list", "/pkg/a", files=files) == [".", "..", "b"]


@pytest.mark.parametrize("path", ["/etc/passwd", "/tmp/../../etc/passwd", "/pkg/../../x"])
def test_nothing_of_the_host_can_be_read(guest: Guest, path: str) -> None:
    [line] = guest.run("cat", path, code=1)
    assert line in {"No such file or directory", "Operation not permitted"}


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_codes_come_out(guest: Guest, code: int) -> None:
    guest.run("exit", str(code), code=code)


def test_files_end_at_the_quota_and_give_it_back(guest: Guest) -> None:
    assert guest.run("fill", limits=Limits(tmp=1 << 20)) == ["No space left on device"]


def test_memory_grows_under_the_host(guest: Guest) -> None:
    assert guest.run("grow", "30") == ["grown"]


def test_memory_ends_at_its_limit(guest: Guest) -> None:
    limits = Limits(memory=24 << 20)
    assert guest.run("grow", "30", limits=limits, code=3) == ["refused"]


def test_a_module_that_starts_with_too_much_memory_is_refused(guest: Guest) -> None:
    wasm = wat2wasm('(module (memory (export "memory") 1000) (func (export "_start")))')
    with pytest.raises(Unavailable, match="memory minimum size of 1000 pages"):
        guest.run(wasm=wasm, limits=Limits(memory=1 << 20))


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        ("abort", "unreachable"),
        ("divide", "integer divide by zero"),
        ("recurse", "call stack exhausted"),
    ],
)
def test_traps_say_what_and_where(guest: Guest, command: str, cause: str) -> None:
    with pytest.raises(Trap, match=cause) as caught:
        guest.run(command)
    assert "probe.wasm!" in str(caught.value)
    assert caught.value.exit_code == 134
    # The guest's memory is no place for the engine's advice.
    assert "WASMTIME" not in str(caught.value)


def test_a_connection_talks_and_names_its_peer(guest: Guest) -> None:
    ours, theirs = socket.socketpair()
    asked: list[str] = []

    def connect(target: str) -> Stream:
        asked.append(target)
        return _stream(ours, KEEP)

    def answer() -> None:
        assert theirs.recv(16) == b"ping"
        assert theirs.recv(16) == b""
        theirs.sendall(b"pong")

    with theirs:
        server = threading.Thread(target=answer)
        server.start()
        lines = guest.run("talk", "/net/con/example.com:443", network=FakeNetwork(connect, None))
        server.join()
    assert asked == ["example.com:443"]
    assert lines[0] == "pong"
    assert json.loads(lines[1]) == KEEP
    assert json.loads(lines[2]) == {"direction": "con"}


def _fail(error: Exception) -> Callable[[str], Stream]:
    def connect(_target: str) -> Stream:
        raise error

    return connect


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Rejected("denied"), "Permission denied"),
        (Malformed("no endpoint"), "Invalid argument"),
        (Unavailable("no answer"), "Operation timed out"),
        (ConnectionRefusedError(111, "refused"), "Connection refused"),
        (TimeoutError("late"), "Operation timed out"),
    ],
)
def test_refusals_become_errnos(guest: Guest, error: Exception, told: str) -> None:
    network = FakeNetwork(_fail(error), None)
    assert guest.run("talk", "/net/con/x", network=network, code=1) == [told]


def _listening() -> tuple[FakeListener, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"echo")
    return FakeListener(_stream(ours, {"kind": "anonymous"})), theirs


def test_a_listener_accepts(guest: Guest) -> None:
    listener, theirs = _listening()
    network = FakeNetwork(_fail(OSError()), listener)
    with theirs:
        lines = guest.run("serve", "/net/lis/8080", network=network)
        assert theirs.recv(16) == b"echo"
    assert network.listened == ["8080"]
    assert json.loads(lines[0]) == {"direction": "lis"}
    assert listener.closed


def test_a_preopened_listener_is_descriptor_3_and_the_root_is_found(guest: Guest) -> None:
    listener, theirs = _listening()
    network = FakeNetwork(_fail(OSError()), None)
    with theirs:
        guest.run("serve-preopened", "3", network=network, preopened=[("web", listener)])
        assert theirs.recv(16) == b"echo"
    assert listener.closed


def test_without_a_network_there_is_no_net(guest: Guest) -> None:
    assert guest.run("talk", "/net/con/x", code=1) == ["No such file or directory"]


def test_a_guest_uses_keys_that_it_never_sees(guest: Guest) -> None:
    *_, generate, trust, own = guest.run("keys")
    assert (generate, trust) == ("generate", "trust")
    assert str(uuid.UUID(own)) == own
    assert guest.run("list", "/key") == [".", "..", "generate", "trust"]
    assert guest.run("ask", "/key/generate", "none", code=1) == ["Invalid argument"]
    for path in ("/key/identity/sign", "/attest/report"):
        assert guest.run("ask", path, "x", code=1) == ["No such file or directory"]

"""Sockets of components: the same TLS, the same rules by name, the same peer checks."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from garrison.formats.enarx_toml import Config, Rule
from garrison.formats.peer_rule import PeerRule
from garrison.keep.component import interfaces
from garrison.keep.component.wit import read_package
from garrison.keep.net.network import Network
from garrison.testing.component import command
from garrison.testing.stack import free_port
from garrison.testing.tls import Authority, workload
from garrison.testing.tls_pair import connecting, identity, read_exactly, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Runner  # type: ignore[import-not-found]  # (pytest's own way)
    from garrison.keep.net.stream import Stream

_AUTHORITY = Authority()
_SERVER = "drawbridge.test/jane/server:1.2.3"
_CLIENT = "drawbridge.test/jane/client:1.0.0"

_FUNCTIONS = {
    "network": ("wasi:sockets/instance-network", "instance-network"),
    "resolve": ("wasi:sockets/ip-name-lookup", "resolve-addresses"),
    "next": ("wasi:sockets/ip-name-lookup", "[method]resolve-address-stream.resolve-next-address"),
    "create": ("wasi:sockets/tcp-create-socket", "create-tcp-socket"),
    "connect": ("wasi:sockets/tcp", "[method]tcp-socket.start-connect"),
    "connected": ("wasi:sockets/tcp", "[method]tcp-socket.finish-connect"),
    "bind": ("wasi:sockets/tcp", "[method]tcp-socket.start-bind"),
    "bound": ("wasi:sockets/tcp", "[method]tcp-socket.finish-bind"),
    "listen": ("wasi:sockets/tcp", "[method]tcp-socket.start-listen"),
    "listening": ("wasi:sockets/tcp", "[method]tcp-socket.finish-listen"),
    "accept": ("wasi:sockets/tcp", "[method]tcp-socket.accept"),
    "local": ("wasi:sockets/tcp", "[method]tcp-socket.local-address"),
    "remote": ("wasi:sockets/tcp", "[method]tcp-socket.remote-address"),
    "subscribe": ("wasi:sockets/tcp", "[method]tcp-socket.subscribe"),
    "block": ("wasi:io/poll", "[method]pollable.block"),
    "read": ("wasi:io/streams", "[method]input-stream.blocking-read"),
    "write": ("wasi:io/streams", "[method]output-stream.blocking-write-and-flush"),
    "out": ("wasi:cli/stdout", "get-stdout"),
    "peer": ("garrison:keep/peer", "of-socket"),
    "udp": ("wasi:sockets/udp-create-socket", "create-udp-socket"),
}
# What the other case of an address has more.
_NO_ADDRESS = "(i32.const 0) " * 6


def _component(body: str) -> bytes:
    functions = {**_FUNCTIONS, "exit": ("wasi:cli/exit", "exit-with-code")}
    return command(
        f"""(data (i32.const 0) "localhost") (data (i32.const 16) "ping")
        (func $ok (param $at i32) (if (i32.load8_u (i32.const 1024)) (then
          (call $exit (i32.add (i32.const 1)
            (i32.load8_u (i32.add (i32.const 1024) (local.get $at))))))))
        (func (export "run") (result i32)
          (local $net i32) (local $socket i32) (local $waiting i32) {body} (i32.const 0))""",
        functions,
    )


def _client(port: int) -> bytes:
    """Looks a name up, connects, says "ping", and prints the answer and the peer's slug."""
    return _component(f"""
      (local.set $net (call $network))
      (call $resolve (local.get $net) (i32.const 0) (i32.const 9) (i32.const 1024))
      (call $ok (i32.const 4))
      (call $next (i32.load (i32.const 1028)) (i32.const 512))
      (call $create (i32.const 0) (i32.const 1024)) (call $ok (i32.const 4))
      (local.set $socket (i32.load (i32.const 1028)))
      (call $connect (local.get $socket) (local.get $net) (i32.const 0) (i32.const {port})
        (i32.load8_u (i32.const 518)) (i32.load8_u (i32.const 519))
        (i32.load8_u (i32.const 520)) (i32.load8_u (i32.const 521))
        {_NO_ADDRESS} (i32.const 1024))
      (call $ok (i32.const 1))
      (call $connected (local.get $socket) (i32.const 1024)) (call $ok (i32.const 4))
      (call $write (i32.load (i32.const 1032)) (i32.const 16) (i32.const 4) (i32.const 640))
      (call $read (i32.load (i32.const 1028)) (i64.const 100) (i32.const 1024))
      (call $ok (i32.const 4))
      (call $write (call $out) (i32.load (i32.const 1028)) (i32.load (i32.const 1032))
        (i32.const 640))
      (call $peer (local.get $socket) (i32.const 2048))
      (if (i32.load8_u (i32.const 2056)) (then
        (call $write (call $out) (i32.load (i32.const 2060)) (i32.load (i32.const 2064))
          (i32.const 640))))""")


_WAITS = "(call $block (call $subscribe (local.get $socket)))"
# One pollable for all that a socket does, as Rust's `wstd` has it.
_WAITS_AGAIN = "(call $block (local.get $waiting))"


def _listener(port: int, *, waits: str = _WAITS) -> bytes:
    """Listens, accepts one connection, sends back what it gets, and prints the peer's slug."""
    return _component(f"""
      (local.set $net (call $network))
      (call $create (i32.const 0) (i32.const 1024)) (call $ok (i32.const 4))
      (local.set $socket (i32.load (i32.const 1028)))
      (call $bind (local.get $socket) (local.get $net) (i32.const 0) (i32.const {port})
        (i32.const 127) (i32.const 0) (i32.const 0) (i32.const 1) {_NO_ADDRESS}
        (i32.const 1024))
      (call $ok (i32.const 1))
      (local.set $waiting (call $subscribe (local.get $socket)))
      (call $block (local.get $waiting))
      (call $bound (local.get $socket) (i32.const 1024)) (call $ok (i32.const 1))
      (call $listen (local.get $socket) (i32.const 1024)) (call $ok (i32.const 1))
      (call $listening (local.get $socket) (i32.const 1024)) (call $ok (i32.const 1))
      {waits}
      (call $accept (local.get $socket) (i32.const 1024)) (call $ok (i32.const 4))
      (call $peer (i32.load (i32.const 1028)) (i32.const 2048))
      (call $read (i32.load (i32.const 1032)) (i64.const 100) (i32.const 512))
      (call $write (i32.load (i32.const 1036)) (i32.load (i32.const 516))
        (i32.load (i32.const 520)) (i32.const 640))
      (call $write (call $out) (i32.load (i32.const 2060)) (i32.load (i32.const 2064))
        (i32.const 640))""")


def _itself() -> bytes:
    """Listens on a port that nobody names, connects to it, and says "ping" to itself."""
    return _component(f"""
      (local $client i32) (local $port i32)
      (local.set $net (call $network))
      (call $create (i32.const 0) (i32.const 1024)) (call $ok (i32.const 4))
      (local.set $socket (i32.load (i32.const 1028)))
      (call $bind (local.get $socket) (local.get $net) (i32.const 0) (i32.const 0)
        (i32.const 127) (i32.const 0) (i32.const 0) (i32.const 1) {_NO_ADDRESS}
        (i32.const 1024))
      (call $ok (i32.const 1))
      (call $bound (local.get $socket) (i32.const 1024)) (call $ok (i32.const 1))
      (call $listen (local.get $socket) (i32.const 1024)) (call $ok (i32.const 1))
      (call $listening (local.get $socket) (i32.const 1024)) (call $ok (i32.const 1))
      (call $local (local.get $socket) (i32.const 1024)) (call $ok (i32.const 4))
      (local.set $port (i32.load16_u (i32.const 1032)))
      (call $create (i32.const 0) (i32.const 1024)) (call $ok (i32.const 4))
      (local.set $client (i32.load (i32.const 1028)))
      (call $connect (local.get $client) (local.get $net) (i32.const 0) (local.get $port)
        (i32.const 127) (i32.const 0) (i32.const 0) (i32.const 1) {_NO_ADDRESS}
        (i32.const 1024))
      (call $ok (i32.const 1))
      (call $connected (local.get $client) (i32.const 1024)) (call $ok (i32.const 4))
      (call $write (i32.load (i32.const 1032)) (i32.const 16) (i32.const 4) (i32.const 640))
      (call $block (call $subscribe (local.get $socket)))
      (call $accept (local.get $socket) (i32.const 1024)) (call $ok (i32.const 4))
      (local.set $socket (i32.load (i32.const 1028)))
      (call $read (i32.load (i32.const 1032)) (i64.const 100) (i32.const 512))
      (call $write (call $out) (i32.load (i32.const 516)) (i32.load (i32.const 520))
        (i32.const 640))
      (call $local (local.get $client) (i32.const 1024)) (call $ok (i32.const 4))
      (call $remote (local.get $socket) (i32.const 2048))
      (if (i32.ne (i32.load16_u (i32.const 1032)) (i32.load16_u (i32.const 2056)))
        (then (call $exit (i32.const 100))))
      (call $remote (local.get $client) (i32.const 2048))
      (if (i32.ne (local.get $port) (i32.load16_u (i32.const 2056)))
        (then (call $exit (i32.const 101))))""")


def _network(
    slug: str,
    *,
    incoming: dict[str, Rule] | None = None,
    outgoing: dict[str, Rule] | None = None,
) -> Network:
    leaf = _AUTHORITY.issue(workload(slug))
    config = Config(incoming=incoming or {}, outgoing=outgoing or {})
    return Network(config, identity(leaf), [_AUTHORITY.root])


def _peers(slug: str) -> Rule:
    return Rule(peers=(PeerRule.parse(slug),))


@contextmanager
def _echoing(rule: Rule) -> Iterator[int]:
    """A server outside of any component, which answers once; its port."""
    listener = _network(_SERVER, incoming={"default": rule}).listen("127.0.0.1:0")
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            if listener.ready():
                stream = listener.accept()
                write_all(stream, read_exactly(stream, 4)[::-1])
                stream.close()
                return
            done.wait(0.01)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.port
    finally:
        done.set()
        thread.join(20)
        listener.close()


def test_a_client_speaks_tls_with_the_peer_that_its_rule_admits(runner: Runner) -> None:
    with _echoing(_peers(_CLIENT)) as port:
        net = _network(_CLIENT, outgoing={f"localhost:{port}": _peers(_SERVER)})
        assert runner.run(_client(port), network=net) == (0, "gnip" + _SERVER)


@pytest.mark.parametrize("waits", [_WAITS, _WAITS_AGAIN], ids=["new", "as-before"])
def test_a_server_speaks_tls_with_the_peer_that_its_rule_admits(runner: Runner, waits: str) -> None:
    port = free_port()
    server = _network(_SERVER, incoming={str(port): _peers(_CLIENT)})
    client = _network(_CLIENT, outgoing={"default": _peers(_SERVER)})
    answer: list[bytes] = []

    def ask() -> None:
        for _ in range(3000):
            try:
                stream = client.connect(f"127.0.0.1:{port}")
            except ConnectionRefusedError:
                threading.Event().wait(0.01)
                continue
            write_all(stream, b"ping")
            answer.append(read_exactly(stream, 4))
            stream.close()
            return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert runner.run(_listener(port, waits=waits), network=server) == (0, _CLIENT)
    thread.join(20)
    assert answer == [b"ping"]


def test_a_listener_of_the_configuration_goes_to_who_listens_on_its_port(runner: Runner) -> None:
    """Though `[network.incoming]` allows none: it was opened by `[[files]]`."""
    server = _network(_SERVER, incoming={"default": _peers(_CLIENT)})
    listener = server.listen("127.0.0.1:0")
    denying = _network(_SERVER, incoming={"default": Rule("deny")})
    client = _network(_CLIENT, outgoing={"default": _peers(_SERVER)})
    with connecting(client, f"127.0.0.1:{listener.port}") as outcome:
        said = threading.Thread(target=_say, args=(outcome,), daemon=True)
        said.start()
        given = [("", None), ("", 1), ("", 2), ("LISTEN", listener)]
        found = runner.run(_listener(listener.port), network=denying, descriptors=given)
        said.join(20)
    assert found == (0, _CLIENT)


def _say(outcome: list[Stream | BaseException]) -> None:
    for _ in range(3000):
        if outcome:
            break
        threading.Event().wait(0.01)
    assert not isinstance(outcome[0], BaseException)
    write_all(outcome[0], b"ping")
    assert read_exactly(outcome[0], 4) == b"ping"


def test_a_workload_speaks_with_itself_and_nobody_is_asked(runner: Runner) -> None:
    """What Python's `asyncio` does to wake its loop: no rule, no TLS, no port, and no event."""
    denying = Config(incoming={"default": Rule("deny")}, outgoing={"default": Rule("deny")})
    told: list[object] = []
    net = Network(denying, None, [], listening=lambda *at: told.append(at))
    assert runner.run(_itself(), network=net) == (0, "ping")
    assert told == []
    assert net.next_event("con") is None
    assert net.next_event("lis") is None


# wasi:sockets/network, `error-code`, plus one.
_ACCESS_DENIED = 2
_NOT_SUPPORTED = 3
_REFUSED = 15


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        pytest.param({"default": Rule("deny")}, _ACCESS_DENIED, id="denied"),
        pytest.param(
            {"127.0.0.1": Rule("tcp"), "default": Rule("deny")},
            _ACCESS_DENIED,
            id="by-name-not-address",
        ),
        pytest.param(
            {"default": _peers("drawbridge.test/jane/other:1.0.0")}, _ACCESS_DENIED, id="peer"
        ),
        pytest.param({"default": Rule(trust="web")}, _ACCESS_DENIED, id="not-the-host"),
    ],
)
def test_a_rule_is_the_names_whatever_the_address(
    runner: Runner, rules: dict[str, Rule], code: int
) -> None:
    with _echoing(Rule()) as port:
        net = _network(_CLIENT, outgoing=rules)
        assert runner.run(_client(port), network=net) == (code, "")


def test_nobody_there_is_a_refused_connection(runner: Runner) -> None:
    net = _network(_CLIENT, outgoing={"default": Rule("tcp")})
    assert runner.run(_client(free_port()), network=net) == (_REFUSED, "")


def test_listening_needs_a_rule_that_allows_it(runner: Runner) -> None:
    net = _network(_SERVER, incoming={"default": Rule("deny")})
    assert runner.run(_listener(free_port()), network=net) == (_ACCESS_DENIED, "")


def test_there_is_no_udp_and_no_network_without_one(runner: Runner) -> None:
    udp = _component("(call $udp (i32.const 0) (i32.const 1024)) (call $ok (i32.const 4))")
    assert runner.run(udp, network=_network(_CLIENT)) == (_NOT_SUPPORTED, "")
    assert runner.run(_client(1)) == (_ACCESS_DENIED, "")


def test_the_published_wit_is_what_the_keep_has() -> None:
    text = (Path(__file__).parents[3] / "wit" / "keep.wit").read_text()
    text = re.sub(r"//.*", "", text)
    text = re.sub(r"@[0-9]+\.[0-9]+\.[0-9]+", "", text.partition("world ")[0])

    def find(name: str) -> Any:
        return next(known for known in interfaces.known() if known.name == name)

    published = read_package(text, find)
    for name in ("garrison:keep/peer", "garrison:keep/attestation"):
        assert published[name] == find(name)

"""Datagrams of components: by configuration, by the rules' names, and never from anybody else."""

from __future__ import annotations

import random
import select
import socket
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from garrison.errors import Malformed
from garrison.formats.enarx_toml import Config, Rule
from garrison.formats.endpoint import Endpoint
from garrison.formats.limits import Limits
from garrison.keep import workload
from garrison.keep.component import interfaces
from garrison.keep.component.callbacks import Failed
from garrison.keep.component.host import Host
from garrison.keep.component.waiting import wait_for
from garrison.keep.engine.failures import Trap
from garrison.keep.net.datagrams import DatagramRules, Datagrams
from garrison.keep.net.network import Network
from garrison.keep.vfs.errno import MFILE, Errno
from garrison.keep.vfs.streams import Null
from garrison.testing import udp_fuzzer
from garrison.testing.udp_guest import PING, SEND, STREAM, client, component, server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Runner  # type: ignore[import-not-found]  # (pytest's own way)

_UDP = Rule("udp")
_SECONDS = 30.0
# wasi:sockets/network, `error-code`, plus one.
_ACCESS_DENIED, _NOT_SUPPORTED = 2, 3


def _network(
    outgoing: dict[str, Rule] | None = None, incoming: dict[str, Rule] | None = None
) -> Network:
    return Network(Config(incoming=incoming or {}, outgoing=outgoing or {}), None, [])


@contextmanager
def _outside() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(_SECONDS)
        yield made


def _port(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


@contextmanager
def _meanwhile(do: Callable[[], None]) -> Iterator[None]:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            do()
        except (OSError, AssertionError) as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(_SECONDS)
    assert failed == []
    assert not thread.is_alive()


def test_a_client_asks_a_host_by_its_name_and_hears_the_answer_from_it(runner: Runner) -> None:
    with _outside() as server, _outside() as third:

        def answer() -> None:
            data, source = server.recvfrom(100)
            for _ in range(20):
                third.sendto(b"forged", source)
            server.sendto(data[::-1], source)

        net = _network({f"localhost:{_port(server)}": _UDP})
        with _meanwhile(answer):
            assert runner.run(client(_port(server)), network=net) == (0, "gnip")


def test_a_server_answers_whoever_sends_to_its_port(runner: Runner) -> None:
    with _outside() as taken:
        port = _port(taken)
    with _outside() as client:
        heard: list[bytes] = []

        def ask() -> None:
            client.settimeout(0.05)
            for _ in range(600):
                client.sendto(b"hello", ("127.0.0.1", port))
                try:
                    heard.append(client.recv(100))
                except TimeoutError:
                    continue
                return

        net = _network(incoming={str(port): _UDP})
        with _meanwhile(ask):
            assert runner.run(server(port), network=net) == (0, "hello")
        assert heard == [b"ping"]


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        pytest.param({"127.0.0.1": _UDP}, _ACCESS_DENIED, id="by-address-not-name"),
        pytest.param({"localhost:9": _UDP}, _ACCESS_DENIED, id="another-port"),
        pytest.param({"default": _UDP, "localhost": Rule()}, _ACCESS_DENIED, id="tls"),
        pytest.param({"default": Rule()}, _NOT_SUPPORTED, id="none-for-datagrams"),
        pytest.param({"default": Rule("tcp")}, _NOT_SUPPORTED, id="tcp"),
        pytest.param({}, _NOT_SUPPORTED, id="none"),
    ],
)
def test_nothing_goes_where_no_rule_for_datagrams_says(
    runner: Runner, rules: dict[str, Rule], code: int
) -> None:
    with _outside() as server:
        assert runner.run(client(_port(server)), network=_network(rules)) == (code, "")
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.recv(1)


def test_a_port_needs_a_rule_for_datagrams(runner: Runner) -> None:
    with _outside() as taken:
        port = _port(taken)
    net = _network({"default": _UDP}, {str(port): Rule("tcp")})
    assert runner.run(server(port), network=net) == (_ACCESS_DENIED, "")
    assert runner.run(server(port)) == (_NOT_SUPPORTED, "")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (f"{STREAM}{PING}{SEND}", "more datagrams than it may"),
        (f"{STREAM}{STREAM}", "whose streams it has not dropped"),
        (f"{STREAM}(call $drop-socket (local.get $socket))", "before the streams"),
        (
            f"{STREAM}(call $drop-incoming (local.get $in)) (call $drop-socket (local.get 1))",
            "before the streams",
        ),
    ],
    ids=["unpermitted", "streams-twice", "drops-the-socket-first", "drops-one-first"],
)
def test_what_the_interface_forbids_ends_the_component(
    runner: Runner, body: str, said: str
) -> None:
    with pytest.raises(Trap, match=said):
        runner.run(component(body), network=_network({"default": _UDP}))


def test_streams_can_be_had_again_once_they_are_dropped(runner: Runner) -> None:
    dropped = "(call $drop-incoming (local.get $in)) (call $drop-outgoing (local.get $to))"
    body = f"{STREAM}{dropped}{STREAM}{dropped}(call $drop-socket (local.get $socket))"
    assert runner.run(component(body), network=_network({"default": _UDP})) == (0, "")


def test_what_a_component_leaves_open_is_closed(runner: Runner) -> None:
    net = _network({"default": _UDP})
    assert runner.run(component(STREAM), network=net) == (0, "")
    assert net._places._taken == set()


@pytest.mark.parametrize("rules", ["incoming.5353", 'outgoing."dns.example:53"'])
def test_a_module_for_preview_1_with_rules_for_datagrams_is_refused(rules: str) -> None:
    files = {
        "main.wasm": b"\0asm\1\0\0\0",
        "Enarx.toml": f'[network.{rules}]\nprot = "udp"\n'.encode(),
    }
    with pytest.raises(Malformed, match=r"is for components of WASI 0\.2") as caught:
        workload.run(files)
    assert rules.partition(".")[0] in str(caught.value.field)


def test_wild_calls_trap_and_reach_nobody_that_no_rule_names() -> None:
    """The long run is `python -m garrison.testing.udp_fuzzer` (docs/reference/fuzzing.md)."""
    source = random.Random(7)  # noqa: S311  (to be repeated)
    counts: Counter[tuple[str, str]] = Counter()
    for _ in range(100):
        udp_fuzzer.run(source.randbytes(1024), counts)
    # It is no test if nothing ever works, or nothing is ever refused.
    every = {
        f"{interface.name} {function}"
        for interface in interfaces.known()
        if interface.name.startswith("wasi:sockets/udp")
        for function in interface.functions
    }
    done = {name for name, end in counts if end == "done"}
    assert every - done == set()
    assert sum(count for (_, end), count in counts.items() if end == "trap") > 100


def _hears_all(_self: object, source: tuple[str, int]) -> Endpoint:
    return Endpoint(*source)


def _allows_all(_self: object, _target: Endpoint) -> None:
    return


@pytest.mark.parametrize(
    ("part", "check", "instead"),
    [(Datagrams, "_source", _hears_all), (DatagramRules, "check_outgoing", _allows_all)],
)
def test_a_keep_without_one_of_its_checks_is_found_by_wild_calls(
    part: type, check: str, instead: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, check, instead)
    source = random.Random(3)  # noqa: S311  (to be repeated)
    data = source.randbytes(1 << 16)
    with pytest.raises(AssertionError, match="whom no rule names"):
        udp_fuzzer.run(data)


class _Watch:
    """Waits for a while."""

    def check(self) -> None:
        pass

    def wait(self, events: list[tuple[int, int]], seconds: float | None) -> dict[int, int]:
        poller = select.poll()
        for event in events:
            poller.register(*event)
        return dict(poller.poll(_SECONDS * 1000 if seconds is None else seconds * 1000))


class _Guest:
    """Calls the functions of `wasi:sockets/udp` as a component would."""

    def __init__(self, network: Network, limit: int = 8) -> None:
        streams = [Null(), Null(), Null()]
        self.host = Host([], {}, streams, [], network, _Watch(), limit)
        self._made: list[Any] = []

    def __call__(self, name: str, *args: Any) -> Any:
        resource, _, _ = name.partition(".")
        interface = "wasi:sockets/udp"
        if resource == "create-udp-socket":
            interface, full = "wasi:sockets/udp-create-socket", resource
        else:
            full = f"[method]{name}"
        return interfaces.function(interface, full)(self.host, *args)

    def fails(self, code: str, name: str, *args: Any) -> None:
        with pytest.raises(Failed) as caught:
            self(name, *args)
        assert caught.value.value == code

    def socket(self, family: str = "ipv4") -> Any:
        self._made.append(self("create-udp-socket", family))
        return self._made[-1]

    def bound(self) -> Any:
        made = self.socket()
        self("udp-socket.start-bind", made, None, _case(0))
        self("udp-socket.finish-bind", made)
        return made

    def close(self) -> None:
        for made in self._made:
            made.streams = 0
            made.drop()


@pytest.fixture
def guest() -> Iterator[_Guest]:
    made = _Guest(_network({"default": _UDP}))
    yield made
    made.close()


def _case(port: int, last: int = 1) -> Any:
    return "ipv4", (port, (127, 0, 0, last))


_IPV6 = ("ipv6", (53, 0, (0, 0, 0, 0, 0, 0, 0, 1), 0))
_MAPPED = ("ipv6", (53, 0, (0, 0, 0, 0, 0, 0xFFFF, 0x7F00, 1), 0))


def test_what_a_socket_may_do_depends_on_its_state(guest: _Guest) -> None:
    sock = guest.socket()
    guest.fails("invalid-state", "udp-socket.stream", sock, None)
    guest.fails("invalid-state", "udp-socket.local-address", sock)
    guest.fails("invalid-state", "udp-socket.remote-address", sock)
    guest.fails("not-in-progress", "udp-socket.finish-bind", sock)
    guest.fails("invalid-argument", "udp-socket.start-bind", sock, None, _IPV6)
    guest("udp-socket.start-bind", sock, None, _case(0))
    guest.fails("concurrency-conflict", "udp-socket.start-bind", sock, None, _case(0))
    guest("udp-socket.finish-bind", sock)
    guest.fails("invalid-state", "udp-socket.start-bind", sock, None, _case(0))
    assert guest("udp-socket.local-address", sock)[1][1] == (127, 0, 0, 1)
    assert guest("udp-socket.address-family", sock) == "ipv4"
    guest("udp-socket.stream", sock, _case(53))
    assert guest("udp-socket.remote-address", sock) == _case(53)


def test_a_bind_that_failed_can_be_tried_again(guest: _Guest) -> None:
    sock = guest.socket()
    guest.fails("access-denied", "udp-socket.start-bind", sock, None, _case(5353))
    there = ("ipv4", (0, (192, 0, 2, 1)))
    guest.fails("address-not-bindable", "udp-socket.start-bind", sock, None, there)
    guest("udp-socket.start-bind", sock, None, _case(0))


@pytest.mark.parametrize(
    "remote",
    [_case(0), ("ipv4", (53, (0, 0, 0, 0))), ("ipv4", (53, (224, 0, 0, 251))), _IPV6, _MAPPED],
    ids=["port", "unspecified", "multicast", "family", "mapped"],
)
def test_what_is_no_address_of_another_host(guest: _Guest, remote: Any) -> None:
    sock = guest.bound()
    guest.fails("invalid-argument", "udp-socket.stream", sock, remote)
    _, out = guest("udp-socket.stream", sock, None)
    guest("outgoing-datagram-stream.check-send", out)
    sent = [(memoryview(b"x"), remote)]
    guest.fails("invalid-argument", "outgoing-datagram-stream.send", out, sent)


def test_an_address_has_to_be_given_or_to_be_the_one_that_was(guest: _Guest) -> None:
    with _outside() as server:
        data = memoryview(b"x")
        _, out = guest("udp-socket.stream", guest.bound(), None)
        guest("outgoing-datagram-stream.check-send", out)
        guest.fails("invalid-argument", "outgoing-datagram-stream.send", out, [(data, None)])
        there = _case(_port(server))
        incoming, out = guest("udp-socket.stream", guest.bound(), there)
        guest("outgoing-datagram-stream.check-send", out)
        given = [(data, None), (data, there), (data, _case(53)), (data, there)]
        assert guest("outgoing-datagram-stream.send", out, given) == 2
        guest("outgoing-datagram-stream.check-send", out)
        guest.fails("invalid-argument", "outgoing-datagram-stream.send", out, given[2:])
        _, source = server.recvfrom(10)
        server.sendto(b"y", source)
        wait_for(guest.host, [guest("incoming-datagram-stream.subscribe", incoming)])
        assert guest("incoming-datagram-stream.receive", incoming, 1 << 64) == [(b"y", there)]


def test_a_call_sends_and_gives_no_more_than_was_agreed(guest: _Guest) -> None:
    with _outside() as server:
        incoming, out = guest("udp-socket.stream", guest.bound(), _case(_port(server)))
        count = guest("outgoing-datagram-stream.check-send", out)
        given = [(memoryview(bytes([number])), None) for number in range(count)]
        with pytest.raises(Trap):
            guest("outgoing-datagram-stream.send", out, [*given, given[0]])
        assert guest("outgoing-datagram-stream.send", out, given) == count
        with pytest.raises(Trap):
            guest("outgoing-datagram-stream.send", out, given[:1])
        assert guest("outgoing-datagram-stream.send", out, []) == 0
        came = [server.recvfrom(10) for _ in range(count)]
        assert [data for data, _ in came] == [bytes([number]) for number in range(count)]
        for number in range(count + 1):
            server.sendto(bytes([number]), came[0][1])
        assert guest("incoming-datagram-stream.receive", incoming, 0) == []
        taken: list[bytes] = []
        for most in (3, 1000, 1000):
            found = guest("incoming-datagram-stream.receive", incoming, most)
            assert len(found) <= min(most, count)
            taken += [data for data, _ in found]
        assert taken == [bytes([number]) for number in range(count + 1)]
        assert guest("incoming-datagram-stream.receive", incoming, 1) == []


def test_who_is_not_to_be_heard_wakes_nobody() -> None:
    with _outside() as server, _outside() as third:
        guest = _Guest(_network({f"127.0.0.1:{_port(server)}": _UDP}))
        sock = guest.bound()
        incoming, out = guest("udp-socket.stream", sock, None)
        pollable = guest("incoming-datagram-stream.subscribe", incoming)
        local = ("127.0.0.1", guest("udp-socket.local-address", sock)[1][0])
        third.sendto(b"forged", local)
        assert wait_for(guest.host, [pollable], block=False) == []
        assert guest("incoming-datagram-stream.receive", incoming, 5) == []
        server.sendto(b"true", local)
        assert wait_for(guest.host, [pollable]) == [0]
        found = guest("incoming-datagram-stream.receive", incoming, 5)
        assert found == [(b"true", _case(_port(server)))]
        writable = guest("outgoing-datagram-stream.subscribe", out)
        assert wait_for(guest.host, [pollable, writable]) == [1]
        guest.close()


def test_nobody_there_is_told_to_who_receives(guest: _Guest) -> None:
    with _outside() as gone:
        port = _port(gone)
    incoming, out = guest("udp-socket.stream", guest.bound(), _case(port))
    guest("outgoing-datagram-stream.check-send", out)
    assert guest("outgoing-datagram-stream.send", out, [(memoryview(b"x"), None)]) == 1
    wait_for(guest.host, [guest("incoming-datagram-stream.subscribe", incoming)])
    guest.fails("connection-refused", "incoming-datagram-stream.receive", incoming, 1)
    assert guest("incoming-datagram-stream.receive", incoming, 1) == []


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("unicast-hop-limit", (socket.IPPROTO_IP, socket.IP_TTL)),
        ("receive-buffer-size", (socket.SOL_SOCKET, socket.SO_RCVBUF)),
        ("send-buffer-size", (socket.SOL_SOCKET, socket.SO_SNDBUF)),
    ],
)
def test_options_are_the_kernels(guest: _Guest, name: str, number: tuple[int, int]) -> None:
    sock = guest.bound()
    assert guest(f"udp-socket.{name}", sock) > 0
    guest.fails("invalid-argument", f"udp-socket.set-{name}", sock, 0)
    guest(f"udp-socket.set-{name}", sock, 42)
    assert guest(f"udp-socket.{name}", sock) == 42
    host = socket.socket(fileno=socket.dup(sock.datagrams.fileno()))
    with host:
        # socket(7): the kernel doubles buffers, and has a least of them.
        assert host.getsockopt(*number) >= 42
    if name != "unicast-hop-limit":
        guest(f"udp-socket.set-{name}", sock, (1 << 64) - 1)


def test_sockets_count_as_descriptors_and_as_connections() -> None:
    guest = _Guest(_network({"default": _UDP}), limit=1)
    first = guest.socket("ipv6")
    guest.fails("new-socket-limit", "create-udp-socket", "ipv4")
    first.drop()
    guest.socket().drop()
    # All that was counted has been given back, and once.
    guest.host.count()
    with pytest.raises(Errno) as caught:
        guest.host.count()
    assert caught.value.number == MFILE
    net = Network(Config(outgoing={"default": _UDP}), None, [], limits=Limits(connections=1))
    guest = _Guest(net)
    guest.socket()
    guest.fails("new-socket-limit", "create-udp-socket", "ipv4")
    guest.close()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_an_ipv6_socket_hears_ipv6_alone(guest: _Guest) -> None:
    sock = guest.socket("ipv6")
    guest("udp-socket.start-bind", sock, None, ("ipv6", (0, 0, (0,) * 8, 0)))
    guest("udp-socket.finish-bind", sock)
    kind, (port, *_) = guest("udp-socket.local-address", sock)
    assert kind == "ipv6"
    incoming, out = guest("udp-socket.stream", sock, None)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other, _outside() as old:
        other.bind(("::1", 0))
        old.connect(("127.0.0.1", port))
        old.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            old.send(b"x")
        there = ("ipv6", (other.getsockname()[1], 0, (0, 0, 0, 0, 0, 0, 0, 1), 0))
        guest("outgoing-datagram-stream.check-send", out)
        assert guest("outgoing-datagram-stream.send", out, [(memoryview(b"x"), there)]) == 1
        other.settimeout(_SECONDS)
        _, source = other.recvfrom(10)
        other.sendto(b"y", source)
        assert guest("incoming-datagram-stream.receive", incoming, 5) == [(b"y", there)]

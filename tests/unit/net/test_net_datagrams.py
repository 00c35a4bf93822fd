"""Datagrams: to whom and from whom rules name, and nobody else."""

from __future__ import annotations

import errno
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Rejected
from garrison.formats.deployment_policy import DeploymentPolicy
from garrison.formats.enarx_toml import Config, Rule
from garrison.formats.endpoint import Endpoint
from garrison.formats.limits import Limits
from garrison.keep.net import datagrams
from garrison.keep.net.dial import addresses, wait_for
from garrison.keep.net.network import Network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from garrison.keep.net.datagrams import Datagrams

_UDP = Rule("udp")
_SECONDS = 30.0
_ROOM = memoryview(bytearray(1 << 16))


def _network(
    outgoing: dict[str, Rule] | None = None,
    incoming: dict[str, Rule] | None = None,
    *,
    tenant: str | None = None,
    limits: Limits | None = None,
) -> Network:
    policy = None if tenant is None else DeploymentPolicy.from_bytes(tenant.encode())
    config = Config(incoming=incoming or {}, outgoing=outgoing or {})
    return Network(config, None, [], tenant=policy, limits=limits)


@contextmanager
def _bound(network: Network, port: int = 0) -> Iterator[Datagrams]:
    made = network.datagrams(ipv6=False)
    try:
        made.bind("127.0.0.1", port)
        yield made
    finally:
        made.close()


@pytest.fixture
def other() -> Iterator[socket.socket]:
    """A host outside, on loopback."""
    with _outside() as made:
        yield made


@contextmanager
def _outside(address: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind((address, 0))
        made.settimeout(_SECONDS)
        yield made


def _at(sock: socket.socket, host: str = "127.0.0.1") -> Endpoint:
    return Endpoint(host, sock.getsockname()[1])


def _send(made: Datagrams, data: bytes, target: Endpoint | None) -> None:
    made.send(memoryview(data), target, wait_for)


def _heard(made: Datagrams) -> tuple[bytes, Endpoint]:
    """The next that it may hear."""
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        found = made.receive(_ROOM)
        if found is not None:
            return found
        wait_for([(made.fileno(), 1)], 1)
    raise AssertionError("nothing came")


def _free_port() -> int:
    with _outside() as made:
        return int(made.getsockname()[1])


def test_a_rule_by_name_sends_to_whom_it_resolves_to_and_hears_that_name(
    other: socket.socket,
) -> None:
    target = _at(other, "localhost")
    with _bound(_network({str(target): _UDP})) as made:
        _send(made, b"question", target)
        data, source = other.recvfrom(100)
        assert (data, source) == (b"question", made.address())
        other.sendto(b"answer", source)
        assert _heard(made) == (b"answer", target)


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param({}, id="none"),
        pytest.param({"localhost": _UDP}, id="by name, not by address"),
        pytest.param({"127.0.0.1:9": _UDP}, id="another port"),
        pytest.param({"default": Rule("tcp")}, id="tcp"),
        pytest.param({"default": Rule()}, id="tls"),
        pytest.param({"default": _UDP, "127.0.0.1": Rule("deny")}, id="deny"),
        pytest.param({"default": _UDP, "127.0.0.1": Rule()}, id="the host's own rule"),
    ],
)
def test_what_no_rule_names_is_sent_nothing(rules: dict[str, Rule], other: socket.socket) -> None:
    with _bound(_network(rules)) as made:
        with pytest.raises(Rejected):
            _send(made, b"x", _at(other))
        with pytest.raises(Rejected):
            made.connect(_at(other), wait_for)
        other.settimeout(0)
        with pytest.raises(BlockingIOError):
            other.recv(1)


def test_a_rule_for_datagrams_gives_no_connections_and_no_listener() -> None:
    network = _network({"default": _UDP}, {"5353": _UDP})
    with pytest.raises(Rejected, match="allows UDP alone"):
        network.connect("127.0.0.1:53")
    with pytest.raises(Rejected, match="allows UDP alone"):
        network.check_outgoing("127.0.0.1:53")
    with pytest.raises(Rejected, match="allows UDP alone"):
        network.listen("5353")
    assert network.listen_all() == []


def test_who_has_not_been_named_is_not_heard(other: socket.socket) -> None:
    with _outside() as third, _bound(_network({str(_at(other)): _UDP})) as made:
        for _ in range(200):
            third.sendto(b"forged", made.address())
        other.sendto(b"true", made.address())
        assert _heard(made) == (b"true", _at(other))
        assert made.receive(_ROOM) is None


def test_the_log_has_one_line_of_all_that_is_dropped(
    other: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    with _bound(_network()) as made:
        for _ in range(3):
            other.sendto(b"forged", made.address())
        # Loopback delivers before `sendto` returns.
        assert made.receive(_ROOM) is None
    assert caplog.text.count("dropped a datagram") == 1
    assert f"127.0.0.1 port {other.getsockname()[1]}" in caplog.text


def test_who_is_connected_hears_one_alone_though_rules_name_others(other: socket.socket) -> None:
    with _outside() as third, _bound(_network({"default": _UDP})) as made:
        third.sendto(b"before", made.address())
        made.connect(_at(other), wait_for)
        third.sendto(b"after", made.address())
        other.sendto(b"true", made.address())
        assert _heard(made) == (b"true", _at(other))
        assert made.receive(_ROOM) is None
        _send(made, b"to the other", None)
        assert other.recv(100) == b"to the other"
        local = made.address()
        made.connect(None, wait_for)
        assert made.address() == local
        third.sendto(b"now", local)
        assert _heard(made) == (b"now", _at(third))
        made.connect(_at(third), wait_for)
        _send(made, b"back", None)
        assert third.recv(100) == b"back"


def test_nobody_there_is_told_to_who_is_connected() -> None:
    nobody = Endpoint("127.0.0.1", _free_port())
    with _bound(_network({str(nobody): _UDP})) as made:
        made.connect(nobody, wait_for)
        _send(made, b"x", None)
        with pytest.raises(ConnectionRefusedError):
            _heard(made)


def test_a_port_with_a_rule_hears_all_and_answers_whom_it_heard(other: socket.socket) -> None:
    port = _free_port()
    with _outside() as third, _bound(_network({}, {str(port): _UDP}), port) as made:
        other.sendto(b"hello", made.address())
        assert _heard(made) == (b"hello", _at(other))
        _send(made, b"welcome", _at(other))
        assert other.recv(100) == b"welcome"
        with pytest.raises(Rejected, match="no rule allows UDP"):
            _send(made, b"x", _at(third))
        made.connect(_at(other), wait_for)
        with pytest.raises(Rejected):
            made.connect(_at(third), wait_for)


def test_whom_a_flood_has_pushed_out_is_not_answered(
    other: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagrams, "_MAX_HEARD", 2)
    port = _free_port()
    with _bound(_network({}, {str(port): _UDP}), port) as made:
        other.sendto(b"hello", made.address())
        _heard(made)
        _send(made, b"welcome", _at(other))
        for _ in range(2):
            with _outside() as third:
                third.sendto(b"flood", made.address())
                _heard(made)
        with pytest.raises(Rejected):
            _send(made, b"welcome", _at(other))


def test_a_flood_does_not_push_out_whom_a_rule_names(
    other: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagrams, "_MAX_HEARD", 1)
    port, named = _free_port(), _at(other, "localhost")
    with _bound(_network({str(named): _UDP}, {str(port): _UDP}), port) as made:
        _send(made, b"question", named)
        for _ in range(3):
            with _outside() as third:
                third.sendto(b"flood", made.address())
                assert _heard(made)[0] == b"flood"
        other.sendto(b"answer", made.address())
        assert _heard(made) == (b"answer", named)


@pytest.mark.parametrize(
    "rules", [{}, {"default": Rule()}, {"default": Rule("tcp")}, {"default": Rule("deny")}]
)
def test_a_port_without_a_rule_for_it_cannot_be_had(rules: dict[str, Rule]) -> None:
    network = _network({"default": _UDP}, rules)
    made = network.datagrams(ipv6=False)
    with pytest.raises(Rejected, match=r"UDP|denied"):
        made.bind("127.0.0.1", _free_port())
    # One for answers, without a number of its own, can.
    made.bind("127.0.0.1", 0)
    made.close()


def test_where_all_incoming_ports_are_of_datagrams_any_port_hears_all(other: socket.socket) -> None:
    with _bound(_network({}, {"default": _UDP})) as made:
        other.sendto(b"hello", made.address())
        assert _heard(made) == (b"hello", _at(other))


@pytest.mark.parametrize(
    ("tenant", "allowed"),
    [
        ('[network.outgoing.default]\nprot = "udp"', True),
        ('[network.outgoing."127.0.0.1"]\nprot = "udp"', True),
        ('[network.outgoing.default]\nprot = "tcp"', False),
        ("[network.outgoing.default]", False),
        ('[network.outgoing.default]\nprot = "deny"', False),
        ("", False),
    ],
    ids=["default", "host", "tcp", "tls", "deny", "no rule"],
)
def test_a_tenants_policy_allows_datagrams_by_a_rule_of_its_own(
    tenant: str, allowed: bool, other: socket.socket
) -> None:
    with _bound(_network({"default": _UDP}, tenant=tenant)) as made:
        if allowed:
            _send(made, b"x", _at(other))
            assert other.recv(10) == b"x"
            return
        with pytest.raises(Rejected, match="tenant"):
            _send(made, b"x", _at(other))
        other.sendto(b"x", made.address())
        assert made.receive(_ROOM) is None


def test_a_tenants_rule_for_datagrams_allows_nothing_that_the_workload_does_not() -> None:
    network = _network({"default": Rule()}, tenant='[network.outgoing.default]\nprot = "udp"')
    with pytest.raises(Rejected, match="UDP alone"):
        network.check_outgoing("127.0.0.1:53")
    with _bound(network) as made, pytest.raises(Rejected, match="no rule allows UDP"):
        _send(made, b"x", Endpoint("127.0.0.1", 53))


def test_whoever_is_open_to_all_is_told_of_and_who_only_asks_is_not() -> None:
    told: list[tuple[str, int, bool]] = []
    port = _free_port()
    config = Config(incoming={str(port): _UDP}, outgoing={"default": _UDP})
    network = Network(config, None, [], listening=lambda *what: told.append(what))
    with _bound(network):
        assert told == []
    with _bound(network, port):
        assert told == [("127.0.0.1", port, True)]


def test_a_port_that_nobody_could_reach_is_not_had(other: socket.socket) -> None:
    def refuse(_address: str, _port: int, _udp: bool) -> None:
        raise OSError(errno.EADDRINUSE, "the host cannot give it")

    port = _free_port()
    network = Network(Config(incoming={str(port): _UDP}), None, [], listening=refuse)
    made = network.datagrams(ipv6=False)
    with pytest.raises(OSError, match="cannot give"):
        made.bind("127.0.0.1", port)
    other.sendto(b"hello", ("127.0.0.1", port))
    assert made.receive(_ROOM) is None
    made.close()


def test_a_socket_is_one_of_the_connections_that_there_may_be() -> None:
    network = _network({"default": _UDP}, limits=Limits(connections=1))
    first = network.datagrams(ipv6=False)
    with pytest.raises(OSError, match="as many connections as it may"):
        network.datagrams(ipv6=True)
    first.close()
    first.close()
    network.datagrams(ipv6=True).close()


def test_a_name_is_resolved_again_after_a_while(
    other: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def counted(host: str, *args: Any) -> list[Any]:
        asked.append(host)
        return addresses(host, *args)

    monkeypatch.setattr("garrison.keep.net.datagrams.addresses", counted)
    target = _at(other, "localhost")
    with _bound(_network({str(target): _UDP})) as made:
        for _ in range(3):
            _send(made, b"x", target)
        assert asked == ["localhost"]
        later = time.monotonic() + 1e6
        monkeypatch.setattr("garrison.keep.net.datagrams.time.monotonic", lambda: later)
        _send(made, b"x", target)
        assert asked == ["localhost"] * 2


def test_a_name_without_an_address_of_the_sockets_kind_is_unreachable() -> None:
    made = _network({"default": _UDP}).datagrams(ipv6=False)
    made.bind("127.0.0.1", 0)
    with pytest.raises(OSError) as caught:  # noqa: PT011  (its number is looked at)
        _send(made, b"x", Endpoint("::1", 53))
    assert caught.value.errno == errno.EHOSTUNREACH
    made.close()


def test_too_large_a_datagram_is_told(other: socket.socket) -> None:
    with _bound(_network({"default": _UDP})) as made:
        with pytest.raises(OSError) as caught:  # noqa: PT011  (likewise)
            _send(made, bytes(65536), _at(other))
        assert caught.value.errno == errno.EMSGSIZE
        _send(made, bytes(65507), _at(other))
        assert len(other.recv(1 << 16)) == 65507
        other.sendto(bytes(65507), made.address())
        assert len(_heard(made)[0]) == 65507
        _send(made, b"", _at(other))
        assert other.recv(10) == b""
        other.sendto(b"", made.address())
        assert _heard(made) == (b"", _at(other))


_RULES = st.dictionaries(
    st.sampled_from(["default", "a.test", "a.test:53", "b.test:53", "10.0.0.1", "10.0.0.1:53"]),
    st.sampled_from([_UDP, Rule(), Rule("tcp"), Rule("deny")]),
)
_TARGETS = st.builds(
    Endpoint, st.sampled_from(["a.test", "b.test", "10.0.0.1"]), st.sampled_from([53, 54])
)


@given(_RULES, st.none() | _RULES, _TARGETS)
def test_datagrams_go_where_both_most_exact_rules_are_for_them(
    rules: dict[str, Rule], tenant: dict[str, Rule] | None, target: Endpoint
) -> None:
    def holds(rules: dict[str, Rule]) -> bool:
        keys = (str(target), target.host, "default")
        return next((rules[key] for key in keys if key in rules), Rule()) == _UDP

    policy = None if tenant is None else DeploymentPolicy(bytes(32), {}, tenant)
    checked = datagrams.DatagramRules(Config(outgoing=rules), policy, None)
    if holds(rules) and (tenant is None or holds(tenant)):
        checked.check_outgoing(target)
    else:
        with pytest.raises(Rejected):
            checked.check_outgoing(target)

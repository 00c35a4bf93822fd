"""ALPN: both sides agree on a protocol that a rule names, or there is no connection."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import closing

import pytest

from garrison.errors import Malformed, Rejected
from garrison.formats.deployment_policy import DeploymentPolicy
from garrison.formats.enarx_toml import Config, Rule
from garrison.formats.limits import Limits
from garrison.keep.net.network import Network
from garrison.testing.tls import Authority, workload
from garrison.testing.tls_pair import connected, connecting, identity, serve_until

AUTHORITY = Authority()
LEAF = AUTHORITY.issue(workload(), hosts=("localhost",))


def network(
    incoming: tuple[str, ...] = (), outgoing: tuple[str, ...] = (), tenant: str | None = None
) -> Network:
    return Network(
        Config(
            incoming={"default": Rule(alpn=incoming)},
            outgoing={"default": Rule(trust="steward", alpn=outgoing)},
        ),
        identity(LEAF),
        [AUTHORITY.root],
        tenant=None if tenant is None else DeploymentPolicy.from_bytes(tenant.encode()),
        limits=Limits(handshake_seconds=10),
    )


@pytest.mark.parametrize(
    ("server", "client", "agreed"),
    [
        (("h2", "http/1.1"), ("http/1.1", "h2"), "h2"),
        (("h2",), ("x" * 255, "h2"), "h2"),
        (("http/1.1", "h2"), ("h2",), "h2"),
        ((), (), None),
    ],
    ids=["the-server-chooses", "after-a-long-one", "one", "none"],
)
def test_both_sides_know_what_they_agreed_on(
    server: tuple[str, ...], client: tuple[str, ...], agreed: str | None
) -> None:
    with connected(network(incoming=server), network(outgoing=client)) as (accepted, dialled):
        assert accepted.peer.get("alpn") == dialled.peer.get("alpn") == agreed


@pytest.mark.parametrize(
    ("server", "client"),
    [(("h2",), ("http/1.1",)), (("h2",), ()), (("h2",), ("h", "h2c"))],
    ids=["another", "none", "alike"],
)
def test_a_client_that_does_not_agree_is_refused(
    server: tuple[str, ...], client: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with (
        closing(network(incoming=server).listen("127.0.0.1:0")) as listener,
        connecting(network(outgoing=client), f"localhost:{listener.port}") as outcome,
    ):
        # Without an offer a client's own side of the handshake is done before it is refused.
        assert not serve_until(listener, lambda: "no protocol is agreed on" in caplog.text)
        serve_until(listener, lambda: bool(outcome))
        assert client == () or isinstance(outcome[0], OSError)
    assert "wanted h2" in caplog.text


def test_a_server_that_does_not_agree_is_refused() -> None:
    with (
        closing(network().listen("127.0.0.1:0")) as listener,
        connecting(network(outgoing=("h2",)), f"localhost:{listener.port}") as outcome,
    ):
        serve_until(listener, lambda: bool(outcome))
        assert isinstance(outcome[0], Rejected)
        assert outcome[0].field == "network.outgoing.default.alpn"
        assert (outcome[0].found, outcome[0].expected) == ("none", "h2")


def test_a_foreign_client_gets_the_alert_made_for_it() -> None:
    context = ssl.create_default_context(cadata=AUTHORITY.root_pem)
    context.set_alpn_protocols(["http/1.1"])
    said: list[str] = []

    def dial(port: int) -> None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
                context.wrap_socket(sock, server_hostname="localhost").close()
        except OSError as error:
            said.append(str(error))

    with closing(network(incoming=("h2",)).listen("127.0.0.1:0")) as listener:
        thread = threading.Thread(target=dial, args=(listener.port,))
        thread.start()
        serve_until(listener, lambda: not thread.is_alive())
    assert "NO_APPLICATION_PROTOCOL" in said[0].upper().replace(" ", "_")


@pytest.mark.parametrize(
    ("ours", "theirs", "left"),
    [
        (("h2", "http/1.1"), '["http/1.1", "x"]', ("http/1.1",)),
        ((), '["h2"]', ("h2",)),
        (("h2",), None, ("h2",)),
    ],
    ids=["both", "tenant", "workload"],
)
def test_a_tenant_narrows_the_choice(
    ours: tuple[str, ...], theirs: str | None, left: tuple[str, ...]
) -> None:
    line = "" if theirs is None else f"alpn = {theirs}"
    policy = f"[network.incoming.default]\n{line}\n"
    server = network(incoming=ours, tenant=policy)
    with connected(server, network(outgoing=("x", "h2", "http/1.1"))) as (accepted, _):
        assert accepted.peer["alpn"] == left[0]


def test_a_tenant_who_names_others_denies() -> None:
    policy = '[network.incoming.default]\nalpn = ["x"]\n'
    with pytest.raises(Rejected, match="demands other protocols"):
        network(incoming=("h2",), tenant=policy).listen("127.0.0.1:0")


@pytest.mark.parametrize(
    "value",
    ["[]", '[""]', '["h2", "h2"]', '["\u00e4"]', f'["{"x" * 256}"]', '"h2"', "[1]", '["a\\u0000"]'],
    ids=["none", "empty", "twice", "not-ascii", "long", "text", "number", "zero"],
)
def test_what_alpn_cannot_be(value: str) -> None:
    text = f"[network.incoming.default]\nalpn = {value}\n"
    with pytest.raises(Malformed) as caught:
        Config.from_bytes(text.encode())
    assert "alpn" in str(caught.value.field)


def test_alpn_means_nothing_without_tls() -> None:
    with pytest.raises(Malformed, match='means nothing with prot = "tcp"'):
        Config.from_bytes(b'[network.incoming.default]\nprot = "tcp"\nalpn = ["h2"]\n')

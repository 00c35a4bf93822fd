"""The rules for peers hold for every way to open a connection, and the log has all of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from garrison.errors import Rejected
from garrison.formats.enarx_toml import Config, File, Rule
from garrison.formats.endpoint import Endpoint
from garrison.formats.limits import Limits
from garrison.formats.peer_rule import PeerRule
from garrison.keep.net.listener import Listener
from garrison.keep.net.network import Network
from garrison.testing.tls import Authority, workload
from garrison.testing.tls_pair import connecting, identity, serve_until, wait

if TYPE_CHECKING:
    from garrison.formats.identity import WorkloadIdentity

AUTHORITY = Authority()
SLUG = "drawbridge.test/jane/peer:1.2.3"
OLD = replace(workload(SLUG), tcb_status="OutOfDate")
RULES = [
    "any; tcb=UpToDate",
    "drawbridge.test/jane/*; tee=tdx",
    "drawbridge.test/jil/*",
    f"any; measurement={'33' * 48}",
]
PRESENTED = f"presented {OLD} (tee snp, TCB OutOfDate, measurement {'22' * 48}); wanted "


def network(config: Config, who: WorkloadIdentity) -> Network:
    leaf = AUTHORITY.issue(who, hosts=("localhost",))
    return Network(config, identity(leaf), [AUTHORITY.root], limits=Limits(connect_seconds=5))


def asks(text: str) -> Rule:
    return Rule(peers=(PeerRule.parse(text),))


def preopening(kind: str, port: int, text: str) -> Config:
    rule = asks(text)
    if kind == "connect":
        return Config(files=(File("connect", "PEER", Endpoint("localhost", port), rule),))
    return Config(files=(File("listen", "PEER", Endpoint("127.0.0.1", port), rule),))


@pytest.mark.parametrize("text", RULES)
@pytest.mark.parametrize("way", ["/net/con", "preopened"])
def test_a_server_that_no_rule_admits(
    way: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    listener = network(Config(), OLD).listen("127.0.0.1:0")
    if way == "preopened":
        ours = network(preopening("connect", listener.port, text), workload())
        name = "files.0"
    else:
        ours = network(Config(outgoing={"default": asks(text)}), workload())
        name = "network.outgoing.default"

    class Opening(Network):
        """The keep's network, opened in the way under test."""

        def __init__(self) -> None:
            """Everything is the other's."""

        def connect(self, target: str) -> object:  # type: ignore[override]  # either kind
            return ours.preopened()[0][1] if way == "preopened" else ours.connect(target)

    with (
        caplog.at_level(logging.WARNING, "garrison.keep"),
        connecting(Opening(), f"localhost:{listener.port}") as outcome,
    ):
        assert not serve_until(listener, lambda: bool(outcome))
    listener.close()
    assert isinstance(outcome[0], Rejected)
    (line,) = [entry.getMessage() for entry in caplog.records if "refused" in entry.getMessage()]
    assert f"rule {name};" in line
    assert PRESENTED + text in line


@pytest.mark.parametrize("text", RULES)
@pytest.mark.parametrize("way", ["/net/lis", "preopened"])
def test_a_client_that_no_rule_admits_learns_no_reason(
    way: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    if way == "preopened":
        ((_, listener),) = network(preopening("listen", 0, text), workload()).preopened()
        name = "files.0"
    else:
        config = Config(incoming={"default": asks(text)})
        listener, name = (
            network(config, workload()).listen("127.0.0.1:0"),
            ("network.incoming.default"),
        )
    assert isinstance(listener, Listener)
    theirs = network(Config(outgoing={"default": asks("any")}), OLD)
    with (
        caplog.at_level(logging.WARNING, "garrison.keep"),
        connecting(theirs, f"localhost:{listener.port}") as outcome,
    ):
        assert not serve_until(listener, lambda: bool(outcome) and "refused" in caplog.text)
        stream = outcome[0]
        assert not isinstance(stream, BaseException), stream
        with pytest.raises(ConnectionError) as caught:
            wait(stream, stream.read_into, memoryview(bytearray(10)))
    listener.close()
    assert text not in str(caught.value)
    (line,) = [entry.getMessage() for entry in caplog.records if "refused" in entry.getMessage()]
    assert f"rule {name};" in line
    assert PRESENTED + text in line

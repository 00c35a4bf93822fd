"""Connections that stand end when their peer is denied, or when the keep's own time is over."""

from __future__ import annotations

import errno
import logging
import select
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from garrison.errors import Rejected, Unavailable
from garrison.formats.enarx_toml import Config, Rule
from garrison.formats.peer_rule import PeerRule
from garrison.keep.net.network import Network
from garrison.testing.tls import Authority, workload
from garrison.testing.tls_pair import (
    connected,
    connecting,
    identity,
    read_exactly,
    serve_until,
    write_all,
)

if TYPE_CHECKING:
    from garrison.formats.enarx_toml import AtExpiry
    from garrison.formats.identity import CertifiedIdentity
    from garrison.keep.net.stream import Stream

AUTHORITY = Authority()
BAD = "drawbridge.test/jane/chat:0.1.0"
GOOD = "drawbridge.test/jane/chat:0.2.0"
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


class Denied:
    """Denies one slug, or one serial number."""

    def __init__(self, slug: str = "", serial: int = 0) -> None:
        self.slug, self.serial = slug, serial

    def check(self, certified: CertifiedIdentity, serial: int) -> None:
        if str(certified.workload.slug) == self.slug or serial == self.serial:
            raise Rejected("denied", field="slug", found=certified.workload)


def network(slug: str, at_expiry: AtExpiry = "end") -> Network:
    rule = Rule(peers=(PeerRule.parse("any"),))
    config = Config(at_expiry=at_expiry, incoming={"default": rule}, outgoing={"default": rule})
    return Network(config, identity(AUTHORITY.issue(workload(slug))), [AUTHORITY.root])


def stands(ours: Stream, theirs: Stream) -> bool:
    write_all(theirs, b"ping")
    return read_exactly(ours, 4) == b"ping"


def ended(stream: Stream) -> bool:
    # A guest that waits is woken, and reads the error.
    assert select.select([stream], [], [], 5)[0]
    with pytest.raises(OSError, match=r"revoked|expired") as caught:
        stream.read_into(memoryview(bytearray(4)))
    with pytest.raises(OSError, match=r"revoked|expired"):
        stream.write(memoryview(b"x"))
    return caught.value.errno == errno.ECONNABORTED


def test_a_peer_that_is_denied_is_cut_off_and_others_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = network(GOOD)
    with (
        connected(server, network(BAD)) as (bad, theirs),
        connected(server, network(GOOD)) as (good, other),
    ):
        assert stands(bad, theirs)
        # What came before the word did is not read either.
        write_all(theirs, b"late")
        with caplog.at_level(logging.WARNING, "garrison.keep"):
            server.deny(Denied(BAD))
        assert ended(bad)
        assert stands(good, other)
    assert "ended a connection: slug" in caplog.text
    assert BAD in caplog.text


def test_a_serial_is_denied() -> None:
    server, client = network(GOOD), network(GOOD)
    with connected(server, client) as (accepted, _):
        server.deny(Denied(serial=int(accepted.peer["serial"], 16)))
        assert ended(accepted)


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_denied_peer_is_refused_in_the_handshake(
    side: str, caplog: pytest.LogCaptureFixture
) -> None:
    server, client = network(GOOD), network(BAD)
    if side == "server":
        server.deny(Denied(BAD))
    else:
        server, client = client, server
        client.deny(Denied(BAD))
    listener = server.listen("127.0.0.1:0")
    with (
        caplog.at_level(logging.WARNING, "garrison.keep"),
        connecting(client, f"localhost:{listener.port}") as outcome,
    ):
        assert not serve_until(listener, lambda: "refused a peer" in caplog.text)
    listener.close()
    assert BAD in caplog.text
    if side == "client":
        assert isinstance(outcome[0], Rejected)


@pytest.mark.parametrize("at_expiry", ["end", "stay"])
def test_what_becomes_of_connections_when_the_certificate_expires(
    at_expiry: AtExpiry, caplog: pytest.LogCaptureFixture
) -> None:
    server, client = network(GOOD, at_expiry), network(GOOD)
    listener = server.listen("127.0.0.1:0")
    with connected(server, client) as (accepted, dialled):
        server.expire(WHEN)
        if at_expiry == "end":
            assert ended(accepted)
        else:
            assert stands(accepted, dialled)
    # No new ones, in either direction.
    with pytest.raises(Unavailable, match="expired"):
        server.connect("localhost:1")
    with (
        caplog.at_level(logging.WARNING, "garrison.keep"),
        connecting(client, f"localhost:{listener.port}") as outcome,
    ):
        assert not serve_until(listener, lambda: bool(outcome))
    assert isinstance(outcome[0], OSError)
    assert "certificate has expired" in caplog.text
    # A renewal brings them back.
    server.replace_identity(identity(AUTHORITY.issue(workload(GOOD))))
    with connecting(client, f"localhost:{listener.port}") as outcome:
        assert serve_until(listener, lambda: bool(outcome) and listener.ready())
        listener.accept().close()
    listener.close()


def test_a_connection_that_was_closed_is_forgotten() -> None:
    server, client = network(GOOD), network(BAD)
    with connected(server, client) as (accepted, _):
        accepted.close()
        server.deny(Denied(BAD))
        server.expire(WHEN)
        with pytest.raises(OSError, match="Bad file descriptor"):
            accepted.read_into(memoryview(bytearray(4)))


def test_roots_are_replaced_while_connections_stand() -> None:
    second = Authority("Next Steward")
    server, client = network(GOOD), network(GOOD)
    newer = Network(
        Config(outgoing={"default": Rule(peers=(PeerRule.parse("any"),))}),
        identity(second.issue(workload(GOOD))),
        [AUTHORITY.root],
    )
    with connected(server, client) as (accepted, dialled):
        listener = server.listen("127.0.0.1:0")
        with connecting(newer, f"localhost:{listener.port}") as outcome:
            # TLS 1.3: the client's handshake is done before the server's refusal arrives.
            assert not serve_until(listener, lambda: bool(outcome))
            assert not serve_until(listener, lambda: not listener.timeout())
        server.replace_roots([AUTHORITY.root, second.root])
        with connecting(newer, f"localhost:{listener.port}") as outcome:
            assert serve_until(listener, lambda: bool(outcome) and listener.ready())
            listener.accept().close()
        listener.close()
        assert stands(accepted, dialled)

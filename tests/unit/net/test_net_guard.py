"""Connections that stand end when their peer is denied, or when the keep's own time is over."""

from __future__ import annotations

import errno
import logging
import select
import socket
import ssl
import threading
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from garrison.errors import Rejected, Unavailable
from garrison.formats.deployment_policy import DeploymentPolicy
from garrison.formats.enarx_toml import Config, Rule
from garrison.formats.limits import Limits
from garrison.formats.peer_rule import PeerRule
from garrison.keep.net import guard
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
    from garrison.keep.net.tls import Identity

AUTHORITY = Authority()
BAD = "drawbridge.test/jane/chat:0.1.0"
GOOD = "drawbridge.test/jane/chat:0.2.0"
HOUR = timedelta(hours=1)


class Denied:
    """Denies one slug, or one serial number."""

    def __init__(self, slug: str = "", serial: int = 0) -> None:
        self.slug, self.serial = slug, serial

    def check(self, certified: CertifiedIdentity, serial: int) -> None:
        if str(certified.workload.slug) == self.slug or serial == self.serial:
            raise Rejected("denied", field="slug", found=certified.workload)


def network(
    slug: str, at_expiry: AtExpiry = "end", silence: float | None = None, policy: str | None = None
) -> Network:
    rule = Rule(peers=(PeerRule.parse("any"),))
    config = Config(at_expiry=at_expiry, incoming={"default": rule}, outgoing={"default": rule})
    return Network(
        config,
        identity(AUTHORITY.issue(workload(slug))),
        [AUTHORITY.root],
        tenant=None if policy is None else DeploymentPolicy.from_bytes(policy.encode()),
        limits=Limits(**({} if silence is None else {"silence_seconds": silence})),
    )


def expired() -> Identity:
    return identity(AUTHORITY.issue(workload(GOOD), valid=(-2 * HOUR, -HOUR)))


def stands(ours: Stream, theirs: Stream) -> bool:
    write_all(theirs, b"ping")
    return read_exactly(ours, 4) == b"ping"


def ended(stream: Stream) -> bool:
    # A guest that waits is woken, and reads the error.
    assert select.select([stream], [], [], 5)[0]
    with pytest.raises(OSError, match=r"revoked|expired|too long") as caught:
        stream.read_into(memoryview(bytearray(4)))
    with pytest.raises(OSError, match=r"revoked|expired|too long"):
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
    with server.guarded(), connected(server, client) as (accepted, dialled):
        server.replace_identity(expired())
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


def test_a_tenant_ends_what_the_workload_would_let_stay() -> None:
    everybody = '[network.incoming.default]\npeers = ["any"]\n'
    for policy, stays in ((f'at_expiry = "end"\n{everybody}', False), (everybody, True)):
        server, client = network(GOOD, "stay", policy=policy), network(GOOD)
        with server.guarded(), connected(server, client) as (accepted, dialled):
            server.replace_identity(expired())
            assert stands(accepted, dialled) if stays else ended(accepted)


def test_who_keeps_the_steward_s_word_from_a_keep_stops_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Attack: the host lets nothing of the steward through, lest a denial be heard."""
    server, client = network(GOOD, silence=0.5), network(GOOD)
    server.heard()
    listener = server.listen("127.0.0.1:0")
    with server.guarded(), connected(server, client) as (accepted, dialled):
        assert stands(accepted, dialled)
        with caplog.at_level(logging.WARNING, "garrison.keep"):
            assert ended(accepted)
            with connecting(client, f"localhost:{listener.port}") as outcome:
                assert not serve_until(listener, lambda: bool(outcome))
            assert isinstance(outcome[0], OSError)
        with pytest.raises(Unavailable, match="has not said for too long"):
            server.connect("localhost:1")
    assert "limits.silence_seconds" in caplog.text
    assert "no TLS connection can be opened, and 1 ended" in caplog.text
    # Its next word brings them back.
    server.heard()
    with connecting(client, f"localhost:{listener.port}") as outcome:
        assert serve_until(listener, lambda: bool(outcome) and listener.ready())
        listener.accept().close()
    listener.close()


@pytest.mark.parametrize("at_expiry", ["end", "stay"])
def test_a_handshake_that_ends_after_the_keep_s_time_gives_no_connection(
    at_expiry: AtExpiry,
) -> None:
    """Attack: a peer begins in time, and ends its handshake once what stood was ended."""
    server = Network(
        Config(at_expiry=at_expiry), identity(AUTHORITY.issue(workload(GOOD))), [AUTHORITY.root]
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        closing(server.listen("127.0.0.1:0")) as listener,
        socket.create_connection(("127.0.0.1", listener.port), timeout=30) as raw,
    ):
        # It is accepted, and nothing was said yet.
        assert not serve_until(listener, lambda: listener.timeout() is not None)
        server.replace_identity(expired())
        client = threading.Thread(target=lambda: context.wrap_socket(raw).close())
        client.start()
        assert serve_until(listener, listener.ready)
        with closing(listener.accept()) as late:
            assert ended(late)
        client.join()


def test_a_clock_that_is_turned_back_gives_no_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = AUTHORITY.issue(workload(), valid=(-HOUR, HOUR)).chain[0]
    now = [1000.0]
    monkeypatch.setattr(guard, "elapsed", lambda: now[0])
    term = guard.certificate_term(leaf)
    assert 3590 < term.left() <= 3600
    # By the date there is an hour left, but the certificate was had for longer than it lives.
    now[0] += 7201
    assert term.left() < 0


def test_a_keep_that_was_frozen_past_its_time_opens_nothing_when_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever of its threads runs first: no watch is needed for a handshake to be refused."""
    ours = network(GOOD)
    now = guard.elapsed()
    monkeypatch.setattr(guard, "elapsed", lambda: now + 3 * 86400)
    with pytest.raises(Unavailable, match="expired"):
        ours.connect("localhost:1")

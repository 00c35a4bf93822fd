"""Mutual TLS between two keeps over loopback: who is let in, who is not, and what the log says."""

from __future__ import annotations

import logging
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from garrison.errors import GarrisonError, Malformed, Misuse, Rejected, Unverified
from garrison.formats.enarx_toml import Config, Rule
from garrison.formats.limits import Limits
from garrison.formats.peer_rule import PeerRule
from garrison.keep.net.guard import Term
from garrison.keep.net.network import Network
from garrison.testing.tls import Authority, Leaf, keep, workload
from garrison.testing.tls_pair import (
    connected,
    connecting,
    identity,
    read_exactly,
    serve_until,
    wait,
    write_all,
)

if TYPE_CHECKING:
    from cryptography import x509

    from garrison.formats.identity import WorkloadIdentity
    from garrison.keep.net.stream import Stream

AUTHORITY = Authority()
FOREIGN = Authority("Foreign Steward")
SERVER = "drawbridge.test/jane/server:1.2.3"
CLIENT = "drawbridge.test/jane/client:1.0.0"
HOUR = timedelta(hours=1)


def network(
    leaf: Leaf | None,
    *,
    incoming: Rule | None = None,
    outgoing: Rule | None = None,
    roots: tuple[x509.Certificate, ...] = (AUTHORITY.root,),
) -> Network:
    config = Config(
        incoming={} if incoming is None else {"default": incoming},
        outgoing={} if outgoing is None else {"default": outgoing},
    )
    who = None if leaf is None else identity(leaf)
    found = Network(config, who, list(roots), limits=Limits(connect_seconds=5, handshake_seconds=5))
    # A liar shows what it has, expired or not; it is for the other side to notice.
    found._guard.hold(Term("certificate", "", "", lambda: math.inf))
    return found


def peers(*texts: str, trust: str | None = None) -> Rule:
    return Rule(peers=tuple(PeerRule.parse(text) for text in texts), trust=trust)


def server(leaf: Leaf | None = None, rule: Rule | None = None, **options: Any) -> Network:
    return network(leaf or AUTHORITY.issue(workload(SERVER)), incoming=rule, **options)


def client(
    leaf: Leaf | None = None, rule: Rule | None = None, *, anonymous: bool = False, **options: Any
) -> Network:
    known = None if anonymous else leaf or AUTHORITY.issue(workload(CLIENT))
    return network(known, outgoing=rule or peers(SERVER), **options)


def described(slug: str) -> dict[str, Any]:
    return {
        "kind": "keep",
        "workload": slug,
        "digest": "ERERERERERERERERERERERERERERERERERERERERERE",
        "tee": "snp",
        "measurement": "22" * 48,
    }


def exchange(a: Stream, b: Stream) -> None:
    write_all(a, b"from a")
    write_all(b, b"from b")
    assert read_exactly(b, 6) == b"from a"
    assert read_exactly(a, 6) == b"from b"


def test_two_keeps_know_each_other() -> None:
    ours, theirs = server(rule=peers("drawbridge.test/jane/client:^1.0")), client()
    with connected(ours, theirs) as (accepted, dialled):
        assert described(CLIENT).items() <= accepted.peer.items()
        assert described(SERVER).items() <= dialled.peer.items()
        exchange(accepted, dialled)
    event = ours.next_event("lis")
    assert event is not None
    assert described(CLIENT).items() <= event["peer"].items()
    assert event["addr"].startswith("127.0.0.1:")
    event = theirs.next_event("con")
    assert event is not None
    assert event["host"] == "localhost"
    assert described(SERVER).items() <= event["peer"].items()
    assert ours.next_event("lis") is theirs.next_event("con") is ours.next_event("con") is None


def test_a_local_workload_is_known_by_its_digest() -> None:
    rule = peers("sha256:ERERERERERERERERERERERERERERERERERERERERERE")
    with connected(server(rule=rule), client(AUTHORITY.issue(workload(None)))) as (accepted, _):
        assert accepted.peer["kind"] == "local"
        assert accepted.peer["digest"] == rule.peers[0].text.removeprefix("sha256:")  # type: ignore[index]  # set above


def test_an_anonymous_client_is_reported_as_such() -> None:
    with connected(server(), client(anonymous=True)) as (accepted, dialled):
        assert accepted.peer == {"kind": "anonymous"}
        exchange(accepted, dialled)


def test_a_host_is_checked_by_name_where_no_peers_are_named() -> None:
    pem = Rule(trust=AUTHORITY.root_pem)
    for leaf in (
        AUTHORITY.issue(hosts=("localhost",)),
        AUTHORITY.issue(hosts=("*.localhost", "localhost")),
    ):
        with connected(server(leaf), client(rule=pem)) as (_, dialled):
            assert dialled.peer == {"kind": "anonymous"}
    with connected(
        server(AUTHORITY.issue(hosts=("127.0.0.1",))), client(rule=pem), host="127.0.0.1"
    ) as (_, dialled):
        assert dialled.peer == {"kind": "anonymous"}


def test_the_steward_can_vouch_for_a_host_and_its_identity() -> None:
    leaf = AUTHORITY.issue(workload(SERVER), hosts=("localhost",))
    with connected(server(leaf), client(rule=Rule(trust="steward"))) as (_, dialled):
        assert described(SERVER).items() <= dialled.peer.items()


def test_peers_can_be_of_another_steward() -> None:
    rule = peers(SERVER, trust=FOREIGN.root_pem)
    with connected(server(FOREIGN.issue(workload(SERVER))), client(rule=rule)) as (_, dialled):
        assert described(SERVER).items() <= dialled.peer.items()


def test_tls_is_1_3_with_a_post_quantum_group() -> None:
    with connected(server(), client()) as (accepted, _):
        connection = accepted._connection  # type: ignore[attr-defined]  # to look inside
        assert connection.get_protocol_version_name() == "TLSv1.3"
        assert connection.get_group_name() == "X25519MLKEM768"
        assert connection.get_cipher_name() == "TLS_AES_256_GCM_SHA384"


def issue(
    identity_of: WorkloadIdentity | None, authority: Authority = AUTHORITY, **options: Any
) -> Leaf:
    return authority.issue(identity_of, hosts=("localhost",), **options)


EXPIRED = (-2 * HOUR, -HOUR)
FUTURE = (HOUR, 2 * HOUR)
OTHER_ID = workload("drawbridge.test/evil/server:1.2.3").spiffe_id("steward.test")
# A server's certificate, and how the client must refuse it.
LIES: list[tuple[str, Leaf, type[GarrisonError], str]] = [
    ("foreign root", issue(workload(SERVER), FOREIGN), Unverified, "issuer certificate"),
    ("expired", issue(workload(SERVER), valid=EXPIRED), Unverified, "expired"),
    ("not yet valid", issue(workload(SERVER), valid=FUTURE), Unverified, "not yet valid"),
    ("keep only", issue(keep()), Rejected, "not admitted"),
    ("no identity", issue(None), Rejected, "not admitted"),
    ("version", issue(workload(SERVER.replace("1.2.3", "1.2.4"))), Rejected, "not admitted"),
    ("look-alike", issue(workload(SERVER.replace("jane", "janes"))), Rejected, "not admitted"),
    ("capital", issue(workload(SERVER.replace("jane", "Jane"))), Rejected, "not admitted"),
    ("local", issue(workload(None)), Rejected, "not admitted"),
    ("contradiction", issue(workload(SERVER), spiffe_id=OTHER_ID), Malformed, "does not agree"),
    ("garbage", issue(workload(SERVER), extension=b"\x30\x80"), Malformed, "not DER"),
]
CLIENT_USE = (ExtendedKeyUsageOID.CLIENT_AUTH,)
SERVER_USE = (ExtendedKeyUsageOID.SERVER_AUTH,)


@pytest.mark.parametrize(
    ("leaf", "family", "words"), [lie[1:] for lie in LIES], ids=[lie[0] for lie in LIES]
)
def test_a_lying_server_is_refused(
    leaf: Leaf, family: type[GarrisonError], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours = server(leaf)
    listener = ours.listen("127.0.0.1:0")
    with caplog.at_level(logging.WARNING, "garrison.keep"):
        with connecting(client(rule=peers(SERVER)), f"localhost:{listener.port}") as outcome:
            assert not serve_until(listener, lambda: bool(outcome))
        listener.close()
    assert isinstance(outcome[0], family)
    assert words in outcome[0].message
    (line,) = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert f"wanted {SERVER}" in line or family is Malformed
    assert "\n" not in line


def test_a_server_must_be_certified_to_serve() -> None:
    with pytest.raises(Unverified, match="purpose"):
        refuse_server(issue(workload(SERVER), usages=CLIENT_USE))


def refuse_server(leaf: Leaf, rule: Rule | None = None) -> None:
    with connected(server(leaf), client(rule=rule)):
        pass


@pytest.mark.parametrize("trust", ["steward", AUTHORITY.root_pem])
def test_another_hosts_certificate_is_refused(trust: str) -> None:
    for hosts in (("localhost.evil.test",), ("127.0.0.1",), (), ("local*",)):
        with pytest.raises(Unverified, match="hostname mismatch"):
            refuse_server(AUTHORITY.issue(workload(SERVER), hosts=hosts), Rule(trust=trust))


def test_another_address_is_refused() -> None:
    rule = Rule(trust=AUTHORITY.root_pem)
    with (
        pytest.raises(Unverified, match="IP address mismatch"),
        connected(
            server(AUTHORITY.issue(hosts=("127.0.0.2",))), client(rule=rule), host="127.0.0.1"
        ),
    ):
        pass


def test_the_web_does_not_vouch_for_a_test_authority() -> None:
    with pytest.raises(Unverified, match="issuer certificate"):
        refuse_server(AUTHORITY.issue(hosts=("localhost",)), Rule())


CLIENT_LIES: list[tuple[str, Leaf | None, str]] = [
    ("anonymous", None, "no certificate (anonymous)"),
    *((name, leaf, "") for name, leaf, *_ in LIES),
    ("server use only", AUTHORITY.issue(workload(SERVER), usages=SERVER_USE), ""),
]


@pytest.mark.parametrize(
    ("leaf", "found"), [lie[1:] for lie in CLIENT_LIES], ids=[lie[0] for lie in CLIENT_LIES]
)
def test_a_lying_client_is_refused(
    leaf: Leaf | None, found: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns of it when it reads: in TLS 1.3 its own handshake ends first."""
    listener = server(rule=peers(SERVER)).listen("127.0.0.1:0")
    theirs = client(leaf, peers("any"), anonymous=leaf is None)
    with (
        caplog.at_level(logging.WARNING, "garrison.keep"),
        connecting(theirs, f"localhost:{listener.port}") as outcome,
    ):
        assert not serve_until(listener, lambda: bool(outcome) and "refused" in caplog.text)
        stream = outcome[0]
        assert not isinstance(stream, BaseException), stream
        with pytest.raises(ConnectionError):
            wait(stream, stream.read_into, memoryview(bytearray(10)))
        with pytest.raises(BlockingIOError):
            listener.accept()
    listener.close()
    (line,) = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert line.startswith("refused a peer: rule ")
    assert f"presented {found}" in line


def test_an_invalid_certificate_is_never_taken_for_none(caplog: pytest.LogCaptureFixture) -> None:
    """Where anonymous clients are welcome, one with a wrong certificate is still refused."""
    for leaf in (
        FOREIGN.issue(workload(CLIENT)),
        AUTHORITY.issue(workload(CLIENT), valid=EXPIRED),
        AUTHORITY.issue(keep()),
    ):
        caplog.clear()
        listener = server().listen("127.0.0.1:0")
        with connecting(client(leaf), f"localhost:{listener.port}") as outcome:
            assert not serve_until(listener, lambda: bool(caplog.records) and bool(outcome))
        listener.close()
        assert "refused a peer" in caplog.text


def test_without_roots_no_certificate_can_be_verified(caplog: pytest.LogCaptureFixture) -> None:
    listener = server(roots=()).listen("127.0.0.1:0")
    with connecting(client(), f"localhost:{listener.port}") as outcome:
        assert not serve_until(listener, lambda: bool(caplog.records) and bool(outcome))
    listener.close()
    with connected(server(roots=()), client(anonymous=True)) as (accepted, _):
        assert accepted.peer == {"kind": "anonymous"}


def test_what_cannot_work_is_said_at_once() -> None:
    with pytest.raises(Misuse, match="listening with TLS needs a certificate"):
        network(None).listen("127.0.0.1:0")
    with pytest.raises(Misuse, match="no steward's root"):
        server(rule=peers("any"), roots=()).listen("127.0.0.1:0")
    with pytest.raises(Misuse, match="no steward's root"):
        client(roots=()).connect("localhost:1")


def test_an_error_in_the_callback_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong while a certificate is judged, the peer is not let in."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("garrison.keep.net.policy.Policy.admit", broken)
        with pytest.raises(Unverified, match="cannot be read"):
            refuse_server(AUTHORITY.issue(workload(SERVER)))


def test_an_interrupt_in_the_callback_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("garrison.keep.net.policy.Policy.admit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            refuse_server(AUTHORITY.issue(workload(SERVER)))


def test_renewal_leaves_open_connections_alone() -> None:
    ours = server()
    listener = ours.listen("127.0.0.1:0")
    streams = []
    for number, digest in enumerate((b"\x11" * 32, b"\x33" * 32)):
        if number:
            ours.replace_identity(identity(AUTHORITY.issue(workload(SERVER, digest=digest))))
        with connecting(client(), f"localhost:{listener.port}") as outcome:
            serve_until(listener, lambda: bool(outcome) and listener.ready())
            streams.append((listener.accept(), outcome.pop()))
    digests = [
        stream.peer["digest"] for _, stream in streams if not isinstance(stream, BaseException)
    ]
    assert len(set(digests)) == 2
    for accepted, dialled in streams:
        assert not isinstance(dialled, BaseException)
        exchange(accepted, dialled)
        accepted.close()
        dialled.close()
    listener.close()

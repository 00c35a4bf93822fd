"""Which rule holds, and whom it admits, without any socket."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from garrison.errors import Malformed, Rejected
from garrison.formats.enarx_toml import Config, File, Rule
from garrison.formats.endpoint import Endpoint
from garrison.formats.peer_rule import PeerRule
from garrison.keep.net import policy
from garrison.keep.net.network import Network
from garrison.keep.net.policy import Policy
from garrison.testing.tls import Authority, keep, workload

if TYPE_CHECKING:
    from cryptography import x509

AUTHORITY = Authority()
CHAT = "drawbridge.test/jane/chat:1.2.3"
PEER = {
    "kind": "keep",
    "workload": CHAT,
    "digest": "ERERERERERERERERERERERERERERERERERERERERERE",
    "tee": "snp",
    "measurement": "22" * 48,
    "tcb_status": "UpToDate",
    "spiffe_id": "spiffe://steward.test/drawbridge.test/jane/chat/1.2.3",
}


def rules(**outgoing: str) -> Config:
    return Config(outgoing={key: Rule(trust=name) for key, name in outgoing.items()})


@pytest.mark.parametrize("target", ["0.0.0.0:22", "[::]:22", "[::ffff:0.0.0.0]:22"])
def test_no_address_is_another_way_to_say_this_machine(target: str) -> None:
    """Linux connects to the loopback address then, which a rule may name."""
    config = Config(
        outgoing={"127.0.0.1": Rule("deny"), "[::1]": Rule("deny"), "default": Rule("tcp")},
        files=(File("connect", "there", Endpoint.parse(target), Rule("tcp")),),
    )
    with pytest.raises(Malformed, match="stands for no host"):
        policy.outgoing(config, Endpoint.parse(target))
    ours = Network(config, None, [])
    with pytest.raises(Malformed, match="stands for no host"):
        ours.connect(target)
    with pytest.raises(Malformed, match="stands for no host"):
        ours.preopened()


def test_an_address_in_other_clothes_has_its_own_rule() -> None:
    config = Config(outgoing={"127.0.0.1": Rule("deny"), "default": Rule("tcp")})
    with pytest.raises(Rejected, match="denied"):
        Network(config, None, []).connect("[::ffff:127.0.0.1]:22")


@pytest.mark.parametrize(
    ("target", "rule", "port"),
    [
        ("a.test:80", "host and port", 80),
        ("a.test:81", "host", 81),
        ("a.test", "host", 443),
        ("b.test:443", "other host and port", 443),
        ("b.test", "other host and port", 443),
        ("c.test:1", "default", 1),
        ("sub.a.test", "default", 443),
    ],
)
def test_the_most_exact_outgoing_rule_holds(target: str, rule: str, port: int) -> None:
    config = rules(
        **{
            "a.test:80": "host and port",
            "a.test": "host",
            "b.test:443": "other host and port",
            "default": "default",
        }
    )
    found, endpoint = policy.outgoing(config, Endpoint.parse(target))
    assert found.rule.trust == rule
    assert endpoint.port == port


def test_the_rules_name_is_for_people() -> None:
    config = rules(**{"a.test:80": "x", "a.test": "y", "default": "z"})
    names = [
        policy.outgoing(config, Endpoint.parse(target))[0].name
        for target in ("a.test:80", "a.test:1", "b.test:2")
    ]
    names.append(policy.outgoing(Config(), Endpoint.parse("x.test"))[0].name)
    names.append(policy.incoming(Config(incoming={"80": Rule()}), 80).name)
    assert names == [
        'network.outgoing."a.test:80"',
        'network.outgoing."a.test"',
        "network.outgoing.default",
        "network.outgoing (no rule)",
        "network.incoming.80",
    ]


def test_a_default_port_follows_the_rule() -> None:
    config = Config(outgoing={"a.test": Rule("tcp"), "default": Rule("tls")})
    assert policy.outgoing(config, Endpoint.parse("a.test"))[1].port == 80
    assert policy.outgoing(config, Endpoint.parse("b.test"))[1].port == 443


def test_leaving_the_port_out_does_not_evade_a_denial() -> None:
    config = Config(outgoing={"a.test:443": Rule("deny")})
    found, endpoint = policy.outgoing(config, Endpoint.parse("a.test"))
    with pytest.raises(Rejected) as caught:
        found.check_allowed(str(endpoint))
    assert caught.value.field == 'network.outgoing."a.test:443"'
    assert caught.value.found == "a.test:443"


@pytest.mark.parametrize(("port", "prot"), [(80, "tcp"), (81, "deny"), (0, "deny")])
def test_the_most_exact_incoming_rule_holds(port: int, prot: str) -> None:
    config = Config(incoming={"80": Rule("tcp"), "default": Rule("deny")})
    assert policy.incoming(config, port).rule.prot == prot


def test_without_rules_all_is_tls() -> None:
    assert policy.incoming(Config(), 80).rule == Rule("tls")
    assert policy.outgoing(Config(), Endpoint("a.test"))[0].rule == Rule("tls")


def of(*peers: str, trust: str | None = None, incoming: bool = False) -> Policy:
    rule = Rule(peers=tuple(map(PeerRule.parse, peers)) if peers else None, trust=trust)
    return Policy("rule", rule, incoming)


PEM = AUTHORITY.root_pem


@pytest.mark.parametrize(
    ("checked", "trust", "host", "needed", "believed"),
    [
        (of(), "web", True, True, False),
        (of(trust="web"), "web", True, True, False),
        (of(trust="steward"), "steward", True, True, True),
        (of(trust=PEM), PEM, True, True, False),
        (of("any"), "steward", False, True, True),
        (of("any", trust=PEM), PEM, False, True, True),
        (of(incoming=True), "steward", False, False, True),
        (of(trust=PEM, incoming=True), PEM, False, False, False),
        (of("any", incoming=True), "steward", False, True, True),
        (of("any", trust=PEM, incoming=True), PEM, False, True, True),
    ],
)
def test_what_is_asked_of_a_peer(
    checked: Policy, trust: str, host: bool, needed: bool, believed: bool
) -> None:
    assert checked.trust == trust
    assert checked.checks_host == host
    assert checked.needs_certificate == needed
    assert checked.believes_identity == believed


def of_certificate(certificate: x509.Certificate) -> dict[str, str]:
    expires = certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"serial": f"{certificate.serial_number:x}", "expires": expires}


def test_an_identity_is_read() -> None:
    certificate = AUTHORITY.issue(workload(CHAT)).chain[0]
    for admits in (of("any"), of(CHAT), of(incoming=True), of(trust="steward")):
        assert admits.admit(certificate) == PEER | of_certificate(certificate)
    local = AUTHORITY.issue(workload(None)).chain[0]
    assert of(incoming=True).admit(local) == {
        "kind": "local",
        "digest": PEER["digest"],
        "tee": "snp",
        "measurement": PEER["measurement"],
        "tcb_status": "UpToDate",
        "spiffe_id": f"spiffe://steward.test/local/{'11' * 32}",
    } | of_certificate(local)
    bound = AUTHORITY.issue(replace(workload(CHAT), policy=b"\x11" * 32)).chain[0]
    assert of("any").admit(bound)["policy"] == PEER["digest"]


def test_an_identity_under_foreign_roots_is_not_believed() -> None:
    certificate = AUTHORITY.issue(workload(CHAT)).chain[0]
    for admits in (of(), of(trust="web"), of(trust=PEM), of(trust=PEM, incoming=True)):
        assert admits.admit(certificate) == {"kind": "anonymous"}


def test_a_peer_that_no_rule_admits() -> None:
    certificate = AUTHORITY.issue(workload(CHAT)).chain[0]
    with pytest.raises(Rejected) as caught:
        of("drawbridge.test/jane/chat:^2", "sha256:" + "A" * 43).admit(certificate)
    assert caught.value.field == "rule"
    shown = f"(tee snp, TCB UpToDate, measurement {PEER['measurement']})"
    assert caught.value.found == f"{CHAT}@{PEER['digest']} {shown}"
    assert caught.value.expected == "drawbridge.test/jane/chat:^2 or sha256:" + "A" * 43


def test_an_empty_list_admits_nobody() -> None:
    certificate = AUTHORITY.issue(workload(CHAT)).chain[0]
    empty = Policy("rule", Rule(peers=()), incoming=True)
    for presented in (certificate, None):
        with pytest.raises(Rejected) as caught:
            empty.admit(presented)
        assert caught.value.expected == "nobody"


@pytest.mark.parametrize("admits", [of("any"), of(incoming=True), of(trust="steward")])
def test_a_keep_without_a_workload_is_never_admitted(admits: Policy) -> None:
    certificate = AUTHORITY.issue(keep()).chain[0]
    with pytest.raises(Rejected) as caught:
        admits.admit(certificate)
    assert caught.value.found == "keep on snp, certified for no workload"


def test_anonymous_peers() -> None:
    assert of(incoming=True).admit(None) == {"kind": "anonymous"}
    for admits in (of("any", incoming=True), of("any"), of()):
        with pytest.raises(Rejected) as caught:
            admits.admit(None)
        assert caught.value.found == "no certificate (anonymous)"


def test_a_certificate_without_identity_is_no_workload() -> None:
    certificate = AUTHORITY.issue(hosts=("localhost",)).chain[0]
    assert of(trust="steward").admit(certificate) == {"kind": "anonymous"}
    with pytest.raises(Rejected) as caught:
        of("any").admit(certificate)
    assert caught.value.found == "a certificate without identity"


def test_a_certificate_that_contradicts_itself_is_refused() -> None:
    other = workload("drawbridge.test/evil/chat:1.2.3").spiffe_id("steward.test")
    for leaf in (
        AUTHORITY.issue(workload(CHAT), spiffe_id=other),
        AUTHORITY.issue(workload(CHAT), extension=b"\x30\x00"),
    ):
        with pytest.raises(Malformed):
            of("any").admit(leaf.chain[0])

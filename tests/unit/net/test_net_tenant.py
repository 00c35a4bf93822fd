"""A tenant's policy narrows a workload's network, in every way, and never widens it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed, Rejected
from garrison.formats.deployment_policy import MAX_SIZE, DeploymentPolicy
from garrison.formats.digest import digest_text
from garrison.formats.enarx_toml import Config, File, Rule
from garrison.formats.endpoint import Endpoint
from garrison.formats.identity import CertifiedIdentity
from garrison.formats.peer_rule import PeerRule
from garrison.keep.net import policy as policies
from garrison.keep.net.network import Network
from garrison.keep.net.policy import Policy, narrowed
from garrison.testing.tls import Authority, workload
from garrison.testing.tls_pair import connecting, identity, serve_until

AUTHORITY = Authority()
PEM = AUTHORITY.root_pem
CHAT = "drawbridge.test/jane/chat:1.2.3"
CERTIFICATE = AUTHORITY.issue(workload(CHAT)).chain[0]
HERE = Endpoint("a.test", 443)


def tenant(text: str) -> DeploymentPolicy:
    return DeploymentPolicy.from_bytes(text.encode())


def out(rule: Rule, text: str) -> Policy:
    return narrowed(Policy("rule", rule, incoming=False), tenant(text), HERE)


def test_the_file_is_read_and_digested() -> None:
    text = '[network.incoming.8443]\npeers = ["any"]\n[network.outgoing."A.test"]\nprot = "tcp"\n'
    policy = tenant(text)
    assert policy.digest == hashlib.sha256(text.encode()).digest()
    assert set(policy.incoming) == {"8443"}
    assert policy.outgoing == {"a.test": Rule("tcp")}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("args = []", "args"),
        ("[network.outgoing]\n'no host' = {}", "no host"),
        ("[network.incoming.99999]", "99999"),
        ("[network.incoming.default]\nprot = 'sctp'", "prot"),
        ("[network.incoming.default]\nprot = 'udp'\npeers = []", "peers"),
        ("[network.incoming.default]\nprot = 'tcp'\npeers = []", "peers"),
        ("[limit]", "limit"),
        ("#" * (MAX_SIZE + 1), "deployment policy"),
    ],
    ids=["args", "host", "port", "prot", "peers of nobody", "peers", "table", "size"],
)
def test_what_a_policy_cannot_say(text: str, field: str) -> None:
    with pytest.raises(Malformed) as caught:
        tenant(text)
    assert field in str(caught.value.field)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_policy_or_malformed(data: bytes) -> None:
    try:
        DeploymentPolicy.from_bytes(data)
    except Malformed:
        return


@pytest.mark.parametrize("text", ["", "[network.outgoing.'b.test']", "[network.incoming.443]"])
def test_what_has_no_rule_is_denied(text: str) -> None:
    with pytest.raises(Rejected, match="denied by the tenant's policy"):
        out(Rule(), text).check_allowed("a.test:443")


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (Rule("tcp"), ""),
        (Rule(peers=(PeerRule.parse("any"),), trust=PEM), 'peers = ["any"]'),
        (Rule(trust="web"), 'trust = "steward"'),
        (Rule(), 'prot = "deny"'),
        (Rule("deny"), ""),
        (Rule("tcp"), 'prot = "udp"'),
        (Rule("udp"), 'prot = "tcp"'),
    ],
    ids=[
        "clear",
        "peers under the package's roots",
        "other roots",
        "deny",
        "the package denies",
        "datagrams there",
        "datagrams here",
    ],
)
def test_what_the_two_do_not_agree_on_is_refused(rule: Rule, line: str) -> None:
    with pytest.raises(Rejected):
        out(rule, f"[network.outgoing.default]\n{line}").check_allowed("a.test:443")


def test_peers_of_the_tenant_make_a_connection_to_the_steward_s_keeps() -> None:
    policy = out(Rule(), '[network.outgoing."a.test"]\npeers = ["drawbridge.test/jane/chat:^1"]')
    policy.check_allowed("a.test:443")
    assert (policy.trust, policy.checks_host, policy.needs_certificate) == ("steward", False, True)
    assert policy.admit(CERTIFICATE)["workload"] == CHAT
    with pytest.raises(Rejected, match="not admitted"):
        policy.admit(None)


def test_both_must_admit_the_peer() -> None:
    ours = Rule(peers=(PeerRule.parse("drawbridge.test/jane/*"),))
    good = '[network.outgoing.default]\npeers = ["drawbridge.test/jane/chat:*; tee=snp"]'
    assert out(ours, good).admit(CERTIFICATE)["workload"] == CHAT
    other = '[network.outgoing.default]\npeers = ["drawbridge.test/jane/chat:^2"]'
    with pytest.raises(Rejected) as caught:
        out(ours, other).admit(CERTIFICATE)
    assert caught.value.expected == (
        "drawbridge.test/jane/*; and by the tenant drawbridge.test/jane/chat:^2"
    )
    nobody = Rule(peers=())
    with pytest.raises(Rejected):
        out(nobody, good).admit(CERTIFICATE)


RULES = st.builds(
    Rule,
    prot=st.just("tls"),
    peers=st.none()
    | st.lists(
        st.sampled_from(["any", "drawbridge.test/jane/*", "drawbridge.test/jil/*"]), max_size=2
    ).map(lambda texts: tuple(map(PeerRule.parse, texts))),
    trust=st.none() | st.just("steward"),
) | st.sampled_from([Rule("tcp"), Rule("udp"), Rule("deny"), Rule(trust=PEM)])


@given(
    rule=RULES,
    other=RULES,
    incoming=st.booleans(),
    presented=st.booleans(),
    datagrams=st.booleans(),
)
def test_no_policy_ever_admits_what_the_package_does_not(
    rule: Rule, other: Rule, incoming: bool, presented: bool, datagrams: bool
) -> None:
    alone = Policy("rule", rule, incoming)
    both = replace(alone, tenant=other)

    def admits(policy: Policy) -> bool:
        try:
            policy.check_allowed("x", datagrams=datagrams)
            if policy.rule.prot == "tls":
                policy.admit(CERTIFICATE if presented else None)
        except Rejected:
            return False
        return True

    if admits(both):
        assert admits(alone)
        assert (rule.prot == "udp") == datagrams == (other.prot == "udp")


def test_every_way_to_open_is_narrowed() -> None:
    config = Config(
        files=(File("listen", "L", Endpoint("127.0.0.1", 0), Rule()),), incoming={}, outgoing={}
    )
    leaf = identity(AUTHORITY.issue(workload(CHAT)))
    network = Network(config, leaf, [AUTHORITY.root], tenant=tenant(""))
    with pytest.raises(Rejected, match="denied by the tenant's policy"):
        network.preopened()
    with pytest.raises(Rejected, match="denied by the tenant's policy"):
        network.listen("127.0.0.1:0")
    with pytest.raises(Rejected, match="denied by the tenant's policy"):
        network.connect("localhost:1")


def test_a_port_that_is_left_out_counts_as_named() -> None:
    config = Config(outgoing={"default": Rule()})
    found, endpoint = policies.outgoing(config, Endpoint("a.test"))
    assert narrowed(found, tenant('[network.outgoing."a.test:443"]'), endpoint).tenant == Rule()


def test_the_handshake_refuses_whom_the_tenant_does_not_admit() -> None:
    server = Network(Config(), identity(AUTHORITY.issue(workload(CHAT))), [AUTHORITY.root]).listen(
        "127.0.0.1:0"
    )
    ours = Network(
        Config(outgoing={"default": Rule(peers=(PeerRule.parse("any"),))}),
        identity(AUTHORITY.issue(workload())),
        [AUTHORITY.root],
        tenant=tenant('[network.outgoing.localhost]\npeers = ["drawbridge.test/jil/*"]'),
    )
    with connecting(ours, f"localhost:{server.port}") as outcome:
        assert not serve_until(server, lambda: bool(outcome))
    server.close()
    assert isinstance(outcome[0], Rejected)


def test_a_peer_can_demand_the_policy() -> None:
    policy = tenant("")
    bound = replace(workload(CHAT), policy=policy.digest)
    certificate = AUTHORITY.issue(bound).chain[0]
    read = CertifiedIdentity.from_certificate(certificate)
    assert read is not None
    assert read.workload.policy == policy.digest
    rule = PeerRule.parse(f"any; policy={digest_text(policy.digest)}")
    assert rule.admits(bound)
    assert not rule.admits(workload(CHAT))
    assert not rule.admits(replace(bound, policy=bytes(32)))

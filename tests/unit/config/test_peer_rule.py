"""Who a rule admits: nobody by likeness, nobody anonymous, no keep without a workload."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats.digest import digest_text
from garrison.formats.identity import WorkloadIdentity
from garrison.formats.peer_rule import PeerRule
from garrison.formats.slug import Slug

DIGEST = bytes(range(32))
MEASURED = (b"m" * 48).hex()


def named(slug: str) -> WorkloadIdentity:
    return WorkloadIdentity(Slug.parse(slug), DIGEST, "snp", b"m" * 48)


CHAT = named("drawbridge.test/jane/chat:1.2.3")
LOCAL = WorkloadIdentity(None, DIGEST, "snp", b"m" * 48)
KEEP = WorkloadIdentity(None, None, "snp", b"m" * 48)


@pytest.mark.parametrize(
    ("rule", "admitted"),
    [
        ("drawbridge.test/jane/chat:1.2.3", [CHAT]),
        ("drawbridge.test/jane/chat:^1.0", [CHAT]),
        ("drawbridge.test/jane/chat:1.2.4", []),
        ("drawbridge.test/jane/chat:>=2.0", []),
        ("drawbridge.test:8443/jane/chat:^1.0", []),
        (f"sha256:{digest_text(DIGEST)}", [CHAT, LOCAL]),
        (f"sha256:{digest_text(bytes(32))}", []),
        ("any", [CHAT, LOCAL]),
        ("drawbridge.test/jane/chat:*", [CHAT]),
        ("drawbridge.test/jane/*", [CHAT]),
        ("drawbridge.test/jan/*", []),
        ("drawbridge.test:8443/jane/*", []),
        ("any; tee=snp", [CHAT, LOCAL]),
        ("any; tee=sgx|snp", [CHAT, LOCAL]),
        ("any; tee=tdx", []),
        (f"sha256:{digest_text(DIGEST)}; tee=tdx", []),
        (f"any; measurement={MEASURED}", [CHAT, LOCAL]),
        (f"any; measurement={MEASURED.upper()}", [CHAT, LOCAL]),
        (f"any; measurement={'00' * 32}|{MEASURED}; tee=snp", [CHAT, LOCAL]),
        (f"drawbridge.test/jane/*; measurement={MEASURED}", [CHAT]),
        (f"any; measurement={'00' * 48}", []),
        (f"any; measurement={MEASURED}; tee=tdx", []),
    ],
)
def test_whom_a_rule_admits(rule: str, admitted: list[WorkloadIdentity]) -> None:
    parsed = PeerRule.parse(rule)
    assert [peer for peer in (CHAT, LOCAL, KEEP, None) if parsed.admits(peer)] == admitted
    assert str(parsed) == rule


@pytest.mark.parametrize(
    ("minimum", "status", "admitted"),
    [
        ("UpToDate", "UpToDate", True),
        ("UpToDate", "SWHardeningNeeded", False),
        ("SWHardeningNeeded", "UpToDate", True),
        ("ConfigurationNeeded", "SWHardeningNeeded", True),
        ("OutOfDate", "OutOfDateConfigurationNeeded", False),
        ("OutOfDateConfigurationNeeded", "Revoked", False),
        ("OutOfDateConfigurationNeeded", "InsecureSimulated", False),
        ("OutOfDateConfigurationNeeded", "Unchecked", False),
        ("OutOfDateConfigurationNeeded", "", False),
    ],
)
def test_a_minimum_tcb_status(minimum: str, status: str, admitted: bool) -> None:
    peer = replace(CHAT, tcb_status=status)
    for who in ("any", "drawbridge.test/jane/chat:^1", "drawbridge.test/jane/*"):
        assert PeerRule.parse(f"{who}; tcb={minimum}").admits(peer) == admitted
        assert PeerRule.parse(f"{who}; tcb={minimum}; tee=snp").admits(peer) == admitted
        assert not PeerRule.parse(f"{who}; tcb={minimum}; tee=sgx").admits(peer)


def test_every_tag_means_pre_releases_too_and_a_wildcard_names_no_local_workload() -> None:
    rule = PeerRule.parse("drawbridge.test/jane/chat:*")
    assert rule.admits(named("drawbridge.test/jane/chat:2.0.0-rc.1"))
    assert not rule.admits(named("drawbridge.test/jane/chatty:2.0.0"))
    user = PeerRule.parse("drawbridge.test/jane/*")
    assert user.admits(named("drawbridge.test/jane/chatty:2.0.0-rc.1"))
    assert not user.admits(named("drawbridge.test/janet/chat:1.2.3"))
    assert not user.admits(named("drawbridge.test.evil.example/jane/chat:1.2.3"))


@pytest.mark.parametrize(
    "other",
    [
        "drawbridge.test.evil.example/jane/chat:1.2.3",
        "xdrawbridge.test/jane/chat:1.2.3",
        "drawbridge.test:444/jane/chat:1.2.3",
        "drawbridge.test/Jane/chat:1.2.3",
        "drawbridge.test/janes/chat:1.2.3",
        "drawbridge.test/jane/chat-server:1.2.3",
        "drawbridge.test/jane/Chat:1.2.3",
        "drawbridge.test/jane/chat:1.2.3-rc.1",
    ],
)
def test_a_look_alike_is_not_admitted(other: str) -> None:
    rule = PeerRule.parse("drawbridge.test/jane/chat:^1.2.3")
    assert rule.admits(CHAT)
    assert not rule.admits(named(other))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ANY",
        "*",
        "any ",
        "jane/chat:1.0.0",
        "drawbridge.test/jane/chat",
        "sha256:",
        "sha256:abc",
        "drawbridge.test/jane/chat:",
        "drawbridge.test/jane/chat:latest",
        "DRAWBRIDGE.test/j/c:1.0.0",
        "drawbridge.test:443/jane/chat:1.0.0",
        "drawbridge.test/jane/chat/x:1.0.0",
        f"sha256:{digest_text(DIGEST)}=",
        f"SHA256:{digest_text(DIGEST)}",
        "https://d.test/j/c:1.0.0",
        "drawbridge.test/*",
        "drawbridge.test/*/*",
        "drawbridge.test/*/chat:1.0.0",
        "*/jane/chat:1.0.0",
        "drawbridge.test/jane/chat*:1.0.0",
        "drawbridge.test/jane/chat:1.*",
        "drawbridge.test/jane/*:1.0.0",
        "any;",
        "any; tee=",
        "any; tee=none",
        "any; tee=snp|",
        "any; tee=SNP",
        "any; tee=snp; tee=tdx",
        "any; tcb=Revoked",
        "any; tcb=Unchecked",
        "any; tcb=InsecureSimulated",
        "any; measurement=00",
        "; tee=snp",
    ],
)
def test_anything_else_is_malformed(text: str) -> None:
    with pytest.raises(Malformed) as caught:
        PeerRule.parse(text, field="Enarx.toml:3: peers")
    assert str(caught.value).startswith("Enarx.toml:3: peers")


@given(st.text(max_size=80))
def test_parsing_raises_malformed_only(text: str) -> None:
    try:
        rule = PeerRule.parse(text)
    except Malformed:
        return
    assert not rule.admits(None)
    assert not rule.admits(KEEP)

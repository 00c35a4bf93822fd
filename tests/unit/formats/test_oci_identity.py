"""Names in OCI registries as identities: in certificates, rules for peers, and what is denied."""

from __future__ import annotations

import pytest

from garrison.errors import Malformed, Rejected
from garrison.formats.deny_list import DenyList
from garrison.formats.identity import CertifiedIdentity, WorkloadIdentity
from garrison.formats.oci_name import OciName
from garrison.formats.peer_rule import PeerRule
from garrison.formats.slug import Slug

DIGEST = bytes(32)
NAME = OciName("r.test:5000", "jane/chat__x", "1.2.3")
IDENTITY = WorkloadIdentity(NAME, DIGEST, "snp", b"m" * 48, "UpToDate")


def test_the_path_says_that_it_is_of_an_oci_registry() -> None:
    assert WorkloadIdentity.from_der(IDENTITY.to_der()) == IDENTITY
    uri = IDENTITY.spiffe_id("example.com")
    assert uri == "spiffe://example.com/oci_3a/r.test_3a5000/jane/chat_5f_5fx/1.2.3"
    slug = WorkloadIdentity(Slug("oci", "r", "jane", "1.2.3"), DIGEST)
    name = WorkloadIdentity(OciName("r", "jane", "1.2.3"), DIGEST)
    # A drawbridge may be called `oci`; its names stay others.
    assert slug.spiffe_id("example.com") != name.spiffe_id("example.com")
    short = WorkloadIdentity(OciName("r.test", "a", "1"), DIGEST)
    assert str(short.common_name()).startswith("oci://r.test/a:1@")


@pytest.mark.parametrize(
    ("rule", "admitted"),
    [
        ("oci://r.test:5000/jane/chat__x:1.2.3", True),
        ("oci://r.test:5000/jane/chat__x:^1.0", True),
        ("oci://r.test:5000/jane/chat__x:*", True),
        ("any", True),
        ("oci://r.test:5000/jane/chat__x:2.0.0", False),
        ("oci://r.test:5000/jane/chat__x:latest", False),
        ("oci://r.test/jane/chat__x:*", False),
        ("r.test:5000/jane/chat:*", False),
        ("r.test:5000/jane/*", False),
    ],
)
def test_rules_for_peers_name_them(rule: str, admitted: bool) -> None:
    assert PeerRule.parse(rule).admits(IDENTITY) is admitted


def test_a_tag_that_is_no_version_is_in_no_range() -> None:
    latest = WorkloadIdentity(OciName("r.test:5000", "jane/chat__x", "latest"), DIGEST, "snp")
    assert PeerRule.parse("oci://r.test:5000/jane/chat__x:latest").admits(latest)
    assert PeerRule.parse("oci://r.test:5000/jane/chat__x:*").admits(latest)
    assert not PeerRule.parse("oci://r.test:5000/jane/chat__x:^1.0").admits(latest)


@pytest.mark.parametrize(
    "rule", ["oci://r.test/a", "oci://r.test/A:1", "oci://:*", "oci://r.test/a:b c"]
)
def test_what_is_no_rule_is_malformed(rule: str) -> None:
    with pytest.raises(Malformed):
        PeerRule.parse(rule)


@pytest.mark.parametrize("denied", [str(NAME), str(NAME.repository)])
def test_they_can_be_denied(denied: str) -> None:
    certified = CertifiedIdentity(IDENTITY, "example.com", IDENTITY.spiffe_id("example.com"))
    with pytest.raises(Rejected, match="denies"):
        DenyList(60, slugs=frozenset({denied})).check(certified, 1)
    DenyList(60, slugs=frozenset({"oci://r.test:5000/jane/other"})).check(certified, 1)

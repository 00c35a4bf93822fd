"""What documents may say, who is admitted, and what may be put where."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from garrison.drawbridge.readers import reader_of
from garrison.drawbridge.rules import (
    KeepRule,
    RepositoryConfig,
    UserRecord,
    check_listed,
    listed_entry,
    tag_entry,
)
from garrison.errors import Malformed
from garrison.formats.content_digest import ContentDigest
from garrison.formats.digest import digest_text
from garrison.formats.identity import WorkloadIdentity
from garrison.formats.signed_tag import JWS_TYPE
from garrison.formats.tree import DIRECTORY_TYPE, ENTRY_TYPE, Directory, Entry, Package
from garrison.testing.tls import Authority, Leaf, keep, workload

MEASUREMENT = "22" * 48
WORKLOAD = workload()
RULES = [
    {"tee": "snp"},
    {"measurement": MEASUREMENT},
    {"slug": str(WORKLOAD.slug)},
    {"digest": digest_text(b"\x11" * 32)},
]


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_admits_by_each_field(rule: dict[str, str]) -> None:
    assert KeepRule.from_fields(rule).admits(WORKLOAD)
    assert KeepRule.from_fields(rule).to_fields() == rule


def test_every_field_of_a_rule_must_match() -> None:
    whole: dict[str, str] = {}
    for rule in RULES:
        whole |= rule
    assert KeepRule.from_fields(whole).admits(WORKLOAD)
    for name, other in {
        "tee": "tdx",
        "measurement": "23" * 48,
        "slug": "drawbridge.test/jane/chat:1.2.4",
        "digest": digest_text(b"\x12" * 32),
    }.items():
        assert not KeepRule.from_fields(whole | {name: other}).admits(WORKLOAD)
        assert not KeepRule.from_fields({name: other}).admits(WORKLOAD)


def test_a_keep_without_a_workload_matches_no_slug() -> None:
    assert not KeepRule.from_fields({"slug": str(WORKLOAD.slug)}).admits(keep())
    assert not KeepRule.from_fields({"digest": digest_text(b"\x11" * 32)}).admits(keep())
    assert KeepRule.from_fields({"tee": "snp", "measurement": MEASUREMENT}).admits(keep())


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({}, "an empty rule would admit every keep"),
        ({"tea": "snp"}, "unknown field; found 'tea'"),
        ({"tee": None}, "keeps tee: not a string"),
        ({"tee": ""}, "not a TEE"),
        ({"tee": "SNP"}, "not a TEE"),
        ({"measurement": ""}, "not a measurement"),
        ({"measurement": "ab"}, "not a measurement"),
        ({"measurement": MEASUREMENT.replace("2", "A")}, "not a measurement"),
        ({"slug": "jane/chat"}, "not a slug"),
        ({"digest": "00"}, "not a SHA-256 digest"),
    ],
)
def test_other_rules_are_malformed(rule: dict[str, Any], text: str) -> None:
    with pytest.raises(Malformed) as caught:
        KeepRule.from_fields(rule)
    assert text in str(caught.value)


def test_the_originals_configuration_is_read_and_written() -> None:
    for text in (b'{"public":true}', b'{"public":false}'):
        assert RepositoryConfig.from_bytes(text).to_bytes() == text


def test_a_private_repository_without_rules_admits_no_keep() -> None:
    assert not RepositoryConfig(public=False).admits(WORKLOAD)


def test_rules_are_alternatives() -> None:
    config = RepositoryConfig.from_bytes(b'{"public":false,"keeps":[{"tee":"tdx"},{"tee":"snp"}]}')
    assert config.admits(WORKLOAD)
    assert not config.admits(WorkloadIdentity(None, None, "sgx"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"public":1}',
        b'{"public":"yes"}',
        b'{"public":true,"extra":1}',
        b'{"public":true,"public":false}',
        b'{"public":true,"keeps":[{"tee":"snp"}]}',
        b'{"public":false,"keeps":{}}',
        b'{"public":false,"keeps":[{}]}',
        b'{"public":false,"keeps":["snp"]}',
        json.dumps({"public": False, "keeps": [{"tee": "snp"}] * 101}).encode(),
    ],
)
def test_other_configurations_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        RepositoryConfig.from_bytes(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b'{"subject":1}', b'{"subject":""}', b'{"subject":"a","x":1}', b'"a"'],
)
def test_other_user_records_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        UserRecord.from_bytes(data)


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_parse_or_are_malformed(data: bytes) -> None:
    for parse in (UserRecord.from_bytes, RepositoryConfig.from_bytes):
        try:
            parsed = parse(data)
        except Malformed:
            continue
        assert parse(parsed.to_bytes()) == parsed
    for kind in (ENTRY_TYPE, JWS_TYPE, "x/y"):
        try:
            tag_entry(kind, data)
        except Malformed:
            continue


PACKAGE = Package({"main.wasm": b"wasm", "sub/x": b"x"})
ROOT, ROOT_CONTENT = PACKAGE.nodes()[""]


def test_a_signed_tag_is_read_by_its_payload() -> None:
    payload = urlsafe_b64encode(ROOT.to_bytes()).rstrip(b"=").decode()
    signed = json.dumps({"payload": payload, "signatures": []}).encode()
    assert tag_entry(JWS_TYPE, signed) == ROOT
    assert tag_entry(ENTRY_TYPE, ROOT.to_bytes()) == ROOT


def test_a_tag_of_another_media_type_is_malformed() -> None:
    with pytest.raises(Malformed, match="Invalid content type"):
        tag_entry("application/json", ROOT.to_bytes())


def test_only_what_a_directory_lists_may_stand_in_it() -> None:
    root = Directory.from_bytes(ROOT_CONTENT)
    assert listed_entry("main.wasm", root) == Entry.of(b"wasm", "application/wasm")
    with pytest.raises(Malformed, match="not listed in its directory; found other"):
        listed_entry("other", root)


def test_what_is_put_must_be_what_is_listed() -> None:
    listed = Entry(ContentDigest.of(b"wasm"), 4, "application/wasm")
    check_listed(listed, Entry.of(b"wasm", "application/wasm"))
    with pytest.raises(Malformed, match="Content digest mismatch; found sha-224 "):
        check_listed(listed, Entry.of(b"wasn", "application/wasm"))
    with pytest.raises(Malformed, match="Content length mismatch, expected: 4, got 5"):
        check_listed(listed, Entry.of(b"wasm!", "application/wasm"))
    with pytest.raises(Malformed, match="Content type mismatch"):
        check_listed(listed, Entry.of(b"wasm", DIRECTORY_TYPE))


NOW = datetime.now(UTC)
AUTHORITY = Authority()


def der(leaf: Leaf) -> bytes:
    return leaf.chain[0].public_bytes(Encoding.DER)


def test_who_a_certificate_is() -> None:
    assert reader_of(der(AUTHORITY.issue(WORKLOAD)), NOW) == WORKLOAD
    assert reader_of(der(AUTHORITY.issue(keep())), NOW) == keep()
    assert reader_of(None, NOW) is None
    assert reader_of(b"no certificate", NOW) is None
    assert reader_of(der(AUTHORITY.issue(hosts=("drawbridge.test",))), NOW) is None


def test_a_certificate_that_has_expired_since_the_handshake_is_nobodys() -> None:
    certificate = der(AUTHORITY.issue(WORKLOAD))
    assert reader_of(certificate, NOW + timedelta(days=2)) is None
    assert reader_of(certificate, NOW - timedelta(days=2)) is None


def test_a_certificate_that_contradicts_itself_is_nobodys() -> None:
    other = "spiffe://steward.test/drawbridge.test/evil/chat/1.2.3"
    assert reader_of(der(AUTHORITY.issue(WORKLOAD, spiffe_id=other)), NOW) is None
    steward = "spiffe://steward.test/steward"
    assert reader_of(der(AUTHORITY.issue(WORKLOAD, spiffe_id=steward)), NOW) is None
    assert reader_of(der(AUTHORITY.issue(WORKLOAD, extension=b"\x30\x00")), NOW) is None

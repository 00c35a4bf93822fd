"""The identity in a certificate: DER, SPIFFE ID, common name, and that they agree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats.digest import digest_url_text
from garrison.formats.identity import (
    WORKLOAD_IDENTITY_OID,
    CertifiedIdentity,
    WorkloadIdentity,
    escape_segment,
    unescape_segment,
)
from garrison.formats.slug import Slug

DIGEST = bytes(range(32))
SLUG = Slug.parse("localhost:8080/demo/chat-server:0.1.0+b1")
WORKLOAD = WorkloadIdentity(SLUG, DIGEST, "snp", b"\xab" * 48, "UpToDate")
LOCAL = WorkloadIdentity(None, DIGEST, "snp", b"\xab" * 48, "UpToDate")
KEEP = WorkloadIdentity(None, None, "snp", b"\xab" * 48, "UpToDate")


@pytest.mark.parametrize("identity", [WORKLOAD, LOCAL, KEEP, WorkloadIdentity(None, None)])
def test_der_round_trip(identity: WorkloadIdentity) -> None:
    assert WorkloadIdentity.from_der(identity.to_der()) == identity


def test_der_is_what_the_docs_say() -> None:
    assert WorkloadIdentity(None, None, "snp", b"\x01", "ok").to_der().hex() == (
        "3013"  # SEQUENCE
        "020101"  # INTEGER 1
        "0c00"  # UTF8String, no slug
        "0400"  # OCTET STRING, no digest
        "0c03736e70"  # UTF8String "snp"
        "040101"  # OCTET STRING, measurement
        "0c026f6b"  # UTF8String "ok"
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_an_identity_or_malformed(data: bytes) -> None:
    try:
        assert WorkloadIdentity.from_der(data).to_der() == data
    except Malformed:
        return


def test_broken_der_is_malformed_at_every_cut_and_with_a_tail() -> None:
    der = WORKLOAD.to_der()
    for end in range(len(der)):
        with pytest.raises(Malformed):
            WorkloadIdentity.from_der(der[:end])
    with pytest.raises(Malformed):
        WorkloadIdentity.from_der(der + b"\x00")


def test_an_unknown_version_is_refused() -> None:
    der = KEEP.to_der()
    assert der[2:5].hex() == "020101"
    with pytest.raises(Malformed, match="version"):
        WorkloadIdentity.from_der(der[:4] + b"\x02" + der[5:])


def test_kinds_and_spiffe_ids() -> None:
    assert WORKLOAD.kind == "workload"
    assert WORKLOAD.spiffe_id("a.test") == (
        "spiffe://a.test/localhost_3a8080/demo/chat-server/0.1.0_2bb1"
    )
    assert LOCAL.kind == "local"
    assert LOCAL.spiffe_id("a.test") == f"spiffe://a.test/local/{DIGEST.hex()}"
    assert KEEP.kind == "keep"
    assert KEEP.spiffe_id("a.test") == "spiffe://a.test/keep/snp"


def test_a_drawbridge_called_local_or_keep_cannot_be_taken_for_a_kind() -> None:
    slug = Slug.parse("keep/snp/x:1.0.0")
    assert WorkloadIdentity(slug, DIGEST).spiffe_id("a.test").count("/") == 6
    assert KEEP.spiffe_id("a.test").count("/") == 4


@pytest.mark.parametrize("domain", ["", "A.test", "a test", "a/b", "a" * 256])
def test_a_bad_trust_domain_is_refused(domain: str) -> None:
    with pytest.raises(Malformed):
        KEEP.spiffe_id(domain)


def test_a_slug_needs_a_digest_of_32_bytes() -> None:
    with pytest.raises(Malformed):
        WorkloadIdentity(SLUG, None)
    with pytest.raises(Malformed):
        WorkloadIdentity(None, b"short")


def test_the_common_name_is_given_where_it_fits() -> None:
    short = WorkloadIdentity(Slug.parse("h.example/u/r:1.0.0"), DIGEST)
    assert short.common_name() == f"h.example/u/r:1.0.0@{digest_url_text(DIGEST)}"
    assert WORKLOAD.common_name() is None
    assert LOCAL.common_name() == f"localhost@{digest_url_text(DIGEST)}"
    assert KEEP.common_name() is None


@given(st.text(max_size=30))
def test_segments_are_escaped_reversibly_into_what_spiffe_allows(text: str) -> None:
    segment = escape_segment(text)
    assert all(c.isascii() and (c.isalnum() or c in "._-") for c in segment)
    assert unescape_segment(segment) == text


@pytest.mark.parametrize("segment", ["a_3A", "a_41", "a_", "a_zz", "a:b", "_ff"])
def test_a_segment_has_one_spelling(segment: str) -> None:
    with pytest.raises(Malformed):
        unescape_segment(segment)


def _certificate(identity: bytes | None, uris: list[str]) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime(2026, 1, 1, tzinfo=UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(hours=1))
    )
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=True)
    if identity is not None:
        unknown = x509.UnrecognizedExtension(WORKLOAD_IDENTITY_OID, identity)
        builder = builder.add_extension(unknown, critical=False)
    return builder.sign(key, hashes.SHA256())


@pytest.mark.parametrize("identity", [WORKLOAD, LOCAL, KEEP])
def test_a_certificate_is_read(identity: WorkloadIdentity) -> None:
    uri = identity.spiffe_id("a.test")
    read = CertifiedIdentity.from_certificate(_certificate(identity.to_der(), [uri]))
    assert read == CertifiedIdentity(identity, "a.test", uri)


def test_a_certificate_without_an_identity_has_none() -> None:
    assert CertifiedIdentity.from_certificate(_certificate(None, ["spiffe://a.test/x"])) is None


@pytest.mark.parametrize(
    "uris",
    [
        [],
        [KEEP.spiffe_id("a.test")],
        [WORKLOAD.spiffe_id("a.test"), WORKLOAD.spiffe_id("b.test")],
        ["https://a.test/x"],
        ["spiffe://a.test/localhost_3a8080/demo/chat-server/0.1.1"],
    ],
)
def test_a_certificate_that_disagrees_with_itself_is_malformed(uris: list[str]) -> None:
    with pytest.raises(Malformed):
        CertifiedIdentity.from_certificate(_certificate(WORKLOAD.to_der(), uris))


def test_a_certificate_with_a_broken_identity_is_malformed() -> None:
    with pytest.raises(Malformed):
        CertifiedIdentity.from_certificate(_certificate(b"\x30\x00", ["spiffe://a.test/x"]))

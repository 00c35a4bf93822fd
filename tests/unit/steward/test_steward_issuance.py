"""Issuance: each step that refuses, and what the certificate says where none does."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store
from tests.unit.steward.conftest import DIGEST, MEASUREMENT, NOW, SLUG, FakeAppraiser, Keep

from garrison.errors import GarrisonError, Malformed, Rejected, Unavailable, Unverified
from garrison.formats.csr import build_request
from garrison.formats.digest import digest_url_text
from garrison.formats.evidence import SNP_MEDIA_TYPE, Evidence, Tee
from garrison.formats.identity import WORKLOAD_IDENTITY_OID, CertifiedIdentity, WorkloadIdentity
from garrison.formats.slug import Slug
from garrison.steward.challenge import Challenges
from garrison.steward.issuance import NoEvidence, Steward, examine, issue

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurve

WORKLOAD = WorkloadIdentity(SLUG, DIGEST)
LOCAL = WorkloadIdentity(None, DIGEST)


def certify(
    steward: Steward, data: bytes, registry_digest: bytes | None = None
) -> x509.Certificate:
    return issue(examine(data, steward, NOW), steward, registry_digest, NOW)


def with_policy(steward: Steward, **changes: Any) -> Steward:
    return replace(steward, policy=replace(steward.policy, **changes))


def refused(steward: Steward, data: bytes, kind: type[GarrisonError], reason: str) -> None:
    with pytest.raises(GarrisonError) as caught:
        examine(data, steward, NOW)
    assert caught.type is kind
    assert reason in str(caught.value)


def test_workload_certificate_says_what_was_verified(steward: Steward, keep: Keep) -> None:
    examined = examine(keep.request(steward, WORKLOAD), steward, NOW)
    assert examined.lookup == SLUG
    certificate = issue(examined, steward, DIGEST, NOW)
    identity = CertifiedIdentity.from_certificate(certificate)
    assert identity is not None
    chip = steward.platform(examined.result.claims["chip_id"])
    assert chip is not None
    assert identity.workload == WorkloadIdentity(
        SLUG, DIGEST, "snp", MEASUREMENT, "UpToDate", platform=chip
    )
    assert identity.spiffe_id == "spiffe://example.test/drawbridge.test/jane/chat/1.0.0"
    assert certificate.public_key() == keep.key.public_key()


def test_certificate_for_simulated_evidence_says_so(steward: Steward, keep: Keep) -> None:
    simulated = replace(steward, appraisers={Tee.SNP: FakeAppraiser(simulated=True)})
    identity = CertifiedIdentity.from_certificate(certify(simulated, keep.request(steward)))
    assert identity is not None
    assert identity.workload.tcb_status == "InsecureSimulated"


def test_keep_certificate_needs_no_lookup(steward: Steward, keep: Keep) -> None:
    examined = examine(keep.request(steward), steward, NOW)
    assert examined.lookup is None
    identity = CertifiedIdentity.from_certificate(issue(examined, steward, None, NOW))
    assert identity is not None
    assert identity.workload.kind == "keep"
    assert identity.spiffe_id == "spiffe://example.test/keep/snp"


def test_local_certificate_needs_the_policy(steward: Steward, keep: Keep) -> None:
    data = keep.request(steward, LOCAL)
    refused(steward, data, Rejected, "the policy does not admit local workloads")
    lenient = with_policy(steward, local_workloads=True)
    identity = CertifiedIdentity.from_certificate(certify(lenient, data))
    assert identity is not None
    assert identity.spiffe_id == f"spiffe://example.test/local/{DIGEST.hex()}"


def test_profile(steward: Steward, keep: Keep) -> None:
    certificate = certify(steward, keep.request(steward), None)
    assert certificate.version is x509.Version.v3
    assert 0 < certificate.serial_number < 1 << 127
    assert certificate.not_valid_before_utc == NOW - timedelta(minutes=1)
    assert certificate.not_valid_after_utc == NOW + timedelta(minutes=60)
    assert certificate.issuer == steward.authority.certificate.subject
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA384)
    extensions = [(e.oid, e.critical) for e in certificate.extensions]
    assert extensions == [
        (ExtensionOID.BASIC_CONSTRAINTS, True),
        (ExtensionOID.KEY_USAGE, True),
        (ExtensionOID.EXTENDED_KEY_USAGE, False),
        # Critical, because the subject is empty (RFC 5280, 4.2.1.6).
        (ExtensionOID.SUBJECT_ALTERNATIVE_NAME, True),
        (WORKLOAD_IDENTITY_OID, False),
        (ExtensionOID.SUBJECT_KEY_IDENTIFIER, False),
        (ExtensionOID.AUTHORITY_KEY_IDENTIFIER, False),
    ]
    values = {extension.oid: extension.value for extension in certificate.extensions}
    assert values[ExtensionOID.BASIC_CONSTRAINTS] == x509.BasicConstraints(False, None)  # noqa: FBT003 - cryptography's
    assert values[ExtensionOID.KEY_USAGE].public_bytes().hex() == "03020780"
    assert list(values[ExtensionOID.EXTENDED_KEY_USAGE]) == [
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ]
    assert values[ExtensionOID.SUBJECT_ALTERNATIVE_NAME] == x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier("spiffe://example.test/keep/snp"),
            x509.DNSName("chat.example.test"),
            x509.DNSName("www.example.test"),
        ]
    )


def test_two_certificates_have_two_serials(steward: Steward, keep: Keep) -> None:
    data = keep.request(steward)
    assert certify(steward, data).serial_number != certify(steward, data).serial_number


def test_common_name_stands_where_it_fits(steward: Steward, keep: Keep) -> None:
    short = Slug.parse("d.test/j/c:1.0.0")
    lenient = with_policy(steward, drawbridges={"d.test": None, SLUG.host: None})
    named = certify(lenient, keep.request(steward, WorkloadIdentity(short, DIGEST)), DIGEST)
    (name,) = named.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == f"d.test/j/c:1.0.0@{digest_url_text(DIGEST)}"
    long = certify(lenient, keep.request(steward, WORKLOAD), DIGEST)
    assert list(long.subject) == []


def test_cryptography_accepts_it_for_both_sides(steward: Steward, keep: Keep) -> None:
    certificate = certify(steward, keep.request(steward, WORKLOAD), DIGEST)
    builder = PolicyBuilder().store(Store([steward.authority.certificate])).time(NOW)
    client = builder.build_client_verifier().verify(certificate, [])
    assert client.subjects is not None
    server = builder.build_server_verifier(x509.DNSName("chat.example.test"))
    assert server.verify(certificate, [])[0] == certificate


def test_dns_names_asked_for_are_those_it_gets(steward: Steward, keep: Keep) -> None:
    data = keep.request(steward, dns_names=["www.example.test"])
    names = certify(steward, data).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["www.example.test"]
    refused(
        steward,
        keep.request(steward, dns_names=["www.example.test", "bank.test"]),
        Rejected,
        "the policy does not admit these DNS names; found bank.test",
    )


def test_another_digest_than_the_registrys_is_refused(steward: Steward, keep: Keep) -> None:
    examined = examine(keep.request(steward, WORKLOAD), steward, NOW)
    with pytest.raises(Rejected) as caught:
        issue(examined, steward, b"\xff" * 32, NOW)
    assert caught.value.found == DIGEST.hex()
    assert caught.value.expected == "ff" * 32
    assert caught.value.field == f"digest of {SLUG}"


def test_a_digest_that_was_not_looked_up_is_a_defect(steward: Steward, keep: Keep) -> None:
    with pytest.raises(RuntimeError):
        issue(examine(keep.request(steward, WORKLOAD), steward, NOW), steward, None, NOW)
    with pytest.raises(RuntimeError):
        issue(examine(keep.request(steward), steward, NOW), steward, DIGEST, NOW)


def test_drawbridge_that_the_policy_does_not_name_is_refused(steward: Steward, keep: Keep) -> None:
    foreign = WorkloadIdentity(Slug.parse("drawbridge.test:8443/jane/chat:1.0.0"), DIGEST)
    refused(
        steward,
        keep.request(steward, foreign),
        Rejected,
        "the policy does not name this drawbridge; found drawbridge.test:8443/jane/chat:1.0.0",
    )


def test_no_evidence(steward: Steward, keep: Keep) -> None:
    refused(steward, keep.request(steward, evidence=None), NoEvidence, "no evidence")


def test_evidence_of_another_key_is_refused(steward: Steward, keep: Keep) -> None:
    challenge = steward.challenges.issue(NOW).challenge
    stolen = Keep().evidence(challenge)
    data = keep.request(steward, evidence=stolen, challenge=challenge)
    refused(steward, data, Rejected, "report data")


def test_evidence_for_another_challenge_is_refused(steward: Steward, keep: Keep) -> None:
    old, new = (steward.challenges.issue(NOW).challenge for _ in range(2))
    data = keep.request(steward, evidence=keep.evidence(old), challenge=new)
    refused(steward, data, Rejected, "report data")


def test_expired_challenge_is_refused(steward: Steward, keep: Keep) -> None:
    challenge = steward.challenges.issue(NOW - timedelta(minutes=5, seconds=1)).challenge
    data = keep.request(steward, evidence=keep.evidence(challenge), challenge=challenge)
    refused(steward, data, Rejected, "challenge: expired; found good until 2026-03-01T11:59:59")


def test_foreign_challenge_is_unverified(steward: Steward, keep: Keep) -> None:
    challenge = Challenges(bytes(32)).issue(NOW).challenge
    data = keep.request(steward, evidence=keep.evidence(challenge), challenge=challenge)
    refused(steward, data, Unverified, "challenge: not issued by this steward")


def test_no_challenge_is_refused_unless_the_policy_says_so(steward: Steward, keep: Keep) -> None:
    bound = Evidence(SNP_MEDIA_TYPE, hashlib.sha384(keep.spki).digest() + bytes(16))
    data = keep.request(steward, evidence=bound, challenge=None)
    refused(steward, data, Rejected, "no challenge")
    lenient = with_policy(steward, challenge_required=False)
    assert certify(lenient, data).public_key() == keep.key.public_key()


@pytest.mark.parametrize("padding", [b"\1" * 16, b""])
def test_original_binding_is_padded_with_zeros(
    steward: Steward, keep: Keep, padding: bytes
) -> None:
    bound = Evidence(SNP_MEDIA_TYPE, hashlib.sha384(keep.spki).digest() + padding)
    data = keep.request(steward, evidence=bound, challenge=None)
    refused(with_policy(steward, challenge_required=False), data, Rejected, "report data")


def test_challenge_is_checked_even_where_it_is_optional(steward: Steward, keep: Keep) -> None:
    """Nobody may pass off a binding to a foreign challenge as one without."""
    challenge = Challenges(bytes(32)).issue(NOW).challenge
    data = keep.request(steward, evidence=keep.evidence(challenge), challenge=challenge)
    lenient = with_policy(steward, challenge_required=False)
    refused(lenient, data, Unverified, "not issued by this steward")


def test_original_request_is_admitted_where_the_policy_says_so(
    steward: Steward, keep: Keep
) -> None:
    """An original keep: Enarx OID, the name in the subject, no challenge."""
    name = f"d.test/j/c:1.0.0@{digest_url_text(DIGEST)}"
    evidence = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("1.3.6.1.4.1.58270.1.3"),
        hashlib.sha384(keep.spki).digest() + bytes(16),
    )
    data = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(evidence, critical=False)
        .sign(keep.key, hashes.SHA384())
        .public_bytes(Encoding.DER)
    )
    lenient = with_policy(steward, challenge_required=False, drawbridges={"d.test": None})
    identity = CertifiedIdentity.from_certificate(certify(lenient, data, DIGEST))
    assert identity is not None
    assert identity.workload.slug == Slug.parse("d.test/j/c:1.0.0")
    with pytest.raises(Rejected):
        certify(lenient, data, bytes(32))


@pytest.mark.parametrize("arc", ["1", "2"])
def test_tee_without_an_appraiser_is_refused(steward: Steward, keep: Keep, arc: str) -> None:
    """KVM's empty evidence proves nothing, and is never admitted."""
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.3.6.1.4.1.58270.1.{arc}"), b"")
    data = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(extension, critical=False)
        .sign(keep.key, hashes.SHA384())
        .public_bytes(Encoding.DER)
    )
    found = {"1": Tee.KVM, "2": Tee.SGX}[arc]
    refused(steward, data, Rejected, f"does not admit this TEE; found {found}; expected snp")


def test_unknown_media_type_is_refused(steward: Steward, keep: Keep) -> None:
    data = keep.request(steward, evidence=Evidence("text/plain", b"trust me"))
    refused(steward, data, Rejected, "unknown kind of evidence; found text/plain")


@pytest.mark.parametrize("curve", [ec.SECP256R1()])
def test_key_weaker_than_the_tees_is_refused(steward: Steward, curve: EllipticCurve) -> None:
    refused(
        steward,
        Keep(curve).request(steward),
        Rejected,
        "found secp256r1; expected secp384r1",
    )


def test_nonsense_is_malformed(steward: Steward) -> None:
    refused(steward, b"\x30\x00", Malformed, "certificate request: not DER")


@pytest.mark.parametrize("days", [-1, 366])
def test_root_that_is_not_valid_issues_nothing(steward: Steward, keep: Keep, days: int) -> None:
    examined = examine(keep.request(steward), steward, NOW)
    with pytest.raises(Unavailable) as caught:
        issue(examined, steward, None, NOW + timedelta(days=days))
    assert "the steward's issuing certificate is not valid now" in str(caught.value)


def test_leaf_never_outlives_the_root(steward: Steward, keep: Keep) -> None:
    examined = examine(keep.request(steward), steward, NOW)
    late = NOW + timedelta(days=364, hours=23, minutes=30)
    certificate = issue(examined, steward, None, late)
    root = steward.authority.certificate
    assert certificate.not_valid_after_utc == root.not_valid_after_utc


def test_request_built_by_hand_is_the_same(steward: Steward, keep: Keep) -> None:
    """The helper adds nothing: what a keep builds by itself is admitted."""
    challenge = steward.challenges.issue(NOW).challenge
    data = build_request(
        keep.key, evidence=keep.evidence(challenge), challenge=challenge, workload=WORKLOAD
    )
    assert certify(steward, data, DIGEST).subject == x509.Name([])

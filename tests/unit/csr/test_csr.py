"""Requests: what is read back, and everything that is refused."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AttributeOID, ExtensionOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed, Unverified
from garrison.formats._der import SEQUENCE, value_of
from garrison.formats.csr import (
    CMW_OID,
    MAX_REQUEST,
    EnarxEvidence,
    Request,
    build_request,
    decode_bundle,
    decode_pki_path,
    encode_bundle,
    encode_pki_path,
)
from garrison.formats.digest import digest_url_text
from garrison.formats.evidence import Evidence, Tee
from garrison.formats.identity import WORKLOAD_IDENTITY_OID, WorkloadIdentity
from garrison.formats.slug import Slug
from garrison.testing.dcap import FakeIntel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

P384 = ec.generate_private_key(ec.SECP384R1())
P256 = ec.generate_private_key(ec.SECP256R1())
EVIDENCE = Evidence("application/vnd.example", bytes(range(256)) * 8)
SLUG = Slug.parse("drawbridge.example.com:8443/jane/chat:1.0.0+b1")
WORKLOAD = WorkloadIdentity(SLUG, bytes(range(32)))
CHALLENGE = b"a challenge"
ENARX = "1.3.6.1.4.1.58270.1."
# SEQUENCE { OCTET STRING { CBOR ["a/b", 'x'] } }
CMW_VALUE = bytes.fromhex("3009" + "0407" + "82" + "63612f62" + "4178")


def custom(
    extensions: Sequence[tuple[str, bytes, bool]] = (),
    attributes: Sequence[tuple[x509.ObjectIdentifier, bytes]] = (),
    subject: Sequence[tuple[x509.ObjectIdentifier, str]] = (),
    key: CertificateIssuerPrivateKeyTypes = P256,
) -> bytes:
    """A request with just these parts, truly signed."""
    names = [x509.NameAttribute(oid, value) for oid, value in subject]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    for oid, value, critical in extensions:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(extension, critical)
    for attribute, value in attributes:
        builder = builder.add_attribute(attribute, value)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def _long_version() -> bytes:
    """A `WorkloadIdentity` of a version that Python refuses to write down in digits."""
    right = WorkloadIdentity(None, bytes(32)).to_der()
    content = (1 << 20_000).to_bytes(2501)
    version, rest = value_of(2, content), right[right.index(b"\x02\x01\x01") + 3 :]
    return value_of(SEQUENCE, version, rest)


@pytest.mark.parametrize("key", [P256, P384], ids=["P-256", "P-384"])
def test_request_comes_back_as_it_was_built(key: ec.EllipticCurvePrivateKey) -> None:
    data = build_request(
        key,
        evidence=EVIDENCE,
        challenge=CHALLENGE,
        workload=WORKLOAD,
        dns_names=["a.example.com", "b.example.com"],
    )
    request = Request.from_der(data)
    assert request.evidence == EVIDENCE
    assert request.challenge == CHALLENGE
    assert request.workload == WORKLOAD
    assert request.dns_names == ("a.example.com", "b.example.com")
    assert request.curve == key.curve.name
    assert request.spki == key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


def test_request_for_a_keep_certificate_names_no_workload() -> None:
    request = Request.from_der(
        build_request(P384, evidence=EVIDENCE, challenge=CHALLENGE, workload=None)
    )
    assert request.workload is None
    assert request.dns_names == ()


def test_request_may_carry_nothing_at_all() -> None:
    request = Request.from_der(custom())
    assert (request.evidence, request.challenge, request.workload) == (None, None, None)


def test_steward_fills_in_what_a_request_must_leave_open() -> None:
    full = WorkloadIdentity(SLUG, bytes(32), "snp", b"m" * 48, "ok")
    request = Request.from_der(
        build_request(P384, evidence=EVIDENCE, challenge=None, workload=full)
    )
    assert request.workload == WorkloadIdentity(SLUG, bytes(32))


def test_der_of_the_wrapper_is_as_dice_says() -> None:
    request = Request.from_der(custom([(CMW_OID.dotted_string, CMW_VALUE, False)]))
    assert request.evidence == Evidence("a/b", b"x")


@pytest.mark.parametrize(("arc", "tee"), [("1", Tee.KVM), ("2", Tee.SGX), ("3", Tee.SNP)])
def test_original_evidence_is_handed_on_as_it_is(arc: str, tee: Tee) -> None:
    request = Request.from_der(custom([(ENARX + arc, b"anything", False)]))
    assert request.evidence == EnarxEvidence(tee, b"anything")


@pytest.mark.parametrize("host", ["localhost", "d.test/u/r:1.0.0"])
def test_original_common_name_asks_for_a_name(host: str) -> None:
    name = f"{host}@{digest_url_text(bytes(32))}"
    request = Request.from_der(custom(subject=[(NameOID.COMMON_NAME, name)]))
    slug = None if host == "localhost" else Slug.parse(host)
    assert request.workload == WorkloadIdentity(slug, bytes(32))


def test_a_long_common_name_is_read_whatever_others_make_of_such() -> None:
    """The library warns of it; while another thread reads certificates a warning is an error."""
    name = f"drawbridge.test/jane/{'chat' * 8}:1.0.0@{digest_url_text(bytes(32))}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        long = x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([long]))
    data = builder.sign(P256, hashes.SHA256()).public_bytes(Encoding.DER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        workload = Request.from_der(data).workload
    assert workload is not None
    assert str(workload.slug) == name.partition("@")[0]


CN = NameOID.COMMON_NAME
REFUSED = {
    "unknown extension": (
        custom([("1.2.3.4", b"", False)]),
        "unknown extension; found 1.2.3.4",
    ),
    "known extension of another kind": (
        custom([(ExtensionOID.BASIC_CONSTRAINTS.dotted_string, b"\x30\x03\x01\x01\xff", False)]),
        "unknown extension; found 2.5.29.19",
    ),
    "critical extension": (
        custom([(CMW_OID.dotted_string, CMW_VALUE, True)]),
        "critical extension; found 2.23.133.5.4.9",
    ),
    "two pieces of evidence": (
        custom([(CMW_OID.dotted_string, CMW_VALUE, False), (ENARX + "3", b"", False)]),
        "more than one piece of evidence",
    ),
    "wrapper with a tail": (
        custom([(CMW_OID.dotted_string, CMW_VALUE + b"\0", False)]),
        "conceptual message wrapper: not DER",
    ),
    "wrapper without a sequence": (
        custom([(CMW_OID.dotted_string, CMW_VALUE[4:], False)]),
        "conceptual message wrapper: not DER",
    ),
    "nested wrapper": (
        custom([(CMW_OID.dotted_string, b"\x30\x0d\x04\x0b" + CMW_VALUE, False)]),
        "conceptual message wrapper: not a CMW record",
    ),
    "unknown attribute": (
        custom(attributes=[(AttributeOID.UNSTRUCTURED_NAME, b"x")]),
        "unknown attribute; found 1.2.840.113549.1.9.2",
    ),
    "challenge with padding": (
        custom(attributes=[(AttributeOID.CHALLENGE_PASSWORD, b"YQ==")]),
        "challenge: not a challenge; found 'YQ=='",
    ),
    "challenge with stray bits": (
        custom(attributes=[(AttributeOID.CHALLENGE_PASSWORD, b"YR")]),
        "challenge: not a challenge; found 'YR'",
    ),
    "empty challenge": (
        custom(attributes=[(AttributeOID.CHALLENGE_PASSWORD, b"")]),
        "challenge: not a challenge",
    ),
    "long challenge": (
        custom(attributes=[(AttributeOID.CHALLENGE_PASSWORD, b"YWJj" * 100)]),
        "challenge: not a challenge",
    ),
    "measurement in a request": (
        custom(
            [
                (
                    WORKLOAD_IDENTITY_OID.dotted_string,
                    WorkloadIdentity(SLUG, bytes(32), measurement=b"m").to_der(),
                    False,
                )
            ]
        ),
        "claims what only a steward may say",
    ),
    "identity without a digest": (
        custom(
            [(WORKLOAD_IDENTITY_OID.dotted_string, WorkloadIdentity(None, None).to_der(), False)]
        ),
        "claims what only a steward may say",
    ),
    "name in both places": (
        custom(
            [(WORKLOAD_IDENTITY_OID.dotted_string, WORKLOAD.to_der(), False)],
            subject=[(CN, "localhost@x")],
        ),
        "a subject beside WorkloadIdentity",
    ),
    "two common names": (
        custom(subject=[(CN, "a"), (CN, "b")]),
        "unusable subject; found CN=b,CN=a",
    ),
    "other name": (
        custom(subject=[(NameOID.ORGANIZATION_NAME, "AMD")]),
        "unusable subject; found O=AMD",
    ),
    "common name without a digest": (custom(subject=[(CN, "a/b/c:1.0.0")]), "not a"),
    "email address": (
        custom(
            [(ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string, b"\x30\x05\x81\x03a@b", False)]
        ),
        "unusable subjectAltName",
    ),
    "no names": (
        custom([(ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string, b"\x30\x00", False)]),
        "unusable DNS names",
    ),
    "DNS name that is not ASCII": (
        custom(
            [(ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string, b"\x30\x03\x82\x01\xff", False)]
        ),
        "unusable DNS names",
    ),
    "RSA key": (custom(key=rsa.generate_private_key(65537, 2048)), "unsupported key"),
    "Ed25519 key": (custom(key=ed25519.Ed25519PrivateKey.generate()), "unsupported key"),
    "P-521 key": (custom(key=ec.generate_private_key(ec.SECP521R1())), "unsupported key"),
    "version of six thousand digits": (
        custom([(WORKLOAD_IDENTITY_OID.dotted_string, _long_version(), False)]),
        "unknown version; found a number of 20001 bits",
    ),
    "trailing byte": (custom() + b"\0", "not DER"),
    "too long": (bytes(MAX_REQUEST + 1), "too long"),
    "empty": (b"", "not DER"),
    "certificate's PEM": (b"-----BEGIN CERTIFICATE REQUEST-----", "not DER"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_malformed_request_is_refused_with_its_reason(case: str) -> None:
    data, reason = REFUSED[case]
    with pytest.raises(Malformed) as caught:
        Request.from_der(data)
    assert reason in str(caught.value)


def test_extension_given_twice_is_refused() -> None:
    """The library does not write it, so two different OIDs of one length are made the same."""
    data = custom([("1.3.6.1.4.1.58270.1.2", b"", False), ("1.3.6.1.4.1.58270.1.3", b"", False)])
    last = bytes.fromhex("060a2b0601040183c71e0103")
    assert data.count(last) == 1
    twice = data.replace(last, last[:-1] + b"\x02")
    with pytest.raises((Malformed, Unverified)) as caught:
        Request.from_der(resign(twice, P256))
    assert caught.type is Malformed
    assert "extension given twice; found 1.3.6.1.4.1.58270.1.2" in str(caught.value)


def resign(data: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign the body of the request `data` again."""
    parsed = x509.load_der_x509_csr(data)
    body = parsed.tbs_certrequest_bytes
    signature = key.sign(body, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    bits = b"\x03" + bytes([len(signature) + 1]) + b"\0" + signature
    content = body + algorithm + bits
    head = b"\x30\x81" if len(content) < 256 else b"\x30\x82"
    return head + len(content).to_bytes(1 if len(content) < 256 else 2, "big") + content


def test_request_signed_by_another_key_is_unverified() -> None:
    data = build_request(P256, evidence=EVIDENCE, challenge=CHALLENGE, workload=WORKLOAD)
    other = ec.generate_private_key(ec.SECP256R1())
    assert Request.from_der(resign(data, P256)).evidence == EVIDENCE
    with pytest.raises(Unverified) as caught:
        Request.from_der(resign(data, other))
    assert "not signed by the key it holds" in str(caught.value)


def test_signature_that_leaves_a_bit_out_is_refused() -> None:
    """One that ends in a zero bit, half of them do, can be written without it."""
    data = next(each for each in (resign(WHOLE, P256) for _ in range(64)) if not each[-1] & 1)
    size = len(x509.load_der_x509_csr(data).signature)
    other = bytearray(data)
    other[-size - 1] = 1
    assert Request.from_der(data).evidence == EVIDENCE
    with pytest.raises(Malformed, match="not a PKCS#10 request"):
        Request.from_der(bytes(other))


def test_compressed_key_is_refused() -> None:
    """A key has one encoding here: evidence is bound to the digest of it."""
    compressed = P256.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    # SPKI: SEQUENCE(59) AlgorithmIdentifier BIT STRING(42); with 33 instead of 65 bytes of point.
    spki = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + compressed
    info = b"\x02\x01\x00\x30\x00" + spki + b"\xa0\x00"
    body = b"\x30" + bytes([len(info)]) + info
    signature = P256.sign(body, ec.ECDSA(hashes.SHA256()))
    bits = b"\x03" + bytes([len(signature) + 1]) + b"\0" + signature
    content = body + bytes.fromhex("300a06082a8648ce3d040302") + bits
    with pytest.raises(Malformed) as caught:
        Request.from_der(b"\x30\x81" + bytes([len(content)]) + content)
    assert "unusual encoding of the key" in str(caught.value)


@given(st.binary(max_size=400))
def test_any_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Request.from_der(data)


WHOLE = build_request(P256, evidence=EVIDENCE, challenge=CHALLENGE, workload=WORKLOAD)


@given(position=st.integers(0, len(WHOLE) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(position: int, bit: int) -> None:
    data = bytearray(WHOLE)
    data[position] ^= 1 << bit
    with pytest.raises((Malformed, Unverified)):
        Request.from_der(bytes(data))


@given(st.integers(0, len(WHOLE) - 1))
def test_any_truncation_is_malformed(length: int) -> None:
    with pytest.raises(Malformed):
        Request.from_der(WHOLE[:length])


@given(
    st.binary(max_size=60),
    st.sampled_from(
        [
            CMW_OID.dotted_string,
            ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string,
            WORKLOAD_IDENTITY_OID.dotted_string,
        ]
    ),
)
def test_signed_nonsense_in_an_extension_is_malformed(value: bytes, oid: str) -> None:
    with pytest.raises(Malformed):
        Request.from_der(custom([(oid, value, False)]))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_reads_and_verifies_a_request() -> None:
    done = subprocess.run(
        ["openssl", "req", "-inform", "DER", "-verify", "-noout", "-text"],
        input=WHOLE,
        capture_output=True,
        check=True,
    )
    assert b"verify OK" in done.stdout + done.stderr
    assert b"challengePassword        :YSBjaGFsbGVuZ2U" in done.stdout
    assert b"2.23.133.5.4.9" in done.stdout


@pytest.mark.parametrize("version", [1, 5, 0x7F])
def test_a_request_of_another_version_in_a_bundle(version: int) -> None:
    """The library has an error of its own for it, which must not get out."""
    request = build_request(P384, evidence=None, challenge=None, workload=None)
    place = request.index(b"\x02\x01\x00")
    changed = request[: place + 2] + bytes((version,)) + request[place + 3 :]
    bundle = encode_bundle([request])
    with pytest.raises(Malformed):
        decode_bundle(bundle.replace(request, changed))
    with pytest.raises(Malformed):
        Request.from_der(changed)


def test_a_certificate_of_another_version_in_a_path() -> None:
    path = encode_pki_path([FakeIntel().certificate("root")])
    for version in (3, 10):
        with pytest.raises(Malformed):
            decode_pki_path(path.replace(b"\xa0\3\2\1\2", bytes((0xA0, 3, 2, 1, version)), 1))

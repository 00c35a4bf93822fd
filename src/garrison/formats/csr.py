"""Certificate requests of keeps: PKCS#10 (RFC 2986) with evidence, and what a steward answers.

A request is signed by the key that the evidence is bound to, and may hold, nothing else:

- attribute `extensionRequest` with at most one each of
  - evidence: `2.23.133.5.4.9` (TCG DICE Attestation Architecture 1.1, section 6.1.8:
    `DiceConceptualMessageWrapper ::= SEQUENCE { cmw OCTET STRING }`, here a CBOR CMW record),
    or one of the original Enarx OIDs `1.3.6.1.4.1.58270.1.{1,2,3}` (KVM, SGX, SNP);
  - `WorkloadIdentity`, slug and digest alone: which workload's name the keep asks for;
  - `subjectAltName` with DNS names;
- attribute `challengePassword`: the steward's challenge, base64url without padding;
- a subject that is empty, or, as the original's keeps write it, the one common name
  `slug@digest` (`localhost@digest` for a local workload), in place of `WorkloadIdentity`.

Anything unknown, twice, critical or trailing is refused, and so are keys other than P-256 and
P-384. A request says what a keep wants: nothing in it is believed but the signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, ExtensionOID, NameOID, SignatureAlgorithmOID

from garrison import ecdsa
from garrison.errors import Malformed, Unverified
from garrison.formats import cmw
from garrison.formats._der import (
    SEQUENCE,
    check_signature_octets,
    check_size,
    decode,
    inside,
    value_of,
)
from garrison.formats.challenge_wire import decode_challenge, encode_challenge
from garrison.formats.digest import parse_digest_url
from garrison.formats.evidence import Evidence, Tee
from garrison.formats.identity import WORKLOAD_IDENTITY_OID, WorkloadIdentity
from garrison.formats.slug import Slug

if TYPE_CHECKING:
    from collections.abc import Sequence

PKCS10_MEDIA_TYPE = "application/pkcs10"
BUNDLE_MEDIA_TYPE = "application/vnd.steward.pkcs10-bundle.v1"

# PKCS#9 (RFC 2985, 5.4.2).
EXTENSION_REQUEST_OID = x509.ObjectIdentifier("1.2.840.113549.1.9.14")
CMW_OID = x509.ObjectIdentifier("2.23.133.5.4.9")
ENARX_OIDS = {
    x509.ObjectIdentifier("1.3.6.1.4.1.58270.1.1"): Tee.KVM,
    x509.ObjectIdentifier("1.3.6.1.4.1.58270.1.2"): Tee.SGX,
    x509.ObjectIdentifier("1.3.6.1.4.1.58270.1.3"): Tee.SNP,
}

# The largest evidence is an SGX quote with its collateral in the original's form (some 40 KB,
# of which the revocation lists are most); SNP with its chain is 7 KB.
MAX_REQUEST = 128 * 1024
# The original's bundles hold the few keys of one keep.
MAX_BUNDLE_REQUESTS = 16
MAX_BUNDLE = 512 * 1024
# An answer is a chain of a root, perhaps intermediates, and leaves.
MAX_ANSWER = 256 * 1024
_MAX_DNS_NAMES = 16

_HASHES = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: "sha256",
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: "sha384",
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: "sha512",
}
_EMPTY = b"\x30\x00"


@asn1.sequence
class _Wrapper:
    cmw: bytes


@asn1.sequence
class _Attribute:
    oid: x509.ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class _Info:
    version: int
    subject: asn1.TLV
    spki: asn1.TLV
    attributes: Annotated[asn1.SetOf[_Attribute], asn1.Implicit(0)]


@asn1.sequence
class _Request:
    info: _Info
    algorithm: asn1.TLV
    signature: asn1.BitString


@asn1.sequence
class _Extension:
    oid: x509.ObjectIdentifier
    critical: Annotated[bool, asn1.Default(False)]  # noqa: FBT003 - the ASN.1 default
    value: bytes


# Each of these is one field, for `inside`.
@asn1.sequence
class _Extensions:
    items: list[_Extension]


@asn1.sequence
class _Text:
    text: str


@asn1.sequence
class _Names:
    items: list[asn1.TLV]


@asn1.sequence
class _Certificates:
    items: list[x509.Certificate]


@asn1.sequence
class _Requests:
    items: list[x509.CertificateSigningRequest]


@asn1.sequence
class _BundleAnswer:
    chain: list[x509.Certificate]
    issued: list[x509.Certificate]


@dataclass(frozen=True, slots=True)
class EnarxEvidence:
    """Evidence as an original Enarx keep sends it: the extension's value for `tee`."""

    tee: Tee
    der: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """What a keep asks for, with its signature verified by its own key.

    Attributes:
        spki: the key's SubjectPublicKeyInfo, DER, as evidence is bound to it.
        curve: the curve of the same key, secp256r1 or secp384r1.
        evidence: the evidence, or None if the request carries none.
        challenge: the steward's challenge, if the request answers one.
        workload: slug and digest of the workload whose name is asked for; None for a keep's.
        dns_names: DNS names asked for.
    """

    spki: bytes
    curve: str
    evidence: Evidence | EnarxEvidence | None
    challenge: bytes | None
    workload: WorkloadIdentity | None
    dns_names: tuple[str, ...]

    @classmethod
    def from_der(cls, data: bytes) -> Request:
        """Read a request and verify its signature.

        Raises:
            Malformed: `data` is not a request of the form this module describes.
            Unverified: it is not signed by the key it holds.
        """
        check_size(data, MAX_REQUEST, "certificate request")
        raw = decode(_Request, data, "certificate request")
        spki = asn1.encode_der(raw.info.spki)
        curve, subject = _verified(data, spki, asn1.encode_der(raw.info.subject))
        attributes = _attributes(raw)
        extensions = _extensions(attributes.get(EXTENSION_REQUEST_OID))
        return cls(
            spki=spki,
            curve=curve,
            evidence=_evidence(extensions),
            challenge=_challenge(attributes.get(AttributeOID.CHALLENGE_PASSWORD)),
            workload=_workload(extensions.get(WORKLOAD_IDENTITY_OID), subject),
            dns_names=_dns_names(extensions.get(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)),
        )


def build_request(
    key: ec.EllipticCurvePrivateKey,
    *,
    evidence: Evidence | None,
    challenge: bytes | None,
    workload: WorkloadIdentity | None,
    dns_names: Sequence[str] = (),
) -> bytes:
    """Build a keep's request, DER.

    Args:
        key: the keep's key, P-256 or P-384; it signs the request.
        evidence: evidence bound to the key and the challenge; None to ask without any.
        challenge: the steward's challenge.
        workload: slug, digest and policy of the workload; None to ask for a keep certificate.
        dns_names: DNS names to ask for.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if evidence is not None:
        wrapped = asn1.encode_der(_Wrapper(cmw=cmw.encode(evidence)))
        builder = builder.add_extension(
            x509.UnrecognizedExtension(CMW_OID, wrapped), critical=False
        )
    if workload is not None:
        asked = WorkloadIdentity(workload.slug, workload.digest, policy=workload.policy).to_der()
        builder = builder.add_extension(
            x509.UnrecognizedExtension(WORKLOAD_IDENTITY_OID, asked), critical=False
        )
    if dns_names:
        names = x509.SubjectAlternativeName([x509.DNSName(name) for name in dns_names])
        builder = builder.add_extension(names, critical=False)
    if challenge is not None:
        builder = builder.add_attribute(
            AttributeOID.CHALLENGE_PASSWORD, encode_challenge(challenge).encode("ascii")
        )
    algorithm = hashes.SHA384() if isinstance(key.curve, ec.SECP384R1) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def encode_pki_path(chain: Sequence[x509.Certificate]) -> bytes:
    """Write a PkiPath (X.509, 7.7): SEQUENCE OF Certificate, issuer first and leaf last."""
    return value_of(SEQUENCE, *(each.public_bytes(Encoding.DER) for each in chain))


def decode_pki_path(data: bytes) -> tuple[x509.Certificate, ...]:
    """Read a PkiPath: the certificates, issuer first and leaf last. Nothing is verified.

    Raises:
        Malformed: `data` is anything else, or holds no certificate.
    """
    check_size(data, MAX_ANSWER, "PkiPath")
    items = decode(_Certificates, inside(data), "PkiPath").items
    if not items:
        raise Malformed("empty", field="PkiPath", expected="at least one certificate")
    return tuple(items)


def encode_bundle(requests: Sequence[bytes]) -> bytes:
    """Write a bundle of requests, each DER: SEQUENCE OF CertificationRequest."""
    return value_of(SEQUENCE, *requests)


def decode_bundle(data: bytes) -> tuple[bytes, ...]:
    """Read a bundle of requests: the DER of each, not yet read.

    Raises:
        Malformed: `data` is not 1 to `MAX_BUNDLE_REQUESTS` requests.
    """
    check_size(data, MAX_BUNDLE, "bundle")
    items = decode(_Requests, inside(data), "bundle").items
    if not 0 < len(items) <= MAX_BUNDLE_REQUESTS:
        raise Malformed(
            "wrong number of requests",
            field="bundle",
            found=len(items),
            expected=f"1 to {MAX_BUNDLE_REQUESTS}",
        )
    return tuple(item.public_bytes(Encoding.DER) for item in items)


def encode_bundle_answer(
    chain: Sequence[x509.Certificate], issued: Sequence[x509.Certificate]
) -> bytes:
    """Write the answer to a bundle: the issuers, and the leaves in the order of the requests."""
    return asn1.encode_der(_BundleAnswer(chain=list(chain), issued=list(issued)))


def decode_bundle_answer(
    data: bytes,
) -> tuple[tuple[x509.Certificate, ...], tuple[x509.Certificate, ...]]:
    """Read the answer to a bundle: the issuers, and the leaves. Nothing is verified.

    Raises:
        Malformed: `data` is anything else.
    """
    check_size(data, MAX_ANSWER, "bundle answer")
    answer = decode(_BundleAnswer, data, "bundle answer")
    return tuple(answer.chain), tuple(answer.issued)


def _verified(data: bytes, spki: bytes, subject: bytes) -> tuple[str, x509.Name | None]:
    """The curve and the subject of the request `data`, once its signature is verified.

    An empty `subject`, which nearly all have, is None, and costs nothing.
    """
    try:
        parsed = x509.load_der_x509_csr(data)
        name = None if subject == _EMPTY else _subject(parsed)
        algorithm = parsed.signature_algorithm_oid
        check_signature_octets(data, parsed.signature)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise _malformed("not a PKCS#10 request of version 1") from error
    point = ecdsa.point_of_spki(spki)
    if point is None:
        raise _other_key(parsed)
    digest = _HASHES.get(algorithm)
    if digest is None:
        raise _malformed(
            "unsupported signature", found=algorithm.dotted_string, expected="ECDSA with SHA-2"
        )
    try:
        is_signed = ecdsa.is_signed(point, parsed.signature, parsed.tbs_certrequest_bytes, digest)
    except ValueError as error:
        raise _malformed("not a key", expected="a point of the curve that it names") from error
    if not is_signed:
        raise Unverified("not signed by the key it holds", field="certificate request signature")
    return ecdsa.curve_at(point), name


def _subject(request: x509.CertificateSigningRequest) -> x509.Name:
    """The subject: `slug@digest` of the original's keeps is longer than a common name should be."""
    # Late: few requests have a subject, and a keep that makes one reads none.
    from garrison.formats.snp_certificate import leniently

    with leniently():
        return request.subject


def _other_key(request: x509.CertificateSigningRequest) -> Malformed:
    """What is wrong with the key of `request`, which is none that is read here."""
    try:
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return _malformed("unreadable key", expected="ECDSA on P-256 or P-384")
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(
        key.curve, ec.SECP256R1 | ec.SECP384R1
    ):
        return _malformed("unusual encoding of the key", expected="named curve, uncompressed point")
    return _malformed(
        "unsupported key", found=type(key).__name__, expected="ECDSA on P-256 or P-384"
    )


def _attributes(raw: _Request) -> dict[x509.ObjectIdentifier, bytes]:
    """The one value, DER, of each attribute."""
    known = (EXTENSION_REQUEST_OID, AttributeOID.CHALLENGE_PASSWORD)
    found: dict[x509.ObjectIdentifier, bytes] = {}
    for attribute in raw.info.attributes.as_list():
        values = attribute.values.as_list()
        _admit(attribute.oid, known, found, "attribute")
        if len(values) != 1:
            raise _malformed(
                "wrong number of values in an attribute", found=len(values), expected="one"
            )
        found[attribute.oid] = asn1.encode_der(values[0])
    return found


def _extensions(data: bytes | None) -> dict[x509.ObjectIdentifier, bytes]:
    """The value of each extension in an extensionRequest."""
    if data is None:
        return {}
    known = (
        CMW_OID,
        *ENARX_OIDS,
        WORKLOAD_IDENTITY_OID,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    )
    found: dict[x509.ObjectIdentifier, bytes] = {}
    for extension in decode(_Extensions, inside(data), "extensions").items:
        _admit(extension.oid, known, found, "extension")
        if extension.critical:
            raise _malformed("critical extension", found=extension.oid.dotted_string)
        found[extension.oid] = extension.value
    return found


def _admit(
    oid: x509.ObjectIdentifier,
    known: Sequence[x509.ObjectIdentifier],
    found: dict[x509.ObjectIdentifier, bytes],
    what: str,
) -> None:
    if oid not in known:
        raise _malformed(
            f"unknown {what}",
            found=oid.dotted_string,
            expected=", ".join(item.dotted_string for item in known),
        )
    if oid in found:
        raise _malformed(f"{what} given twice", found=oid.dotted_string, expected="once")


def _evidence(
    extensions: dict[x509.ObjectIdentifier, bytes],
) -> Evidence | EnarxEvidence | None:
    present = [oid for oid in extensions if oid == CMW_OID or oid in ENARX_OIDS]
    if not present:
        return None
    if len(present) > 1:
        raise _malformed(
            "more than one piece of evidence",
            found=", ".join(oid.dotted_string for oid in present),
            expected="one",
        )
    (oid,) = present
    if oid in ENARX_OIDS:
        return EnarxEvidence(ENARX_OIDS[oid], extensions[oid])
    wrapper = decode(_Wrapper, extensions[oid], "conceptual message wrapper")
    return cmw.decode(wrapper.cmw)


def _challenge(value: bytes | None) -> bytes | None:
    if value is None:
        return None
    return decode_challenge(decode(_Text, inside(value), "challenge").text)


def _workload(value: bytes | None, subject: x509.Name | None) -> WorkloadIdentity | None:
    """The workload asked for, in the extension or, the original's way, in the subject."""
    if value is None:
        return None if subject is None else _workload_of_subject(subject)
    if subject is not None:
        raise _malformed("a subject beside WorkloadIdentity", found=subject.rfc4514_string()[:200])
    asked = WorkloadIdentity.from_der(value)
    if asked.digest is None or asked != WorkloadIdentity(
        asked.slug, asked.digest, policy=asked.policy
    ):
        raise _malformed(
            "WorkloadIdentity claims what only a steward may say",
            found=asked,
            expected="slug, digest and policy alone",
        )
    return asked


def _workload_of_subject(subject: x509.Name) -> WorkloadIdentity:
    names = [attribute for relative in subject.rdns for attribute in relative]
    if len(names) != 1 or names[0].oid != NameOID.COMMON_NAME:
        raise _malformed(
            "unusable subject",
            found=subject.rfc4514_string()[:200],
            expected="none, or the common name slug@digest",
        )
    slug, _, digest = str(names[0].value).rpartition("@")
    return WorkloadIdentity(
        slug=None if slug == "localhost" else Slug.parse(slug), digest=parse_digest_url(digest)
    )


def _dns_names(value: bytes | None) -> tuple[str, ...]:
    if value is None:
        return ()
    names = []
    for item in decode(_Names, inside(value), "DNS names").items:
        # RFC 5280, 4.2.1.6: GeneralName, of which dNSName is [2] IMPLICIT IA5String.
        if item.tag_bytes != b"\x82":
            raise _malformed("unusable subjectAltName", expected="DNS names alone")
        names.append(bytes(item.data).decode("ascii", "replace"))
    if not 0 < len(names) <= _MAX_DNS_NAMES or not all(name.isascii() for name in names):
        raise _malformed("unusable DNS names", expected=f"1 to {_MAX_DNS_NAMES}, in ASCII")
    return tuple(names)


def _malformed(message: str, *, found: object = None, expected: str | None = None) -> Malformed:
    return Malformed(message, field="certificate request", found=found, expected=expected)

"""Requests that a hostile host makes up, against the steward's whole HTTP application.

The clock is the test's; TEE vendors are simulated; all else is what a steward runs.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, NameOID
from tests.unit.csr.test_csr import REFUSED, resign
from tests.unit.steward.conftest import FakeRegistry, Keep
from tests.unit.steward.test_steward_http import PROBLEM, Answer, ask_app
from tests.unit.steward.test_steward_tees_http import (
    AZURE,
    DIGEST,
    INTEL,
    POLICY,
    base,
    sgx,
    tdx,
)

from garrison.endorsements import pcs
from garrison.endorsements.cache import Cache, Entry
from garrison.endorsements.pcs import Ca
from garrison.endorsements.resource import Document
from garrison.formats import cmw, csr, identity
from garrison.formats.challenge_wire import Offer, encode_challenge
from garrison.formats.csr import (
    BUNDLE_MEDIA_TYPE,
    MAX_BUNDLE,
    MAX_REQUEST,
    PKCS10_MEDIA_TYPE,
    build_request,
    decode_pki_path,
)
from garrison.formats.dcap_quote import TeeType
from garrison.formats.evidence import SNP_MEDIA_TYPE, Evidence, bound_report_data
from garrison.formats.identity import CertifiedIdentity, WorkloadIdentity
from garrison.service.requests import Requests
from garrison.steward.authority import SERVER_PEM
from garrison.steward.challenge import LIFETIME
from garrison.steward.http import application
from garrison.steward.setup import open_steward
from garrison.testing.dcap import NOW, PCK_SERIAL
from garrison.testing.tees import fill_cache

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["base"]  # a fixture, which pytest finds by its name

# What any refusal may take, on a machine that does ten other things.
PATIENCE = 20.0
DRAWBRIDGE = '[drawbridges."drawbridge.test"]\n'


class Target:
    """A steward under attack, and its clock."""

    def __init__(self, home: Path, *, extra: str = "", optional: bool = False) -> None:
        self.now = NOW
        text = POLICY.replace('"required"', '"optional"') if optional else POLICY
        (home / "policy.toml").write_text(text + extra)
        steward, _ = open_steward(
            home / "steward", home / "policy.toml", home / "steward" / SERVER_PEM
        )
        self.app = Requests(application(steward, FakeRegistry(), clock=lambda: self.now))

    def ask(
        self, method: str, body: bytes = b"", path: str = "/", media: str = PKCS10_MEDIA_TYPE
    ) -> Answer:
        headers = {"Content-Type": media, "Accept": PROBLEM}
        return asyncio.run(ask_app(self.app, method, path, headers, body))

    def offer(self) -> Offer:
        return Offer.from_bytes(self.ask("GET", path="/challenge").body)

    def request(self, keep: Keep, **changes: object) -> bytes:
        challenge = self.offer().challenge
        evidence = sgx(bound_report_data(keep.spki, challenge))
        parts = {
            "evidence": evidence,
            "challenge": challenge,
            "workload": WorkloadIdentity(None, DIGEST),
        }
        return build_request(keep.key, **(parts | changes))  # type: ignore[arg-type]  # whatever an attacker likes


@pytest.fixture
def target(base: Path) -> Target:
    fill_cache(base / "cache", INTEL, NOW, TeeType.SGX, TeeType.TDX)
    return Target(base)


@pytest.fixture
def keep() -> Keep:
    return Keep(ec.SECP256R1())


def last_good(target: Target, body: bytes, start: datetime, seconds: int) -> int:
    """The last second after `start` at which `body` is certified; it is refused at `seconds`."""
    low, high = 0, seconds
    while high - low > 1:
        middle = (low + high) // 2
        target.now = start + timedelta(seconds=middle)
        if target.ask("POST", body).status == 200:
            low = middle
        else:
            high = middle
    return low


def test_replay_works_for_the_key_alone_and_for_five_minutes(target: Target, keep: Keep) -> None:
    """The window is measured: a request is good until its challenge ends, and not a second more."""
    body = target.request(keep)
    serials = set()
    for seconds in (0, 1, 298):
        target.now = NOW + timedelta(seconds=seconds)
        answer = target.ask("POST", body)
        leaf = decode_pki_path(answer.body)[-1]
        # Whoever repeats it gets a certificate for a key that he does not have.
        assert leaf.public_key() == keep.key.public_key()
        serials.add(leaf.serial_number)
    assert len(serials) == 3
    assert last_good(target, body, NOW, 100_000) == LIFETIME.total_seconds() - 1 == 299
    target.now = NOW + LIFETIME
    answer = target.ask("POST", body)
    assert (answer.status, answer.checks[0]["check"]) == (400, "challenge: expired")
    # A clock that is set back does not make it good again for long.
    target.now = NOW - timedelta(seconds=31)
    assert target.ask("POST", body).status == 400


def test_the_platforms_documents_end_to_the_second(target: Target, base: Path) -> None:
    """TCB info, identities and lists are good until their end, whatever is asked meanwhile."""
    keep = Keep(ec.SECP256R1())

    def good(now: datetime) -> bool:
        target.now = now
        return target.ask("POST", target.request(keep)).status == 200

    end = NOW + timedelta(days=28)
    assert good(end - timedelta(seconds=1))
    assert not good(end + timedelta(seconds=1))
    target.now = end + timedelta(days=1)
    answer = target.ask("POST", target.request(keep))
    assert answer.status in (400, 503)
    assert good(NOW)


def test_a_revoked_platform(base: Path, keep: Keep) -> None:
    fill_cache(base / "cache", INTEL, NOW, TeeType.SGX)
    resource = pcs.pck_crl(Ca.PLATFORM)
    revoked = Document(INTEL.crl("ca", [PCK_SERIAL]), INTEL.pem("ca", "root"))
    Cache(base / "cache").write(Entry(resource.url, resource.kind, NOW, revoked))
    target = Target(base)
    answer = target.ask("POST", target.request(keep))
    assert answer.status == 400
    assert "revoked" in answer.checks[0]["check"]


@pytest.mark.parametrize("case", [name for name in REFUSED if name != "too long"])
def test_what_the_parser_refuses_is_refused_with_a_reason(target: Target, case: str) -> None:
    """Two pieces of evidence, critical extensions, nested wrappers: over HTTP as well."""
    answer = target.ask("POST", REFUSED[case][0])
    assert answer.status == 400
    assert answer.checks


def test_evidence_within_evidence(target: Target, keep: Keep) -> None:
    inner = cmw.encode(sgx(bytes(64)))
    for outer in ("application/cmw+cbor", "application/cmw", "application/eat-ucs+cbor"):
        answer = target.ask("POST", target.request(keep, evidence=Evidence(outer, inner)))
        assert answer.status == 400
        assert "unknown kind of evidence" in answer.checks[0]["check"]


def test_evidence_of_one_tee_as_another(target: Target, keep: Keep) -> None:
    challenge = target.offer().challenge
    bound = bound_report_data(keep.spki, challenge)
    for made, other in ((sgx, tdx), (tdx, sgx)):
        evidence = Evidence(other(bound).media_type, made(bound).payload)
        body = build_request(keep.key, evidence=evidence, challenge=challenge, workload=None)
        answer = target.ask("POST", body)
        assert answer.status == 400
        # Each quote says itself what it is of, and its collateral is the other's.
        assert answer.checks[0]["check"] == "TCB info: id: another one"


def test_a_request_signed_by_another_key(target: Target, keep: Keep) -> None:
    body = resign(target.request(keep), ec.generate_private_key(ec.SECP256R1()))
    answer = target.ask("POST", body)
    assert answer.status == 400
    assert "not signed by the key it holds" in answer.checks[0]["check"]


def claiming(target: Target, keep: Keep, slug: str | None, subject: str | None = None) -> bytes:
    """A good request, but for the text of its slug, or of its subject, which may be any."""
    challenge = target.offer().challenge
    evidence = sgx(bound_report_data(keep.spki, challenge))
    extensions = [(csr.CMW_OID, asn1.encode_der(csr._Wrapper(cmw=cmw.encode(evidence))))]
    if slug is not None:
        asked = identity._WorkloadIdentity(
            version=1,
            slug=slug,
            digest=DIGEST,
            tee="",
            measurement=b"",
            tcb_status="",
            policy=None,
            platform=None,
        )
        extensions.append((identity.WORKLOAD_IDENTITY_OID, asn1.encode_der(asked)))
    names = [] if subject is None else [x509.NameAttribute(NameOID.COMMON_NAME, subject)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    for oid, value in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    attribute = encode_challenge(challenge).encode("ascii")
    builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, attribute)
    return builder.sign(keep.key, hashes.SHA256()).public_bytes(Encoding.DER)


LOOK_ALIKES = {
    "cyrillic": "drawbridge.test/j\u0430ne/chat:1.0.0",
    "full-width": "drawbridge.test/\uff4aane/chat:1.0.0",
    "nul": "drawbridge.test\0.evil/jane/chat:1.0.0",
    "upper-case-host": "DRAWBRIDGE.test/jane/chat:1.0.0",
    "dot-at-the-end": "drawbridge.test./jane/chat:1.0.0",
    "percent": "drawbridge.test/jane%2f/chat:1.0.0",
    "parent": "drawbridge.test/jane/../chat:1.0.0",
    "user-before-host": "evil@drawbridge.test/jane/chat:1.0.0",
    "scheme": "https://drawbridge.test/jane/chat:1.0.0",
    "blank": "drawbridge.test /jane/chat:1.0.0",
    "right-to-left": "drawbridge.test/\u202eenaj/chat:1.0.0",
    "zero-width": "drawbridge.test/jane\u200b/chat:1.0.0",
    "two-tags": "drawbridge.test/jane/chat:1.0.0:2.0.0",
    "leading-zero": "drawbridge.test/jane/chat:01.0.0",
    "default-port": "drawbridge.test:443/jane/chat:1.0.0",
    "very-long": f"drawbridge.test/{'j' * 60_000}/chat:1.0.0",
    "empty-user": "drawbridge.test//chat:1.0.0",
}


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_names_that_look_like_others(base: Path, keep: Keep, name: str) -> None:
    """None of them is read as a name of the drawbridge that the policy names."""
    fill_cache(base / "cache", INTEL, NOW, TeeType.SGX)
    target = Target(base, extra=DRAWBRIDGE)
    body = claiming(target, keep, LOOK_ALIKES[name])
    answer = target.ask("POST", body)
    assert answer.status == 400, decode_pki_path(answer.body)
    # It is the name that is refused, and not the test's way of writing it.
    refused = answer.checks[0]["check"].partition(":")[0]
    assert refused in {"slug", "user name", "repository name", "tag", "drawbridge host"}
    assert len(answer.body) < 4096


def test_the_name_that_they_look_like(base: Path, keep: Keep) -> None:
    """The control: the name itself is read, and looked up."""
    fill_cache(base / "cache", INTEL, NOW, TeeType.SGX)
    target = Target(base, extra=DRAWBRIDGE)
    honest = claiming(target, keep, "drawbridge.test/jane/chat:1.0.0")
    assert target.ask("POST", honest).status == 200


@pytest.mark.parametrize(
    "subject",
    ["localhost\0.evil", "a" * 64, "steward", "drawbridge.test/jane/chat:1.0.0", "*", "<b>\x1b[2J"],
    ids=["nul", "long", "word", "slug", "star", "terminal"],
)
def test_subjects_that_are_no_names(target: Target, keep: Keep, subject: str) -> None:
    answer = target.ask("POST", claiming(target, keep, None, subject))
    assert answer.status == 400
    # As a name in the original's place, or as a subject that is none.
    assert answer.checks[0]["check"].partition(":")[0] in {"slug", "certificate request"}
    assert b"\x1b" not in answer.body
    # The same without the subject is certified.
    assert target.ask("POST", claiming(target, keep, None)).status == 200


def test_a_certificate_says_what_was_verified_alone(target: Target, keep: Keep) -> None:
    """The control: the same request without a trick, and what comes of it."""
    found = CertifiedIdentity.from_certificate(
        decode_pki_path(target.ask("POST", target.request(keep)).body)[-1]
    )
    assert found is not None
    assert (found.workload.slug, found.workload.digest) == (None, DIGEST)


def nested(tag: int, size: int) -> bytes:
    """Constructed values within each other, as many as fit in `size` bytes."""
    data = b""
    while len(data) < size - 6:
        count = len(data)
        if count < 128:
            head = bytes((tag, count))
        else:
            width = (count.bit_length() + 7) // 8
            head = bytes((tag, 0x80 | width)) + count.to_bytes(width, "big")
        data = head + data
    return data


BOMBS = {
    "nested-sequences": nested(0x30, 60_000),
    "nested-sets": nested(0x31, 60_000),
    "nested-contexts": b"\x30" + b"\x82\xea\x60" + nested(0xA0, 60_000)[:60_000],
    "indefinite-lengths": b"\x30\x80" * 30_000,
    "length-of-2-to-the-64": b"\x30\x88" + b"\xff" * 8 + bytes(1000),
    "length-of-126-bytes": b"\x30\xfe" + b"\xff" * 126,
    "long-integer": b"\x30\x82\xea\x64\x02\x82\xea\x60" + b"\x7f" * 60_000,
    "long-object-identifier": b"\x30\x82\xea\x64\x06\x82\xea\x60" + b"\xff" * 60_000,
    "many-empty-values": b"\x30\x82\xea\x60" + b"\x05\x00" * 30_000,
    "high-tag-number": b"\x3f" + b"\xff" * 60_000,
}


@pytest.mark.parametrize("media", [PKCS10_MEDIA_TYPE, BUNDLE_MEDIA_TYPE], ids=["one", "bundle"])
@pytest.mark.parametrize("name", BOMBS)
def test_der_bombs(target: Target, name: str, media: str) -> None:
    started = time.monotonic()
    answer = target.ask("POST", BOMBS[name], media=media)
    assert answer.status == 400
    assert time.monotonic() - started < PATIENCE


@pytest.mark.parametrize("name", BOMBS)
def test_der_bombs_in_a_signed_request(target: Target, keep: Keep, name: str) -> None:
    """Where evidence and name stand, of which the one is read before anything is verified."""
    for oid in ("1.3.6.1.4.1.58270.1.2", "1.3.6.1.4.1.58270.1.3", "2.23.133.5.4.9"):
        value = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), BOMBS[name])
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        body = (
            builder.add_extension(value, critical=False)
            .sign(keep.key, hashes.SHA256())
            .public_bytes(Encoding.DER)
        )
        assert len(body) < MAX_REQUEST
        started = time.monotonic()
        assert target.ask("POST", body).status == 400
        assert time.monotonic() - started < PATIENCE


def test_bundles_of_too_much(target: Target, keep: Keep) -> None:
    request = target.request(keep)
    for body in (b"\x30\x00", bytes(MAX_BUNDLE + 1)):
        assert target.ask("POST", body, media=BUNDLE_MEDIA_TYPE).status in (400, 413)
    content = request * 17
    head = b"\x30\x83" + len(content).to_bytes(3, "big")
    answer = target.ask("POST", head + content, media=BUNDLE_MEDIA_TYPE)
    assert answer.status in (400, 413)


def test_a_key_that_is_weaker_than_the_hardwares(target: Target) -> None:
    """A genuine report of a chip that signs with P-384, bound to a key on P-256."""
    for curve, reason in ((ec.SECP256R1(), "weaker"), (ec.SECP384R1(), None)):
        keep = Keep(curve)
        challenge = target.offer().challenge
        report = AZURE.platform.evidence(report_data=bound_report_data(keep.spki, challenge))
        evidence = Evidence(SNP_MEDIA_TYPE, report.to_bytes())
        body = build_request(keep.key, evidence=evidence, challenge=challenge, workload=None)
        answer = target.ask("POST", body)
        if reason is None:
            assert answer.status == 200, answer.body
        else:
            assert answer.status == 400
            assert reason in answer.checks[0]["check"]

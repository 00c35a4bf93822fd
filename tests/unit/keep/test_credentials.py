"""A keep and its steward: over real TLS, with stewards that lie in every way."""

from __future__ import annotations

import threading
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from garrison.attesters.select import select
from garrison.errors import GarrisonError, Malformed, Misuse, Rejected, Unavailable, Unverified
from garrison.formats.csr import Request, encode_pki_path
from garrison.formats.identity import WorkloadIdentity
from garrison.formats.slug import Slug
from garrison.keep.identity import Credentials, StewardClient, load_roots
from garrison.keep.renewal import renewal_delay
from garrison.testing.tls import Authority, keep, workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Answer = tuple[int, bytes]
DIGEST = b"\x11" * 32
SLUG = Slug.parse("drawbridge.test/jane/chat:1.2.3")


class LyingSteward:
    """An HTTPS server whose answer to a CSR is what a test says."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.answer: Callable[[Request], Answer] = lambda _request: (500, b"")
        self.challenge: Answer = (200, _offer(b"c" * 64))
        self.requests: list[Request] = []
        context = authority.issue(hosts=("localhost",)).server_context()
        steward = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(*steward.challenge)

            def do_POST(self) -> None:
                request = Request.from_der(self.rfile.read(int(self.headers["Content-Length"])))
                steward.requests.append(request)
                self._answer(*steward.answer(request))

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def credentials(self, roots: str | None = None) -> Credentials:
        roots = roots or self.authority.root_pem
        return Credentials.generate(select({"kind": "nil"}), StewardClient(self.url, roots))

    def certifying(
        self, identity: WorkloadIdentity, authority: Authority | None = None
    ) -> Callable[[Request], Answer]:
        def answer(request: Request) -> Answer:
            issuer = authority or self.authority
            leaf = issuer.issue(identity, public_key=_key(request))
            return 200, encode_pki_path(list(reversed(leaf.chain)))

        return answer


def _key(request: Request) -> ec.EllipticCurvePublicKey:
    key = load_der_public_key(request.spki)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def _offer(challenge: bytes) -> bytes:
    text = urlsafe_b64encode(challenge).rstrip(b"=").decode()
    return f'{{"challenge": "{text}", "expires": "2026-01-01T00:00:00Z"}}'.encode()


@pytest.fixture
def steward() -> Iterator[LyingSteward]:
    steward = LyingSteward(Authority())
    yield steward
    steward.close()


def test_a_keep_is_certified(steward: LyingSteward) -> None:
    steward.answer = steward.certifying(keep())
    certified = steward.credentials().certify()
    assert certified.identity.workload == keep()
    (request,) = steward.requests
    assert request.challenge == b"c" * 64
    assert request.workload is None
    assert request.evidence is None


def test_a_workload_is_certified_with_the_same_key(steward: LyingSteward) -> None:
    credentials = steward.credentials()
    steward.answer = steward.certifying(workload(str(SLUG), digest=DIGEST))
    certified = credentials.certify(WorkloadIdentity(SLUG, DIGEST))
    assert certified.leaf.public_key() == credentials.key.public_key()
    assert steward.requests[0].workload == WorkloadIdentity(SLUG, DIGEST)


@pytest.mark.parametrize(
    "lie",
    [
        keep(),
        workload(None, digest=DIGEST),
        workload("drawbridge.test/jane/chat:1.2.4", digest=DIGEST),
        workload(str(SLUG), digest=b"\x12" * 32),
    ],
    ids=["no workload", "no slug", "another tag", "another digest"],
)
def test_a_certificate_for_another_workload_is_refused(
    lie: WorkloadIdentity, steward: LyingSteward
) -> None:
    steward.answer = steward.certifying(lie)
    with pytest.raises(Unverified, match="another workload"):
        steward.credentials().certify(WorkloadIdentity(SLUG, DIGEST))


def test_a_certificate_for_another_key_is_refused(steward: LyingSteward) -> None:
    other = ec.generate_private_key(ec.SECP256R1())

    def answer(_request: Request) -> Answer:
        leaf = steward.authority.issue(keep(), public_key=other.public_key())
        return 200, encode_pki_path(list(reversed(leaf.chain)))

    steward.answer = answer
    with pytest.raises(Unverified, match="another key"):
        steward.credentials().certify()


def test_a_certificate_under_another_root_is_refused(steward: LyingSteward) -> None:
    steward.answer = steward.certifying(keep(), Authority("Impostor"))
    with pytest.raises(Unverified, match="--steward-root"):
        steward.credentials().certify()


def test_an_impostor_of_the_steward_never_sees_a_request(steward: LyingSteward) -> None:
    with pytest.raises(Unverified, match="TLS"):
        steward.credentials(Authority("Other").root_pem).certify()
    assert steward.requests == []


def test_an_expired_certificate_is_refused(steward: LyingSteward) -> None:
    day = timedelta(days=1)

    def answer(request: Request) -> Answer:
        leaf = steward.authority.issue(keep(), public_key=_key(request), valid=(-2 * day, -1 * day))
        return 200, encode_pki_path(list(reversed(leaf.chain)))

    steward.answer = answer
    with pytest.raises(Unverified):
        steward.credentials().certify()


@pytest.mark.parametrize(
    ("status", "body", "family"),
    [
        (200, b"", Malformed),
        (200, b"\x30\x00", Malformed),
        (200, b"garbage", Malformed),
        (200, b"\x00" * (1 << 19), Malformed),
        (302, b"", Rejected),
        (400, b"not json", Rejected),
        (401, b"", Rejected),
        (500, b"", Unavailable),
        (503, b"", Unavailable),
    ],
    ids=["empty", "no chain", "garbage", "huge", "302", "400", "401", "500", "503"],
)
def test_any_other_answer_has_its_family(
    status: int, body: bytes, family: type[GarrisonError], steward: LyingSteward
) -> None:
    steward.answer = lambda _request: (status, body)
    with pytest.raises(family):
        steward.credentials().certify()


def test_the_reasons_of_a_refusal_are_told_and_cannot_paint_the_terminal(
    steward: LyingSteward,
) -> None:
    body = (
        b'{"detail": "no\\u001b[2J", "checks": [{"check": "vmpl", "found": 3, "expected": 0}, 1]}'
    )
    steward.answer = lambda _request: (400, body)
    with pytest.raises(Rejected) as caught:
        steward.credentials().certify()
    assert "no?[2J" in str(caught.value)
    assert getattr(caught.value, "checks", None) == [
        {"check": "vmpl", "found": "3", "expected": "0"}
    ]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"challenge": 1}', b'{"challenge": "$"}'])
def test_a_challenge_that_is_none_is_malformed(body: bytes, steward: LyingSteward) -> None:
    steward.challenge = (200, body)
    with pytest.raises(Malformed):
        steward.credentials().certify()


def test_a_steward_that_is_not_there_is_unavailable() -> None:
    root = Authority().root_pem
    with pytest.raises(Unavailable):
        StewardClient("https://localhost:1", root).challenge()


def test_a_steward_without_tls_is_misuse() -> None:
    with pytest.raises(Misuse):
        StewardClient("http://localhost:1", Authority().root_pem)


def test_roots_that_are_none_are_malformed() -> None:
    with pytest.raises(Malformed):
        StewardClient("https://localhost:1", "nonsense")
    with pytest.raises(Malformed):
        load_roots("nonsense")
    assert isinstance(load_roots(Authority().root_pem)[0], x509.Certificate)


def test_renewal_comes_at_two_thirds_of_life_and_a_little_before() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    end = start + timedelta(hours=24)
    assert renewal_delay(start, end, start, 0) == pytest.approx(16 * 3600)
    assert renewal_delay(start, end, start, 1) == pytest.approx(13.6 * 3600)
    assert renewal_delay(start, end, start + timedelta(hours=10), 0) == pytest.approx(6 * 3600)
    assert renewal_delay(start, end, end, 0) == 0

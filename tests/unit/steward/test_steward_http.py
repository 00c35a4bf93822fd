"""The steward's HTTP contract, driven through ASGI."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from tests.unit.steward.conftest import DIGEST, MEASUREMENT, NOW, SLUG, FakeRegistry, Keep

from garrison.formats.challenge_wire import Offer
from garrison.formats.csr import (
    BUNDLE_MEDIA_TYPE,
    MAX_BUNDLE,
    MAX_REQUEST,
    PKCS10_MEDIA_TYPE,
    decode_bundle_answer,
    decode_pki_path,
    encode_bundle,
)
from garrison.formats.digest import digest_text
from garrison.formats.identity import CertifiedIdentity, WorkloadIdentity
from garrison.service.log import JsonLines
from garrison.service.prompt import post_to
from garrison.service.requests import Requests, answer_promptly
from garrison.steward import certifier, issuance
from garrison.steward.http import application, prompt_of
from garrison.steward.issuance_log import IssuanceLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.applications import Starlette

    from garrison.formats.oci_name import Name
    from garrison.steward.issuance import Steward

PROBLEM = "application/problem+json"
WORKLOAD = WorkloadIdentity(SLUG, DIGEST)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def checks(self) -> list[dict[str, str]]:
        assert self.headers["content-type"] == PROBLEM
        checks: list[dict[str, str]] = json.loads(self.body)["checks"]
        return checks


def raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def offer(
    app: Starlette, path: str, headers: dict[str, str], body: bytes
) -> Answer | dict[str, Any]:
    """Ask as a connection does, where all came at once; gives the state where that must wait."""
    request = post_to(path.encode(), raw(headers), {"client_certificate": None})
    if request is None:
        return {}
    found = answer_promptly(prompt_of(app), request, body, [], "192.0.2.1")
    if not isinstance(found, bytes):
        return {**request.scope["state"], **found}
    head, _, rest = found.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    return Answer(
        int(line.split()[1]), dict(field.lower().split(": ", 1) for field in fields), rest
    )


async def ask_app(
    app: Any,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    state: dict[str, Any] | None = None,
) -> Answer:
    incoming = [{"type": "http.request", "body": body, "more_body": False}]
    outgoing: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        outgoing.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": raw(headers),
        "client": ("192.0.2.1", 1),
        "state": state or {},
    }
    await app(scope, receive, send)
    start = outgoing[0]
    return Answer(
        start["status"],
        {name.decode().lower(): value.decode() for name, value in start["headers"]},
        b"".join(message.get("body", b"") for message in outgoing[1:]),
    )


Ask = Any


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture(params=["at once", "the long way"])
def ask(
    request: pytest.FixtureRequest, steward: Steward, registry: FakeRegistry
) -> Callable[..., Answer]:
    inner = application(steward, registry, clock=lambda: NOW)
    app = Requests(inner)

    def call(method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        state = None
        if method == "POST" and request.param == "at once":
            found = offer(inner, path, named, body)
            if isinstance(found, Answer):
                return found
            state = found
        return asyncio.run(ask_app(app, method, path, named, body, state))

    return call


def certify(
    ask: Ask, body: bytes, media_type: str = PKCS10_MEDIA_TYPE, accept: str = "*/*"
) -> Answer:
    answer: Answer = ask("POST", "/", body, content_type=media_type, accept=accept)
    return answer


def test_health_is_empty(ask: Ask) -> None:
    answer = ask("GET", "/")
    assert (answer.status, answer.body) == (200, b"")


def test_challenge_is_fresh_and_never_cached(ask: Ask, steward: Steward) -> None:
    first, second = (ask("GET", "/challenge") for _ in range(2))
    assert first.status == 200
    assert first.headers["cache-control"] == "no-store"
    assert first.headers["content-type"] == "application/json"
    assert first.body != second.body
    steward.challenges.check(Offer.from_bytes(first.body).challenge, NOW)


def test_bundle_is_the_root(ask: Ask, steward: Steward) -> None:
    (root,) = x509.load_pem_x509_certificates(ask("GET", "/bundle").body)
    assert root == steward.authority.certificate


def test_request_is_answered_with_a_pki_path(ask: Ask, steward: Steward, keep: Keep) -> None:
    answer = certify(ask, keep.request(steward, WORKLOAD))
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    root, leaf = decode_pki_path(answer.body)
    assert root == steward.authority.certificate
    leaf.verify_directly_issued_by(root)
    identity = CertifiedIdentity.from_certificate(leaf)
    assert identity is not None
    assert identity.workload.slug == SLUG


def test_registry_is_asked_for_workloads_alone(
    ask: Ask, steward: Steward, keep: Keep, registry: FakeRegistry
) -> None:
    assert certify(ask, keep.request(steward)).status == 200
    assert registry.asked == []
    assert certify(ask, keep.request(steward, WORKLOAD)).status == 200
    assert registry.asked == [SLUG]


def test_refused_evidence_asks_no_registry(
    ask: Ask, steward: Steward, keep: Keep, registry: FakeRegistry
) -> None:
    """Only an attested keep can make the steward talk to others."""
    stolen = Keep().evidence(b"x")
    assert certify(ask, keep.request(steward, WORKLOAD, evidence=stolen)).status == 400
    assert registry.asked == []


def test_bundle_of_requests_is_answered_in_order(ask: Ask, steward: Steward, keep: Keep) -> None:
    other = Keep()
    body = encode_bundle([keep.request(steward, WORKLOAD), other.request(steward)])
    answer = certify(ask, body, BUNDLE_MEDIA_TYPE)
    assert answer.status == 200
    chain, issued = decode_bundle_answer(answer.body)
    assert chain == (steward.authority.certificate,)
    assert [leaf.public_key() for leaf in issued] == [
        keep.key.public_key(),
        other.key.public_key(),
    ]


def test_pem_for_who_accepts_it(ask: Ask, steward: Steward, keep: Keep) -> None:
    """Leaf first, as other certificate authorities give chains; a bundle's leaves in order."""
    accept = "application/pem-certificate-chain, */*;q=0.1"
    other = Keep()
    bundle = encode_bundle([keep.request(steward), other.request(steward)])
    for body, media_type, keys in (
        (keep.request(steward, WORKLOAD), PKCS10_MEDIA_TYPE, [keep.key]),
        (bundle, BUNDLE_MEDIA_TYPE, [keep.key, other.key]),
    ):
        answer = certify(ask, body, media_type, accept)
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/pem-certificate-chain"
        *leaves, root = x509.load_pem_x509_certificates(answer.body)
        assert root == steward.authority.certificate
        assert [leaf.public_key() for leaf in leaves] == [key.public_key() for key in keys]
        for leaf in leaves:
            leaf.verify_directly_issued_by(root)


@pytest.mark.parametrize("wrong", [0, 1])
def test_bundle_is_all_or_nothing(ask: Ask, steward: Steward, keep: Keep, wrong: int) -> None:
    requests = [keep.request(steward), keep.request(steward)]
    requests[wrong] = keep.request(steward, evidence=Keep().evidence(b"x"))
    answer = certify(ask, encode_bundle(requests), BUNDLE_MEDIA_TYPE)
    assert (answer.status, answer.body) == (400, b"")


def test_no_evidence_is_401(ask: Ask, steward: Steward, keep: Keep) -> None:
    answer = certify(ask, keep.request(steward, evidence=None))
    assert (answer.status, answer.body) == (401, b"")


@pytest.mark.parametrize("body", [b"", b"\x30\x00", b"\0" * MAX_REQUEST])
def test_nonsense_is_400(ask: Ask, body: bytes) -> None:
    for media_type in (PKCS10_MEDIA_TYPE, BUNDLE_MEDIA_TYPE):
        answer = certify(ask, body, media_type)
        assert (answer.status, answer.body) == (400, b"")


@pytest.mark.parametrize(
    "media_type",
    ["application/octet-stream", "", "application/pkcs10; charset=x", "APPLICATION/PKCS10"],
)
def test_other_media_type_is_400(ask: Ask, steward: Steward, keep: Keep, media_type: str) -> None:
    assert certify(ask, keep.request(steward), media_type).status == 400


def test_missing_media_type_is_400(ask: Ask, steward: Steward, keep: Keep) -> None:
    assert ask("POST", "/", keep.request(steward)).status == 400


@pytest.mark.parametrize(
    ("media_type", "limit"), [(PKCS10_MEDIA_TYPE, MAX_REQUEST), (BUNDLE_MEDIA_TYPE, MAX_BUNDLE)]
)
def test_long_body_is_413(ask: Ask, media_type: str, limit: int) -> None:
    answer = certify(ask, bytes(limit + 1), media_type, PROBLEM)
    assert answer.status == 413
    assert answer.checks[0]["expected"] == f"at most {limit} bytes"


@pytest.mark.parametrize("accept", [PROBLEM, f"application/octet-stream, {PROBLEM};q=0.5"])
def test_reasons_for_those_who_ask(ask: Ask, steward: Steward, keep: Keep, accept: str) -> None:
    foreign = WorkloadIdentity(SLUG, b"\xff" * 32)
    answer = certify(ask, keep.request(steward, foreign), accept=accept)
    assert answer.status == 400
    (check,) = answer.checks
    assert check["check"].startswith(f"digest of {SLUG}")
    assert (check["found"], check["expected"]) == ("ff" * 32, DIGEST.hex())
    assert check["remedy"]
    problem = json.loads(answer.body)
    assert problem["status"] == 400
    assert problem["instance"] == f"urn:garrison:request:{answer.headers['x-request-id']}"


def test_unknown_tag_is_400(ask: Ask, steward: Steward, keep: Keep, registry: FakeRegistry) -> None:
    registry.digests = {}
    answer = certify(ask, keep.request(steward, WORKLOAD), accept=PROBLEM)
    assert answer.status == 400
    assert answer.checks[0]["check"] == "slug: no such tag"


def test_drawbridge_that_is_down_is_503(
    ask: Ask, steward: Steward, keep: Keep, registry: FakeRegistry
) -> None:
    registry.digests = None
    answer = certify(ask, keep.request(steward, WORKLOAD))
    assert (answer.status, answer.body) == (503, b"")
    assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("PUT", "/", 405), ("POST", "/challenge", 405), ("GET", "/other", 404)],
)
def test_other_routes(ask: Ask, method: str, path: str, status: int) -> None:
    assert ask(method, path).status == status


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    form = JsonLines("steward")
    parsed = [json.loads(form.format(record)) for record in caplog.records]
    return [line for line in parsed if line["event"] == "decision"]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logger = logging.getLogger("garrison.service")
    logger.propagate = True
    caplog.set_level(logging.INFO, logger.name)
    return caplog


def test_each_decision_is_one_line(
    ask: Ask, steward: Steward, keep: Keep, log: pytest.LogCaptureFixture
) -> None:
    answer = certify(ask, keep.request(steward, WORKLOAD))
    (line,) = lines(log)
    leaf = decode_pki_path(answer.body)[1]
    assert line["outcome"] == "issued"
    assert line["serial"] == f"{leaf.serial_number:032x}"
    assert line["slug"] == str(SLUG)
    assert line["digest"] == digest_text(DIGEST)
    assert line["tee"] == "snp"
    assert line["measurement"] == MEASUREMENT.hex()
    assert line["request_id"] == answer.headers["x-request-id"]
    assert line["time"].endswith("+00:00")


def test_refusal_is_one_line_with_reasons_and_no_key(
    ask: Ask, steward: Steward, keep: Keep, log: pytest.LogCaptureFixture
) -> None:
    certify(ask, keep.request(steward, WorkloadIdentity(SLUG, b"\xff" * 32)))
    (line,) = lines(log)
    assert (line["outcome"], line["level"]) == ("refused", "warning")
    (reason,) = line["reasons"]
    assert DIGEST.hex() in reason
    assert line["slug"] == str(SLUG)
    assert keep.spki.hex() not in json.dumps(line)


def test_bundle_is_one_line_for_each_or_one_for_all(
    ask: Ask, steward: Steward, keep: Keep, log: pytest.LogCaptureFixture
) -> None:
    good, bad = keep.request(steward), keep.request(steward, evidence=None)
    certify(ask, encode_bundle([good, good]), BUNDLE_MEDIA_TYPE)
    assert [line["outcome"] for line in lines(log)] == ["issued", "issued"]
    log.clear()
    certify(ask, encode_bundle([good, bad]), BUNDLE_MEDIA_TYPE)
    assert [line["outcome"] for line in lines(log)] == ["refused"]


def test_what_cannot_be_read_is_logged_too(ask: Ask, log: pytest.LogCaptureFixture) -> None:
    certify(ask, b"x", "text/plain")
    (line,) = lines(log)
    assert line["outcome"] == "refused"


def test_issuance_does_not_block_the_loop(steward: Steward, keep: Keep) -> None:
    """A drawbridge that hangs must not stop the health check."""

    async def run() -> tuple[Answer, Answer]:
        loop = asyncio.get_running_loop()
        asked, answer_now = asyncio.Event(), asyncio.Event()

        class Hanging(FakeRegistry):
            def tag_digest(self, slug: Name) -> bytes:
                loop.call_soon_threadsafe(asked.set)
                asyncio.run_coroutine_threadsafe(answer_now.wait(), loop).result(20)
                return super().tag_digest(slug)

        app = application(steward, Hanging(), clock=lambda: NOW)
        headers = {"Content-Type": PKCS10_MEDIA_TYPE}
        body = keep.request(steward, WORKLOAD)
        slow = asyncio.create_task(ask_app(app, "POST", "/", headers, body))
        await asyncio.wait_for(asked.wait(), 20)
        health = await asyncio.wait_for(ask_app(app, "GET", "/", {}, b""), 20)
        answer_now.set()
        return health, await slow

    health, slow = asyncio.run(run())
    assert (health.status, slow.status) == (200, 200)


def test_clock_is_read_once_for_a_request(steward: Steward, keep: Keep) -> None:
    reads: list[int] = []

    def clock() -> Any:
        reads.append(1)
        return NOW

    app = application(steward, FakeRegistry(), clock=clock)
    headers = {"Content-Type": PKCS10_MEDIA_TYPE}
    answer = asyncio.run(ask_app(app, "POST", "/", headers, keep.request(steward, WORKLOAD)))
    assert (answer.status, len(reads)) == (200, 1)


@pytest.mark.parametrize(("workload", "is_at_once"), [(None, True), (WORKLOAD, False)])
def test_nothing_is_examined_twice(
    steward: Steward,
    keep: Keep,
    monkeypatch: pytest.MonkeyPatch,
    workload: WorkloadIdentity | None,
    is_at_once: bool,
) -> None:
    """What needs no drawbridge is answered at once; what does goes on from there."""
    examined: list[bytes] = []

    def counted(data: bytes, *rest: Any) -> Any:
        examined.append(data)
        return issuance.examine(data, *rest)

    monkeypatch.setattr(certifier, "examine", counted)
    app = application(steward, FakeRegistry(), clock=lambda: NOW)
    headers = {"Content-Type": PKCS10_MEDIA_TYPE}
    body = keep.request(steward, workload)
    answer = offer(app, "/", headers, body)
    assert isinstance(answer, Answer) is is_at_once
    if not isinstance(answer, Answer):
        answer = asyncio.run(ask_app(Requests(app), "POST", "/", headers, body, answer))
    assert (answer.status, examined) == (200, [body])


@pytest.mark.parametrize(
    ("path", "media_type"), [("/appraise", PKCS10_MEDIA_TYPE), ("/", BUNDLE_MEDIA_TYPE)]
)
def test_other_requests_take_the_long_way(
    steward: Steward, keep: Keep, path: str, media_type: str
) -> None:
    app = application(steward, FakeRegistry(), clock=lambda: NOW)
    headers = {"Content-Type": media_type}
    state = offer(app, path, headers, keep.request(steward))
    assert isinstance(state, dict)
    assert set(state) == {"client_certificate", "request_id"}


def test_with_an_issuance_log_nothing_waits_for_its_disk(
    steward: Steward, keep: Keep, tmp_path: Path
) -> None:
    record = IssuanceLog(tmp_path / "log")
    app = application(steward, FakeRegistry(), clock=lambda: NOW, issuance_log=record)
    headers = {"Content-Type": PKCS10_MEDIA_TYPE}
    assert not isinstance(offer(app, "/", headers, keep.request(steward)), Answer)
    record.close()

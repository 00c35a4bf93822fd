"""Certification over HTTP: the requests that come in, decided and recorded, and what is answered.

It decides on the event loop what waits for nothing, which is nearly all: then a request is
answered where it was parsed (`garrison.service.prompt`). What waits for a vendor, a drawbridge, a
disk or a token is left to a thread.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from garrison.appraisal.result import AppraisalRejected
from garrison.endorsements.supply import MustWait, without_waiting
from garrison.errors import GarrisonError, Malformed, Unavailable
from garrison.formats.csr import (
    BUNDLE_MEDIA_TYPE,
    MAX_BUNDLE,
    MAX_REQUEST,
    PKCS10_MEDIA_TYPE,
    decode_bundle,
    encode_bundle_answer,
    encode_pki_path,
)
from garrison.formats.digest import digest_text
from garrison.service import log, metrics
from garrison.service.problem import (
    TooLarge,
    TooSlow,
    check_of,
    problem,
    retry_headers,
    status_of,
    wants_problem,
)
from garrison.service.requests import read_limited
from garrison.service.stages import stage
from garrison.steward.issuance import Examined, NoEvidence, Steward, examine, issue
from garrison.steward.token import TokenKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from cryptography import x509
    from starlette.requests import Request

    from garrison.service.problem import Check
    from garrison.steward.issuance_log import IssuanceLog
    from garrison.steward.registry import Registry

DECISIONS = metrics.Counter(
    "garrison_decisions", "What a steward decided; of a bundle, each certificate.", "outcome"
)
NO_STORE = {"Cache-Control": "no-store"}
VARY = {"Vary": "Accept"}
PEM_CHAIN = "application/pem-certificate-chain"
# Characters of a reason in a record: what a request says may have a hundred thousand.
_MAX_REASON = 2000
# Where a request's state has what was done of it before it took the long way.
_WORK = "steward_work"


@dataclass(frozen=True, slots=True)
class _Work:
    """Requests that are being decided: by whom, at what time, and which are examined by now."""

    steward: Steward
    registry: Registry
    requests: Sequence[bytes]
    now: datetime
    request_id: str | None
    examined: list[Examined] = field(default_factory=list)
    is_bundle: bool = False


class Certifier:
    """Answers `POST /`."""

    def __init__(
        self,
        current: Callable[[], tuple[Steward, Registry]],
        clock: Callable[[], datetime],
        issuance_log: IssuanceLog | None,
    ) -> None:
        """Prepare.

        Args:
            current: who decides now, and where digests of tags are looked up.
            clock: tells the time, once for each request.
            issuance_log: where each decision is recorded before it is answered.
        """
        self._current = current
        self._clock = clock
        self._issuance_log = issuance_log

    def at_once(self, request: Request, body: bytes) -> Response | Mapping[str, object]:
        """Certify one request if that waits for nothing; see `garrison.service.prompt`."""
        steward, registry = self._current()
        if (
            request.scope["path"] != "/"
            or len(body) > MAX_REQUEST
            or request.headers.get("content-type") != PKCS10_MEDIA_TYPE
            or not self._may_decide_at_once(steward)
        ):
            return {}
        work = _Work(steward, registry, (body,), self._clock(), id_of(request))
        try:
            if not self._examined_at_once(work):
                # What was examined is not examined again.
                return {_WORK: work}
            return _certificates(request, work, self._certify_all(work))
        except GarrisonError as error:
            return self._refused(request, work, error)

    async def answer(self, request: Request) -> Response:
        """Certify what comes the long way: bundles, and what waits for something."""
        steward, registry = self._current()
        work: _Work | None = getattr(request.state, _WORK, None)
        try:
            requests, is_bundle = await _read(request)
            is_new = work is None
            if work is None:
                now, request_id = self._clock(), id_of(request)
                work = _Work(steward, registry, requests, now, request_id, is_bundle=is_bundle)
            at_once = (
                is_new
                and len(requests) == 1
                and self._examined_at_once(work)
                and self._may_decide_at_once(work.steward)
            )
            # Vendors and drawbridges, a log's disk, a token: not on the event loop.
            issued = (
                self._certify_all(work)
                if at_once
                else await run_in_threadpool(self._certify_all, work)
            )
        except GarrisonError as error:
            work = work or _Work(steward, registry, (), self._clock(), id_of(request))
            if self._issuance_log is None:
                return self._refused(request, work, error)
            return await run_in_threadpool(self._refused, request, work, error)
        return _certificates(request, work, issued)

    def _may_decide_at_once(self, steward: Steward) -> bool:
        """Whether to decide, once all is examined, waits for no disk and no token."""
        return self._issuance_log is None and not isinstance(steward.authority.key, TokenKey)

    def _examined_at_once(self, work: _Work) -> bool:
        """Examine one request on the event loop; gives whether it is, and needs no drawbridge.

        Two milliseconds of signatures: handing them to a thread, which the interpreter would not
        run besides, costs as much again. What would wait for anything is left to a thread.
        """
        try:
            with without_waiting():
                work.examined.append(examine(work.requests[0], work.steward, work.now))
        except MustWait:
            return False
        return work.examined[0].lookup is None

    def _refused(self, request: Request, work: _Work, error: GarrisonError) -> Response:
        """Record and tell that `error` refuses what is being decided."""
        refused = refusal_facts(error, work.examined, work.request_id)
        DECISIONS.add(str(refused["outcome"]))
        log.record("decision", refused, level=logging.WARNING)
        try:
            self._keep_record(refused, work.examined)
        except Unavailable as unavailable:
            return refusal(request, unavailable, work.request_id)
        return refusal(request, error, work.request_id)

    def _keep_record(
        self,
        decision: Mapping[str, object],
        examined: Sequence[Examined],
        now: datetime | None = None,
    ) -> None:
        """Add `decision`, with all that the last of `examined` showed, to the issuance log."""
        if self._issuance_log is not None:
            claims = dict(examined[-1].result.claims) if examined else {}
            with stage("record"):
                self._issuance_log.append(now or self._clock(), {**decision, "claims": claims})

    def _certify_all(self, work: _Work) -> list[x509.Certificate]:
        """Certify all requests, or none: nothing is signed before all are examined.

        What is examined is kept on the way, so that a refusal can be logged with what is known;
        what is examined already is not examined again.
        """
        examined, steward, now = work.examined, work.steward, work.now
        for data in work.requests[len(examined) :]:
            examined.append(examine(data, steward, now))
        digests = [_digest(work.registry, item) for item in examined]
        certificates = [
            issue(item, steward, digest, now)
            for item, digest in zip(examined, digests, strict=True)
        ]
        for item, certificate in zip(examined, certificates, strict=True):
            decision = {
                "outcome": "issued",
                "request_id": work.request_id,
                "serial": f"{certificate.serial_number:032x}",
                "expires": certificate.not_valid_after_utc.isoformat(),
                **_facts(item),
            }
            self._keep_record(decision, [item], now)
            DECISIONS.add("issued")
            log.record("decision", decision)
        return certificates


def _certificates(request: Request, work: _Work, issued: Sequence[x509.Certificate]) -> Response:
    """The answer with what was issued."""
    path = work.steward.authority.path
    if accepts(request, PEM_CHAIN):
        # RFC 8555, section 9.1: each certificate is followed by its issuer's.
        chain = (*issued, *reversed(path))
        pem = b"".join(each.public_bytes(Encoding.PEM) for each in chain)
        return Response(pem, media_type=PEM_CHAIN, headers=NO_STORE | VARY)
    is_bundle = work.is_bundle
    body = encode_bundle_answer(path, issued) if is_bundle else encode_pki_path([*path, *issued])
    return Response(body, media_type="application/octet-stream", headers=NO_STORE)


def id_of(request: Request) -> str | None:
    """The id under which the log knows `request`; None outside the service."""
    return getattr(request.state, "request_id", None)


def _digest(registry: Registry, examined: Examined) -> bytes | None:
    if examined.lookup is None:
        return None
    with stage("lookup"):
        return registry.tag_digest(examined.lookup)


async def _read(request: Request) -> tuple[Sequence[bytes], bool]:
    """The requests in the body, and whether they came as a bundle."""
    media_type = request.headers.get("content-type")
    if media_type == PKCS10_MEDIA_TYPE:
        return [await read_limited(request, MAX_REQUEST)], False
    if media_type == BUNDLE_MEDIA_TYPE:
        return decode_bundle(await read_limited(request, MAX_BUNDLE)), True
    raise Malformed(
        "wrong media type",
        field="Content-Type",
        found="nothing" if media_type is None else repr(media_type[:100]),
        expected=f"{PKCS10_MEDIA_TYPE} or {BUNDLE_MEDIA_TYPE}",
    )


def status_for(error: GarrisonError) -> int:
    """The HTTP status of a refusal."""
    if isinstance(error, NoEvidence):
        return 401
    if isinstance(error, TooLarge | TooSlow):
        return status_of(error)
    return 503 if isinstance(error, Unavailable) else 400


def refusal(request: Request, error: GarrisonError, request_id: str | None) -> Response:
    """What is answered to a refused request: with reasons for who accepts them."""
    status = status_for(error)
    if wants_problem(request):
        return problem(error, status=status, checks=checks_of(error), request_id=request_id)
    return Response(status_code=status, headers=retry_headers(status))


def checks_of(error: GarrisonError) -> list[Check]:
    """The checks that failed, each with what was found."""
    return error.checks if isinstance(error, AppraisalRejected) else [check_of(error)]


def accepts(request: Request, *names: str) -> bool:
    """Whether the client names one of these media types."""
    accepted = {
        part.partition(";")[0].strip().lower()
        for part in request.headers.get("accept", "").split(",")
    }
    return not accepted.isdisjoint(names)


def refusal_facts(
    error: GarrisonError, examined: Sequence[Examined], request_id: str | None
) -> dict[str, object]:
    """The refusal, and the request that was being decided, as far as it was examined."""
    facts = _facts(examined[-1]) if examined else {}
    return {
        "outcome": "unavailable" if isinstance(error, Unavailable) else "refused",
        "request_id": request_id,
        "reasons": [
            f"{check['check']}; found {check['found']}; expected {check['expected']}"[:_MAX_REASON]
            for check in checks_of(error)
        ],
        **facts,
    }


def _facts(examined: Examined) -> dict[str, object]:
    identity = examined.identity
    return {
        "tee": identity.tee,
        "simulated": examined.result.simulated,
        "measurement": identity.measurement,
        "tcb_status": identity.tcb_status,
        "slug": identity.slug,
        "digest": None if identity.digest is None else digest_text(identity.digest),
    }

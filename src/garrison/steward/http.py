"""The steward's HTTP: the original's contract, and reasons for those who ask for them.

=========  ============  ==================================================================
`GET`      `/`           200 and nothing: health
`GET`      `/challenge`  a challenge to bind evidence to, JSON
`GET`      `/bundle`     the root certificates, PEM, or a SPIFFE bundle for who accepts JSON:
                         take it over a channel that you trust; `/bundle.pem` and `/bundle.json`
                         are the same
`GET`      `/crl`        the revocation list, DER: what was revoked, or is denied by serial
                         number; `/crl/<key identifier, hex>` is that of one issuer of two
`GET`      `/deny`       what the policy denies, for running keeps (`formats.deny_list`)
`GET`      `/jwks`       the key that verifies attestation results, a JWK set
`POST`     `/appraise`   evidence; answer a signed attestation result, and no certificate
`POST`     `/`           `application/pkcs10`: a request; answer PkiPath, issuer first, or PEM,
                         leaf first, for who accepts `application/pem-certificate-chain`
`POST`     `/`           `application/vnd.steward.pkcs10-bundle.v1`: several, all or nothing
=========  ============  ==================================================================

A refusal is 400, or 401 where there is no evidence at all; its body is empty, as the original's,
unless the client accepts `application/problem+json`. What is not the client's fault is 503.
Every decision is one line in the log, and in the issuance log if there is one: nothing is
answered before it stands there.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

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
from garrison.steward import ear, readiness, revocation
from garrison.steward.issuance import Examined, NoEvidence, Steward, examine, issue
from garrison.steward.published import revocation_list, spiffe_bundle
from garrison.steward.token import TokenKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from cryptography import x509
    from starlette.requests import Request

    from garrison.service.problem import Check
    from garrison.steward.authority import Issuer
    from garrison.steward.issuance_log import IssuanceLog
    from garrison.steward.registry import Registry
    from garrison.steward.revocation import Revocation

_DECISIONS = metrics.Counter(
    "garrison_decisions", "What a steward decided; of a bundle, each certificate.", "outcome"
)
# The paths of the application, each a route by itself.
PATHS = (
    "/",
    "/challenge",
    "/bundle",
    "/bundle.pem",
    "/bundle.json",
    "/crl",
    "/deny",
    "/jwks",
    "/appraise",
)
_NO_STORE = {"Cache-Control": "no-store"}
_VARY = {"Vary": "Accept"}
_PEM_CHAIN = "application/pem-certificate-chain"


def application(
    steward: Steward,
    registry: Registry,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    issuance_log: IssuanceLog | None = None,
) -> Starlette:
    """The steward's ASGI application.

    Args:
        steward: keys and policy.
        registry: where the digests of tags are looked up.
        clock: tells the time, once for each request.
        issuance_log: where each decision is recorded before it is answered.

    Returns:
        The application; `replace_steward` gives it another policy while it runs.
    """
    service = _Service(steward, registry, clock, issuance_log)
    app = Starlette(
        routes=[
            Route("/", service.health, methods=["GET"]),
            Route("/", service.certify, methods=["POST"]),
            Route("/challenge", service.challenge, methods=["GET"]),
            Route("/bundle", service.bundle, methods=["GET"]),
            Route("/bundle.pem", service.bundle_pem, methods=["GET"]),
            Route("/bundle.json", service.bundle_json, methods=["GET"]),
            Route("/crl", service.crl, methods=["GET"]),
            Route("/deny", service.deny, methods=["GET"]),
            Route("/crl/{identifier}", service.crl_of, methods=["GET"]),
            Route("/jwks", service.jwks, methods=["GET"]),
            Route("/appraise", service.appraise, methods=["POST"]),
        ],
        lifespan=service.lifespan,
    )
    app.state.service = service
    return app


def current_steward(app: Starlette) -> tuple[Steward, Registry]:
    """By what `app` decides now."""
    return _service_of(app).current


def replace_steward(app: Starlette, steward: Steward, registry: Registry) -> None:
    """Let `app` decide by `steward` from the next request on; those under way keep theirs."""
    _service_of(app).replace(steward, registry)


async def check_ready(app: Starlette) -> None:
    """Check that the steward of `app` can decide and sign; see `garrison.steward.readiness`."""
    service = _service_of(app)
    steward, _ = service.current
    await run_in_threadpool(readiness.check, steward, service.clock())


def _service_of(app: Starlette) -> _Service:
    service = app.state.service
    assert isinstance(service, _Service)  # noqa: S101 - an invariant of this module
    return service


class _Service:
    def __init__(
        self,
        steward: Steward,
        registry: Registry,
        clock: Callable[[], datetime],
        issuance_log: IssuanceLog | None,
    ) -> None:
        # One reference, so that no request ever sees one policy's steward with another's registry.
        self.current = (steward, registry)
        self.clock = clock
        self._issuance_log = issuance_log
        # Ends the renewal of endorsements; None while the service does not run.
        self._stop_renewing: Callable[[], None] | None = None

    @asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Keep the endorsements fresh for as long as the service runs."""
        self._renew()
        try:
            yield
        finally:
            if self._stop_renewing is not None:
                self._stop_renewing()
                self._stop_renewing = None

    def replace(self, steward: Steward, registry: Registry) -> None:
        """Decide by `steward`, and renew what it asks instead of what the last one asked."""
        self.current = (steward, registry)
        if self._stop_renewing is not None:
            self._stop_renewing()
            self._renew()

    def _renew(self) -> None:
        endorsements = self.current[0].endorsements
        self._stop_renewing = (
            (lambda: None) if endorsements is None else endorsements.start_renewing()
        )

    async def health(self, _request: Request) -> Response:
        return Response()

    async def challenge(self, _request: Request) -> Response:
        steward, _ = self.current
        offer = steward.challenges.issue(self.clock())
        return Response(offer.to_bytes(), media_type="application/json", headers=_NO_STORE)

    async def bundle(self, request: Request) -> Response:
        is_json = _accepts(request, "application/json", "application/jwk-set+json")
        form = self.bundle_json if is_json else self.bundle_pem
        return await form(request)

    async def bundle_json(self, _request: Request) -> Response:
        steward, _ = self.current
        body = spiffe_bundle(steward.authority)
        return Response(body, media_type="application/json", headers=_VARY)

    async def bundle_pem(self, _request: Request) -> Response:
        steward, _ = self.current
        pem = b"".join(root.public_bytes(Encoding.PEM) for root in steward.authority.roots)
        return Response(pem, media_type=_PEM_CHAIN, headers=_VARY)

    async def crl(self, request: Request) -> Response:
        steward, _ = self.current
        return await self._crl(request, steward, steward.authority.issuer)

    async def crl_of(self, request: Request) -> Response:
        steward, _ = self.current
        issuers = [steward.authority.issuer, steward.authority.old]
        wanted = request.path_params["identifier"]
        for issuer in issuers:
            if issuer is not None and issuer.identifier == wanted:
                return await self._crl(request, steward, issuer)
        return Response(status_code=404)

    async def _crl(self, request: Request, steward: Steward, issuer: Issuer) -> Response:
        now = self.clock()

        def make() -> bytes:
            return revocation_list(issuer, steward.policy.deny.serials, _revoked(steward, now), now)

        try:
            der = await run_in_threadpool(make)
        except GarrisonError as error:
            return _refusal(request, error, getattr(request.state, "request_id", None))
        return Response(der, media_type="application/pkix-crl", headers=_NO_STORE)

    async def deny(self, request: Request) -> Response:
        steward, _ = self.current
        try:
            revoked = await run_in_threadpool(_revoked, steward, self.clock())
        except GarrisonError as error:
            return _refusal(request, error, getattr(request.state, "request_id", None))
        denied = steward.deny_list(item.serial for item in revoked)
        return Response(denied.to_json(), media_type="application/json", headers=_NO_STORE)

    async def jwks(self, _request: Request) -> Response:
        steward, _ = self.current
        return JSONResponse(
            {"keys": [ear.jwk(key) for key in steward.authority.result_keys]},
            media_type="application/jwk-set+json",
        )

    async def appraise(self, request: Request) -> Response:
        request_id: str | None = getattr(request.state, "request_id", None)
        steward, _ = self.current
        try:
            body = await read_limited(request, MAX_REQUEST)
            token = await run_in_threadpool(self._appraise, steward, request, body, request_id)
        except GarrisonError as error:
            refused = _refusal_facts(error, [], request_id)
            _DECISIONS.add(str(refused["outcome"]))
            log.record("appraisal", refused, level=logging.WARNING)
            return problem(
                error, status=_status(error), checks=_checks(error), request_id=request_id
            )
        return Response(token, headers=_NO_STORE | {"Content-Type": ear.MEDIA_TYPE})

    def _appraise(
        self, steward: Steward, request: Request, body: bytes, request_id: str | None
    ) -> str:
        """The signed result; it stands in the issuance log, if there is one, before it is given."""
        now = self.clock()
        query = request.query_params
        if len(query.multi_items()) != len(query):
            raise Malformed("given twice", field="query parameter")
        question = ear.Question.read(request.headers.get("content-type"), body, query)
        result = ear.appraise(question, steward, now)
        claims = ear.claims_set(question, result, steward, now)
        decision = {
            "outcome": "appraised",
            "request_id": request_id,
            "status": claims["ear_status"],
            "tee": result.tee.value,
            "simulated": result.simulated,
            "measurement": result.measurement,
            "tcb_status": result.tcb_status,
        }
        if self._issuance_log is not None:
            with stage("record"):
                self._issuance_log.append(now, {**decision, "claims": dict(result.claims)})
        _DECISIONS.add("appraised")
        log.record("appraisal", decision)
        with stage("sign"):
            return ear.sign(claims, steward.authority)

    async def certify(self, request: Request) -> Response:
        request_id: str | None = getattr(request.state, "request_id", None)
        examined: list[Examined] = []
        steward, registry = self.current
        try:
            requests, is_bundle = await _read(request)
            now = self.clock()
            decide = partial(
                self._certify_all, steward, registry, requests, examined, request_id, now
            )
            if len(requests) == 1 and self._examined_at_once(requests[0], steward, examined, now):
                issued = decide()
            else:
                # Vendors and drawbridges, a log's disk, a token: not on the event loop.
                issued = await run_in_threadpool(decide)
        except GarrisonError as error:
            refused = _refusal_facts(error, examined, request_id)
            _DECISIONS.add(str(refused["outcome"]))
            log.record("decision", refused, level=logging.WARNING)
            try:
                await run_in_threadpool(self._keep_record, refused, examined)
            except Unavailable as unavailable:
                return _refusal(request, unavailable, request_id)
            return _refusal(request, error, request_id)
        path = steward.authority.path
        if _accepts(request, _PEM_CHAIN):
            # RFC 8555, section 9.1: each certificate is followed by its issuer's.
            chain = (*issued, *reversed(path))
            pem = b"".join(each.public_bytes(Encoding.PEM) for each in chain)
            return Response(pem, media_type=_PEM_CHAIN, headers=_NO_STORE | _VARY)
        body = (
            encode_bundle_answer(path, issued) if is_bundle else encode_pki_path([*path, *issued])
        )
        return Response(body, media_type="application/octet-stream", headers=_NO_STORE)

    def _examined_at_once(
        self, data: bytes, steward: Steward, examined: list[Examined], now: datetime
    ) -> bool:
        """Examine one request on the event loop; gives whether the rest may be done there too.

        Two milliseconds of signatures: handing them to a thread, which the interpreter would not
        run besides, costs as much again. What would wait for anything is left to a thread.
        """
        try:
            with without_waiting():
                examined.append(examine(data, steward, now))
        except MustWait:
            return False
        return (
            examined[0].lookup is None
            and self._issuance_log is None
            and not isinstance(steward.authority.key, TokenKey)
        )

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
                self._issuance_log.append(now or self.clock(), {**decision, "claims": claims})

    def _certify_all(
        self,
        steward: Steward,
        registry: Registry,
        requests: Sequence[bytes],
        examined: list[Examined],
        request_id: str | None,
        now: datetime,
    ) -> list[x509.Certificate]:
        """Certify all of `requests`, or none: nothing is signed before all are examined.

        `examined` is filled on the way, so that a refusal can be logged with what is known; what
        is in it already is not examined again.
        """
        for data in requests[len(examined) :]:
            examined.append(examine(data, steward, now))  # noqa: PERF401 - kept on failure
        digests = [_digest(registry, item) for item in examined]
        certificates = [
            issue(item, steward, digest, now)
            for item, digest in zip(examined, digests, strict=True)
        ]
        for item, certificate in zip(examined, certificates, strict=True):
            decision = {
                "outcome": "issued",
                "request_id": request_id,
                "serial": f"{certificate.serial_number:032x}",
                "expires": certificate.not_valid_after_utc.isoformat(),
                **_facts(item),
            }
            self._keep_record(decision, [item], now)
            _DECISIONS.add("issued")
            log.record("decision", decision)
        return certificates


def _revoked(steward: Steward, now: datetime) -> tuple[Revocation, ...]:
    """What was revoked by hand.

    Raises:
        Unavailable: that cannot be told; then no list is better than one that lacks something.
    """
    if steward.directory is None:
        return ()
    try:
        return revocation.load(steward.directory, now)
    except GarrisonError as error:
        log.record("revocations", {"outcome": "refused", "reason": str(error)}, level=logging.ERROR)
        raise Unavailable("the list of revocations cannot be read", field="steward") from error


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


def _status(error: GarrisonError) -> int:
    if isinstance(error, NoEvidence):
        return 401
    if isinstance(error, TooLarge | TooSlow):
        return status_of(error)
    return 503 if isinstance(error, Unavailable) else 400


def _refusal(request: Request, error: GarrisonError, request_id: str | None) -> Response:
    status = _status(error)
    if wants_problem(request):
        return problem(error, status=status, checks=_checks(error), request_id=request_id)
    return Response(status_code=status, headers=retry_headers(status))


def _checks(error: GarrisonError) -> list[Check]:
    return error.checks if isinstance(error, AppraisalRejected) else [check_of(error)]


def _accepts(request: Request, *names: str) -> bool:
    """Whether the client names one of these media types."""
    accepted = {
        part.partition(";")[0].strip().lower()
        for part in request.headers.get("accept", "").split(",")
    }
    return not accepted.isdisjoint(names)


def _refusal_facts(
    error: GarrisonError, examined: Sequence[Examined], request_id: str | None
) -> dict[str, object]:
    """The refusal, and the request that was being decided, as far as it was examined."""
    facts = _facts(examined[-1]) if examined else {}
    return {
        "outcome": "unavailable" if isinstance(error, Unavailable) else "refused",
        "request_id": request_id,
        "reasons": [
            f"{check['check']}; found {check['found']}; expected {check['expected']}"
            for check in _checks(error)
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

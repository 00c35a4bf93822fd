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
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from garrison.errors import GarrisonError, Malformed, Unavailable
from garrison.formats.csr import (
    MAX_REQUEST,
)
from garrison.service import log
from garrison.service.problem import (
    problem,
)
from garrison.service.requests import read_limited
from garrison.service.stages import stage
from garrison.steward import ear, readiness, revocation
from garrison.steward.certifier import (
    DECISIONS,
    NO_STORE,
    PEM_CHAIN,
    VARY,
    Certifier,
    accepts,
    checks_of,
    id_of,
    refusal,
    refusal_facts,
    status_for,
)
from garrison.steward.published import revocation_list, spiffe_bundle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

    from garrison.service.prompt import Prompt
    from garrison.steward.authority import Issuer
    from garrison.steward.issuance import Steward
    from garrison.steward.issuance_log import IssuanceLog
    from garrison.steward.registry import Registry
    from garrison.steward.revocation import Revocation

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
            Route("/", service.certifier.answer, methods=["POST"]),
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


def prompt_of(app: Starlette) -> Prompt:
    """What answers requests to `app` at once; see `garrison.service.prompt`."""
    return _service_of(app).certifier.at_once


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
        self.certifier = Certifier(lambda: self.current, clock, issuance_log)
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
        return Response(offer.to_bytes(), media_type="application/json", headers=NO_STORE)

    async def bundle(self, request: Request) -> Response:
        is_json = accepts(request, "application/json", "application/jwk-set+json")
        form = self.bundle_json if is_json else self.bundle_pem
        return await form(request)

    async def bundle_json(self, _request: Request) -> Response:
        steward, _ = self.current
        body = spiffe_bundle(steward.authority)
        return Response(body, media_type="application/json", headers=VARY)

    async def bundle_pem(self, _request: Request) -> Response:
        steward, _ = self.current
        pem = b"".join(root.public_bytes(Encoding.PEM) for root in steward.authority.roots)
        return Response(pem, media_type=PEM_CHAIN, headers=VARY)

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
            return refusal(request, error, id_of(request))
        return Response(der, media_type="application/pkix-crl", headers=NO_STORE)

    async def deny(self, request: Request) -> Response:
        steward, _ = self.current
        try:
            revoked = await run_in_threadpool(_revoked, steward, self.clock())
        except GarrisonError as error:
            return refusal(request, error, id_of(request))
        denied = steward.deny_list(item.serial for item in revoked)
        return Response(denied.to_json(), media_type="application/json", headers=NO_STORE)

    async def jwks(self, _request: Request) -> Response:
        steward, _ = self.current
        return JSONResponse(
            {"keys": [ear.jwk(key) for key in steward.authority.result_keys]},
            media_type="application/jwk-set+json",
        )

    async def appraise(self, request: Request) -> Response:
        request_id = id_of(request)
        steward, _ = self.current
        try:
            body = await read_limited(request, MAX_REQUEST)
            token = await run_in_threadpool(self._appraise, steward, request, body, request_id)
        except GarrisonError as error:
            refused = refusal_facts(error, [], request_id)
            DECISIONS.add(str(refused["outcome"]))
            log.record("appraisal", refused, level=logging.WARNING)
            return problem(
                error, status=status_for(error), checks=checks_of(error), request_id=request_id
            )
        return Response(token, headers=NO_STORE | {"Content-Type": ear.MEDIA_TYPE})

    def _appraise(
        self, steward: Steward, request: Request, body: bytes, request_id: str | None
    ) -> str:
        """The signed result; it stands in the issuance log, if there is one, before it is given."""
        now = self.clock()
        query = request.query_params
        if len(query.multi_items()) != len(query):
            raise Malformed("given twice", field="query parameter")
        question = ear.Question.read(request.headers.get("content-type"), body, query)
        tee, result = ear.appraise(question, steward, now)
        claims = ear.claims_set(question, tee, result, steward, now)
        decision = {
            "outcome": "appraised",
            "request_id": request_id,
            "status": claims["ear_status"],
            "tee": tee.value,
            "simulated": result.simulated,
            "measurement": result.measurement,
            "tcb_status": result.tcb_status,
        }
        if self._issuance_log is not None:
            with stage("record"):
                self._issuance_log.append(now, {**decision, "claims": dict(result.claims)})
        DECISIONS.add("appraised")
        log.record("appraisal", decision)
        with stage("sign"):
            return ear.sign(claims, steward.authority)


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

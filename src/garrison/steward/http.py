"""The steward's HTTP: the original's contract, and reasons for those who ask for them.

=========  ============  ==================================================================
`GET`      `/`           200 and nothing: health
`GET`      `/challenge`  a challenge to bind evidence to, JSON
`GET`      `/bundle`     the root certificate, PEM: take it over a channel that you trust
`POST`     `/`           `application/pkcs10`: a request; answer PkiPath, issuer first
`POST`     `/`           `application/vnd.steward.pkcs10-bundle.v1`: several, all or nothing
=========  ============  ==================================================================

A refusal is 400, or 401 where there is no evidence at all; its body is empty, as the original's,
unless the client accepts `application/problem+json`. What is not the client's fault is 503.
Every decision is one line in the log.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from garrison.appraisal.result import AppraisalRejected
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
from garrison.service import log
from garrison.service.problem import TooLarge, check_of, problem, retry_headers, wants_problem
from garrison.service.server import read_limited
from garrison.steward.issuance import Examined, NoEvidence, Steward, examine, issue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography import x509
    from starlette.requests import Request

    from garrison.service.problem import Check
    from garrison.steward.registry import Registry

_NO_STORE = {"Cache-Control": "no-store"}


def application(
    steward: Steward,
    registry: Registry,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Starlette:
    """The steward's ASGI application.

    Args:
        steward: keys and policy.
        registry: where the digests of tags are looked up.
        clock: tells the time, once for each request.
    """
    service = _Service(steward, registry, clock)
    return Starlette(
        routes=[
            Route("/", service.health, methods=["GET"]),
            Route("/", service.certify, methods=["POST"]),
            Route("/challenge", service.challenge, methods=["GET"]),
            Route("/bundle", service.bundle, methods=["GET"]),
        ]
    )


class _Service:
    def __init__(self, steward: Steward, registry: Registry, clock: Callable[[], datetime]) -> None:
        self._steward = steward
        self._registry = registry
        self._clock = clock

    async def health(self, _request: Request) -> Response:
        return Response()

    async def challenge(self, _request: Request) -> Response:
        offer = self._steward.challenges.issue(self._clock())
        return Response(offer.to_bytes(), media_type="application/json", headers=_NO_STORE)

    async def bundle(self, _request: Request) -> Response:
        pem = self._steward.authority.certificate.public_bytes(Encoding.PEM)
        return Response(pem, media_type="application/pem-certificate-chain")

    async def certify(self, request: Request) -> Response:
        request_id: str | None = getattr(request.state, "request_id", None)
        examined: list[Examined] = []
        try:
            requests, is_bundle = await _read(request)
            # Signatures, TLS to a drawbridge: none of it on the event loop.
            issued = await run_in_threadpool(self._certify_all, requests, examined, request_id)
        except GarrisonError as error:
            _log_refusal(error, examined, request_id)
            return _refusal(request, error, request_id)
        root = self._steward.authority.certificate
        body = (
            encode_bundle_answer([root], issued) if is_bundle else encode_pki_path([root, *issued])
        )
        return Response(body, media_type="application/octet-stream", headers=_NO_STORE)

    def _certify_all(
        self, requests: Sequence[bytes], examined: list[Examined], request_id: str | None
    ) -> list[x509.Certificate]:
        """Certify all of `requests`, or none: nothing is signed before all are examined.

        `examined` is filled on the way, so that a refusal can be logged with what is known.
        """
        now = self._clock()
        for data in requests:
            examined.append(examine(data, self._steward, now))  # noqa: PERF401 - kept on failure
        digests = [
            None if item.lookup is None else self._registry.tag_digest(item.lookup)
            for item in examined
        ]
        certificates = [
            issue(item, self._steward, digest, now)
            for item, digest in zip(examined, digests, strict=True)
        ]
        for item, certificate in zip(examined, certificates, strict=True):
            log.record(
                "decision",
                {
                    "outcome": "issued",
                    "request_id": request_id,
                    "serial": f"{certificate.serial_number:032x}",
                    "expires": certificate.not_valid_after_utc.isoformat(),
                    **_facts(item),
                },
            )
        return certificates


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


def _refusal(request: Request, error: GarrisonError, request_id: str | None) -> Response:
    if isinstance(error, NoEvidence):
        status = 401
    elif isinstance(error, TooLarge):
        status = 413
    else:
        status = 503 if isinstance(error, Unavailable) else 400
    if wants_problem(request):
        return problem(error, status=status, checks=_checks(error), request_id=request_id)
    return Response(status_code=status, headers=retry_headers(status))


def _checks(error: GarrisonError) -> list[Check]:
    return error.checks if isinstance(error, AppraisalRejected) else [check_of(error)]


def _log_refusal(
    error: GarrisonError, examined: Sequence[Examined], request_id: str | None
) -> None:
    """One line; in it, the request that was being decided, as far as it was examined."""
    facts = _facts(examined[-1]) if examined else {}
    log.record(
        "decision",
        {
            "outcome": "unavailable" if isinstance(error, Unavailable) else "refused",
            "request_id": request_id,
            "reasons": [
                f"{check['check']}; found {check['found']}; expected {check['expected']}"
                for check in _checks(error)
            ],
            **facts,
        },
        level=logging.WARNING,
    )


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

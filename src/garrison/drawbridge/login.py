"""Logging in: a token from an OpenID Connect issuer, for the user's own client.

The client-credentials grant (RFC 6749, section 4.4). The token endpoint is the one that the
issuer's discovery document names.
"""

from __future__ import annotations

import json
import ssl
from typing import Any
from urllib.parse import urlencode

import certifi
import urllib3

from garrison.errors import Malformed, Misuse, Rejected, Unavailable

SCOPES = " ".join(
    f"{level}:drawbridge_{context}"
    for level in ("manage",)
    for context in ("users", "repositories", "tags")
)
_MAX_ANSWER = 1 << 18
_TIMEOUT = urllib3.Timeout(connect=10, read=30)


def client_credentials(
    issuer: str, *, client_id: str, secret: str, audience: str, ca_pem: str | None
) -> str:
    """Get an access token.

    Args:
        issuer: the issuer's URL.
        client_id: who asks.
        secret: the client's secret.
        audience: whom the token is for.
        ca_pem: PEM of the CAs of the issuer's TLS; None for the web's roots.

    Raises:
        Misuse: the issuer is not an HTTPS URL.
        Rejected: the issuer refuses.
        Unavailable: the issuer cannot be reached, or fails.
        Malformed: its answer is not a token.
    """
    if not issuer.startswith("https://"):
        raise Misuse("not an HTTPS URL", field="--oidc-domain", found=repr(issuer[:200]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_pem is None:
        context.load_verify_locations(certifi.where())
    else:
        context.load_verify_locations(cadata=ca_pem)
    pool = urllib3.PoolManager(ssl_context=context, retries=False, timeout=_TIMEOUT)
    discovery = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    endpoint = _ask(pool, "GET", discovery, None).get("token_endpoint")
    if not isinstance(endpoint, str) or not endpoint.startswith("https://"):
        raise Malformed("no token_endpoint", field=discovery, expected="an HTTPS URL")
    form = {
        "grant_type": "client_credentials",
        "client_id": client_id,
        "client_secret": secret,
        "audience": audience,
        "scope": SCOPES,
    }
    token = _ask(pool, "POST", endpoint, form).get("access_token")
    if not isinstance(token, str) or not token:
        raise Malformed("no access_token", field=endpoint)
    return token


def _ask(
    pool: urllib3.PoolManager, method: str, url: str, form: dict[str, str] | None
) -> dict[str, Any]:
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
    try:
        response = pool.request(
            method,
            url,
            body=urlencode(form) if form else None,
            headers=headers,
            redirect=False,
            preload_content=False,
        )
        try:
            body = response.read(_MAX_ANSWER + 1)
        finally:
            response.close()
    except urllib3.exceptions.HTTPError as error:
        raise Unavailable(f"the issuer does not answer: {error}", field=url) from error
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if response.status >= 500:
        raise Unavailable(f"the issuer fails with status {response.status}", field=url)
    if response.status != 200:
        reason = answer.get("error") if isinstance(answer, dict) else None
        raise Rejected(
            f"the issuer refuses ({response.status})", field=url, found=repr(reason)[:200]
        )
    if len(body) > _MAX_ANSWER or not isinstance(answer, dict):
        raise Malformed("not a JSON object", field=url)
    return answer

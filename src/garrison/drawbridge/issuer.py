"""Asking an OpenID Connect issuer for its keys (OpenID Connect Discovery 1.0, section 4).

HTTPS (plain HTTP only where that is asked for, as insecure), no redirects, and no more than a
bounded answer is read.
"""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any

import certifi
import urllib3

from garrison.drawbridge.tokens import FetchedKeys, Verifier
from garrison.errors import Misuse, Unavailable
from garrison.http_pools import pools, read_body

if TYPE_CHECKING:
    from pathlib import Path

# A discovery document is 3 kB, a set of keys 2 kB each.
_MAX_DOCUMENT = 256 * 1024
_TIMEOUT = urllib3.Timeout(connect=5, read=10)
# A request waits for it.
_HEAD_SECONDS = 20.0
_DOCUMENT_SECONDS = 20.0


def open_verifier(
    issuer: str, audience: str, ca: Path | None, *, insecure_http: bool = False
) -> Verifier:
    """Make the verifier of the tokens that `issuer` gives out for `audience`.

    Nothing is fetched before the first token comes, so a drawbridge starts without its issuer.

    Args:
        issuer: the issuer's URL, exactly as it stands in its tokens.
        audience: the audience that stands in tokens for this drawbridge.
        ca: PEM file with the CAs of the issuer's TLS; None for the web's roots.
        insecure_http: whether the issuer may be asked over plain HTTP. Whoever is on the way can
            then make tokens.

    Raises:
        Misuse: the issuer is not an HTTPS URL, or the file is not one of CAs.
    """
    schemes = ("https://", "http://") if insecure_http else ("https://",)
    if not issuer.startswith(schemes):
        raise Misuse("not an HTTPS URL", field="--oidc-issuer", found=repr(issuer[:200]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(certifi.where() if ca is None else ca)
    except OSError as error:  # ssl.SSLError is one
        raise Misuse("not a file of CAs", field="--oidc-ca", found=ca) from error
    pool = pools(
        insecure_http=insecure_http, ssl_context=context, retries=False, timeout=_TIMEOUT,
        head_seconds=_HEAD_SECONDS,
    )  # fmt: skip

    def fetch() -> dict[str, Any]:
        discovery = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        configuration = _get(pool, discovery, schemes)
        address = configuration.get("jwks_uri")
        if configuration.get("issuer") != issuer or not isinstance(address, str):
            raise Unavailable(
                "the discovery document is of another issuer, or names no keys",
                field=discovery,
                found=repr(configuration.get("issuer"))[:200],
                expected=issuer,
            )
        return _get(pool, address, schemes)

    return Verifier(issuer=issuer, audience=audience, keys=FetchedKeys(fetch))


def _get(pool: urllib3.PoolManager, url: str, schemes: tuple[str, ...]) -> dict[str, Any]:
    if not url.startswith(schemes):
        raise Unavailable("the issuer names an address that is not HTTPS", field=url[:200])
    try:
        response = pool.request("GET", url, redirect=False, preload_content=False)
        try:
            body = read_body(response, _MAX_DOCUMENT, _DOCUMENT_SECONDS)
        finally:
            response.close()
        if response.status != 200 or len(body) > _MAX_DOCUMENT:
            raise Unavailable(
                "the OpenID Connect issuer does not serve it", field=url, found=response.status
            )
        document = json.loads(body)
    except urllib3.exceptions.HTTPError as error:
        raise Unavailable(
            f"the OpenID Connect issuer does not answer: {error}", field=url
        ) from error
    except (ValueError, RecursionError) as error:
        raise Unavailable("the OpenID Connect issuer does not serve JSON", field=url) from error
    if not isinstance(document, dict):
        raise Unavailable("the OpenID Connect issuer does not serve an object", field=url)
    return document

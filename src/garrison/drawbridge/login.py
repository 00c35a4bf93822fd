"""Logging in: a token from an OpenID Connect issuer.

Two grants: a client's own credentials (RFC 6749, section 4.4), for machines, and device
authorization (RFC 8628), for people: they say in a browser who they are. The endpoints are those
that the issuer's discovery document names, HTTPS all. No secret, code or token is in an error.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import certifi
import urllib3

from garrison.errors import Malformed, Misuse, Rejected, Unavailable, Unverified
from garrison.http_pools import pools, read_body

if TYPE_CHECKING:
    from collections.abc import Callable

SCOPES = " ".join(
    f"{level}:drawbridge_{context}"
    for level in ("manage",)
    for context in ("users", "repositories", "tags")
)
_MAX_ANSWER = 1 << 18
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
# RFC 8628, section 3.2: where the issuer names no interval; section 3.5: what `slow_down` adds.
_INTERVAL_SECONDS = 5
# Nobody waits longer than this for a user, or between two questions, whatever the issuer says.
_MAX_WAIT_SECONDS = 1800
_MAX_INTERVAL_SECONDS = 60
_MAX_TEXT = 2048
# The codes of RFC 6749 and 8628 are of this form; other text of an issuer is not shown.
_ERROR_CODE = re.compile(r"[a-z_]{1,40}", re.ASCII)
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
        Unverified: another issuer answers than was asked.
        Unavailable: the issuer cannot be reached, or fails.
        Malformed: its answer is not a token.
    """
    pool, endpoints = _discover(issuer, ca_pem, "token_endpoint")
    form = {
        "grant_type": "client_credentials",
        "client_id": client_id,
        "client_secret": secret,
        "audience": audience,
        "scope": SCOPES,
    }
    endpoint = endpoints["token_endpoint"]
    return _token(_ask(pool, "POST", endpoint, form), endpoint)


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """What the user is shown.

    Attributes:
        address: where to go with a browser.
        user_code: what to type there.
        complete: an address that holds the code already, if there is one.
    """

    address: str
    user_code: str
    complete: str | None


def device_flow(
    issuer: str,
    *,
    client_id: str,
    audience: str,
    ca_pem: str | None,
    show: Callable[[DeviceCode], None],
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Get an access token for a user, who says in a browser who it is.

    Args:
        issuer: the issuer's URL.
        client_id: of this command, as the issuer knows it.
        audience: whom the token is for.
        ca_pem: PEM of the CAs of the issuer's TLS; None for the web's roots.
        show: tells the user where to go.
        pause: waits for so many seconds.
        clock: seconds that pass.

    Raises:
        Rejected: the issuer or the user refuses, or the user took too long.
        Misuse: as `client_credentials`; Unverified, Unavailable and Malformed too.
    """
    names = ("device_authorization_endpoint", "token_endpoint")
    pool, endpoints = _discover(issuer, ca_pem, *names)
    start, endpoint = (endpoints[name] for name in names)
    begun = _ask(
        pool,
        "POST",
        start,
        {"client_id": client_id, "audience": audience, "scope": SCOPES},
    )
    code = _text(begun, "device_code", start)
    address = _text(begun, "verification_uri", start)
    complete = begun.get("verification_uri_complete")
    addresses = [address] if complete is None else [address, complete]
    for value in addresses:
        if not isinstance(value, str) or not value.startswith("https://"):
            raise Malformed("not an HTTPS URL", field=f"{start}: verification_uri")
    # An issuer that does not mind how often it is asked may say 0.
    interval = max(_seconds(begun, "interval", start, _INTERVAL_SECONDS, least=0), 1)
    interval = min(interval, _MAX_INTERVAL_SECONDS)
    lifetime = min(_seconds(begun, "expires_in", start, None), _MAX_WAIT_SECONDS)
    end = clock() + lifetime
    show(DeviceCode(address, _text(begun, "user_code", start), complete))
    form = {"grant_type": _DEVICE_GRANT, "device_code": code, "client_id": client_id}
    silence: Unavailable | None = None
    while clock() + interval < end:
        pause(interval)
        try:
            return _token(_ask(pool, "POST", endpoint, form), endpoint)
        except _RefusedError as error:
            silence = None
            if error.code == "slow_down":
                interval = min(interval + _INTERVAL_SECONDS, _MAX_INTERVAL_SECONDS)
            elif error.code == "expired_token":
                break
            elif error.code != "authorization_pending":
                raise
        except Unavailable as error:
            # RFC 8628, section 3.5: the user may be at it, so it is asked again, less often.
            silence = error
            interval = min(2 * interval, _MAX_INTERVAL_SECONDS)
    if silence is not None:
        raise silence
    raise Rejected("nobody logged in in time", field=issuer, expected=f"within {lifetime} s")


class _RefusedError(Rejected):
    """The issuer refuses, with a code of RFC 6749, section 5.2, or RFC 8628, section 3.5."""

    def __init__(self, status: int, url: str, code: str | None) -> None:
        super().__init__(f"the issuer refuses ({status})", field=url, found=repr(code))
        self.code = code


def _discover(
    issuer: str, ca_pem: str | None, *names: str
) -> tuple[urllib3.PoolManager, dict[str, str]]:
    """A way to the issuer, and the endpoints of these names."""
    if not issuer.startswith("https://"):
        raise Misuse("not an HTTPS URL", field="--oidc-domain", found=repr(issuer[:200]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_pem is None:
        context.load_verify_locations(certifi.where())
    else:
        context.load_verify_locations(cadata=ca_pem)
    pool = pools(ssl_context=context, retries=False, timeout=_TIMEOUT)
    discovery = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    document = _ask(pool, "GET", discovery, None)
    # Section 4.3 of OpenID Connect Discovery 1.0; people leave the slash out, and mean the same.
    if str(document.get("issuer")).rstrip("/") != issuer.rstrip("/"):
        raise Unverified(
            "the discovery document is of another issuer",
            field=discovery,
            found=repr(document.get("issuer"))[:200],
            expected=issuer,
        )
    endpoints = {}
    for name in names:
        endpoint = document.get(name)
        if not isinstance(endpoint, str) or not endpoint.startswith("https://"):
            raise Malformed(f"no {name}", field=discovery, expected="an HTTPS URL")
        endpoints[name] = endpoint
    return pool, endpoints


def _token(answer: dict[str, Any], endpoint: str) -> str:
    token = answer.get("access_token")
    if not isinstance(token, str) or not token:
        raise Malformed("no access_token", field=endpoint)
    return token


def _text(answer: dict[str, Any], name: str, url: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
        raise Malformed(f"no {name}", field=url, expected=f"text of at most {_MAX_TEXT} characters")
    return value


def _seconds(
    answer: dict[str, Any], name: str, url: str, default: int | None, *, least: int = 1
) -> int:
    value = answer.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise Malformed(f"no {name}", field=url, expected=f"seconds, {least} or more")
    return value


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
            body = read_body(response, _MAX_ANSWER)
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
        # An issuer that answers with what it was sent must not have it printed.
        known = isinstance(reason, str) and _ERROR_CODE.fullmatch(reason)
        sent = (form or {}).values()
        raise _RefusedError(response.status, url, reason if known and reason not in sent else None)
    if len(body) > _MAX_ANSWER or not isinstance(answer, dict):
        raise Malformed("not a JSON object", field=url)
    return answer

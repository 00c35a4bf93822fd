"""Who a bearer token is: OpenID Connect access tokens, verified (RFC 9068, RFC 7515).

A token is a JWT signed with RS256, ES256 or EdDSA (Ed25519) by a key of the one issuer that the
drawbridge trusts. All of this is checked: the signature, by the key that the token's `kid` names
and with the algorithm that belongs to that key; `iss`, `aud`, `exp`, `iat`; and that `sub` and
`scope` are there. Issuers that know no `scope` have `scp` in its place, which is read where there
is no `scope`. Either is text with blanks between the scopes, as the standards have it, or a list,
as some issuers have it. Scopes are `{read|write|manage}:drawbridge_{users|repositories|tags}`;
`manage` stands for the other two.

The issuer's keys are fetched when the first token comes, kept for an hour, and fetched again
when a token names an unknown one, but not more often than every ten seconds: tokens are made by
anybody. One asks at a time, and who shows a token of a known key waits for nobody. A token is
never logged, nor part of an error.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from garrison.errors import GarrisonError, Rejected, Unavailable
from garrison.service import log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Context = Literal["drawbridge_users", "drawbridge_repositories", "drawbridge_tags"]
Level = Literal["read", "write"]

# By a key's type; and the one curve of each (RFC 7518, 6.2.1.1; RFC 8037, 2).
_ALGORITHMS = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
_CURVES = {"ES256": "P-256", "EdDSA": "Ed25519"}
_REQUIRED = ["exp", "iat", "iss", "aud", "sub"]
# The clocks of an issuer and a drawbridge may differ by this much.
_LEEWAY_SECONDS = 10
_KEEP_SECONDS = 3600
_ASK_SECONDS = 10
# OpenID Connect tokens are 1 to 2 kB; a header's size is bounded by the server anyway.
_MAX_TOKEN = 16 * 1024
_MAX_KEYS = 100
_LEAST_RSA_BITS = 2048
_PUBLIC = (RSAPublicKey, EllipticCurvePublicKey, Ed25519PublicKey)


class Unauthorized(Rejected):
    """The request does not say who it is for, or not convincingly: HTTP 401."""


class _UnknownKeyError(Unauthorized):
    """The token names a key that is not known, or not yet."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a verified token speaks for."""

    subject: str
    scopes: frozenset[str]

    def require(self, context: Context, level: Level) -> None:
        """Check that the token allows `level` in `context`.

        Raises:
            Unauthorized: it does not.
        """
        if not {f"{level}:{context}", f"manage:{context}"} & self.scopes:
            raise Unauthorized(f"Token is missing a scope for level {level}, context {context}")


class Keys(Protocol):
    """The keys of an issuer."""

    def known(self, kid: str) -> jwt.PyJWK | None:
        """The key that the issuer calls `kid`, if that is known without asking it."""

    def find(self, kid: str) -> jwt.PyJWK | None:
        """The key that the issuer calls `kid`, or None where it has none.

        Raises:
            Unavailable: the issuer cannot be asked.
        """


class Verifier:
    """Verifies the tokens of one issuer, for one audience."""

    def __init__(self, *, issuer: str, audience: str, keys: Keys) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._asking = asyncio.Lock()

    def verify(self, token: str) -> Identity:
        """Verify `token`; it may take as long as the issuer does.

        Raises:
            Unauthorized: it is not a valid token. Why is not told: a client needs a new one.
            Unavailable: the issuer's keys cannot be fetched.
        """
        return self._verified(token, self._keys.find)

    async def verify_soon(self, token: str) -> Identity:
        """Verify `token` as `verify` does, from a loop that serves others meanwhile.

        Anybody can make a token that names an unknown key. Where the issuer is slow too, those
        wait for a single thread, which they take in turn, and nobody else waits with them.
        """
        with suppress(_UnknownKeyError):
            return self._verified(token, self._keys.known)
        async with self._asking:
            return await asyncio.to_thread(self.verify, token)

    def _verified(self, token: str, find: Callable[[str], jwt.PyJWK | None]) -> Identity:
        try:
            kid = _kid(token)
            key = find(kid)
            if key is None:
                unknown = _UnknownKeyError("Invalid token provided", hint="log in again")
                unknown.add_note("unknown kid")
                raise unknown
            claims = self._claims(token, key)
            scopes = _scopes(claims)
        # The last of these: a time that is no time, `Infinity`.
        except (jwt.PyJWTError, ValueError, OverflowError) as error:
            invalid = Unauthorized("Invalid token provided", hint="log in again")
            # The kind alone: the text may quote the token.
            invalid.add_note(type(error).__name__)
            raise invalid from None
        return Identity(claims["sub"], scopes)

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            # Of the key, never of the token.
            algorithms=[key.algorithm_name],
            audience=self._audience,
            issuer=self._issuer,
            leeway=_LEEWAY_SECONDS,
            options={"require": _REQUIRED},
        )
        if not isinstance(claims["sub"], str):
            raise jwt.InvalidTokenError("sub is not a string")
        return claims


def _kid(token: str) -> str:
    """Which key the token says that it is signed with.

    Raises:
        jwt.PyJWTError, ValueError: it does not say so, or is none.
    """
    if len(token) > _MAX_TOKEN:
        raise jwt.InvalidTokenError("too long")
    kid = jwt.get_unverified_header(token).get("kid")
    if not isinstance(kid, str):
        raise jwt.InvalidTokenError("no kid")
    return kid


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """The scopes of a token whose signature was verified.

    Raises:
        jwt.PyJWTError: it has none, or they are neither text nor a list of texts.
    """
    # RFC 9068, section 2.2.3; RFC 8693, section 4.2.
    name = "scope" if "scope" in claims else "scp"
    if name not in claims:
        raise jwt.MissingRequiredClaimError("scope")
    found = claims[name]
    if isinstance(found, str):
        return frozenset(found.split(" "))
    if isinstance(found, list) and all(isinstance(item, str) for item in found):
        return frozenset(found)
    raise jwt.InvalidTokenError("the scopes are not text")


class FetchedKeys:
    """An issuer's keys, fetched when they are needed."""

    def __init__(
        self,
        fetch: Callable[[], Mapping[str, Any]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is fetched yet.

        Args:
            fetch: returns the issuer's JWK set, or raises Unavailable.
            clock: tells the seconds since some moment.
        """
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = self._asked = float("-inf")

    def known(self, kid: str) -> jwt.PyJWK | None:
        """See `Keys.known`."""
        return self._keys.get(kid) if self._clock() - self._fetched <= _KEEP_SECONDS else None

    def find(self, kid: str) -> jwt.PyJWK | None:
        """See `Keys.find`."""
        # A key that is known does not wait for an issuer that is asked for another.
        if (known := self.known(kid)) is not None:
            return known
        # One asks, the others wait for its answer.
        with self._lock:
            now = self._clock()
            stale = now - self._fetched > _KEEP_SECONDS
            if (stale or kid not in self._keys) and now - self._asked > _ASK_SECONDS:
                try:
                    self._keys = parse_keys(self._fetch())
                    self._fetched = now
                finally:
                    # Now: who waited behind an issuer that is slow does not ask it once more.
                    self._asked = self._clock()
            elif stale:
                raise Unavailable("the issuer's keys could not be fetched; not asked again yet")
            return self._keys.get(kid)


def parse_keys(document: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """Read a JWK set (RFC 7517): the keys that can verify a token, by their `kid`.

    Keys for other purposes, without `kid` or of other kinds are passed over: an issuer may have
    such, and no token can name them here. So are those that are broken, or weak, as section 5 wants
    it: the others are good all the same. The log names them.

    Raises:
        Unavailable: it is not a JWK set, or all keys that could have been used are broken or weak.
    """
    listed = document.get("keys")
    if not isinstance(listed, list) or len(listed) > _MAX_KEYS:
        raise Unavailable("what the issuer serves is not a JWK set", field="OpenID Connect issuer")
    keys: dict[str, jwt.PyJWK] = {}
    refused = None
    for item in listed:
        if not isinstance(item, dict) or not _is_for_signatures(item):
            continue
        kid, algorithm = item.get("kid"), _ALGORITHMS.get(str(item.get("kty")))
        if not isinstance(kid, str) or algorithm is None:
            continue
        curve = _CURVES.get(algorithm)
        if item.get("alg", algorithm) != algorithm or (curve and item.get("crv") != curve):
            continue
        try:
            key = jwt.PyJWK.from_dict(item, algorithm)
            _check_key(key)
        except jwt.PyJWTError as error:
            refused = kid[:80]
            log.record(
                "issuer", {"outcome": "key passed over", "kid": refused, "reason": str(error)},
                level=logging.WARNING,
            )  # fmt: skip
            continue
        keys[kid] = key
    if refused is not None and not keys:
        raise Unavailable(
            "the issuer serves broken or weak keys alone",
            field="OpenID Connect issuer",
            found=refused,
        )
    return keys


def _is_for_signatures(item: Mapping[str, Any]) -> bool:
    """Whether a key may verify signatures (RFC 7517, sections 4.2 and 4.3)."""
    operations = item.get("key_ops", ["verify"])
    return (
        item.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    )


def _check_key(key: jwt.PyJWK) -> None:
    """Refuse a key that the world knows the private half of, or an RSA key that is too short.

    The latter is RFC 7518, section 3.3; keys of other kinds have one length.

    Raises:
        jwt.InvalidKeyError: it is such a key.
    """
    if not isinstance(key.key, _PUBLIC):
        raise jwt.InvalidKeyError("a private key, for everybody to see")
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < _LEAST_RSA_BITS:
        raise jwt.InvalidKeyError(f"an RSA key of {key.key.key_size} bits")


def bearer(header: str | None) -> str:
    """The token in an `Authorization` header (RFC 6750, 2.1).

    Raises:
        Unauthorized: there is none.
    """
    if header is None:
        raise Unauthorized("Bearer token header missing", hint="log in with `garrison user login`")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("Invalid token provided", expected="Authorization: Bearer TOKEN")
    return token.strip()


def describe(error: GarrisonError) -> str | None:
    """What the log may know of an error and a client may not: the notes that were added to it."""
    return "; ".join(getattr(error, "__notes__", ())) or None

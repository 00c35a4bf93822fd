"""Fetching an issuer's keys over TLS, from issuers that are broken in every way."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import RSAAlgorithm

from garrison.drawbridge.issuer import open_verifier
from garrison.drawbridge.tokens import Unauthorized
from garrison.errors import GarrisonError, Misuse, Unavailable
from garrison.testing.drawbridge import Lie, LyingServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from garrison.testing.tls import Authority

AUDIENCE = "https://drawbridge.test/"
DISCOVERY = "/.well-known/openid-configuration"
KEY = ec.generate_private_key(ec.SECP256R1())


def serve(server: LyingServer, path: str, value: object, status: int = 200) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    server.answers[path] = Lie(status, {"Content-Length": str(len(body))}, body)


@pytest.fixture
def ca(certifier: Authority, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_text(certifier.root_pem)
    return path


@pytest.fixture
def issuer(certifier: Authority) -> Iterator[LyingServer]:
    """An honest one."""
    public = jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
    with LyingServer(certifier.issue(hosts=("localhost",))) as server:
        configuration = {"issuer": url(server), "jwks_uri": f"https://{server.host}/keys"}
        serve(server, DISCOVERY, configuration)
        serve(server, "/keys", {"keys": [{**public, "kid": "one"}]})
        yield server


def url(server: LyingServer) -> str:
    return f"https://{server.host}/"


def token(server: LyingServer, **changes: Any) -> str:
    now = int(time.time())
    claims = {
        "iss": url(server),
        "aud": AUDIENCE,
        "sub": "jane",
        "iat": now,
        "exp": now + 60,
        "scope": "manage:drawbridge_tags",
    } | changes
    return jwt.encode(claims, KEY, algorithm="ES256", headers={"kid": "one"})


def test_an_honest_issuer_is_asked_once(issuer: LyingServer, ca: Path) -> None:
    verifier = open_verifier(url(issuer), AUDIENCE, ca)
    assert issuer.requested == []
    for _ in range(3):
        assert verifier.verify(token(issuer)).subject == "jane"
    assert issuer.requested == [DISCOVERY, "/keys"]
    with pytest.raises(Unauthorized):
        verifier.verify(token(issuer, iss="https://other.test/"))


RSA_KEY = rsa.generate_private_key(65537, 2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()
OTHER_KEYS: list[dict[str, Any]] = [
    # What issuers have besides: for encryption, for another algorithm, without a name, of no kind
    # that is known.
    {**RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True), "kid": "e", "use": "enc"},
    {**RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True), "kid": "p", "alg": "PS256"},
    RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True),
    {"kty": "oct", "kid": "s", "k": "AAAA"},
    {"kty": "AKP", "kid": "q", "alg": "ML-DSA-44", "pub": "AAAA"},
]
# As well-known issuers have it: their discovery, and what is in their tokens besides.
ISSUERS: dict[str, dict[str, Any]] = {
    "a slash at the end, as Auth0": {"path": "/", "azp": "client", "gty": "client-credentials"},
    "no slash at the end": {"path": ""},
    "a realm, as Keycloak": {
        "path": "/realms/one", "jwks": "/realms/one/protocol/openid-connect/certs",
        "typ": "Bearer", "azp": "cli", "acr": "1", "realm_access": {"roles": ["x"]},
    },
    "scp as a list, as Okta": {
        "path": "/oauth2/default", "scope": None, "cid": "cli", "ver": 1,
        "scp": ["openid", "manage:drawbridge_tags"],
    },
    "scp as text, as Entra": {
        "path": "/tenant/v2.0", "jwks": "/tenant/discovery/v2.0/keys?p=signin", "scope": None,
        "scp": "openid manage:drawbridge_tags", "nbf": int(time.time()) - 5, "azp": "cli",
    },
    "several audiences": {"path": "/", "aud": ["https://other.test/", AUDIENCE], "azp": "cli"},
}  # fmt: skip


@pytest.mark.parametrize("kind", ISSUERS)
@pytest.mark.parametrize(
    ("key", "algorithm"), [(RSA_KEY, "RS256"), (KEY, "ES256"), (ED_KEY, "EdDSA")]
)
def test_issuers_of_others(
    certifier: Authority, ca: Path, kind: str, key: Any, algorithm: str
) -> None:
    quirks = dict(ISSUERS[kind])
    path, jwks = quirks.pop("path"), quirks.pop("jwks", "/.well-known/jwks.json")
    public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    with LyingServer(certifier.issue(hosts=("localhost",))) as server:
        name = f"https://{server.host}{path}"
        serve(server, f"{path.rstrip('/')}{DISCOVERY}", {
            "issuer": name, "jwks_uri": f"https://{server.host}{jwks}",
            "response_types_supported": ["code"], "scopes_supported": ["openid"],
        })  # fmt: skip
        serve(server, jwks, {"keys": [*OTHER_KEYS, {**public, "kid": "theirs", "use": "sig"}]})
        now = int(time.time())
        claims = {
            "iss": name, "aud": AUDIENCE, "sub": "idp|jane", "iat": now, "exp": now + 600,
            "jti": "1", "scope": "openid manage:drawbridge_tags",
        } | quirks  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        headers = {"kid": "theirs", "typ": "at+jwt"}

        def made(**changes: Any) -> str:
            return jwt.encode(claims | changes, key, algorithm=algorithm, headers=headers)

        verifier = open_verifier(name, AUDIENCE, ca)
        identity = verifier.verify(made())
        assert identity.subject == "idp|jane"
        identity.require("drawbridge_tags", "write")
        with pytest.raises(Unauthorized, match="drawbridge_users"):
            identity.require("drawbridge_users", "read")
        # An issuer's name has one spelling, and being the authorized party is no audience.
        other = name.removesuffix("/") if name.endswith("/") else f"{name}/"
        for changes in ({"iss": other}, {"aud": "cli", "azp": AUDIENCE}, {"aud": ["cli"]}):
            with pytest.raises(Unauthorized, match="Invalid token provided"):
                verifier.verify(made(**changes))
        with pytest.raises(Unavailable, match="of another issuer") as caught:
            open_verifier(other, AUDIENCE, ca).verify(made())
        assert (caught.value.found, caught.value.expected) == (repr(name), other)


@pytest.mark.parametrize(
    ("path", "value", "status"),
    [
        (DISCOVERY, {}, 200),
        (DISCOVERY, {"issuer": "https://other.test/", "jwks_uri": "https://other.test/"}, 200),
        (DISCOVERY, {}, 404),
        (DISCOVERY, {}, 302),
        (DISCOVERY, b"not JSON", 200),
        (DISCOVERY, [], 200),
        (DISCOVERY, b" " * 300_000, 200),
        ("/keys", {}, 500),
        ("/keys", {}, 200),
        ("/keys", {"keys": {}}, 200),
        ("/keys", b"[" * 100_000, 200),
    ],
)
def test_a_broken_issuer_is_unavailable(
    issuer: LyingServer, ca: Path, path: str, value: object, status: int
) -> None:
    serve(issuer, path, value, status)
    with pytest.raises(Unavailable):
        open_verifier(url(issuer), AUDIENCE, ca).verify(token(issuer))


def test_keys_are_not_fetched_in_the_clear(issuer: LyingServer, ca: Path) -> None:
    serve(issuer, DISCOVERY, {"issuer": url(issuer), "jwks_uri": "http://localhost/keys"})
    with pytest.raises(Unavailable, match="not HTTPS"):
        open_verifier(url(issuer), AUDIENCE, ca).verify(token(issuer))


def test_an_issuer_under_another_ca_is_unavailable(issuer: LyingServer) -> None:
    with pytest.raises(Unavailable) as caught:
        open_verifier(url(issuer), AUDIENCE, None).verify(token(issuer))
    assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value)
    assert issuer.requested == []


@pytest.mark.parametrize("address", ["http://issuer.test/", "issuer.test", ""])
def test_an_issuer_that_is_no_https_url(address: str) -> None:
    with pytest.raises(Misuse, match="--oidc-issuer"):
        open_verifier(address, AUDIENCE, None)


def test_a_file_that_holds_no_cas(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(GarrisonError, match="--oidc-ca"):
        open_verifier("https://issuer.test/", AUDIENCE, tmp_path / "ca.pem")

"""A host whose tenants log in at somebody else's OpenID Connect issuer, as in production."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from garrison.errors import Rejected
from garrison.host.client import HostClient
from garrison.testing.drawbridge import Lie, LyingServer
from garrison.testing.stack import Stack
from garrison.testing.tls import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AUDIENCE = "https://host.test/"


class Login:
    """A host, and the issuer of tokens that it was told of."""

    def __init__(self, stack: Stack, issuer: LyingServer, ca: Authority) -> None:
        self._issuer = f"https://{issuer.host}/"
        self._key = ed25519.Ed25519PrivateKey.generate()
        public = jwt.algorithms.OKPAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        for path, value in (
            ("/.well-known/openid-configuration",
             {"issuer": self._issuer, "jwks_uri": f"{self._issuer}keys"}),
            ("/keys", {"keys": [{**public, "kid": "one"}]}),
        ):  # fmt: skip
            body = json.dumps(value).encode()
            issuer.answers[path] = Lie(200, {"Content-Length": str(len(body))}, body)
        leaf = ca.issue(hosts=("localhost",))
        files = {
            "ca.pem": ca.root_pem.encode(), "host.pem": leaf.chain_pem(),
            "host.key": leaf.key_pem(),
        }  # fmt: skip
        for name, data in files.items():
            (stack.directory / name).write_bytes(data)
        self._ca = ca.root_pem
        agent = stack.start(
            "the host", "host", "serve", "--dir", str(stack.directory / "host"), "--port", "0",
            "--tls-cert", str(stack.directory / "host.pem"),
            "--tls-key", str(stack.directory / "host.key"),
            "--oidc-issuer", self._issuer, "--oidc-audience", AUDIENCE,
            "--oidc-ca", str(stack.directory / "ca.pem"), "--tenant", "auth|jane",
        )  # fmt: skip
        url = agent.expect("listening on https://").rpartition(" ")[2]
        self._url = f"https://localhost:{url.rpartition(':')[2]}"

    def keeps(
        self, claims: dict[str, object], key: ed25519.Ed25519PrivateKey | None = None
    ) -> object:
        """Ask for one's keeps with a token that is jane's, but for `claims`."""
        now = int(time.time())
        told = {
            "iss": self._issuer, "aud": AUDIENCE, "sub": "auth|jane", "iat": now,
            "exp": now + 3600, "scope": "openid",
        }  # fmt: skip
        token = jwt.encode(
            told | claims, key or self._key, algorithm="EdDSA", headers={"kid": "one"}
        )
        return HostClient(self._url, ca_pem=self._ca, token=token).keeps()


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    directory: Path = tmp_path_factory.mktemp("login")
    (directory / "home").mkdir()
    ca = Authority("Web")
    with LyingServer(ca.issue(hosts=("localhost",))) as issuer, Stack(directory) as stack:
        yield Login(stack, issuer, ca)


def test_a_tenant_of_a_foreign_issuer_is_known(login: Login) -> None:
    assert login.keeps({}) == []


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://drawbridge.test/"},
        {"iss": "https://elsewhere.test/"},
        {"exp": 1},
    ],
    ids=["another audience", "another issuer", "expired"],
)
def test_a_token_for_something_else_opens_nothing(login: Login, claims: dict[str, object]) -> None:
    with pytest.raises(Rejected, match="401"):
        login.keeps(claims)


def test_a_token_that_another_signed_opens_nothing(login: Login) -> None:
    with pytest.raises(Rejected, match="401"):
        login.keeps({}, ed25519.Ed25519PrivateKey.generate())


def test_who_has_a_token_and_is_no_tenant_is_refused(login: Login) -> None:
    with pytest.raises(Rejected, match="not a tenant of this host"):
        login.keeps({"sub": "auth|mallory"})

"""No server holds those that ask it: each client's answer has an end, whatever never ends."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from urllib3.exceptions import HTTPError, ReadTimeoutError

from garrison import http_pools
from garrison.drawbridge import issuer, wire
from garrison.drawbridge.client import Client
from garrison.drawbridge.issuer import open_verifier
from garrison.drawbridge.login import client_credentials, device_flow
from garrison.endorsements import fetch, kds
from garrison.endorsements.cache import Cache
from garrison.endorsements.fetch import Fetcher, Servers
from garrison.errors import Unavailable
from garrison.formats.snp import Product, SigningKey
from garrison.host.client import HostClient
from garrison.keep.identity import StewardClient
from garrison.testing.dripping import BODIES, ENDLESS, HEADS, DrippingServer
from garrison.testing.tls import Authority

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AUTHORITY = Authority()
LEAF = AUTHORITY.issue(hosts=("localhost",))
CA = AUTHORITY.root_pem
DISCOVERY = "/.well-known/openid-configuration"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CRL = kds.crl(Product.MILAN, SigningKey.VCEK)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (http_pools, "HEAD_SECONDS"),
        (http_pools, "DOCUMENT_SECONDS"),
        (issuer, "_HEAD_SECONDS"),
        (issuer, "_DOCUMENT_SECONDS"),
        (fetch, "_ATTEMPT_SECONDS"),
        (wire, "_PATIENCE_SECONDS"),
    ):
        monkeypatch.setattr(module, name, 0.3)
    # So that a document of the longest may take no longer.
    monkeypatch.setattr(wire, "_SLOWEST", 1e9)


def login(host: str) -> object:
    return client_credentials(
        f"https://{host}", client_id="jane", secret="s", audience="a", ca_pem=CA
    )


def login_by_device(host: str) -> object:
    return device_flow(
        f"https://{host}",
        client_id="jane",
        audience="a",
        ca_pem=CA,
        show=lambda _code: None,
        pause=lambda _seconds: None,
    )


def check_token(folder: Path, host: str) -> object:
    (folder / "ca.pem").write_text(CA)
    key = ec.generate_private_key(ec.SECP256R1())
    claims = {"iss": f"https://{host}", "aud": "a", "sub": "jane", "exp": 2**31}
    token = jwt.encode(claims, key, algorithm="ES256", headers={"kid": "one"})
    return open_verifier(f"https://{host}", "a", folder / "ca.pem").verify(token)


def fetch_endorsement(folder: Path, host: str) -> object:
    servers = Servers({"https://kdsintf.amd.com": f"https://{host}"}, CA)
    fetcher = Fetcher(servers, Cache(folder / "cache"), lambda: NOW, lambda _seconds: None)
    return fetcher.fetch(CRL)


def host(host: str) -> HostClient:
    return HostClient(f"https://{host}", ca_pem=CA, token="token")


def attach(name: str) -> None:
    reading, writing = os.pipe()
    try:
        host(name).attach("k", reading, writing)
    finally:
        os.close(reading)
        os.close(writing)


CLIENTS: dict[str, Callable[[Path, str], object]] = {
    "the drawbridge's": lambda _, name: Client(name, ca_pem=CA, tries=1).user("jane"),
    "who logs in": lambda _, name: login(name),
    "the host's": lambda _, name: host(name).keeps(),
    "the keep's, for the steward": lambda _, name: StewardClient(f"https://{name}", CA).challenge(),
    "the drawbridge, for tokens": check_token,
    "the steward's, for endorsements": fetch_endorsement,
}


def ends(server: DrippingServer, client: Callable[[str], object]) -> None:
    with server:
        with pytest.raises(Unavailable, match=r"slow|timed out"):
            client(server.host)
        assert not server.gave_up


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("client", CLIENTS)
def test_what_never_ends_is_an_error(client: str, kind: str, tmp_path: Path) -> None:
    ends(DrippingServer(LEAF, kind), partial(CLIENTS[client], tmp_path))


@pytest.mark.parametrize("kind", HEADS)
def test_a_log_that_is_followed_begins(kind: str) -> None:
    """However long its lines may then be waited for."""
    ends(DrippingServer(LEAF, kind), lambda name: list(host(name).log("k", follow=True)))


def test_a_keep_that_is_attached_begins() -> None:
    ends(DrippingServer(LEAF, "a head"), attach)


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("log_in", [login, login_by_device])
def test_an_issuer_that_drips_later(kind: str, log_in: Callable[[str], object]) -> None:
    """Its discovery is whole; what comes then, a token or a code, is not."""
    honest: dict[str, bytes] = {}
    server = DrippingServer(LEAF, kind, honest)
    url = f"https://{server.host}"
    names = ("device_authorization_endpoint", "token_endpoint")
    honest[DISCOVERY] = json.dumps({"issuer": url, **dict.fromkeys(names, f"{url}/token")}).encode()
    ends(server, log_in)


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_of_which_little_is_wanted(kind: str) -> None:
    """What is too long is known before it ends; nothing is read for ever to find out."""
    with (
        http_pools.pools(ca_cert_data=CA, retries=False, timeout=60) as pool,
        DrippingServer(LEAF, kind) as server,
    ):
        response = pool.request("GET", f"https://{server.host}/", preload_content=False)
        if kind == "a body":
            assert http_pools.read_body(response, 2, 60) == b"   "
        else:
            with pytest.raises(http_pools.TooSlow):
                http_pools.read_body(response, 2)
        response.close()
        assert not server.gave_up


@pytest.mark.parametrize("timeout", [None, 60])
def test_a_single_read_does_not_outlast_the_head(
    timeout: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a read may take longer, or for ever."""
    monkeypatch.setattr("garrison.testing.dripping._PAUSE_SECONDS", 60.0)
    with (
        http_pools.pools(ca_cert_data=CA, retries=False, timeout=timeout) as pool,
        DrippingServer(LEAF, "a head") as server,
        pytest.raises(ReadTimeoutError),
    ):
        pool.request("GET", f"https://{server.host}/")


def test_no_pool_is_without_tls_unless_that_is_asked_for() -> None:
    with pytest.raises(KeyError, match="http"):
        http_pools.pools().request("GET", "http://localhost/")
    with pytest.raises(HTTPError):
        http_pools.pools(insecure_http=True, retries=False).request("GET", "http://localhost:1/")

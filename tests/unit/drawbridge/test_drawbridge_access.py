"""Who may read and put what: tokens, keeps, the steward, and everybody else."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import threading
import time
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from garrison.drawbridge.tokens import (
    FetchedKeys,
    Identity,
    Unauthorized,
    Verifier,
    bearer,
    parse_keys,
)
from garrison.errors import Unavailable
from garrison.formats.content_digest import ContentDigest
from garrison.formats.identity import WorkloadIdentity
from garrison.formats.slug import Slug
from garrison.formats.tree import ENTRY_TYPE, Package
from garrison.testing.drawbridge import Answer, MemoryDrawbridge, served
from garrison.testing.tls import workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.testing.tls import Authority

API = "/api/v0.1.0"
SECRET = Slug.parse("drawbridge.test/jane/secret:1.0.0")
TAG = f"{API}/jane/secret/_tag/1.0.0"
KEEP = WorkloadIdentity(None, None, "snp", b"\x22" * 48, "UpToDate")


@pytest.fixture
def private(drawbridge: MemoryDrawbridge, package: Package) -> MemoryDrawbridge:
    """With a package in `jane/secret`."""
    drawbridge.publish(SECRET, package)
    return drawbridge


def ask(
    drawbridge: MemoryDrawbridge, path: str, *, user: str | None = None, der: bytes | None = None
) -> tuple[int, str]:
    answer = drawbridge.request("GET", path, user=user, certificate=der)
    return answer.status, "" if answer.status == 200 else answer.text


class TestPrivate:
    """A private repository."""

    def test_its_owner_reads(self, private: MemoryDrawbridge, package: Package) -> None:
        for path, (_, content) in served(SECRET, package).items():
            assert private.request("GET", path, user="jane").body == content

    def test_nobody_else_reads(self, private: MemoryDrawbridge, package: Package) -> None:
        for path in (*served(SECRET, package), f"{API}/jane/secret/_tag"):
            assert ask(private, path) == (401, "Bearer token header missing")
            assert ask(private, path, user="eve") == (
                401,
                "You are logged in as `eve`, and not authorized for user `jane`",
            )

    def test_a_keep_that_the_repository_admits_reads(
        self, private: MemoryDrawbridge, package: Package, certifier: Authority
    ) -> None:
        der = certifier.issue(KEEP).chain[0].public_bytes(Encoding.DER)
        for path, (_, content) in served(SECRET, package).items():
            assert private.request("GET", path, certificate=der).body == content
        assert ask(private, f"{API}/jane/secret/_tag", der=der)[0] == 200

    @pytest.mark.parametrize(
        "identity",
        [
            WorkloadIdentity(None, None, "snp", b"\x23" * 48, "UpToDate"),
            WorkloadIdentity(None, None, "tdx", b"\x22" * 48, "UpToDate"),
            WorkloadIdentity(None, None, "nil"),
        ],
        ids=["measurement", "tee", "nil"],
    )
    def test_another_keep_reads_nothing(
        self,
        private: MemoryDrawbridge,
        package: Package,
        certifier: Authority,
        identity: WorkloadIdentity,
    ) -> None:
        der = certifier.issue(identity).chain[0].public_bytes(Encoding.DER)
        for path in (*served(SECRET, package), f"{API}/jane/secret/_tag"):
            assert ask(private, path, der=der) == (401, "Bearer token header missing")

    def test_a_certificate_without_an_identity_reads_nothing(
        self, private: MemoryDrawbridge, certifier: Authority
    ) -> None:
        """Unlike the original, where any certificate of the CA reads everything."""
        leaf = certifier.issue(hosts=("keep.test",))
        der = leaf.chain[0].public_bytes(Encoding.DER)
        assert ask(private, TAG, der=der)[0] == 401
        assert ask(private, f"{TAG}/tree/main.wasm", der=der)[0] == 401

    def test_a_keeps_certificate_puts_nothing_and_reads_no_configuration(
        self, private: MemoryDrawbridge, certifier: Authority
    ) -> None:
        der = certifier.issue(workload()).chain[0].public_bytes(Encoding.DER)
        assert ask(private, f"{API}/jane/secret", der=der)[0] == 401
        assert ask(private, f"{API}/jane", der=der)[0] == 401
        digest = ContentDigest.of(b"").to_header()
        headers = {"content-length": "0", "content-type": ENTRY_TYPE, "content-digest": digest}
        answer = private.request(
            "PUT", f"{API}/jane/secret/_tag/2.0.0", headers=headers, certificate=der
        )
        assert (answer.status, answer.text) == (401, "Bearer token header missing")

    def test_the_steward_looks_up_tags_and_nothing_more(
        self, private: MemoryDrawbridge, steward_certificate: bytes
    ) -> None:
        assert ask(private, TAG, der=steward_certificate)[0] == 200
        for path in (f"{TAG}/tree", f"{TAG}/tree/main.wasm", f"{API}/jane/secret/_tag"):
            assert ask(private, path, der=steward_certificate)[0] == 401

    def test_the_operator_can_name_the_stewards(
        self, private: MemoryDrawbridge, steward_certificate: bytes
    ) -> None:
        for names, status in (
            ({"spiffe://steward.test/steward"}, 200),
            ({"spiffe://other.test/steward"}, 401),
        ):
            named = MemoryDrawbridge(private.store, steward_ids=frozenset(names))
            assert ask(named, TAG, der=steward_certificate)[0] == status

    def test_what_does_not_exist_is_answered_alike(
        self, private: MemoryDrawbridge, certifier: Authority, steward_certificate: bytes
    ) -> None:
        other = certifier.issue(WorkloadIdentity(None, None, "tdx"))
        for path in ("_tag", "_tag/1.0.0", "_tag/9.9.9", "_tag/1.0.0/tree", "_tag/1.0.0/tree/x"):
            for who in (
                {},
                {"user": "eve"},
                {"certificate": other.chain[0].public_bytes(Encoding.DER)},
            ):
                there = private.request("GET", f"{API}/jane/secret/{path}", **who)
                nowhere = private.request("GET", f"{API}/jane/nothing/{path}", **who)
                assert (there.status, there.text) == (nowhere.status, nowhere.text)
                assert there.headers == nowhere.headers
        nowhere = private.request("GET", f"{API}/jane/x/_tag", certificate=steward_certificate)
        assert nowhere.status == 401
        assert ask(private, f"{API}/jane/nothing/_tag", user="jane")[0] == 404


class TestPutting:
    """Only the owner puts, with the scope for it."""

    @pytest.mark.parametrize(
        ("path", "context"),
        [
            (f"{API}/jane/other", "drawbridge_repositories"),
            (f"{API}/jane/chat/_tag/1.0.0", "drawbridge_tags"),
            (f"{API}/jane/chat/_tag/1.0.0/tree", "drawbridge_tags"),
        ],
    )
    def test_another_user_or_scope_or_nobody(
        self, drawbridge: MemoryDrawbridge, package: Package, path: str, context: str
    ) -> None:
        body = package.entry.to_bytes()
        answer = drawbridge.put(path, body, ENTRY_TYPE, user=None)
        assert (answer.status, answer.text) == (401, "Bearer token header missing")
        assert answer.headers["www-authenticate"] == "Bearer"
        answer = drawbridge.put(path, body, ENTRY_TYPE, user="eve")
        assert (answer.status, answer.text) == (
            401,
            "You are logged in as `eve`, and not authorized for user `jane`",
        )
        scopes = {f"read:{context}", "manage:drawbridge_users", "openid"}
        token = drawbridge.issuer.token("jane", frozenset(scopes))
        answer = drawbridge.put(path, body, ENTRY_TYPE, user=None, authorization=f"Bearer {token}")
        assert (answer.status, answer.text) == (
            401,
            f"Token is missing a scope for level write, context {context}",
        )

    def test_a_user_registers_as_itself(self, drawbridge: MemoryDrawbridge) -> None:
        answer = drawbridge.put(f"{API}/mallory", b'{"subject":"jane"}', user="mallory")
        assert (answer.status, answer.text) == (401, "OpenID Connect subject mismatch")
        assert drawbridge.put(f"{API}/mallory", b'{"subject":"m"}', user="m").status == 201

    def test_manage_stands_for_read_and_write(self, drawbridge: MemoryDrawbridge) -> None:
        for level, status in (("manage", 201), ("write", 201), ("read", 401)):
            scope = frozenset({f"{level}:drawbridge_repositories"})
            token = drawbridge.issuer.token("jane", scope)
            answer = drawbridge.put(
                f"{API}/jane/by-{level}",
                b'{"public":true}',
                user=None,
                authorization=f"Bearer {token}",
            )
            assert answer.status == status


ISSUER, AUDIENCE = "https://issuer.test/", "https://drawbridge.test/"
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEAK_KEY = rsa.generate_private_key(65537, 1024)  # noqa: S505 - as an issuer should not have it
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, kid: str) -> dict[str, Any]:
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        written = jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        written = jwt.algorithms.ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        written = jwt.algorithms.OKPAlgorithm.to_jwk(public, as_dict=True)
    return {**written, "kid": kid}


KEYS = {"keys": [jwk(EC_KEY, "ec"), jwk(RSA_KEY, "rsa"), jwk(ED_KEY, "ed")]}


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    found = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "jane",
        "iat": now,
        "exp": now + 60,
        "scope": "openid manage:drawbridge_users",
    } | changes
    return {name: value for name, value in found.items() if value is not None}


def signed(key: Any = EC_KEY, algorithm: str = "ES256", kid: str | None = "ec", **c: Any) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**c), key, algorithm=algorithm, headers=headers)


def verifier() -> Verifier:
    return Verifier(issuer=ISSUER, audience=AUDIENCE, keys=FetchedKeys(lambda: KEYS))


@pytest.mark.parametrize(
    "token",
    [
        signed,
        lambda: signed(RSA_KEY, "RS256", "rsa"),
        lambda: signed(ED_KEY, "EdDSA", "ed"),
        lambda: signed(aud=["other", AUDIENCE]),
        # The issuer's clock is ahead of the drawbridge's, or behind it, by a little.
        lambda: signed(iat=int(time.time()) + 5, nbf=int(time.time()) + 5),
        lambda: signed(exp=int(time.time()) - 2),
        lambda: signed(scope=["openid", "manage:drawbridge_users"]),
    ],
    ids=["ES256", "RS256", "EdDSA", "audiences", "clock-ahead", "clock-behind", "scope-list"],
)
def test_good_tokens(token: Callable[[], str]) -> None:
    # Made now: the run may have begun longer ago than a token lives.
    identity = verifier().verify(token())
    assert identity.subject == "jane"
    identity.require("drawbridge_users", "read")
    with pytest.raises(Unauthorized, match="level read, context drawbridge_tags"):
        identity.require("drawbridge_tags", "read")


PUBLIC_PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
BAD: dict[str, Callable[[], str]] = {
    "expired": lambda: signed(exp=int(time.time()) - 60),
    "expired by more than clocks differ": lambda: signed(exp=int(time.time()) - 11),
    "not yet": lambda: signed(iat=int(time.time()) + 600),
    "not before": lambda: signed(nbf=int(time.time()) + 600),
    "no exp": lambda: signed(exp=None),
    "no iat": lambda: signed(iat=None),
    "no scope": lambda: signed(scope=None),
    "scope of other things": lambda: signed(scope=["manage:drawbridge_users", ["x"]]),
    "scope that is no text": lambda: signed(scope={"manage:drawbridge_users": True}),
    "scp beside a scope": lambda: signed(scope=1, scp="manage:drawbridge_users"),
    "scp that is no text": lambda: signed(scope=None, scp={"manage:drawbridge_users": True}),
    "scp of other things": lambda: signed(scope=None, scp=["manage:drawbridge_users", 1]),
    "no sub": lambda: signed(sub=None),
    "other issuer": lambda: signed(iss="https://issuer.test"),
    "no issuer": lambda: signed(iss=None),
    "other audience": lambda: signed(aud="https://other.test/"),
    "no audience": lambda: signed(aud=None),
    "no kid": lambda: signed(kid=None),
    "unknown kid": lambda: signed(kid="other"),
    "other key": lambda: signed(ec.generate_private_key(ec.SECP256R1())),
    "other key's kid": lambda: signed(kid="rsa"),
    "Ed25519's kid": lambda: signed(kid="ed"),
    "other Ed25519 key": lambda: signed(ed25519.Ed25519PrivateKey.generate(), "EdDSA", "ed"),
    "EdDSA in place of ES256": lambda: signed(ED_KEY, "EdDSA", "ec"),
    "Ed448": lambda: signed(ed448.Ed448PrivateKey.generate(), "EdDSA", "ed"),
    "ES384": lambda: signed(ec.generate_private_key(ec.SECP384R1()), "ES384"),
    "RS512": lambda: signed(RSA_KEY, "RS512", "rsa"),
    "none": lambda: jwt.encode(claims(), "", algorithm="none", headers={"kid": "ec"}),
    "an end of time": lambda: signed(exp=float("inf")),
    "truncated": lambda: signed()[:-8],
    "garbage": lambda: "garbage",
    "empty": lambda: "",
    "long": lambda: signed(more="x" * 20_000),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tokens_are_refused_without_being_quoted(name: str) -> None:
    token = BAD[name]()
    with pytest.raises(Unauthorized, match="Invalid token provided") as caught:
        verifier().verify(token)
    said = str(caught.value) + "".join(caught.value.__notes__)
    assert not token or token[:20] not in said


def test_the_public_key_is_no_hmac_secret() -> None:
    """The confusion of algorithms: signed with what everybody knows."""

    def part(data: bytes) -> bytes:
        return urlsafe_b64encode(data).rstrip(b"=")

    head = part(json.dumps({"alg": "HS256", "kid": "rsa", "typ": "JWT"}).encode())
    body = head + b"." + part(json.dumps(claims()).encode())
    token = body + b"." + part(hmac.new(PUBLIC_PEM, body, hashlib.sha256).digest())
    with pytest.raises(Unauthorized):
        verifier().verify(token.decode())


@pytest.mark.parametrize("header", ["", "Basic abc", "Bearer", "Bearer  ", "Token abc"])
def test_other_authorization_headers(header: str) -> None:
    with pytest.raises(Unauthorized, match="Invalid token provided"):
        bearer(header)


def test_keys_are_fetched_again_for_an_unknown_one_but_not_all_the_time() -> None:
    now, fetched = 1000.0, 0
    served_keys: dict[str, Any] = {"keys": [jwk(EC_KEY, "ec")]}

    def fetch() -> dict[str, Any]:
        nonlocal fetched
        fetched += 1
        return served_keys

    keys = FetchedKeys(fetch, clock=lambda: now)
    assert keys.find("ec") is not None
    assert keys.find("rsa") is None
    assert fetched == 1
    served_keys = KEYS
    assert keys.find("rsa") is None, "asked again too early"
    now += 11
    assert keys.find("rsa") is not None
    assert fetched == 2
    now += 3601
    assert keys.find("ec") is not None
    assert fetched == 3


def test_known_keys_do_not_wait_for_an_issuer_that_is_slow() -> None:
    """Anybody can name an unknown key, and so have the issuer asked."""
    now = 1000.0
    asked, answer = threading.Event(), threading.Event()
    answer.set()

    def fetch() -> dict[str, Any]:
        asked.set()
        assert answer.wait(30)
        return KEYS

    keys = FetchedKeys(fetch, clock=lambda: now)
    assert keys.find("ec") is not None
    now += 11
    asked.clear()
    answer.clear()
    unknown = threading.Thread(target=keys.find, args=("unknown",))
    unknown.start()
    assert asked.wait(30)
    assert keys.find("ec") is not None
    answer.set()
    unknown.join()


def test_tokens_of_unknown_keys_take_no_threads_from_others() -> None:
    """However many there are, and however slow the issuer is."""
    now, fetched = 1000.0, 0
    asked, answer = threading.Event(), threading.Event()
    answer.set()

    def fetch() -> dict[str, Any]:
        nonlocal now, fetched
        fetched += 1
        asked.set()
        assert answer.wait(60)
        # It took longer than the pause between two questions.
        now += 30
        return KEYS

    keys = FetchedKeys(fetch, clock=lambda: now)
    verifier = Verifier(issuer=ISSUER, audience=AUDIENCE, keys=keys)

    async def run() -> list[Identity | BaseException]:
        nonlocal now
        assert (await verifier.verify_soon(signed())).subject == "jane"
        now += 11
        asked.clear()
        answer.clear()
        unknown = [
            asyncio.create_task(verifier.verify_soon(signed(kid=f"unknown {number}")))
            for number in range(100)
        ]
        try:
            assert await asyncio.to_thread(asked.wait, 60)
            # A token of a known key, and a thread for something else.
            assert (await asyncio.wait_for(verifier.verify_soon(signed()), 60)).subject == "jane"
            await asyncio.wait_for(asyncio.to_thread(lambda: None), 60)
        finally:
            answer.set()
        return await asyncio.gather(*unknown, return_exceptions=True)

    refused = asyncio.run(run())
    assert len(refused) == 100
    assert all(isinstance(error, Unauthorized) for error in refused)
    assert fetched == 2, "each of them asked the issuer again"


def test_stale_keys_of_an_issuer_that_is_down_are_not_used() -> None:
    now, down = 1000.0, False

    def fetch() -> dict[str, Any]:
        if down:
            raise Unavailable("down")
        return KEYS

    keys = FetchedKeys(fetch, clock=lambda: now)
    assert keys.find("ec") is not None
    down = True
    now += 3000
    assert keys.find("ec") is not None
    now += 601
    for _ in range(2):
        with pytest.raises(Unavailable):
            keys.find("ec")


def test_keys_that_cannot_verify_are_passed_over() -> None:
    p384 = ec.generate_private_key(ec.SECP384R1())
    unusable = [
        {**jwk(EC_KEY, "a"), "use": "enc"},
        {**jwk(EC_KEY, "b"), "alg": "ES512"},
        jwk(p384, "c"),
        jwk(ed448.Ed448PrivateKey.generate(), "f"),
        {**jwk(ED_KEY, "g"), "alg": "ES256"},
        {"kty": "oct", "kid": "d", "k": "AAAA"},
        {k: v for k, v in jwk(EC_KEY, "e").items() if k != "kid"},
        "nonsense",
        {"kty": "EC", "crv": "P-256", "kid": "h"},
        {**jwk(EC_KEY, "i"), "x": "AA"},
        {"kty": "OKP", "crv": "Ed25519", "kid": "j", "x": "AA"},
        {**jwk(RSA_KEY, "k"), "n": 5},
        {**jwk(RSA_KEY, "l"), "e": "AQ"},
        jwk(WEAK_KEY, "m"),
        {**jwk(EC_KEY, "n"), "key_ops": ["encrypt"]},
        {**jwk(EC_KEY, "o"), "key_ops": "verify"},
        # Whoever reads the set can sign with these.
        {**RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True), "kid": "p"},
        {**ECAlgorithm.to_jwk(EC_KEY, as_dict=True), "kid": "q"},
        {**OKPAlgorithm.to_jwk(ED_KEY, as_dict=True), "kid": "r"},
    ]
    assert list(parse_keys({"keys": [*unusable, jwk(EC_KEY, "ec")]})) == ["ec"]
    broken: list[dict[str, Any]] = [{}, {"keys": {}}]
    broken.append({"keys": [{"kty": "EC", "crv": "P-256", "kid": "x"}]})
    broken.append({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "x", "x": "AA"}]})
    for document in broken:
        with pytest.raises(Unavailable):
            parse_keys(document)
    # Nothing for tokens at all is no fault: there are issuers with other kinds alone.
    assert parse_keys({"keys": unusable[:8]}) == {}


def test_the_log_names_the_keys_that_are_broken_or_weak(caplog: pytest.LogCaptureFixture) -> None:
    parse_keys({"keys": [jwk(WEAK_KEY, "weak"), jwk(EC_KEY, "ec")]})
    (line,) = caplog.records
    assert line.__dict__["fields"] == {
        "outcome": "key passed over",
        "kid": "weak",
        "reason": "an RSA key of 1024 bits",
    }


def test_no_token_reaches_the_log(
    drawbridge: MemoryDrawbridge, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = drawbridge.issuer.token("eve")
    refused: list[Answer] = [
        drawbridge.request("GET", f"{API}/jane", headers={"authorization": f"Bearer {value}"})
        for value in (token, token[:-4] + "AAAA", f"{token} {token}")
    ]
    assert [answer.status for answer in refused] == [401, 401, 401]
    logged = "".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "not authorized for user" in logged
    for part in token.split("."):
        assert part not in logged
        assert part not in "".join(answer.text for answer in refused)

"""Two replicas of the drawbridge over one S3-compatible server, and a foreign issuer of tokens."""

from __future__ import annotations

import asyncio
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import jwt
import pytest
import urllib3
from cryptography.hazmat.primitives.asymmetric import ed25519

from garrison.drawbridge.client import Client
from garrison.drawbridge.fsck import check
from garrison.formats.slug import Repository, Slug
from garrison.formats.tree import ENTRY_TYPE, Entry, Package
from garrison.testing.drawbridge import Lie, LyingServer
from garrison.testing.s3 import PROGRAM, S3Server, find
from garrison.testing.stack import GARRISON, Process, Stack
from garrison.testing.tls import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    find() is None, reason=f"needs {PROGRAM}, an S3-compatible server: make s3-server"
)

AUDIENCE = "https://drawbridge.test/"
PREFIX = "registry"
RACES = 40
API = "/api/v0.1.0/jane/chat"


class Replicas:
    """Two drawbridges, their store, and a user of theirs."""

    def __init__(self, stack: Stack, s3: S3Server, issuer: LyingServer, ca: Authority) -> None:
        directory = stack.directory
        leaf = ca.issue(hosts=("localhost",))
        for name, data in (
            ("ca.pem", ca.root_pem.encode()),
            ("server.pem", leaf.chain_pem()),
            ("server.key", leaf.key_pem()),
        ):
            (directory / name).write_bytes(data)
        self.store = s3.store(PREFIX)
        self.hosts = []
        for _ in range(2):
            process = Process(
                "a drawbridge",
                [
                    *GARRISON, "drawbridge", "serve", "--port", "0",
                    "--store", s3.location(PREFIX),
                    "--tls-cert", str(directory / "server.pem"),
                    "--tls-key", str(directory / "server.key"),
                    "--oidc-issuer", f"https://{issuer.host}/", "--oidc-audience", AUDIENCE,
                    "--oidc-ca", str(directory / "ca.pem"),
                ],
                stack.environment | s3.environment,
            )  # fmt: skip
            stack.processes.append(process)
            url = process.expect("listening on https://").rpartition(" ")[2]
            self.hosts.append(f"localhost:{url.rpartition(':')[2]}")
        self.token = _issued(issuer)
        self.clients = [Client(host, ca_pem=ca.root_pem, token=self.token) for host in self.hosts]
        self.http = urllib3.PoolManager(ca_certs=str(directory / "ca.pem"), retries=False)

    def put_tag(self, replica: int, version: str, body: bytes) -> int:
        """PUT the tag at one of the two, and return the status."""
        answer = self.http.request(
            "PUT",
            f"https://{self.hosts[replica]}{API}/_tag/{version}",
            body=body,
            headers={
                "Authorization": f"Bearer {self.token}",
                "Content-Type": ENTRY_TYPE,
                "Content-Digest": Entry.of(body, ENTRY_TYPE).digest.to_header(),
            },
        )
        return answer.status


def _issued(issuer: LyingServer) -> str:
    """A token of an issuer whose one key is on Ed25519."""
    key = ed25519.Ed25519PrivateKey.generate()
    public = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    url = f"https://{issuer.host}/"
    for path, value in (
        ("/.well-known/openid-configuration", {"issuer": url, "jwks_uri": f"{url}keys"}),
        ("/keys", {"keys": [{**public, "kid": "one"}]}),
    ):
        body = json.dumps(value).encode()
        issuer.answers[path] = Lie(200, {"Content-Length": str(len(body))}, body)
    now = int(time.time())
    contexts = ("users", "repositories", "tags")
    claims = {
        "iss": url, "aud": AUDIENCE, "sub": "auth|jane", "iat": now, "exp": now + 3600,
        "scope": " ".join(f"manage:drawbridge_{context}" for context in contexts),
    }  # fmt: skip
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": "one"})


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    directory: Path = tmp_path_factory.mktemp("replicas")
    (directory / "home").mkdir()
    (directory / "s3").mkdir()
    ca = Authority("Web")
    with (
        S3Server(directory / "s3") as s3,
        LyingServer(ca.issue(hosts=("localhost",))) as issuer,
        Stack(directory) as stack,
    ):
        found = Replicas(stack, s3, issuer, ca)
        found.clients[0].register_user("jane", "auth|jane")
        repository = Repository(found.hosts[1], "jane", "chat")
        found.clients[1].register_repository(repository, {"public": True})
        yield found
        found.http.clear()


def test_one_tag_at_both(replicas: Replicas) -> None:
    """Of two clients that create it with different content one has 201, the other 409, always."""
    bodies = [Entry.of(text, "application/wasm").to_bytes() for text in (b"one", b"two")]
    together = Barrier(2)

    def put(replica: int, version: str) -> int:
        together.wait(60)
        return replicas.put_tag(replica, version, bodies[replica])

    with ThreadPoolExecutor(2) as threads:
        for index in range(RACES):
            version = f"{index}.0.0-race"
            statuses = list(threads.map(put, (0, 1), (version, version)))
            assert sorted(statuses) == [201, 409]
            url = f"https://{replicas.hosts[index % 2]}{API}/_tag/{version}"
            assert replicas.http.request("GET", url).data == bodies[statuses.index(201)]


def test_both_write_at_once(replicas: Replicas) -> None:
    """Different packages with common files; what one took the other serves."""
    chance = random.Random(1)  # noqa: S311  (content of a test)
    common = chance.randbytes(6_000_000)
    packages = {
        f"{index}.1.0": Package({
            "main.wasm": common if index % 3 else chance.randbytes(1_000_000),
            **{f"d{index}/{number}": chance.randbytes(1000) for number in range(10)},
        })
        for index in range(12)
    }  # fmt: skip

    def publish(version: str) -> None:
        replica = int(version.partition(".")[0]) % 2
        slug = Slug.parse(f"{replicas.hosts[replica]}/jane/chat:{version}")
        replicas.clients[replica].publish(slug, packages[version])

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(publish, packages))
    for index, (version, package) in enumerate(packages.items()):
        # By the one that did not take it.
        other = 1 - index % 2
        slug = Slug.parse(f"{replicas.hosts[other]}/jane/chat:{version}")
        assert replicas.clients[other].fetch(slug).files == package.files
    report = asyncio.run(check(replicas.store))
    assert report.findings == ()
    assert not [tag for tag in report.incomplete if "race" not in tag]
    # The common file is stored once, whoever had it.
    distinct = {content for package in packages.values() for content in package.files.values()}
    assert report.content_bytes < sum(map(len, distinct)) + 200_000

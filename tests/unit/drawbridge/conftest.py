"""A drawbridge where `jane` and `eve` are registered, over each kind of store, and certificates."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.drawbridge.client import Client
from garrison.drawbridge.store import Store
from garrison.formats.slug import Slug
from garrison.formats.tree import Package
from garrison.steward import authority, init
from garrison.steward.certificates import issue_client_certificate
from garrison.testing.drawbridge import LyingServer, MemoryDrawbridge
from garrison.testing.s3 import PROGRAM, S3Server, find
from garrison.testing.tls import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def package() -> Package:
    """A workload with a directory in it."""
    return Package({"main.wasm": b"\0asm" * 1000, "Enarx.toml": b"", "sub/data": b"data"})


@pytest.fixture
def slug() -> Slug:
    """Where it is published."""
    return Slug.parse("drawbridge.test/jane/chat:1.0.0")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real server of S3's protocol."""
    if find() is None:
        pytest.skip(f"needs {PROGRAM}, an S3-compatible server: make s3-server")
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


OpenStore = Callable[[str], Store]


@pytest.fixture
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Opens an empty store: in `memory`, in a `folder`, or on a server by `s3`."""

    def opened(kind: str) -> Store:
        if kind == "memory":
            return Store.in_memory()
        if kind == "folder":
            return Store.open(tmp_path / "objects")
        server: S3Server = request.getfixturevalue("s3")
        return server.store(tmp_path.name)

    return opened


@pytest.fixture(
    params=[
        "memory",
        pytest.param("folder", marks=pytest.mark.slow),
        pytest.param("s3", marks=pytest.mark.slow),
    ]
)
def store(request: pytest.FixtureRequest, open_store: OpenStore) -> Store:
    """An empty store of each kind."""
    return open_store(request.param)


@pytest.fixture
def drawbridge(store: Store) -> MemoryDrawbridge:
    """With the public repository `jane/chat` and the private `jane/secret`."""
    drawbridge = MemoryDrawbridge(store)
    for user in ("jane", "eve"):
        path = f"/api/v0.1.0/{user}"
        assert drawbridge.put(path, b'{"subject":"%s"}' % user.encode(), user=user).status == 201
    for repo, config in (
        ("chat", b'{"public":true}'),
        ("secret", b'{"public":false,"keeps":[{"tee":"snp","measurement":"%s"}]}' % (b"22" * 48)),
    ):
        assert drawbridge.put(f"/api/v0.1.0/jane/{repo}", config).status == 201
    return drawbridge


@pytest.fixture(scope="session")
def certifier() -> Authority:
    """A steward's certificate authority that certifies whatever a test wants."""
    return Authority()


@pytest.fixture
def server(certifier: Authority) -> Iterator[LyingServer]:
    """A drawbridge that says whatever a test wants."""
    with LyingServer(certifier.issue(hosts=("localhost",))) as server:
        yield server


@pytest.fixture
def client(server: LyingServer, certifier: Authority) -> Client:
    """A client of that."""
    return Client(server.host, ca_pem=certifier.root_pem)


@pytest.fixture(scope="session")
def steward_certificate(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """DER of the certificate that a real steward shows to a drawbridge."""
    directory = tmp_path_factory.mktemp("steward") / "steward"
    now = datetime.now(UTC)
    init.create(directory, trust_domain="steward.test", hosts=("localhost",), now=now)
    chain, _ = issue_client_certificate(authority.Authority.load(directory), now)
    return x509.load_pem_x509_certificate(chain).public_bytes(Encoding.DER)

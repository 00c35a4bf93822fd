"""A drawbridge in memory where `jane` and `eve` are registered, and certificates."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.formats.slug import Slug
from garrison.formats.tree import Package
from garrison.steward import authority, init
from garrison.steward.certificates import issue_client_certificate
from garrison.testing.drawbridge import MemoryDrawbridge
from garrison.testing.tls import Authority


@pytest.fixture
def package() -> Package:
    """A workload with a directory in it."""
    return Package({"main.wasm": b"\0asm" * 1000, "Enarx.toml": b"", "sub/data": b"data"})


@pytest.fixture
def slug() -> Slug:
    """Where it is published."""
    return Slug.parse("drawbridge.test/jane/chat:1.0.0")


@pytest.fixture
def drawbridge() -> MemoryDrawbridge:
    """With the public repository `jane/chat` and the private `jane/secret`."""
    drawbridge = MemoryDrawbridge()
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


@pytest.fixture(scope="session")
def steward_certificate(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """DER of the certificate that a real steward shows to a drawbridge."""
    directory = tmp_path_factory.mktemp("steward") / "steward"
    now = datetime.now(UTC)
    init.create(directory, trust_domain="steward.test", hosts=("localhost",), now=now)
    chain, _ = issue_client_certificate(authority.Authority.load(directory), now)
    return x509.load_pem_x509_certificate(chain).public_bytes(Encoding.DER)

"""The client against registries that lie: every lie ends in an error that names it."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.drawbridge.client import Client, ClientCertificate
from garrison.drawbridge.retry import TRIES
from garrison.errors import GarrisonError, Malformed, Rejected, Unavailable, Unverified
from garrison.formats import tree
from garrison.formats.content_digest import ContentDigest
from garrison.formats.signed_tag import JWS_TYPE, sign
from garrison.formats.slug import Slug
from garrison.formats.tree import DIRECTORY_TYPE, ENTRY_TYPE, MAX_DEPTH, Directory, Entry, Package
from garrison.testing.drawbridge import Lie, LyingServer, served
from garrison.testing.tls import Authority, workload

NAME = "jane/chat:1.0.0"
TAG = "/api/v0.1.0/jane/chat/_tag/1.0.0"
ROOT, WASM, SUB = f"{TAG}/tree", f"{TAG}/tree/main.wasm", f"{TAG}/tree/sub"


@pytest.fixture
def published(server: LyingServer, package: Package) -> Slug:
    """The truth, in the hands of a server that may lie."""
    return server.tell_the_truth(NAME, package)


def test_an_honest_server(
    client: Client, published: Slug, package: Package, server: LyingServer
) -> None:
    counted: list[int] = []
    fetched = client.fetch(published, counted.append)
    assert fetched.files == package.files
    assert fetched.digest == package.digest == client.tag_digest(published)
    assert client.tag(published) == package.entry == fetched.entry
    assert sum(counted) == sum(len(content) for _, content in package.nodes().values())
    assert list(client.directory(published, "sub").entries) == ["data"]
    nodes = list(served(published, package))
    assert server.requested[:2] == nodes[:2]
    assert sorted(server.requested[: len(nodes)]) == sorted(nodes)


def spoil(server: LyingServer, path: str, body: bytes) -> None:
    """Serve another body, of a length that is told."""
    server.answers[path].body = body
    server.answers[path].headers["Content-Length"] = str(len(body))


def lie_in_headers(server: LyingServer, path: str, headers: dict[str, str | None]) -> None:
    """Serve other headers; without those that are None."""
    changed = server.answers[path].headers | headers
    server.answers[path].headers = {k: v for k, v in changed.items() if v is not None}


def rehash(server: LyingServer, path: str) -> None:
    """Let the digest header agree with the body."""
    digest = ContentDigest.of(server.answers[path].body)
    server.answers[path].headers["Content-Digest"] = digest.to_header()


@pytest.mark.parametrize("path", [ROOT, WASM, SUB, f"{SUB}/data", f"{TAG}/tree/Enarx.toml"])
@pytest.mark.parametrize("consistent", [False, True], ids=["headers true", "headers lie too"])
def test_a_changed_byte_is_found_and_named(
    client: Client, published: Slug, server: LyingServer, path: str, consistent: bool
) -> None:
    body = server.answers[path].body
    changed = bytes([body[0] ^ 1]) + body[1:] if body else b"x"
    spoil(server, path, changed)
    if consistent:
        rehash(server, path)
    with pytest.raises(Unverified) as caught:
        client.fetch(published)
    where = path.removeprefix(ROOT).strip("/") or "root directory"
    assert str(caught.value.field) == f"{published} {where}"
    assert caught.value.found != caught.value.expected


def test_a_changed_tag_is_found(client: Client, published: Slug, server: LyingServer) -> None:
    spoil(server, TAG, server.answers[TAG].body.replace(b"length", b"Length"))
    with pytest.raises(Unverified, match="digest mismatch") as caught:
        client.tag_digest(published)
    assert str(published) in str(caught.value.field)


def test_another_tag_with_its_own_tree_is_another_digest(
    client: Client, published: Slug, server: LyingServer, package: Package
) -> None:
    """Consistent in itself: that it is not what was published, only its digest can tell."""
    other = Package({"main.wasm": b"evil"})
    server.tell_the_truth(NAME, other)
    assert client.fetch(published).digest == other.digest
    assert other.digest != package.digest


def test_an_old_signed_tag_under_a_new_name_is_found(client: Client, server: LyingServer) -> None:
    """The rollback: the registry serves all of 0.9.0, as it was signed, as 1.0.0."""
    key = ec.generate_private_key(ec.SECP256R1())
    old = Package({"main.wasm": b"with a hole"})
    slug = server.tell_the_truth(NAME, old)
    signed = {name: sign(old.entry, Slug.parse(f"{server.host}/{name}"), key)
              for name in (NAME, "jane/chat:0.9.0", "jane/other:1.0.0")}  # fmt: skip

    def look(body: bytes) -> bytes:
        server.answers[TAG] = Lie(200, {"Content-Type": JWS_TYPE}, b"")
        spoil(server, TAG, body)
        rehash(server, TAG)
        return client.signed_tag_digest(slug, (key.public_key(),))

    assert look(signed.pop(NAME)) == old.digest
    for name, body in signed.items():
        with pytest.raises(Unverified, match="signed for another tag") as caught:
            look(body)
        assert caught.value.found == repr(f"{server.host}/{name}")
        assert caught.value.expected == str(slug)
        # Whoever demands no signature takes it for an unsigned one.
        assert client.tag_digest(slug) == old.digest


def test_another_tag_alone_does_not_fit_the_tree(
    client: Client, published: Slug, server: LyingServer
) -> None:
    spoil(server, TAG, Package({"main.wasm": b"evil"}).entry.to_bytes())
    rehash(server, TAG)
    with pytest.raises(Unverified, match="root directory"):
        client.fetch(published)


@pytest.mark.parametrize("path", [TAG, ROOT, WASM])
@pytest.mark.parametrize(
    ("headers", "family", "text"),
    [
        ({"Content-Digest": None}, Unverified, "no Content-Digest header"),
        ({"Content-Digest": "md5=:AAAA:"}, Malformed, "unknown algorithm"),
        (
            {"Content-Digest": ContentDigest.of(b"other").to_header()},
            Unverified,
            "sha-256 digest mismatch",
        ),
        ({"Content-Type": "text/html"}, GarrisonError, "text/html"),
        ({"Content-Type": None}, GarrisonError, "wrong media type"),
    ],
)
def test_wrong_headers(
    client: Client,
    published: Slug,
    server: LyingServer,
    path: str,
    headers: dict[str, str | None],
    family: type[GarrisonError],
    text: str,
) -> None:
    lie_in_headers(server, path, headers)
    with pytest.raises(family) as caught:
        client.fetch(published)
    assert isinstance(caught.value, Unverified | Malformed)
    assert text in str(caught.value)
    assert str(published) in str(caught.value)


def test_who_does_not_answer_is_named_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        host = f"localhost:{closed.getsockname()[1]}"
    with pytest.raises(Unavailable, match="does not answer") as caught:
        Client(host, tries=1).tag(Slug.parse(f"{host}/jane/chat:1.0.0"))
    assert f"{host}: Failed to establish a new connection" in str(caught.value)
    assert "(" not in str(caught.value)


@pytest.mark.parametrize("path", [TAG, ROOT, WASM])
def test_a_body_that_is_cut_off(
    client: Client, published: Slug, server: LyingServer, path: str
) -> None:
    server.answers[path].body = server.answers[path].body[:-1]
    with pytest.raises(Unavailable, match="does not answer") as caught:
        client.fetch(published)
    assert caught.value.field == server.host


@pytest.mark.parametrize("path", [ROOT, WASM])
def test_a_body_of_another_length(
    client: Client, published: Slug, server: LyingServer, path: str
) -> None:
    body = server.answers[path].body
    for changed in (body[:-1], body + b"x", body * 50):
        spoil(server, path, changed)
        with pytest.raises(Unverified, match=r"wrong length|longer than it should be"):
            client.fetch(published)


def test_a_body_without_a_length_is_read_no_further_than_it_should_be(
    client: Client, published: Slug, server: LyingServer
) -> None:
    spoil(server, WASM, bytes(5_000_000))
    lie_in_headers(server, WASM, {"Content-Length": None})
    with pytest.raises(Unverified, match="longer than it should be; expected at most 4000 bytes"):
        client.fetch(published)


@pytest.mark.parametrize(
    ("status", "family"),
    [
        (204, Malformed), (206, Malformed), (301, Malformed), (302, Malformed), (307, Malformed),
        (400, Rejected), (401, Rejected), (403, Rejected), (404, Rejected), (418, Rejected),
        (429, Unavailable), (500, Unavailable), (503, Unavailable),
    ],
)  # fmt: skip
def test_statuses(
    client: Client, published: Slug, server: LyingServer, status: int, family: type[GarrisonError]
) -> None:
    """A redirect is never followed: it would be asked for with the client's certificate."""
    body = b"" if status == 204 else b"because\x1b[31m"
    server.answers[TAG] = Lie(
        status, {"Location": f"https://{server.host}{ROOT}", "Content-Length": str(len(body))}, body
    )
    with pytest.raises(family) as caught:
        client.fetch(published)
    assert f"answers {status}" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert server.requested == [TAG] * (TRIES if status in {429, 503} else 1)


def publish_root(server: LyingServer, entries: dict[str, Entry]) -> Slug:
    """Serve a tag whose root directory is `entries`, true to its digests."""
    root = Directory(entries).to_bytes()
    tag = Entry.of(root, DIRECTORY_TYPE).to_bytes()
    for path, content, kind in ((TAG, tag, ENTRY_TYPE), (ROOT, root, DIRECTORY_TYPE)):
        server.answers[path] = Lie(
            200,
            {
                "Content-Type": kind,
                "Content-Length": str(len(content)),
                "Content-Digest": ContentDigest.of(content).to_header(),
            },
            content,
        )
    return Slug.parse(f"{server.host}/{NAME}")


def test_what_an_entry_says_is_too_large_is_not_asked_for(
    client: Client, server: LyingServer
) -> None:
    huge = Entry(ContentDigest.of(b""), 100_000_001, "application/wasm")
    slug = publish_root(server, {"main.wasm": huge})
    with pytest.raises(Malformed, match="too large; found 100000001 bytes"):
        client.fetch(slug)
    assert server.requested == [TAG, ROOT]


def test_a_package_without_a_module(client: Client, server: LyingServer) -> None:
    with pytest.raises(Malformed, match=r"main\.wasm"):
        client.fetch(publish_root(server, {}))


def test_an_entry_of_another_media_type(client: Client, server: LyingServer) -> None:
    slug = publish_root(server, {"main.wasm": Entry.of(b"x", "text/html")})
    with pytest.raises(Malformed, match="wrong media type; found text/html"):
        client.fetch(slug)


def test_an_entry_without_sha_256(client: Client, server: LyingServer) -> None:
    digest = ContentDigest({"sha-224": ContentDigest.of(b"x").values["sha-224"]})
    slug = publish_root(server, {"main.wasm": Entry(digest, 1, "application/wasm")})
    server.answers[WASM] = Lie(
        200, {"Content-Type": "application/wasm", "Content-Length": "1"}, b"x"
    )
    with pytest.raises(Malformed, match="no sha-256"):
        client.fetch(slug)


def test_a_tree_without_end(client: Client, server: LyingServer) -> None:
    """As deep as the digests allow, and one more."""
    nested = Entry.of(Directory({}).to_bytes(), DIRECTORY_TYPE)
    contents = [b"{}"]
    for _ in range(MAX_DEPTH + 2):
        contents.append(Directory({"d": nested}).to_bytes())
        nested = Entry.of(contents[-1], DIRECTORY_TYPE)
    slug = publish_root(server, {"d": nested})
    path = ROOT
    for content in reversed(contents):
        path += "/d"
        server.answers[path] = Lie(
            200,
            {
                "Content-Type": DIRECTORY_TYPE,
                "Content-Length": str(len(content)),
                "Content-Digest": ContentDigest.of(content).to_header(),
            },
            content,
        )
    with pytest.raises(Malformed, match="too deep"):
        client.fetch(slug)


def test_more_nodes_than_a_package_may_have(
    client: Client, published: Slug, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "MAX_FILES", 4)
    with pytest.raises(Malformed, match="too large a package"):
        client.fetch(published)


class TestConnection:
    """Who the server is, and who the client is."""

    def test_another_ca(self, server: LyingServer, published: Slug) -> None:
        with pytest.raises(Unverified, match="does not verify") as caught:
            Client(server.host, ca_pem=Authority("Other").root_pem).tag(published)
        assert caught.value.field == server.host
        assert "--ca-bundle" in str(caught.value.hint)

    def test_another_host(self, certifier: Authority) -> None:
        with LyingServer(certifier.issue(hosts=("other.test",))) as server:
            slug = Slug.parse(f"{server.host}/{NAME}")
            with pytest.raises(Unverified, match="Hostname mismatch"):
                Client(server.host, ca_pem=certifier.root_pem).tag(slug)

    def test_nobody_there(self, certifier: Authority) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            host = f"localhost:{closed.getsockname()[1]}"
        with pytest.raises(Unavailable) as caught:
            Client(host, ca_pem=certifier.root_pem).tag(Slug.parse(f"{host}/{NAME}"))
        assert caught.value.field == host
        assert "refused" in str(caught.value)

    def test_no_tls_there(self, certifier: Authority) -> None:
        with socket.create_server(("127.0.0.1", 0)) as plain:
            host = f"localhost:{plain.getsockname()[1]}"

            def answer() -> None:
                connection, _ = plain.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(Unavailable):
                Client(host, ca_pem=certifier.root_pem).tag(Slug.parse(f"{host}/{NAME}"))
            thread.join()

    def test_tls_1_2_is_not_spoken(self, certifier: Authority) -> None:
        with LyingServer(certifier.issue(hosts=("localhost",))) as server:
            context: ssl.SSLContext = server._server.socket.context  # type: ignore[attr-defined]  # it is a TLS socket
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            slug = Slug.parse(f"{server.host}/{NAME}")
            with pytest.raises(GarrisonError) as caught:
                Client(server.host, ca_pem=certifier.root_pem).tag(slug)
        assert isinstance(caught.value, Rejected | Unavailable)
        assert server.requested == []

    def test_the_clients_certificate_is_shown(
        self, server: LyingServer, published: Slug, certifier: Authority
    ) -> None:
        context: ssl.SSLContext = server._server.socket.context  # type: ignore[attr-defined]  # it is a TLS socket
        context.load_verify_locations(cadata=certifier.root_pem)
        context.verify_mode = ssl.CERT_REQUIRED
        leaf = certifier.issue(workload())
        certificate = ClientCertificate(leaf.chain_pem(), leaf.key_pem())
        client = Client(server.host, ca_pem=certifier.root_pem, certificate=certificate)
        assert client.tag(published).length > 0
        foreign = Authority("Other").issue(workload())
        for shown in (None, ClientCertificate(foreign.chain_pem(), foreign.key_pem())):
            client = Client(server.host, ca_pem=certifier.root_pem, certificate=shown)
            with pytest.raises((Rejected, Unavailable)):
                client.tag(published)

    def test_a_certificate_and_another_key(self, certifier: Authority) -> None:
        leaf, other = certifier.issue(workload()), certifier.issue(workload())
        with pytest.raises(Malformed, match="client certificate"):
            Client("localhost", certificate=ClientCertificate(leaf.chain_pem(), other.key_pem()))
        with pytest.raises(Malformed, match="client certificate"):
            Client("localhost", certificate=ClientCertificate(b"", b""))
        der = leaf.chain[0].public_bytes(Encoding.DER)
        with pytest.raises(Malformed, match="client certificate"):
            Client("localhost", certificate=ClientCertificate(der, leaf.key_pem()))

    def test_a_ca_that_is_none(self) -> None:
        with pytest.raises(Malformed, match="not PEM certificates"):
            Client("localhost", ca_pem="nonsense")

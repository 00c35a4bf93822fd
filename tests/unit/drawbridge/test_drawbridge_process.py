"""A real `drawbridge serve`, with the real commands and client, over TLS."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from garrison.drawbridge.client import Client, ClientCertificate
from garrison.drawbridge.insecure_dev import SECRET
from garrison.errors import Rejected, Unavailable
from garrison.formats.digest import digest_text
from garrison.formats.identity import WorkloadIdentity
from garrison.formats.leaf import spki_of
from garrison.formats.slug import Slug
from garrison.formats.tree import Package
from garrison.steward import init
from garrison.steward.authority import Authority
from garrison.steward.certificates import issue_certificate, issue_client_certificate
from garrison.testing.drawbridge import Lie, LyingServer, served
from garrison.testing.stack import Stack
from garrison.testing.tls import Authority as TlsAuthority

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = {"main.wasm": b"\0asm" * 500_000, "Enarx.toml": b"args = []\n", "sub/data": b"data"}
PACKAGE = Package(FILES)


@pytest.fixture(scope="module")
def steward(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The steward that the drawbridge trusts."""
    return make_steward(tmp_path_factory.mktemp("steward") / "steward")


def make_steward(directory: Path) -> Authority:
    init.create(directory, trust_domain="steward.test", hosts=("localhost",), now=datetime.now(UTC))
    return Authority.load(directory)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, steward: Authority) -> Iterator[Stack]:
    """A drawbridge, and a user who is logged in."""
    directory = tmp_path_factory.mktemp("stack")
    (directory / "home").mkdir()
    root = steward.certificate.public_bytes(Encoding.PEM)
    (directory / "client-ca.pem").write_bytes(root)
    for path, content in FILES.items():
        (directory / "package" / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / "package" / path).write_bytes(content)
    with Stack(directory) as stack:
        process = stack.start(
            "the drawbridge", "drawbridge", "serve", "--insecure-dev", "--port", "0",
            "--store", str(directory / "drawbridge"),
            "--client-ca", str(directory / "client-ca.pem"),
        )  # fmt: skip
        url = process.expect("listening on https://").rpartition(" ")[2]
        stack.registry = f"localhost:{url.rpartition(':')[2]}"
        stack.login()
        stack.register_repo("chat")
        stack.register_repo("secret", "--private", "--keep", "tee=snp")
        for repo in ("chat", "secret"):
            told = stack.publish(directory / "package", f"{repo}:1.0.0")
            assert told["digest"] == digest_text(PACKAGE.digest)
        yield stack


def client(stack: Stack, certificate: ClientCertificate | None = None) -> Client:
    return Client(stack.registry, ca_pem=stack.registry_ca.read_text(), certificate=certificate)


def keep(steward: Authority, tee: str) -> ClientCertificate:
    """The certificate of a keep, as a real steward issues it."""
    key = ec.generate_private_key(ec.SECP256R1())
    identity = WorkloadIdentity(None, None, tee, b"\x22" * 48, "UpToDate")
    certificate = issue_certificate(
        steward,
        spki_of(key.public_key()),
        identity,
        dns_names=(),
        lifetime=timedelta(hours=1),
        now=datetime.now(UTC),
    )
    return ClientCertificate(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def test_it_warns_and_keeps_its_secrets_to_itself(stack: Stack) -> None:
    process = stack.processes[0]
    assert any("INSECURE" in line for line in process.lines)
    directory = stack.directory / "drawbridge"
    for name in (SECRET, "tls/server.key"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    tokens = stack.directory / "home/.config/garrison/tokens.json"
    assert stat.S_IMODE(tokens.stat().st_mode) == 0o600
    token = json.loads(tokens.read_text())[stack.registry]
    logged = "\n".join(process.lines)
    assert token.rpartition(".")[2] not in logged
    assert (directory / SECRET).read_text() not in logged


def test_the_digest_of_a_directory_is_the_servers(stack: Stack) -> None:
    package = str(stack.directory / "package")
    assert stack.command("tree", "digest", package).strip() == digest_text(PACKAGE.digest)
    assert client(stack).tag_digest(Slug.parse(stack.slug("chat:1.0.0"))) == PACKAGE.digest


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_and_sha256sum_agree(stack: Stack, tmp_path: Path) -> None:
    """As anybody can check, without a line of this project."""
    slug = Slug.parse(stack.slug("chat:1.0.0"))
    for path, (entry, content) in served(slug, PACKAGE).items():
        file = tmp_path / "served"
        subprocess.run(
            [
                "curl", "--silent", "--fail", "--cacert", str(stack.registry_ca),
                "--output", str(file), f"https://{stack.registry}{path}",
            ],
            check=True,
        )  # fmt: skip
        assert file.read_bytes() == content
        done = subprocess.run(["sha256sum", str(file)], check=True, capture_output=True, text=True)
        assert done.stdout.split()[0] == b64decode(entry.digest.to_json()["sha-256"]).hex()


def test_publishing_again_is_no_change_and_other_files_are_a_conflict(
    stack: Stack, tmp_path: Path
) -> None:
    assert stack.publish(stack.directory / "package", "chat:1.0.0")
    (tmp_path / "main.wasm").write_bytes(b"other")
    done = stack.run(
        "package", "publish", *stack.registry_options, stack.slug("chat:1.0.0"),
        str(tmp_path / "main.wasm"),
    )  # fmt: skip
    assert done.returncode == 77
    assert "answers 409: Already exists" in done.stderr
    assert client(stack).fetch(Slug.parse(stack.slug("chat:1.0.0"))).files == FILES


def test_the_commands_show_and_fetch(stack: Stack, tmp_path: Path) -> None:
    options = stack.registry_options
    told = json.loads(
        stack.command("package", "info", "--json", *options, stack.slug("secret:1.0.0"))
    )
    assert told["entry"] == PACKAGE.entry.to_json()
    stack.command("package", "fetch", *options, stack.slug("secret:1.0.0"), str(tmp_path / "out"))
    assert Package.from_directory(tmp_path / "out").files == FILES
    repository = f"{stack.registry}/demo/secret"
    told = json.loads(stack.command("repo", "info", "--json", *options, repository))
    assert told == {"config": {"public": False, "keeps": [{"tee": "snp"}]}, "tags": ["1.0.0"]}
    shown = stack.command("tree", "fetch", *options, stack.slug("secret:1.0.0"), "sub/data")
    assert shown == "data"


def test_what_is_fetched_is_written_beside_nothing_of_others(stack: Stack, tmp_path: Path) -> None:
    """However long its name is, and whatever else is in the folder."""
    options = [*stack.registry_options, stack.slug("secret:1.0.0")]
    others = tmp_path / "others"
    others.write_text("mine")
    for name in (".out.part", ".long.part"):
        (tmp_path / name).symlink_to(others)
    (tmp_path / "out").write_text("older")
    for name in ("out", "n" * 255):
        stack.command("tree", "fetch", *options, "sub/data", "-o", str(tmp_path / name))
        assert (tmp_path / name).read_bytes() == FILES["sub/data"]
    stack.command("package", "fetch", *options, str(tmp_path / ("d" * 255)))
    assert Package.from_directory(tmp_path / ("d" * 255)).files == FILES
    # What is no file is written to.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pipe.open("r+b", buffering=0) as reader:
        stack.command("tree", "fetch", *options, "sub/data", "-o", str(pipe))
        assert reader.read(100) == FILES["sub/data"]
    assert pipe.is_fifo()
    assert others.read_text() == "mine"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    done = stack.run("package", "fetch", *options, str(tmp_path / "link"))
    assert (done.returncode, "exists already" in done.stderr) == (2, True)
    for path in ("sub", "sub/none", "none", "/sub/data", "", "none/data"):
        done = stack.run("tree", "fetch", *options, path, "-o", str(tmp_path / "none"))
        assert done.returncode == 77, done.stderr
    assert {path.name[:5] for path in tmp_path.iterdir()} == {
        ".out.", ".long", "other", "out", "nnnnn", "ddddd", "pipe", "link",
    }  # fmt: skip


def test_who_fetches_what_was_yanked_is_told(stack: Stack, tmp_path: Path) -> None:
    options = [*stack.registry_options, stack.slug("chat:1.0.0")]
    for name, told in (("before", False), ("yanked", True), ("after", False)):
        if told:
            stack.command("package", "yank", "--reason", "a hole", *options)
        done = stack.run("package", "fetch", *options, str(tmp_path / name))
        assert (done.returncode, "was yanked: a hole" in done.stderr) == (0, told)
        if told:
            stack.command("package", "unyank", *options)


def test_everybody_sees_the_tags_of_a_public_repository(stack: Stack, tmp_path: Path) -> None:
    for repo, code in (("chat", 0), ("secret", 77), ("none", 77)):
        done = stack.run(
            "repo", "info", "--json", *stack.registry_options, f"{stack.registry}/demo/{repo}",
            environment={**stack.environment, "XDG_CONFIG_HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        if code == 0:
            assert json.loads(done.stdout) == {"config": {"public": True}, "tags": ["1.0.0"]}


def test_a_private_repository_is_not_called_public(stack: Stack, tmp_path: Path) -> None:
    """Its owner may have a token that is good for the tags alone."""
    authority = TlsAuthority("Registry")
    (tmp_path / "ca.pem").write_text(authority.root_pem)
    with LyingServer(authority.issue(hosts=("localhost",))) as server:
        server.answers["/api/v0.1.0/jane/chat"] = Lie(401, {"Content-Length": "0"}, b"")
        tags = Lie(200, {"Content-Length": "9"}, b'["1.0.0"]')
        # What is found with the token, and then without.
        server.turns["/api/v0.1.0/jane/chat/_tag"] = [tags]
        done = stack.run(
            "repo", "info", "--json", "--ca-bundle", str(tmp_path / "ca.pem"),
            f"{server.host}/jane/chat",
            environment={**stack.environment, "GARRISON_INSECURE_AUTH_TOKEN": "limited"},
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (77, "")
    *before, last = zip(server.requested, [token for token, _ in server.shown], strict=True)
    assert {token for _, token in before} == {"Bearer limited"}
    assert last == ("/api/v0.1.0/jane/chat/_tag", None)


@pytest.mark.parametrize("token", ["secret\n", "se cret", "s\u20accret", "secret\x7f"])
def test_a_token_that_is_none_is_not_shown(stack: Stack, token: str) -> None:
    slug = stack.slug("secret:1.0.0")
    done = stack.run(
        "package", "info", *stack.registry_options, slug,
        environment={**stack.environment, "GARRISON_INSECURE_AUTH_TOKEN": token},
    )  # fmt: skip
    assert done.returncode == 65
    assert "token: not a bearer token" in done.stderr
    assert "cret" not in done.stderr.replace(slug, "")


@pytest.mark.parametrize(
    ("token", "code", "text"),
    [
        ("opaque", 65, "not a token with a subject"),
        (jwt.encode({"aud": "x"}, "", "none"), 65, "not a token with a subject"),
        (jwt.encode({"sub": "\x1b[31mjane"}, "", "none"), 0, "as ?[31mjane;"),
    ],
)
def test_whom_a_token_names(stack: Stack, tmp_path: Path, token: str, code: int, text: str) -> None:
    """One that names nobody is not kept, and no name steers the terminal."""
    authority = TlsAuthority("Issuer")
    (tmp_path / "ca.pem").write_text(authority.root_pem)
    (tmp_path / "secret").write_text("secret")
    with LyingServer(authority.issue(hosts=("localhost",))) as server:
        issuer = f"https://{server.host}/"
        for path, document in (
            ("/.well-known/openid-configuration",
             {"issuer": issuer, "token_endpoint": f"{issuer}token"}),
            ("/token", {"access_token": token}),
        ):  # fmt: skip
            body = json.dumps(document).encode()
            server.answers[path] = Lie(200, {"Content-Length": str(len(body))}, body)
        done = stack.run(
            "user", "login", "--oidc-domain", issuer, "--oidc-client-id", "demo",
            "--oidc-secret-file", str(tmp_path / "secret"), "--ca-bundle", str(tmp_path / "ca.pem"),
            "drawbridge.test",
            environment={**stack.environment, "XDG_CONFIG_HOME": str(tmp_path)},
        )  # fmt: skip
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr
    assert (tmp_path / "garrison" / "tokens.json").exists() == (code == 0)


@pytest.mark.parametrize("keeps", [None, 1, "x", [1], {"tee": "snp"}])
def test_a_registry_whose_rules_are_none(stack: Stack, tmp_path: Path, keeps: object) -> None:
    authority = TlsAuthority("Registry")
    (tmp_path / "ca.pem").write_text(authority.root_pem)
    with LyingServer(authority.issue(hosts=("localhost",))) as server:
        for path, document in (("", {"public": False, "keeps": keeps}), ("/_tag", [])):
            body = json.dumps(document).encode()
            lie = Lie(200, {"Content-Length": str(len(body))}, body)
            server.answers[f"/api/v0.1.0/jane/chat{path}"] = lie
        done = stack.run(
            "repo", "info", "--ca-bundle", str(tmp_path / "ca.pem"), f"{server.host}/jane/chat"
        )
    assert done.returncode == 65, done.stderr
    assert "keeps: not a list of rules" in done.stderr


@pytest.mark.parametrize("secret", [b"\xff\xfe", b"", b"\n", bytes(5000)])
def test_a_file_that_holds_no_secret(stack: Stack, tmp_path: Path, secret: bytes) -> None:
    (tmp_path / "secret").write_bytes(secret)
    done = stack.run(
        "user", "login", "--oidc-domain", "https://localhost/", "--oidc-client-id", "demo",
        "--oidc-secret-file", str(tmp_path / "secret"), stack.registry,
    )  # fmt: skip
    assert done.returncode == 65, done.stderr


def test_a_private_repository_over_mutual_tls(stack: Stack, steward: Authority) -> None:
    slug = Slug.parse(stack.slug("secret:1.0.0"))
    assert client(stack, keep(steward, "snp")).fetch(slug).files == FILES
    for foreign in (client(stack, keep(steward, "tdx")), client(stack)):
        with pytest.raises(Rejected, match="answers 401: Bearer token header missing"):
            foreign.fetch(slug)


def test_the_steward_looks_up_a_private_tag_and_no_more(stack: Stack, steward: Authority) -> None:
    slug = Slug.parse(stack.slug("secret:1.0.0"))
    shown = ClientCertificate(*issue_client_certificate(steward, datetime.now(UTC)))
    assert client(stack, shown).tag_digest(slug) == PACKAGE.digest
    with pytest.raises(Rejected, match="answers 401"):
        client(stack, shown).fetch(slug)


def test_a_certificate_of_another_steward_ends_the_connection(stack: Stack, tmp_path: Path) -> None:
    other = make_steward(tmp_path / "other")
    with pytest.raises((Rejected, Unavailable)) as caught:
        client(stack, keep(other, "snp")).fetch(Slug.parse(stack.slug("chat:1.0.0")))
    assert caught.value.hint == "it may not accept this client's certificate"


def test_a_client_that_is_killed_in_the_middle_of_an_upload(stack: Stack) -> None:
    """Its connection is cut; doing it again succeeds."""
    package = Package({"main.wasm": bytes(3_000_000)})
    slug = Slug.parse(stack.slug("chat:2.0.0"))
    tokens = stack.directory / "home/.config/garrison/tokens.json"
    token = json.loads(tokens.read_text())[stack.registry]
    publisher = Client(stack.registry, ca_pem=stack.registry_ca.read_text(), token=token)
    wasm = "/api/v0.1.0/demo/chat/_tag/2.0.0/tree/main.wasm"
    done = []
    nodes = served(slug, package)
    for path in [*nodes][:2]:
        entry, content = nodes[path]
        publisher._put(path.removeprefix("/api/v0.1.0/"), path, content, entry.type, entry.digest)
        done.append(path)
    entry, content = nodes[wasm]
    head = (
        f"PUT {wasm} HTTP/1.1\r\nHost: {stack.registry}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: {entry.type}\r\nContent-Length: {len(content)}\r\n"
        f"Content-Digest: {entry.digest.to_header()}\r\n\r\n"
    )
    context = ssl.create_default_context(cafile=str(stack.registry_ca))
    host, _, port = stack.registry.partition(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        connection.sendall(head.encode() + content[:1_000_000])
    with pytest.raises(Rejected, match="answers 404"):
        client(stack).fetch(slug)
    publisher.publish(slug, package)
    assert client(stack).fetch(slug).files == package.files


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "--oidc-issuer, --oidc-audience: missing"),
        (("--oidc-issuer", "https://i.test/", "--oidc-audience", "a"), "--tls-cert, --tls-key"),
        (("--insecure-dev", "--oidc-issuer", "https://i.test/"), "contradicts --insecure-dev"),
        (("--insecure-dev", "--steward-id", "x"), "--steward-id: has no use without --client-ca"),
    ],
)
def test_options_that_do_not_fit(
    stack: Stack, tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    done = stack.run("drawbridge", "serve", "--store", str(tmp_path / "store"), *arguments)
    assert done.returncode == 2
    assert text in done.stderr


def test_a_tampered_byte_in_the_store_is_found(stack: Stack) -> None:
    """Last in this file: it damages the store."""
    content = stack.directory / "drawbridge/objects/content"
    digest = PACKAGE.nodes()["main.wasm"][0].digest.values["sha-256"].hex()
    whole = (content / digest).read_bytes()
    (content / digest).write_bytes(whole[:-1] + b"!")
    out = stack.directory / "tampered"
    done = stack.run(
        "package", "fetch", *stack.registry_options, stack.slug("chat:1.0.0"), str(out)
    )
    (content / digest).write_bytes(whole)
    assert done.returncode == 76
    assert "main.wasm: sha-256 digest mismatch" in done.stderr
    assert not out.exists()

"""Packages in a real OCI registry, and what a registry that lies can do: nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.drawbridge.test_drawbridge_ranges import Ranges

from garrison.drawbridge.oci import OciClient
from garrison.drawbridge.oci_auth import Challenge, Login, docker_login
from garrison.drawbridge.oci_manifest import (
    CONFIG_TYPE,
    MANIFEST_TYPE,
    SIGNATURE,
    TITLE,
    Artifact,
    build,
)
from garrison.drawbridge.tls import ClientCertificate
from garrison.drawbridge.wire import Whole
from garrison.errors import Malformed, Rejected, Unavailable, Unverified
from garrison.formats.oci_name import OciName, parse_name
from garrison.formats.signed_tag import sign
from garrison.formats.slug import Slug
from garrison.formats.tree import DIRECTORY_TYPE, WASM_TYPE, Package
from garrison.testing import oci
from garrison.testing.drawbridge import Lie, LyingServer
from garrison.testing.tls import Authority, workload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AUTHORITY = Authority("Test Registry")
PACKAGE = Package(
    {
        "main.wasm": b"\0asm\x01\0\0\0" + b"x" * 3_000_000,
        "Enarx.toml": b'args = ["1"]\n',
        "data/a": b"one",
        "data/b": b"one",
    }
)
needs_registry = pytest.mark.skipif(
    oci.find() is None, reason="needs docker-registry: apt-get install docker-registry"
)


@pytest.fixture(params=["none", "basic", "token"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[oci.OciRegistry]:
    with oci.OciRegistry(tmp_path / "registry", AUTHORITY, request.param) as started:
        yield started


def client(host: str, login: Login | None = oci.LOGIN) -> OciClient:
    return OciClient(host, ca_pem=AUTHORITY.root_pem, login=login, tries=1)


@needs_registry
def test_what_was_published_is_fetched_with_the_same_digest(registry: oci.OciRegistry) -> None:
    name = OciName(registry.host, "jane/chat-server", "v1")
    told: list[int] = []
    entry = client(registry.host).publish(name, PACKAGE, told.append)
    assert entry.workload_digest == PACKAGE.digest
    assert sum(told) >= 3_000_000
    reader = client(registry.host, oci.LOGIN if registry.auth == "basic" else None)
    fetched = reader.fetch(name)
    assert fetched.files == dict(PACKAGE.files)
    assert fetched.digest == PACKAGE.digest == reader.tag_digest(name)
    # Once more is nothing new; other content is refused.
    client(registry.host).publish(name, PACKAGE)
    with pytest.raises(Rejected, match="the tag names another workload already"):
        client(registry.host).publish(name, Package({"main.wasm": b"other"}))
    with pytest.raises(Rejected, match="404"):
        reader.fetch(replace(name, tag="v2"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is true of 16 MiB is true of one, and of no less than it nothing comes in one stream."""
    monkeypatch.setattr("garrison.drawbridge.ranges.LEAST", 1_000_000)
    monkeypatch.setattr("garrison.drawbridge.ranges._RANGE", 700_000)

    def whole(limit: int, *arguments: Any) -> Whole:
        assert limit < 1_000_000
        return Whole(limit, *arguments)

    monkeypatch.setattr("garrison.drawbridge.ranges.Whole", whole)


@needs_registry
@pytest.mark.usefixtures("small")
def test_a_long_blob_comes_in_ranges(registry: oci.OciRegistry) -> None:
    name = OciName(registry.host, "jane/chat-server", "v1")
    client(registry.host).publish(name, PACKAGE)
    told: list[int] = []
    reader = client(registry.host, oci.LOGIN if registry.auth == "basic" else None)
    assert reader.fetch(name, told.append).files == dict(PACKAGE.files)
    assert sum(told) == sum(map(len, PACKAGE.files.values()))


@needs_registry
@pytest.mark.parametrize("auth", ["basic", "token"])
def test_who_has_no_password_cannot_push(tmp_path: Path, auth: Any) -> None:
    with oci.OciRegistry(tmp_path / "registry", AUTHORITY, auth) as started:
        name = OciName(started.host, "jane/chat", "v1")
        for login in (None, Login("jane", "a wrong one")):
            with pytest.raises(Rejected) as caught:
                client(started.host, login).publish(name, PACKAGE)
            assert "a wrong one" not in str(caught.value)


@needs_registry
def test_an_artifact_of_others_has_the_digest_of_its_module_alone(tmp_path: Path) -> None:
    package = Package({"main.wasm": b"\0asm\x01\0\0\0theirs"})
    with oci.OciRegistry(tmp_path / "registry", AUTHORITY) as started:
        name = OciName(started.host, "tools/theirs", "latest")
        ours = client(started.host)
        manifest, blobs = build(package)
        document = json.loads(manifest)
        # As other tools push it: one layer, with the file's name, and no root directory.
        document["layers"] = document["layers"][:1]
        document["layers"][0]["annotations"] = {TITLE: "hello.wasm"}
        for digest, content in blobs.items():
            ours._put_blob(name, digest, content)
        answer = ours._request(
            "PUT",
            f"{name.path}/manifests/{name.tag}",
            name,
            body=json.dumps(document).encode(),
            extra={"Content-Type": MANIFEST_TYPE},
        )
        assert answer.status == 201
        assert ours.tag_digest(name) == ours.fetch(name).digest == package.digest


KEY = ec.generate_private_key(ec.SECP256R1())


@needs_registry
def test_a_signature_is_there_for_its_name_and_stays(tmp_path: Path) -> None:
    with oci.OciRegistry(tmp_path / "registry", AUTHORITY) as started:
        name = OciName(started.host, "jane/chat", "v1")
        ours, keys = client(started.host), (KEY.public_key(),)
        ours.publish(name, PACKAGE)
        with pytest.raises(Unverified, match="not signed"):
            ours.signed_tag_digest(name, keys)
        # What is there unsigned can be signed; and whoever publishes it again leaves that.
        for key in (KEY, None, KEY):
            ours.publish(name, PACKAGE, key=key)
            assert ours.signed_tag_digest(name, keys) == PACKAGE.digest
        with pytest.raises(Unverified, match="not signed with a key that is trusted"):
            ours.signed_tag_digest(name, (ec.generate_private_key(ec.SECP256R1()).public_key(),))
        assert ours.fetch(name).files == dict(PACKAGE.files)


# A registry that lies.


@pytest.fixture
def liar() -> Iterator[LyingServer]:
    with LyingServer(AUTHORITY.issue(hosts=("localhost",))) as server:
        manifest, blobs = build(PACKAGE)
        server.answers["/v2/jane/chat/manifests/v1"] = Lie(
            200, {"Content-Length": str(len(manifest)), "Content-Type": MANIFEST_TYPE}, manifest
        )
        for digest, content in blobs.items():
            server.answers[f"/v2/jane/chat/blobs/{digest}"] = Lie(
                200, {"Content-Length": str(len(content))}, content
            )
        yield server


def _blob_path(content: bytes) -> str:
    return f"/v2/jane/chat/blobs/sha256:{sha256(content).hexdigest()}"


def test_a_swapped_blob_is_found(liar: LyingServer) -> None:
    name = OciName(liar.host, "jane/chat", "v1")
    assert client(liar.host).fetch(name).digest == PACKAGE.digest
    liar.answers[_blob_path(b"one")] = Lie(200, {"Content-Length": "3"}, b"two")
    with pytest.raises(Unverified, match="sha-256 digest mismatch"):
        client(liar.host).fetch(name)


def test_files_that_are_not_those_of_the_root_directory_are_found(liar: LyingServer) -> None:
    name = OciName(liar.host, "jane/chat", "v1")
    mixed, _ = build(replace(PACKAGE, files={**PACKAGE.files, "data/b": b"two"}))
    document, other = json.loads(build(PACKAGE)[0]), json.loads(mixed)
    document["layers"] = [*document["layers"][:-1], other["layers"][-1]]
    body = json.dumps(document).encode()
    liar.answers["/v2/jane/chat/manifests/v1"] = Lie(200, {"Content-Length": str(len(body))}, body)
    with pytest.raises(Unverified, match="not those of the package's root directory"):
        client(liar.host).fetch(name)


def test_a_manifest_of_another_digest_than_stated_is_found(liar: LyingServer) -> None:
    path = "/v2/jane/chat/manifests/v1"
    headers = {"Docker-Content-Digest": f"sha256:{'0' * 64}", **liar.answers[path].headers}
    liar.answers[path] = replace(liar.answers[path], headers=headers)
    with pytest.raises(Unverified, match="manifest"):
        client(liar.host).tag_digest(OciName(liar.host, "jane/chat", "v1"))


def test_a_blob_elsewhere_is_fetched_there_over_https_alone(liar: LyingServer) -> None:
    name, content = OciName(liar.host, "jane/chat", "v1"), PACKAGE.files["Enarx.toml"]
    kept = liar.answers[_blob_path(content)]
    liar.answers["/elsewhere"] = kept
    moved = {"Content-Length": "0", "Location": f"https://{liar.host}/elsewhere"}
    liar.answers[_blob_path(content)] = Lie(307, moved, b"")
    assert client(liar.host).fetch(name).digest == PACKAGE.digest
    moved = {"Content-Length": "0", "Location": f"http://{liar.host}/elsewhere"}
    liar.answers[_blob_path(content)] = Lie(307, moved, b"")
    with pytest.raises(Malformed, match="not an HTTPS URL"):
        client(liar.host).fetch(name)


@pytest.mark.usefixtures("small")
def test_a_long_blob_comes_in_ranges_from_elsewhere(liar: LyingServer) -> None:
    name, content = OciName(liar.host, "jane/chat", "v1"), PACKAGE.files["main.wasm"]
    liar.by_range["/elsewhere"] = Ranges(liar.answers[_blob_path(content)])
    moved = {"Content-Length": "0", "Location": f"https://{liar.host}/elsewhere"}
    liar.answers[_blob_path(content)] = Lie(307, moved, b"")
    assert client(liar.host).fetch(name).digest == PACKAGE.digest
    asked = [
        found
        for path, (found, _) in zip(liar.requested, liar.ranges, strict=True)
        if path == "/elsewhere"
    ]
    assert len(asked) == 6
    assert None not in asked


@pytest.fixture
def elsewhere() -> Iterator[LyingServer]:
    """Another server, which asks who its clients are."""
    with LyingServer(AUTHORITY.issue(hosts=("localhost",)), client_ca=AUTHORITY.root_pem) as server:
        yield server


def test_who_asks_is_shown_to_nobody_elsewhere(liar: LyingServer, elsewhere: LyingServer) -> None:
    """Neither a certificate nor a password, to where a registry sends for a blob."""
    leaf = AUTHORITY.issue(workload(slug="d.test/jane/chat:1.0.0"))
    keep = OciClient(
        liar.host,
        ca_pem=AUTHORITY.root_pem,
        login=oci.LOGIN,
        certificate=ClientCertificate(leaf.chain_pem(), leaf.key_pem()),
    )
    content = PACKAGE.files["Enarx.toml"]
    elsewhere.answers["/blob"] = liar.answers[_blob_path(content)]
    moved = {"Content-Length": "0", "Location": f"https://{elsewhere.host}/blob"}
    liar.answers[_blob_path(content)] = Lie(307, moved, b"")
    assert keep.fetch(OciName(liar.host, "jane/chat", "v1")).digest == PACKAGE.digest
    assert elsewhere.shown == [(None, None)]
    # The control: where it is shown.
    elsewhere.answers["/v2/jane/chat/manifests/v1"] = Lie(404, {"Content-Length": "0"}, b"")
    with pytest.raises(Rejected):
        OciClient(
            elsewhere.host,
            ca_pem=AUTHORITY.root_pem,
            certificate=ClientCertificate(leaf.chain_pem(), leaf.key_pem()),
        ).tag_digest(OciName(elsewhere.host, "jane/chat", "v1"))
    assert elsewhere.shown[-1][1] is not None


@pytest.mark.parametrize(
    ("host", "path", "is_elsewhere"),
    [
        ("r.test", "https://r.test/v2/", False),
        ("r.test", "https://R.test:443/v2/", False),
        ("r.test:443", "https://r.test/v2/", False),
        ("r.test", "r.test/v2/", False),
        ("r.test", "https://r.test:444/v2/", True),
        ("r.test:444", "https://r.test/v2/", True),
        ("r.test", "https://jane@r.test/v2/", True),
        ("r.test", "https://r.test.evil.test/v2/", True),
        ("r.test", "https://evil.test/r.test:443", True),
    ],
)
def test_the_registry_is_itself_however_it_writes_that(
    host: str, path: str, is_elsewhere: bool
) -> None:
    assert client(host)._is_elsewhere(path) is is_elsewhere


def test_a_registry_is_shown_who_asks_where_it_sends_to_itself(liar: LyingServer) -> None:
    content = PACKAGE.files["Enarx.toml"]
    liar.answers["/kept"] = liar.answers[_blob_path(content)]
    demand = {"Content-Length": "0", "WWW-Authenticate": 'Basic realm="x"'}
    liar.turns["/kept"] = [Lie(401, demand, b"")]
    liar.answers[_blob_path(content)] = Lie(307, {"Content-Length": "0", "Location": "/kept"}, b"")
    user = OciClient(liar.host, ca_pem=AUTHORITY.root_pem, login=oci.LOGIN)
    assert user.fetch(OciName(liar.host, "jane/chat", "v1")).digest == PACKAGE.digest
    shown = [who for path, (who, _) in zip(liar.requested, liar.shown, strict=True)
             if path == "/kept"]  # fmt: skip
    assert shown == [None, oci.LOGIN.to_header()]


def test_a_relative_place_is_one_of_whoever_names_it(
    liar: LyingServer, elsewhere: LyingServer
) -> None:
    content = PACKAGE.files["Enarx.toml"]
    elsewhere.answers["/blobs/b"] = liar.answers[_blob_path(content)]
    elsewhere.answers["/blobs/a"] = Lie(307, {"Content-Length": "0", "Location": "b"}, b"")
    moved = {"Content-Length": "0", "Location": f"https://{elsewhere.host}/blobs/a"}
    liar.answers[_blob_path(content)] = Lie(307, moved, b"")
    assert client(liar.host).fetch(OciName(liar.host, "jane/chat", "v1")).digest == PACKAGE.digest
    assert elsewhere.requested == ["/blobs/a", "/blobs/b"]


def test_only_the_registry_says_where_a_password_goes(
    liar: LyingServer, elsewhere: LyingServer
) -> None:
    """Not the server to which it sends an upload."""
    begun = {"Content-Length": "0", "Location": f"https://{elsewhere.host}/upload"}
    liar.answers["/v2/jane/chat/blobs/uploads/"] = Lie(202, begun, b"")
    demand = {
        "Content-Length": "0",
        "WWW-Authenticate": f'Bearer realm="https://{elsewhere.host}/token"',
    }
    for digest in build(PACKAGE)[1]:
        elsewhere.answers[f"/upload?digest={digest.replace(':', '%3A')}"] = Lie(401, demand, b"")
    with pytest.raises(Rejected, match="answers 401"):
        client(liar.host).publish(OciName(liar.host, "jane/chat", "v2"), PACKAGE)
    assert elsewhere.requested
    assert not [path for path in elsewhere.requested if not path.startswith("/upload?")]
    assert {authorization for authorization, _ in elsewhere.shown} == {None}


NO_URLS = ["http://evil.test/", "", "https://[::1", "https://evil.test:x/"]


@pytest.mark.parametrize("place", NO_URLS)
def test_a_blob_is_fetched_from_no_other_place(liar: LyingServer, place: str) -> None:
    moved = {"Content-Length": "0", "Location": place}
    liar.answers[_blob_path(PACKAGE.files["Enarx.toml"])] = Lie(307, moved, b"")
    with pytest.raises(Malformed, match="Location"):
        client(liar.host).fetch(OciName(liar.host, "jane/chat", "v1"))


@pytest.mark.parametrize("realm", [*NO_URLS, "https:///x", "HTTPS://evil.test/", "//evil.test/"])
def test_a_password_goes_to_no_realm_without_tls(liar: LyingServer, realm: str) -> None:
    path = "/v2/jane/chat/manifests/v1"
    headers = {"Content-Length": "0", "WWW-Authenticate": f'Bearer realm="{realm}"'}
    liar.answers[path] = Lie(401, headers, b"")
    with pytest.raises(Malformed, match="realm"):
        client(liar.host).tag_digest(OciName(liar.host, "jane/chat", "v1"))


def test_a_signed_manifest_under_another_name_or_with_other_layers_is_found(
    liar: LyingServer,
) -> None:
    name, keys = OciName(liar.host, "jane/chat", "v1"), (KEY.public_key(),)

    def look(package: Package, signed: bytes, **changes: Any) -> bytes:
        body = json.dumps(json.loads(build(package, signed)[0]) | changes).encode()
        liar.answers["/v2/jane/chat/manifests/v1"] = Lie(
            200, {"Content-Length": str(len(body))}, body
        )
        return client(liar.host).signed_tag_digest(name, keys)

    right = sign(PACKAGE.entry, name, KEY)
    assert look(PACKAGE, right) == PACKAGE.digest
    for other in (replace(name, tag="v0"), replace(name, path="jane/other")):
        with pytest.raises(Unverified, match="signed for another tag") as caught:
            look(PACKAGE, sign(PACKAGE.entry, other, KEY))
        assert (caught.value.found, caught.value.expected) == (repr(str(other)), str(name))
    with pytest.raises(Unverified, match="the signature is of another workload"):
        look(Package({"main.wasm": b"evil"}), right)
    with pytest.raises(Unverified, match="the signature is of another workload"):
        # Of the module alone: nothing says then which digest it is.
        look(PACKAGE, right, layers=json.loads(build(PACKAGE)[0])["layers"][:1])
    for signed in (1, "\u00e9", "{}"):
        with pytest.raises(Malformed):
            look(PACKAGE, right, annotations={SIGNATURE: signed})


# Manifests.


def test_the_artifact_is_that_of_the_cncf() -> None:
    manifest, blobs = build(PACKAGE)
    document = json.loads(manifest)
    config = json.loads(blobs[document["config"]["digest"]])
    assert document["mediaType"] == MANIFEST_TYPE
    assert document["config"]["mediaType"] == CONFIG_TYPE
    assert (config["architecture"], config["os"]) == ("wasm", "wasip1")
    assert config["layerDigests"] == [layer["digest"] for layer in document["layers"]]
    assert document["layers"][0]["mediaType"] == WASM_TYPE
    assert document["layers"][-1]["mediaType"] == DIRECTORY_TYPE
    assert document["layers"][-1]["digest"] == f"sha256:{PACKAGE.digest.hex()}"
    assert Artifact.from_bytes(manifest, "x").root is not None
    # The same package is the same artifact, wherever it is built.
    assert build(PACKAGE) == (manifest, blobs)


def _changed(**changes: Any) -> bytes:
    return json.dumps({**json.loads(build(PACKAGE)[0]), **changes}).encode()


def _layers(*changes: dict[str, Any]) -> bytes:
    layers = json.loads(build(PACKAGE)[0])["layers"]
    return _changed(
        layers=[{**layer, **change} for layer, change in zip(layers, changes, strict=False)]
        + layers[len(changes) :]
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "not JSON"),
        (b"[]", "not an image manifest"),
        (_changed(mediaType="application/vnd.oci.image.index.v1+json"), "not an image manifest"),
        (_changed(layers=[]), "no layer of this type"),
        (_changed(layers=None), "not an image manifest"),
        (_layers({"digest": "sha512:00"}), "not a SHA-256 digest"),
        (_layers({"digest": f"sha256:{'A' * 64}"}), "not a SHA-256 digest"),
        (_layers({"size": -1}), "not a size"),
        (_layers({"size": True}), "not a size"),
        (_layers({"size": 100_000_001}), "too large"),
        (_layers({"annotations": {}}), "a layer without a name"),
        (_layers({"annotations": {TITLE: "../x"}}), "not a valid entry name"),
        (_layers({"annotations": {TITLE: "Enarx.toml"}}), "wrong media type"),
        (_layers({}, {"mediaType": DIRECTORY_TYPE}), "more than one root directory"),
        (_layers({}, {}, {"annotations": {TITLE: "data/b"}}), "twice in one package"),
    ],
)
def test_what_is_no_package_is_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        Artifact.from_bytes(data, "here")


# Names.


@pytest.mark.parametrize(
    "text",
    ["oci://r.test/a:1", "oci://r.test:5000/a/b-c/d__e.f:v1.0_x", "oci://[::1]:5000/a:latest"],
)
def test_a_name_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_name(text)) == text
    assert isinstance(parse_name(text), OciName)


@pytest.mark.parametrize(
    "text",
    [
        "oci://r.test/a", "oci://r.test/A:1", "oci://r.test/a//b:1", "oci://r.test/a:", "oci:///a:1",
        "oci://R.test/a:1", "oci://r.test/a:1@sha256:00", "oci://r.test/a/:1", "oci://r.test:443/a:1",
        f"oci://r.test/a:{'1' * 129}", f"oci://r.test/{'a' * 201}:1", "oci://r.test/a:1\n",
    ],
)  # fmt: skip
def test_other_spellings_are_no_names(text: str) -> None:
    with pytest.raises(Malformed):
        parse_name(text)


def test_what_is_no_oci_name_is_a_slug() -> None:
    assert parse_name("d.test/jane/chat:1.0.0") == Slug("d.test", "jane", "chat", "1.0.0")


# Logins.


def test_docker_knows_the_users_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert docker_login("r.test") is None
    config = tmp_path / "config.json"
    config.write_text('{"auths": {"r.test": {"auth": "amFuZTpzZWNyZXQ6eA=="}}}')
    assert docker_login("r.test") == Login("jane", "secret:x")
    assert docker_login("other.test") is None
    config.write_text('{"auths": {"r.test": {"auth": "c2VjcmV0"}}}')
    with pytest.raises(Malformed, match="NAME:PASSWORD") as caught:
        docker_login("r.test")
    assert "c2VjcmV0" not in str(caught.value)


def test_a_configuration_of_docker_that_is_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(Malformed, match="not JSON"):
        docker_login("r.test")


def test_docker_credential_helpers_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    helper = tmp_path / "docker-credential-mine"
    (tmp_path / "config.json").write_text('{"credHelpers": {"r.test": "mine"}}')
    with pytest.raises(Unavailable, match="docker-credential-mine"):
        docker_login("r.test")
    helper.write_text(
        '#!/bin/sh\nread h\necho "{\\"Username\\": \\"$1\\", \\"Secret\\": \\"$h\\"}"\n'
    )
    helper.chmod(0o700)
    assert docker_login("r.test") == Login("get", "r.test")
    helper.write_text('#!/bin/sh\necho "credentials not found in native keychain"\nexit 1\n')
    assert docker_login("r.test") is None


@pytest.mark.parametrize(
    ("header", "scheme", "parameters"),
    [
        ('Basic realm="a, b"', "basic", {"realm": "a, b"}),
        ("bearer Realm=x,SERVICE = y", "bearer", {"realm": "x", "service": "y"}),
        ('Bearer realm="https://a.test/t?b=c",service="", scope="s" ', "bearer",
         {"realm": "https://a.test/t?b=c", "service": "", "scope": "s"}),
        ('Basic realm="a", Bearer realm="b",error="e"', "bearer", {"realm": "b", "error": "e"}),
        ('Bearer realm="b",service="s", Basic realm="a"', "bearer",
         {"realm": "b", "service": "s"}),
        ('Negotiate, Basic realm="a"', "basic", {"realm": "a"}),
    ],
)  # fmt: skip
def test_challenges_in_all_their_spellings(
    header: str, scheme: str, parameters: dict[str, str]
) -> None:
    assert Challenge.parse(header, "r.test") == Challenge(scheme, parameters)


@pytest.mark.parametrize("header", [None, "", "Digest realm=x", "Basic"])
def test_other_challenges_are_refused(header: str | None) -> None:
    with pytest.raises(Malformed, match="unknown way to authenticate"):
        Challenge.parse(header, "r.test")

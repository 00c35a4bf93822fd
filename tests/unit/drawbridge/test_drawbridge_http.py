"""Every route and status of the API, in the original's words."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING

import pytest

from garrison.drawbridge.http import application
from garrison.formats.content_digest import ContentDigest
from garrison.formats.signed_tag import JWS_TYPE
from garrison.formats.tree import DIRECTORY_TYPE, ENTRY_TYPE, Directory, Entry, Package
from garrison.testing.drawbridge import JSON, served

if TYPE_CHECKING:
    from garrison.formats.slug import Slug
    from garrison.testing.drawbridge import MemoryDrawbridge

API = "/api/v0.1.0"
TAG = f"{API}/jane/chat/_tag/1.0.0"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
def test_health(drawbridge: MemoryDrawbridge, method: str) -> None:
    answer = drawbridge.request(method, "/health")
    assert (answer.status, answer.body) == (200, b"")


def test_a_package_is_served_as_it_was_published(
    drawbridge: MemoryDrawbridge, slug: Slug, package: Package
) -> None:
    drawbridge.publish(slug, package)
    for path, (entry, content) in served(slug, package).items():
        answer = drawbridge.request("GET", path)
        assert (answer.status, answer.body) == (200, content)
        assert answer.headers["content-digest"] == entry.digest.to_header()
        assert answer.headers["content-length"] == str(len(content))
        assert answer.headers["content-type"] == entry.type
        head = drawbridge.request("HEAD", path)
        assert (head.status, head.body, head.headers) == (200, b"", answer.headers)


def test_the_exact_bytes_of_a_document_are_kept(drawbridge: MemoryDrawbridge) -> None:
    """The original demands its own spelling of JSON; here every spelling is kept as it is."""
    body = b'{ "public" :\n false }'
    assert drawbridge.put(f"{API}/jane/spaced", body).status == 201
    answer = drawbridge.request("GET", f"{API}/jane/spaced", user="jane")
    assert answer.body == body
    assert answer.headers["content-digest"] == ContentDigest.of(body).to_header()


def test_users_and_repositories_are_read_by_their_owner(drawbridge: MemoryDrawbridge) -> None:
    assert drawbridge.request("GET", f"{API}/jane", user="jane").text == '{"subject":"jane"}'
    answer = drawbridge.request("GET", f"{API}/jane/chat", user="jane")
    assert (answer.text, answer.headers["content-type"]) == ('{"public":true}', JSON)
    for path in (f"{API}/jane", f"{API}/jane/chat"):
        assert drawbridge.request("HEAD", path, user="jane").status == 200
        assert drawbridge.request("GET", path).status == 401
        assert drawbridge.request("GET", path, user="eve").status == 401


def test_the_list_of_tags(drawbridge: MemoryDrawbridge, package: Package) -> None:
    tag = package.entry.to_bytes()
    assert drawbridge.request("GET", f"{API}/jane/chat/_tag").body == b"[]"
    for name in ("1.0.0", "0.2.0-rc.1+b"):
        assert drawbridge.put(f"{API}/jane/chat/_tag/{name}", tag, ENTRY_TYPE).status == 201
    answer = drawbridge.request("GET", f"{API}/jane/chat/_tag")
    assert answer.body == b'["0.2.0-rc.1+b","1.0.0"]'
    assert answer.headers["content-digest"] == ContentDigest.of(answer.body).to_header()
    assert answer.headers["content-type"] == JSON


def test_everything_is_immutable(
    drawbridge: MemoryDrawbridge, slug: Slug, package: Package
) -> None:
    drawbridge.publish(slug, package)
    for path, (entry, content) in served(slug, package).items():
        for body in (content, content + b" "):
            answer = drawbridge.put(path, body, entry.type)
            assert (answer.status, answer.text) == (409, "Already exists")
        assert drawbridge.request("GET", path).body == content
    for path, user in ((f"{API}/jane", "jane"), (f"{API}/jane", "eve")):
        answer = drawbridge.put(path, b'{"subject":"%s"}' % user.encode(), user=user)
        assert (answer.status, answer.text) == (409, "Already exists")
    answer = drawbridge.put(f"{API}/jane/secret", b'{"public":true}')
    assert (answer.status, answer.text) == (409, "Already exists")


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/", 404, "Route `/` not found"),
        ("GET", "/other", 404, "Route `/other` not found"),
        ("GET", f"{API}/jane/chat/_other", 404, "Route not found on repository"),
        ("GET", "/api/v1.0.0/jane", 501, "Unsupported API version `1.0.0`"),
        ("GET", "/api/v0.5.0/jane", 501, "Unsupported API version `0.5.0`"),
        ("GET", "/api/vx/jane", 400, "Failed to parse SemVer version from x"),
        ("DELETE", f"{API}/jane", 405, "Method not allowed for user endpoint"),
        ("POST", f"{API}/jane/chat", 405, "Method not allowed for repository endpoint"),
        ("PUT", f"{API}/jane/chat/_tag", 405,
         "Method not allowed for repository tag query endpoint"),
        ("PATCH", TAG, 405, "Method not allowed for tag endpoint"),
        ("DELETE", f"{TAG}/tree/a", 405, "Method not allowed for tag tree endpoint"),
        ("GET", TAG, 404, "Repository does not exist"),
        ("HEAD", TAG, 404, ""),
        ("GET", f"{TAG}/tree", 404, "Repository does not exist"),
        ("HEAD", f"{TAG}/tree/main.wasm", 404, ""),
    ],
)  # fmt: skip
def test_statuses_and_texts(
    drawbridge: MemoryDrawbridge, method: str, path: str, status: int, text: str
) -> None:
    answer = drawbridge.request(method, path)
    assert (answer.status, answer.text) == (status, text)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({"content_digest": ContentDigest.of(b"other").to_header()}, "Content digest mismatch"),
        ({"content_length": "5"}, "Content length mismatch, expected: 5, got 15"),
        ({"content_length": "99"}, "Content length mismatch, expected: 99, got 15"),
        ({"content_length": "-1"}, "Content-Length: not a length; found '-1'"),
        ({"content_length": "0x0f"}, "Content-Length: not a length; found '0x0f'"),
        ({"content_digest": "md5=:AAAA:"}, "Content-Digest: unknown algorithm; found 'md5'"),
        ({"content_digest": "sha-256=:AAAA:"}, "Content-Digest sha-256: not a digest"),
        ({"content_digest": ""}, "Content-Digest: unreadable"),
        ({"content_type": "nonsense"}, "Content-Type: not a media type; found 'nonsense'"),
    ],
)
def test_headers_that_do_not_fit_the_body(
    drawbridge: MemoryDrawbridge, headers: dict[str, str], text: str
) -> None:
    path = f"{API}/jane/other"
    answer = drawbridge.put(path, b'{"public":true}', **headers)
    assert answer.status == 400
    assert answer.text.startswith(text)
    # Nothing of it is left: the right request succeeds.
    assert drawbridge.put(path, b'{"public":true}').status == 201


def test_records_are_json(drawbridge: MemoryDrawbridge) -> None:
    answer = drawbridge.put(f"{API}/jane/other", b'{"public":true}', "text/plain")
    wanted = "Expected request with `Content-Type: application/json`"
    assert (answer.status, answer.text) == (415, wanted)
    answer = drawbridge.put(f"{API}/jane/other", b'{"public":true,"x":1}')
    assert (answer.status, "unknown field" in answer.text) == (422, True)
    answer = drawbridge.put(f"{API}/jane/other", b'{"public":')
    assert (answer.status, "not JSON" in answer.text) == (400, True)


@pytest.mark.parametrize("name", ["content-length", "content-type"])
def test_missing_headers(drawbridge: MemoryDrawbridge, name: str) -> None:
    headers = {"content-length": "15", "content-type": JSON}
    del headers[name]
    answer = drawbridge.request(
        "PUT", f"{API}/jane/other", body=[b'{"public":true}'], headers=headers, user="jane"
    )
    assert (answer.status, answer.text) == (400, f"Header of type `{name}` was missing")


def test_a_digest_is_needed_for_tags_and_trees_alone(
    drawbridge: MemoryDrawbridge, package: Package
) -> None:
    tag = package.entry.to_bytes()
    for path, body, kind, status in (
        (f"{API}/jane/other", b'{"public":true}', JSON, 201),
        (TAG, tag, ENTRY_TYPE, 400),
        (f"{TAG}/tree", b"{}", DIRECTORY_TYPE, 400),
    ):
        headers = {"content-length": str(len(body)), "content-type": kind}
        answer = drawbridge.request("PUT", path, body=[body], headers=headers, user="jane")
        assert answer.status == status
        if status == 400:
            assert answer.text == "At least one content digest value must be specified"


def test_any_one_digest_is_enough(drawbridge: MemoryDrawbridge, package: Package) -> None:
    tag = package.entry.to_bytes()
    only = ContentDigest({"sha-384": ContentDigest.of(tag).values["sha-384"]}).to_header()
    assert drawbridge.put(TAG, tag, ENTRY_TYPE, content_digest=only).status == 201


def test_every_given_digest_is_checked(drawbridge: MemoryDrawbridge, package: Package) -> None:
    tag = package.entry.to_bytes()
    for name, value in ContentDigest.of(tag).values.items():
        wrong = ContentDigest(dict(ContentDigest.of(tag).values) | {name: bytes(len(value))})
        answer = drawbridge.put(TAG, tag, ENTRY_TYPE, content_digest=wrong.to_header())
        assert (answer.status, answer.text) == (400, "Content digest mismatch")
    assert drawbridge.request("GET", TAG).status == 404


def test_the_lines_of_a_header_are_one_list(drawbridge: MemoryDrawbridge, package: Package) -> None:
    """RFC 9110, section 5.3: a second line is not passed over, nor taken in place of the first."""
    tag = package.entry.to_bytes()
    lines = ContentDigest.of(tag).to_header().split(",")
    wrong = ContentDigest.of(b"other").to_header().split(",")
    for spoilt in (f"{lines[1]}\n{wrong[3]}", f"{lines[1]}\n{lines[1]}"):
        assert drawbridge.put(TAG, tag, ENTRY_TYPE, content_digest=spoilt).status == 400
    assert drawbridge.put(TAG, tag, ENTRY_TYPE, content_digest="\n".join(lines)).status == 201
    known = drawbridge.request("GET", TAG).headers["etag"]
    asked = {"if-none-match": f'"x"\n{known}'}
    assert drawbridge.request("GET", TAG, headers=asked).status == 304
    # Of two tokens none is taken: another that looks at the request might take the other.
    token = f"Bearer {drawbridge.issuer.token('jane')}"
    for value, status in ((token, 200), (f"{token}\nBearer x", 401), (f"{token}\n{token}", 401)):
        asked = {"authorization": value}
        assert drawbridge.request("GET", f"{API}/jane", headers=asked).status == status


def test_bodies_are_bounded(drawbridge: MemoryDrawbridge, package: Package) -> None:
    assert drawbridge.put(f"{API}/mallory", b" " * 2000, user="mallory").status == 413
    assert drawbridge.put(f"{API}/jane/other", b" " * 70_000).status == 413
    assert drawbridge.put(TAG, b" " * 70_000, ENTRY_TYPE).status == 413
    assert drawbridge.put(TAG, package.entry.to_bytes(), ENTRY_TYPE).status == 201
    for path, kind, length in (
        (f"{TAG}/tree", DIRECTORY_TYPE, 1_000_001),
        (f"{TAG}/tree", "application/wasm", 100_000_001),
    ):
        answer = drawbridge.put(path, b"", kind, content_length=str(length))
        assert answer.status == 413, answer.text


def test_a_signed_tag_is_kept_as_it_is(drawbridge: MemoryDrawbridge, package: Package) -> None:
    payload = urlsafe_b64encode(package.entry.to_bytes()).decode().rstrip("=")
    signed = json.dumps({"payload": payload, "protected": "e30", "signature": "AA"}).encode()
    assert drawbridge.put(TAG, signed, JWS_TYPE).status == 201
    answer = drawbridge.request("GET", TAG)
    assert (answer.body, answer.headers["content-type"]) == (signed, JWS_TYPE)
    assert drawbridge.put(f"{TAG}/tree", package.nodes()[""][1], DIRECTORY_TYPE).status == 201


@pytest.mark.parametrize(
    ("body", "kind", "status", "text"),
    [
        (b"{}", ENTRY_TYPE, 422, "entry: digest"),
        (b"{}", JSON, 400, "Invalid content type"),
        (b"{}", JWS_TYPE, 422, "signed tag: has no payload"),
        (b'{"payload":"e30"}', JWS_TYPE, 422, "signed tag: payload: digest"),
        (b"nonsense", ENTRY_TYPE, 400, "entry: not JSON"),
    ],
)
def test_what_is_no_tag(
    drawbridge: MemoryDrawbridge, body: bytes, kind: str, status: int, text: str
) -> None:
    answer = drawbridge.put(TAG, body, kind)
    assert answer.status == status
    assert answer.text.startswith(text)


def test_a_tag_needs_its_repository_and_a_repository_its_user(
    drawbridge: MemoryDrawbridge, package: Package
) -> None:
    path = f"{API}/jane/nothing/_tag/1.0.0"
    answer = drawbridge.put(path, package.entry.to_bytes(), ENTRY_TYPE)
    assert (answer.status, answer.text) == (404, "Repository does not exist")
    answer = drawbridge.put(f"{API}/nobody/chat", b'{"public":true}')
    assert (answer.status, answer.text) == (401, "User `nobody` not found")


class TestChildren:
    """What stands in a tree is what its directory lists."""

    def test_the_tag_comes_before_its_tree(
        self, drawbridge: MemoryDrawbridge, package: Package
    ) -> None:
        root = package.nodes()[""][1]
        answer = drawbridge.put(f"{TAG}/tree", root, DIRECTORY_TYPE)
        assert (answer.status, answer.text) == (404, "Not found")

    def test_a_directory_comes_before_what_is_in_it(
        self, drawbridge: MemoryDrawbridge, package: Package
    ) -> None:
        drawbridge.put(TAG, package.entry.to_bytes(), ENTRY_TYPE)
        answer = drawbridge.put(f"{TAG}/tree/main.wasm", package.files["main.wasm"])
        assert (answer.status, answer.text) == (404, "Not found")

    def test_another_root_than_the_tags(
        self, drawbridge: MemoryDrawbridge, package: Package
    ) -> None:
        drawbridge.put(TAG, package.entry.to_bytes(), ENTRY_TYPE)
        other = Package({"main.wasm": b"evil"}).nodes()[""][1]
        answer = drawbridge.put(f"{TAG}/tree", other, DIRECTORY_TYPE)
        assert answer.status == 400
        assert re.match("Content (length|digest) mismatch", answer.text)

    @pytest.mark.parametrize(
        ("path", "body", "kind", "text"),
        [
            ("main.wasm", b"\0asm" * 999 + b"evil", "application/wasm", "Content digest mismatch"),
            ("main.wasm", b"evil", "application/wasm",
             "Content length mismatch, expected: 4000, got 4"),
            ("main.wasm", b"\0asm" * 1000, "text/html", "Content-Type: Content type mismatch"),
            ("other", b"evil", "application/wasm", "tree path: not listed in its directory"),
            ("main.wasm/x", b"evil", "x/y", "Not found"),
        ],
    )  # fmt: skip
    def test_what_the_directory_does_not_list(
        self, drawbridge: MemoryDrawbridge, package: Package,
        path: str, body: bytes, kind: str, text: str,
    ) -> None:  # fmt: skip
        drawbridge.put(TAG, package.entry.to_bytes(), ENTRY_TYPE)
        drawbridge.put(f"{TAG}/tree", package.nodes()[""][1], DIRECTORY_TYPE)
        answer = drawbridge.put(f"{TAG}/tree/{path}", body, kind)
        assert answer.status in {400, 404}
        assert answer.text.startswith(text)
        assert drawbridge.request("GET", f"{TAG}/tree/{path}").status == 404

    def test_nothing_stands_below_a_file(
        self, drawbridge: MemoryDrawbridge, slug: Slug, package: Package
    ) -> None:
        drawbridge.publish(slug, package)
        answer = drawbridge.put(f"{TAG}/tree/main.wasm/x", b"evil", "x/y")
        assert (answer.status, answer.text.partition(";")[0]) == (
            400,
            f"{TAG}/tree/main.wasm: not a directory",
        )

    def test_a_directory_that_is_none_is_refused(self, drawbridge: MemoryDrawbridge) -> None:
        content = b'{ "a": 1 }'
        tag = Entry.of(content, DIRECTORY_TYPE).to_bytes()
        assert drawbridge.put(TAG, tag, ENTRY_TYPE).status == 201
        answer = drawbridge.put(f"{TAG}/tree", content, DIRECTORY_TYPE)
        assert answer.status == 400
        assert drawbridge.request("GET", f"{TAG}/tree").status == 404

    def test_custom_members_of_an_entry_are_kept(self, drawbridge: MemoryDrawbridge) -> None:
        file = Entry(ContentDigest.of(b"x"), 1, "application/wasm", {"author": "jane"})
        root = Directory({"main.wasm": file}).to_bytes()
        drawbridge.put(TAG, Entry.of(root, DIRECTORY_TYPE).to_bytes(), ENTRY_TYPE)
        assert drawbridge.put(f"{TAG}/tree", root, DIRECTORY_TYPE).status == 201
        assert drawbridge.put(f"{TAG}/tree/main.wasm", b"x", "application/wasm").status == 201
        assert drawbridge.request("GET", f"{TAG}/tree").body == root


def test_problem_documents_for_those_who_ask(drawbridge: MemoryDrawbridge) -> None:
    accept = {"accept": "application/problem+json"}
    answer = drawbridge.put(f"{API}/jane/other", b'{"public":1}', **accept)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = json.loads(answer.body)
    assert (answer.status, problem["status"]) == (422, 422)
    assert problem["checks"] == [
        {
            "check": "repository public: not a boolean",
            "found": "1",
            "expected": "boolean",
            "remedy": None,
        }
    ]
    assert problem["instance"] == "urn:garrison:request:0123456789abcdef"
    answer = drawbridge.request("DELETE", TAG, headers=accept)
    assert (answer.status, answer.headers["allow"]) == (405, "HEAD, GET, PUT")
    assert drawbridge.request("GET", TAG, headers=accept).status == 404


def test_smaller_limits_hold(drawbridge: MemoryDrawbridge, slug: Slug) -> None:
    package = Package({"main.wasm": b"x" * 101, "small": b"x" * 100})
    nodes = served(slug, package)
    verifier = drawbridge.issuer.verifier()
    drawbridge.app = application(drawbridge.store, verifier, max_blob=100, max_meta=200)
    assert drawbridge.put(f"{API}/jane/other", b'{"public":true}' + b" " * 200).status == 413
    assert drawbridge.put(TAG, package.entry.to_bytes(), ENTRY_TYPE).status == 413
    drawbridge.app = application(drawbridge.store, verifier, max_blob=100, max_meta=2000)
    statuses = {
        path.rpartition("/")[2]: drawbridge.put(path, content, entry.type).status
        for path, (entry, content) in nodes.items()
    }
    assert statuses.pop("main.wasm") == 413
    assert set(statuses.values()) == {201}

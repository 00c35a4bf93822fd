"""Property: a keep runs the bytes of the tag, and no others, whatever the registry answers.

The registry is the attacker's own, with a certificate that the tenant and the steward accept; keep
and steward are real. It starts from the truth, and each test changes one thing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from garrison.drawbridge.client import Client
from garrison.errors import Malformed, Rejected, Unverified
from garrison.formats.content_digest import ContentDigest
from garrison.formats.digest import digest_text
from garrison.formats.slug import Slug
from garrison.formats.tree import Package
from garrison.testing.drawbridge import Lie

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.attacks.conftest import Attack

pytestmark = [pytest.mark.xdist_group("attacks")]

NAME = "demo/plain:1.0.0"
TAG = "/api/v0.1.0/demo/plain/_tag/1.0.0"
ROOT, WASM = f"{TAG}/tree", f"{TAG}/tree/main.wasm"


@dataclass(frozen=True, slots=True)
class Registry:
    """The attacker's registry, as the tests change it."""

    attack: Attack

    @property
    def answers(self) -> dict[str, Lie]:
        return self.attack.liar.answers

    def deploy(self) -> subprocess.CompletedProcess[str]:
        """Run the workload from this registry, as the tenant asked."""
        request = self.attack.request(
            "plain:1.0.0",
            slug=f"{self.attack.liar.host}/{NAME}",
            registry_ca=self.attack.liar_ca.root_pem,
            steward=self.attack.second,
        )
        return self.attack.run(request)

    def refuses(self, code: int, *facts: str) -> None:
        """Deploy, and see the refusal: its exit code, its facts, and that nothing ran."""
        done = self.deploy()
        assert done.returncode == code, done.stderr
        for fact in facts:
            assert fact in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""

    def with_headers(self, path: str, **headers: str | None) -> None:
        """Change headers of the answer at `path`, or leave them out."""
        lie = self.answers[path]
        changed: dict[str, Any] = {**lie.headers}
        changed |= {name.replace("_", "-"): value for name, value in headers.items()}
        kept = {name: value for name, value in changed.items() if value is not None}
        self.answers[path] = replace(lie, headers=kept)

    def with_body(self, path: str, body: bytes) -> None:
        """Answer `body` at `path`, with headers that agree with it."""
        self.answers[path] = replace(self.answers[path], body=body)
        self.with_headers(
            path,
            Content_Length=str(len(body)),
            Content_Digest=ContentDigest.of(body).to_header(),
        )


@pytest.fixture
def registry(attack: Attack) -> Iterator[Registry]:
    attack.liar.tell_the_truth(NAME, attack.packages["plain:1.0.0"])
    yield Registry(attack)
    attack.liar.answers.clear()


def test_the_truth_runs(registry: Registry) -> None:
    """What every other test here would see if the attack had worked."""
    done = registry.deploy()
    assert (done.returncode, done.stdout) == (7, "the workload ran\n"), done.stderr


@pytest.mark.parametrize(
    ("path", "field"),
    [(WASM, "main.wasm"), (f"{TAG}/tree/Enarx.toml", "Enarx.toml"), (ROOT, "root directory")],
)
def test_one_byte_with_headers_that_agree(registry: Registry, path: str, field: str) -> None:
    """One byte of the body differs, and the answer's own digests fit it."""
    body = registry.answers[path].body
    registry.with_body(path, body[:-1] + bytes([body[-1] ^ 1]))
    registry.refuses(76, f"plain:1.0.0 {field}", "sha-2")


def test_one_byte_of_the_tag(registry: Registry) -> None:
    """One byte of the tag's entry differs from the digests in the headers."""
    body = registry.answers[TAG].body
    registry.answers[TAG] = replace(registry.answers[TAG], body=body.replace(b"sha", b"shb", 1))
    registry.refuses(76, "tag ", "Content-Digest")


def test_a_longer_body(registry: Registry) -> None:
    """Something follows the file."""
    registry.with_body(WASM, registry.answers[WASM].body + b"\0")
    registry.refuses(76, "main.wasm: longer than it should be")


def test_a_shorter_body(registry: Registry) -> None:
    """The end of the file is missing, and the headers agree."""
    registry.with_body(WASM, registry.answers[WASM].body[:-1])
    registry.refuses(76, "main.wasm: wrong length")


@pytest.mark.parametrize("path", [TAG, ROOT, WASM])
def test_a_disconnect_in_the_middle(registry: Registry, path: str) -> None:
    """The connection ends after half of the body."""
    lie = registry.answers[path]
    registry.answers[path] = replace(lie, body=lie.body[: len(lie.body) // 2])
    registry.refuses(69, registry.attack.liar.host, "does not answer")


@pytest.mark.parametrize(
    ("path", "media_type", "code"),
    [(TAG, "application/json", 65), (ROOT, "text/plain", 76), (WASM, "text/html", 76)],
)
def test_another_content_type(registry: Registry, path: str, media_type: str, code: int) -> None:
    """The bytes are right, and called something else."""
    registry.with_headers(path, Content_Type=media_type)
    registry.refuses(code, "wrong media type", media_type)


@pytest.mark.parametrize("path", [TAG, ROOT, WASM])
@pytest.mark.parametrize("digest", [None, ContentDigest.of(b"something else").to_header()])
def test_digest_header_that_lies_or_is_missing(
    registry: Registry, path: str, digest: str | None
) -> None:
    """The bytes are right, and the digests in the headers are not, or are not there."""
    registry.with_headers(path, Content_Digest=digest)
    registry.refuses(76, "Content-Digest")


def test_the_tag_of_another_version(registry: Registry) -> None:
    """The older version's tag stands above the newer version's tree."""
    attack, newer = registry.attack, registry.answers[ROOT]
    attack.liar.tell_the_truth("demo/plain:1.0.0", attack.packages["plain:0.9.0"])
    registry.answers[ROOT] = newer
    registry.refuses(76, "plain:1.0.0 root directory")


def test_the_tree_of_another_repository(registry: Registry) -> None:
    """The tree is a whole other workload's; the tag is the right one."""
    attack, tag = registry.attack, registry.answers[TAG]
    attack.liar.tell_the_truth("demo/plain:1.0.0", attack.packages["rogue:1.0.0"])
    registry.answers[TAG] = tag
    registry.refuses(76, "plain:1.0.0 root directory")


def test_one_workload_for_the_keep_and_another_for_the_steward(registry: Registry) -> None:
    """The keep gets other files than the steward is told of: the name is not certified."""
    attack = registry.attack
    malware = Package({**attack.packages["plain:1.0.0"].files, "MALWARE": b"\0"})
    genuine = registry.answers[TAG]
    attack.liar.tell_the_truth("demo/plain:1.0.0", malware)
    genuine_answers = attack.liar.answers
    attack.liar.answers = _SecondTime(TAG, genuine, genuine_answers)
    try:
        registry.refuses(
            77, "the drawbridge holds another workload under this name",
            malware.digest.hex(), attack.packages["plain:1.0.0"].digest.hex(),
        )  # fmt: skip
    finally:
        attack.liar.answers = genuine_answers


class _SecondTime(dict[str, Lie]):
    """Answers that differ, for one path, from the second time on."""

    def __init__(self, path: str, later: Lie, answers: dict[str, Lie]) -> None:
        super().__init__(answers)
        self._path, self._later = path, later

    def get(self, path: str, default: Any = None) -> Any:
        answer = super().get(path, default)
        if path == self._path:
            self[path] = self._later
        return answer


def test_a_consistent_rollback_shows_in_the_digest(registry: Registry) -> None:
    """Keep and steward are both told an older version under the newer version's name.

    The registry's word on what a tag is cannot be checked against anything; what holds is that
    the certificate has the digest of what runs.
    """
    attack = registry.attack
    attack.liar.answers.clear()
    attack.liar.tell_the_truth("demo/plain:1.0.0", attack.packages["plain:0.9.0"])
    done = registry.deploy()
    assert done.returncode == 7
    assert f"digest {digest_text(attack.packages['plain:0.9.0'].digest)}" in done.stderr


@pytest.mark.parametrize(("path", "status"), [(TAG, 302), (ROOT, 307), (WASM, 301), (WASM, 308)])
def test_a_redirect(registry: Registry, path: str, status: int) -> None:
    """The answer leads to the genuine drawbridge, or anywhere: nobody follows."""
    location = f"https://{registry.attack.stack.registry}{path}"
    registry.answers[path] = Lie(status, {"Location": location, "Content-Length": "0"}, b"")
    registry.refuses(65, f"the drawbridge answers {status}", "no redirection")


def test_a_file_where_the_tag_has_a_directory(registry: Registry) -> None:
    """The tag names a directory; the registry answers its digest's bytes as a file's."""
    registry.with_headers(ROOT, Content_Type="application/wasm")
    registry.refuses(76, "root directory: wrong media type")


def _lies(document: Any) -> Iterator[tuple[str, Any]]:
    """The document with one thing changed, each thing in turn, and what it was."""
    for name, value in document.items():
        if isinstance(value, dict):
            for where, changed in _lies(value):
                yield f"{name}.{where}", {**document, name: changed}
        elif isinstance(value, int):
            numbers = (value + 1, value - 1, -value, 0, str(value), 2**70, True, None)
            yield from ((f"{name} = {other!r}", {**document, name: other}) for other in numbers)
        else:
            # Another of the same form, of another form, and another type.
            flipped = ("B" if value[0] != "B" else "C") + value[1:]
            texts = (flipped, value[:-2], value + "=", "", "../x", 7, [value], None)
            yield from ((f"{name} = {other!r}", {**document, name: other}) for other in texts)
        yield f"no {name}", {key: kept for key, kept in document.items() if key != name}
        renamed = {"x" + key if key == name else key: kept for key, kept in document.items()}
        yield f"{name} has another name", renamed
    yield "one more", {**document, "surplus": 1}


@pytest.mark.parametrize("path", [TAG, ROOT])
def test_a_lie_in_every_field_that_is_served(registry: Registry, path: str) -> None:
    """Each field of each document is changed, and left out, in turn; headers agree with it.

    The keep's own client judges, without a keep around it: there are some hundred lies.
    """
    liar = registry.attack.liar
    client = Client(liar.host, ca_pem=registry.attack.liar_ca.root_pem)
    slug = Slug.parse(f"{liar.host}/{NAME}")
    genuine = registry.answers[path]
    package = client.fetch(slug)
    assert package.digest == registry.attack.packages["plain:1.0.0"].digest
    believed = []
    lies = list(_lies(json.loads(genuine.body)))
    for what, document in lies:
        body = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
        registry.answers[path] = genuine
        registry.with_body(path, body)
        try:
            found = client.fetch(slug)
        except (Malformed, Unverified, Rejected):
            continue
        # One digest of several may be left out, and what nobody knows may be said beside: the
        # files are those of the tag all the same.
        assert (found.digest, found.files) == (package.digest, package.files), what
        believed.append(what)
    assert len(lies) > 40
    allowed = re.compile(r"digest\.(no sha-\d+|sha-\d+ has another name|one more)|one more")
    assert [what for what in believed if not allowed.fullmatch(what)] == []
    # Of a directory every byte is pinned.
    assert path == TAG or believed == []


def test_no_such_tag(registry: Registry) -> None:
    """The registry denies that the tag exists: it can, and nothing runs."""
    registry.attack.liar.answers.clear()
    registry.refuses(77, "404", "plain:1.0.0")

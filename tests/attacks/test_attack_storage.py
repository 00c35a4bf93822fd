"""Property: a keep runs the bytes of the tag, and no others, whatever is done to the storage.

The drawbridge is real, and so is the keep; the attacker writes to the drawbridge's disk.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from garrison.formats.content_digest import ContentDigest
from garrison.formats.digest import digest_text

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.attacks.conftest import Attack

pytestmark = [pytest.mark.xdist_group("attacks")]


@contextmanager
def _rewritten(file: Path, content: bytes) -> Iterator[None]:
    """Have other `content` in the stored object `file` for a while."""
    genuine = file.read_bytes()
    assert genuine != content
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(genuine)


def _stored(attack: Attack, key: str) -> Path:
    return attack.stack.directory / "drawbridge" / "objects" / key


def _content(attack: Attack, data: bytes) -> Path:
    return _stored(attack, f"content/{hashlib.sha256(data).hexdigest()}")


def _refused(done: subprocess.CompletedProcess[str], code: int, *facts: str) -> None:
    assert done.returncode == code, done.stderr
    for fact in facts:
        assert fact in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_an_attack_the_workload_runs(attack: Attack) -> None:
    """What every other test here would see if the attack had worked."""
    done = attack.run(attack.request("plain:1.0.0"))
    assert (done.returncode, done.stdout) == (7, "the workload ran\n"), done.stderr


@pytest.mark.parametrize("path", ["main.wasm", "Enarx.toml"])
def test_a_swapped_file(attack: Attack, path: str) -> None:
    """One byte of a file is changed, where the file is stored under its digest."""
    data = attack.packages["plain:1.0.0"].files[path]
    found = data[:-1] + bytes([data[-1] ^ 1])
    with _rewritten(_content(attack, data), found):
        done = attack.run(attack.request("plain:1.0.0"))
    slug = attack.stack.slug("plain:1.0.0")
    _refused(done, 76, f"{slug} {path}: ", "digest mismatch")
    for content in (data, found):
        digests = ContentDigest.of(content).to_json().values()
        assert any(str(digest) in done.stderr for digest in digests)


@pytest.mark.parametrize("change", [-1, 1], ids=["shorter", "longer"])
def test_a_file_of_another_length(attack: Attack, change: int) -> None:
    """A stored file is cut, or extended: the drawbridge itself does not serve it."""
    data = attack.packages["plain:1.0.0"].files["main.wasm"]
    found = data[:-1] if change < 0 else data + b"\0"
    with _rewritten(_content(attack, data), found):
        done = attack.run(attack.request("plain:1.0.0"))
    _refused(done, 69, "plain:1.0.0 main.wasm", "500")


def test_a_swapped_directory(attack: Attack) -> None:
    """The root directory lists another file of the same length in place of `main.wasm`."""
    nodes = attack.packages["plain:1.0.0"].nodes()
    data = nodes[""][1]
    genuine = digest_text(nodes["main.wasm"][0].workload_digest).encode()
    forged = digest_text(hashlib.sha256(b"malware").digest()).encode()
    assert genuine in data
    with _rewritten(_content(attack, data), data.replace(genuine, forged)):
        done = attack.run(attack.request("plain:1.0.0"))
    _refused(done, 76, f"{attack.stack.slug('plain:1.0.0')} root directory")


def test_a_swapped_tag(attack: Attack) -> None:
    """The tag is overwritten with another workload's, which does not fit the tree below it."""
    other = _stored(attack, "tags/demo/secret/1.0.0").read_bytes()
    with _rewritten(_stored(attack, "tags/demo/plain/1.0.0"), other):
        done = attack.run(attack.request("plain:1.0.0"))
    _refused(done, 76, f"{attack.stack.slug('plain:1.0.0')} root directory")


def test_a_tree_of_another_repository(attack: Attack) -> None:
    """The names in the tree lead to another repository's files."""
    other = _stored(attack, "trees/demo/secret/1.0.0/@").read_bytes()
    with _rewritten(_stored(attack, "trees/demo/plain/1.0.0/@"), other):
        done = attack.run(attack.request("plain:1.0.0"))
    _refused(done, 76, f"{attack.stack.slug('plain:1.0.0')} root directory")


@pytest.mark.parametrize(
    "config",
    [b"", b"application/json\n{}", b'application/json\n{"public":1}', b"application/json\n[true]"],
    ids=["empty", "no word of readers", "of another type", "no object"],
)
def test_a_damaged_repository_configuration_opens_nothing(attack: Attack, config: bytes) -> None:
    """The configuration of a private repository is damaged, in the hope for an open default."""
    with _rewritten(_stored(attack, "repos/demo/secret"), config):
        done = attack.run(attack.request("secret:1.0.0"))
    _refused(done, 69, "secret:1.0.0", "500")


def test_whole_storage_is_rolled_back(attack: Attack) -> None:
    """Tag and tree are an older version's, consistently, under the newer version's name.

    Nobody can tell that from the answers alone. What holds: the certificate has the digest of
    what runs, so the rollback shows, and peers that name a digest refuse it.
    """
    tags, trees = "tags/demo/plain", "trees/demo/plain"
    root = _stored(attack, f"{trees}/0.9.0/@").read_bytes()
    tag = _stored(attack, f"{tags}/0.9.0").read_bytes()
    with (
        _rewritten(_stored(attack, f"{tags}/1.0.0"), tag),
        _rewritten(_stored(attack, f"{trees}/1.0.0/@"), root),
    ):
        news = _stored(attack, f"{trees}/1.0.0/NEWS/@")
        news.parent.mkdir()
        news.write_bytes(_stored(attack, f"{trees}/0.9.0/NEWS/@").read_bytes())
        try:
            done = attack.run(attack.request("plain:1.0.0"))
        finally:
            news.unlink()
            news.parent.rmdir()
    old, new = (digest_text(attack.packages[f"plain:{v}"].digest) for v in ("0.9.0", "1.0.0"))
    assert done.returncode == 7
    assert f"plain:1.0.0, digest {old}" in done.stderr
    assert new not in done.stderr

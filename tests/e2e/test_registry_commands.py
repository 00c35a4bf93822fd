"""`package`, `repo`, `tree` and `user` against a real drawbridge."""

from __future__ import annotations

import hashlib
import json
import random
from typing import TYPE_CHECKING

import pytest

from garrison.drawbridge import ranges
from garrison.drawbridge.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.testing.stack import Stack

pytestmark = [pytest.mark.xdist_group("stack")]
FILES = {"main.wasm": b"\0asm\1\0\0\0", "Enarx.toml": b"", "data/deep/x.bin": b"x" * 5000}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("package")
    for path, content in FILES.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return directory


@pytest.fixture(scope="module")
def published(stack: Stack, package: Path) -> Stack:
    stack.register_repo("commands", "--private", "--keep", "tee=snp")
    stack.publish(package, "commands:1.0.0")
    return stack


def test_publishing_again_is_no_error_and_other_content_is(
    published: Stack, package: Path, tmp_path: Path
) -> None:
    slug = published.slug("commands:1.0.0")
    options = published.registry_options
    published.command("package", "publish", *options, str(package), slug)
    published.command("package", "publish", *options, slug, str(package))
    (tmp_path / "main.wasm").write_bytes(b"\0asm\1\0\0\0\0")
    done = published.run("package", "publish", *options, str(tmp_path), slug)
    assert done.returncode == 77
    assert "409" in done.stderr


def test_the_digest_is_the_same_everywhere(published: Stack, package: Path) -> None:
    slug = published.slug("commands:1.0.0")
    local = published.command("tree", "digest", str(package)).strip()
    text = published.command("package", "info", "--json", *published.registry_options, slug)
    assert json.loads(text)["digest"] == local
    plain = published.command("package", "info", *published.registry_options, slug)
    assert plain.splitlines()[0] == f"{slug}@{local}"


def test_fetched_files_are_the_published_ones(published: Stack, tmp_path: Path) -> None:
    slug = published.slug("commands:1.0.0")
    out = tmp_path / "out"
    published.command("package", "fetch", *published.registry_options, slug, str(out))
    found = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
    }
    assert found == FILES
    again = published.run("package", "fetch", *published.registry_options, slug, str(out))
    assert again.returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_long_file_comes_in_ranges(
    published: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = random.Random(1).randbytes(2 * ranges.LEAST + 12_345)  # noqa: S311  (content)
    (tmp_path / "package").mkdir()
    (tmp_path / "package/main.wasm").write_bytes(content)
    published.register_repo("long")
    published.publish(tmp_path / "package", "long:1.0.0")
    slug = published.slug("long:1.0.0")
    published.command("package", "fetch", *published.registry_options, slug, str(tmp_path / "out"))
    assert (tmp_path / "out/main.wasm").read_bytes() == content
    # Not in one stream, as it would come too.
    monkeypatch.delattr("garrison.drawbridge.ranges.Whole")
    wire = Wire(
        published.registry,
        ca_pem=published.registry_ca.read_text(),
        token=None,
        certificate=None,
    )
    told: list[int] = []
    path = "demo/long/_tag/1.0.0/tree/main.wasm"
    answer = ranges.Contents().get(
        lambda got: wire.get_into(got, path, slug),
        slug,
        length=len(content),
        progress=told.append,
    )
    assert answer.body == content
    assert answer.digest.values == {"sha-256": hashlib.sha256(content).digest()}
    assert sum(told) == len(content)
    answer.check_digest_header(slug)


def test_a_tree_is_listed_and_a_file_fetched(published: Stack, tmp_path: Path) -> None:
    slug = published.slug("commands:1.0.0")
    options = published.registry_options
    listed = json.loads(published.command("tree", "info", "--json", *options, slug))
    assert sorted(listed) == ["Enarx.toml", "data", "main.wasm"]
    assert "x.bin" in published.command("tree", "info", *options, slug, "data/deep")
    out = tmp_path / "x"
    published.command("tree", "fetch", *options, "-o", str(out), slug, "data/deep/x.bin")
    assert out.read_bytes() == FILES["data/deep/x.bin"]
    missing = published.run("tree", "fetch", *options, slug, "nope")
    assert missing.returncode == 77
    assert "main.wasm" in missing.stderr


def test_repositories_and_users_are_shown(published: Stack) -> None:
    options = published.registry_options
    repository = f"{published.registry}/demo/commands"
    told = json.loads(published.command("repo", "info", "--json", *options, repository))
    assert told == {"config": {"keeps": [{"tee": "snp"}], "public": False}, "tags": ["1.0.0"]}
    assert f"{repository}:1.0.0" in published.command("repo", "info", *options, repository)
    user = f"{published.registry}/demo"
    shown = json.loads(published.command("user", "info", "--json", *options, user))
    assert shown["subject"] == "demo"
    assert "commands" in shown["repositories"]


def test_who_may_read_a_repository_is_changed_and_who_searches_finds_it(published: Stack) -> None:
    options = published.registry_options
    published.register_repo("changing", "--private")
    repository = f"{published.registry}/demo/changing"
    search = ("repo", "search", *options, published.registry, "CHANG")
    shown = published.command("repo", "policy", *options, repository)
    assert shown == f"{repository}: private\n"
    assert published.command(*search) == ""
    shown = published.command("repo", "policy", *options, "--public", "--json", repository)
    assert json.loads(shown) == {"public": True}
    assert published.command(*search) == f"{repository}\n"
    keep = ("--private", "--keep", "tee=snp", "--keep", f"measurement={'ab' * 48}")
    shown = published.command("repo", "policy", *options, *keep, repository)
    assert shown.splitlines() == [
        f"{repository}: private",
        "readable by keeps with tee=snp",
        f"readable by keeps with measurement={'ab' * 48}",
    ]
    assert shown.strip() in published.command("repo", "info", *options, repository)
    assert published.command(*search) == ""
    done = published.run("repo", "policy", *options, "--keep", "tee=snp", repository)
    assert (done.returncode, "--private" in done.stderr) == (2, True)


def test_without_a_token_a_private_repository_is_not_there(published: Stack) -> None:
    done = published.run(
        "package", "info", *published.registry_options, "--insecure-auth-token", "bogus",
        published.slug("commands:1.0.0"),
    )  # fmt: skip
    assert done.returncode == 77
    assert "bogus" not in done.stderr


def test_a_ca_that_does_not_vouch_for_the_drawbridge_ends_it(published: Stack) -> None:
    done = published.run(
        "package", "info", "--ca-bundle", str(published.steward_root),
        published.slug("commands:1.0.0"),
    )  # fmt: skip
    assert done.returncode == 76
    assert "--ca-bundle" in done.stderr


def test_no_token_is_in_any_log(published: Stack) -> None:
    tokens = json.loads((published.directory / "home/.config/garrison/tokens.json").read_text())
    (token,) = tokens.values()
    for process in published.processes:
        assert not any(token in line or token[-40:] in line for line in process.lines)


def test_a_tag_that_is_yanked_is_not_deployed(published: Stack) -> None:
    slug, options = published.slug("commands:1.0.0"), published.registry_options
    published.command("package", "yank", *options, "--reason", "a hole; use 2.0.0", slug)
    told = published.run("package", "info", *options, slug)
    assert "yanked: a hole; use 2.0.0" in told.stderr
    refused = published.run(*published.deploy_arguments("commands:1.0.0"))
    assert refused.returncode == 77
    assert "this version was yanked; found a hole; use 2.0.0" in refused.stderr
    arguments = published.deploy_arguments("commands:1.0.0")
    allowed = published.run(arguments[0], "--allow-yanked", *arguments[1:])
    assert "yanked" not in allowed.stderr
    published.command("package", "unyank", *options, slug)
    text = published.command("package", "info", "--json", *options, slug)
    assert json.loads(text)["yanked"] is None
    listed = published.command("user", "info", "--json", *options, f"{published.registry}/demo")
    assert "commands" in json.loads(listed)["repositories"]

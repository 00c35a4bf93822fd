"""Tags whose answers are known: as fresh and as guarded as any other answer."""

from __future__ import annotations

import json
import re
import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from garrison.formats.tree import Package
from garrison.testing.stack import USER, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PACKAGE = Package({"main.wasm": b"\0asm"})
_REQUEST = "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: \r\n{more}\r\n"
_OWN = re.compile(rb"(date|x-request-id): [^\r]*\r\n")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory: Path = tmp_path_factory.mktemp("stack")
    (directory / "home").mkdir()
    with Stack(directory) as stack:
        drawbridge = stack.start(
            "the drawbridge", "drawbridge", "serve", "--insecure-dev", "--port", "0",
            "--store", str(directory / "drawbridge"),
        )  # fmt: skip
        url = drawbridge.expect("listening on https://").rpartition(" ")[2]
        stack.registry = f"localhost:{url.rpartition(':')[2]}"
        stack.login()
        source = directory / "package"
        source.mkdir()
        (source / "main.wasm").write_bytes(_PACKAGE.files["main.wasm"])
        for repo, options in (("open", ()), ("shut", ("--private",))):
            stack.register_repo(repo, *options)
            stack.publish(source, f"{repo}:1.0.0")
        yield stack


def path_of(repo: str) -> str:
    return f"/api/v0.1.0/{USER}/{repo}/_tag/1.0.0"


def exchange(stack: Stack, *requests: str) -> list[bytes]:
    """Send requests at once over one connection, the last of which ends it; the answers."""
    context = ssl.create_default_context(cafile=stack.registry_ca)
    with (
        socket.create_connection(("localhost", int(stack.registry.rpartition(":")[2])), 60) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        connection.sendall("".join(requests).encode())
        data = b""
        while piece := connection.recv(65536):
            data += piece
    return re.split(rb"(?=HTTP/1\.1 )", data)[1:]


def get(repo: str = "open", more: str = "", method: str = "GET") -> str:
    return _REQUEST.format(method=method, path=path_of(repo), more=more)


_LAST = _REQUEST.format(method="GET", path="/health", more="Connection: close\r\n")


def test_it_is_the_same_answer_byte_for_byte(stack: Stack) -> None:
    long, *known, _ = exchange(stack, get(more="X: y\r\nRange: bytes=0-\r\n"), get(), get(), _LAST)
    assert b"content-digest: sha-224=:" in long
    assert {_OWN.sub(b"", answer) for answer in known} == {_OWN.sub(b"", long)}
    ids = [re.findall(rb"x-request-id: ([0-9a-f]{16})\r\n", answer) for answer in known]
    assert len({item for (item,) in ids}) == 2
    for (item,) in ids:
        line = json.loads(stack.processes[0].expect(item.decode()))
        assert (line["path"], line["status"], line["method"]) == (path_of("open"), 200, "GET")


def test_requests_that_ask_for_more_are_answered_as_ever(stack: Stack) -> None:
    exchange(stack, get(), _LAST)
    tag = re.findall(rb'etag: ("[0-9a-f]{64}")', exchange(stack, get(), _LAST)[0])[0].decode()
    answers = exchange(
        stack,
        get(more=f"If-None-Match: {tag}\r\n"),
        get(),
        get(more='If-Match: "x"\r\n'),
        get(method="HEAD"),
        get(),
        _LAST,
    )
    statuses = [answer.split()[1] for answer in answers]
    assert statuses == [b"304", b"200", b"412", b"200", b"200", b"200"]
    assert answers[3].endswith(b"\r\n\r\n")


def test_a_yank_is_seen_at_once_and_so_is_its_end(stack: Stack) -> None:
    exchange(stack, get(), get(), _LAST)
    slug = stack.slug("open:1.0.0")
    stack.command("package", "yank", *stack.registry_options, "--reason", "it leaks", slug)
    for answer in exchange(stack, get(), get(), _LAST)[:2]:
        assert b"garrison-yanked: it leaks\r\n" in answer
    stack.command("package", "unyank", *stack.registry_options, slug)
    for answer in exchange(stack, get(), get(), _LAST)[:2]:
        assert b"yanked" not in answer


def test_what_is_private_is_known_to_nobody(stack: Stack) -> None:
    tokens = json.loads((stack.directory / "home/.config/garrison/tokens.json").read_text())
    owner = get("shut", f"Authorization: Bearer {tokens[stack.registry]}\r\n")
    answers = exchange(stack, owner, owner, get("shut"), owner, get("shut"), _LAST)
    statuses = [answer.split()[1] for answer in answers]
    assert statuses == [b"200", b"200", b"401", b"200", b"401", b"200"]


def test_a_tag_that_is_taken_out_of_the_store_is_gone(stack: Stack) -> None:
    file = stack.directory / f"drawbridge/objects/tags/{USER}/open/1.0.0"
    exchange(stack, get(), get(), _LAST)
    kept = file.rename(file.with_name("9.9.9"))
    try:
        assert exchange(stack, get(), _LAST)[0].split()[1] == b"404"
    finally:
        kept.rename(file)
    assert exchange(stack, get(), _LAST)[0].split()[1] == b"200"


def test_more_requests_than_are_answered_at_once_are_answered_in_order(stack: Stack) -> None:
    many = [get(), get("shut"), get(), get(), get("shut"), get()] * 5
    statuses = [answer.split()[1] for answer in exchange(stack, *many, _LAST)]
    assert statuses[:-1] == [b"200", b"401", b"200", b"200", b"401", b"200"] * 5

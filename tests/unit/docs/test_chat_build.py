"""The chat example's packages: what is built, twice the same, and how a failure is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from garrison.formats.enarx_toml import Config

CHAT = Path(__file__).parents[3] / "examples" / "chat"
PEER = "localhost:8443/jane/chat:^0.1"
VALUES = ("PORT=7000", f"PEERS={json.dumps([PEER])}")


def _build(
    source: Path, out: Path, *values: str, script: Path = CHAT / "build.py"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), str(source), str(out), *values],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["server", "client"])
def test_the_same_sources_give_the_same_package_wherever_they_stand(
    name: str, tmp_path: Path
) -> None:
    copy = tmp_path / "somewhere else" / "chat"
    shutil.copytree(CHAT, copy)
    one, other = tmp_path / "one", tmp_path / "a" / "deeper" / "place"
    first = _build(CHAT / name, one, *VALUES)
    assert first.returncode == 0, first.stderr
    second = _build(copy / name, other, *VALUES, script=copy / "build.py")
    assert second.returncode == 0, second.stderr
    assert sorted(file.name for file in one.iterdir()) == ["Enarx.toml", "main.wasm"]
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes()
    module = (one / "main.wasm").read_bytes()
    assert module[:8] == b"\0asm\1\0\0\0"
    assert str(CHAT).encode() not in module
    assert b"wasi_snapshot_preview1" in module


def test_the_server_listens_for_its_peers_alone(tmp_path: Path) -> None:
    done = _build(CHAT / "server", tmp_path, *VALUES)
    assert done.returncode == 0, done.stderr
    config = Config.from_bytes((tmp_path / "Enarx.toml").read_bytes())
    assert config.args == ("7000",)
    rule = config.incoming["7000"]
    assert rule.prot == "tls"
    assert [str(peer) for peer in rule.peers or ()] == [PEER]
    assert config.incoming["default"].prot == config.outgoing["default"].prot == "deny"


def test_the_client_connects_to_its_server_alone(tmp_path: Path) -> None:
    done = _build(CHAT / "client", tmp_path, *VALUES)
    assert done.returncode == 0, done.stderr
    config = Config.from_bytes((tmp_path / "Enarx.toml").read_bytes())
    assert config.args == ("localhost:7000",)
    rule = config.outgoing["localhost:7000"]
    assert rule.prot == "tls"
    assert [str(peer) for peer in rule.peers or ()] == [PEER]
    assert config.incoming["default"].prot == config.outgoing["default"].prot == "deny"


def test_a_missing_value_is_named(tmp_path: Path) -> None:
    done = _build(CHAT / "server", tmp_path / "out", "PORT=7000")
    assert done.returncode == 1
    assert "no value for $PEERS" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_the_compiler_says_is_shown(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("int main(void) { int unused; return 0; }\n")
    (tmp_path / "Enarx.toml.in").write_text("")
    done = _build(tmp_path, tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "the compiler failed" in done.stderr
    assert "unused" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = _build(tmp_path / "nothing", tmp_path / "out", *VALUES)
    assert done.returncode == 1
    assert "Enarx.toml.in" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_guests_hold_no_tls() -> None:
    for source in CHAT.glob("**/*.[ch]"):
        text = source.read_text()
        assert len(text.splitlines()) < 300
        assert "ssl" not in text.lower()

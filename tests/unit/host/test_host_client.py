"""A tenant's side of a host that is not honest: bounded, and unable to steer the terminal."""

from __future__ import annotations

import socket
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from garrison.cli.deploy_to_host import deploy_to_host
from garrison.drawbridge.client import Fetched
from garrison.errors import Malformed, Misuse, Rejected
from garrison.formats.launch_request import LaunchRequest
from garrison.formats.slug import Slug
from garrison.formats.tree import Package
from garrison.host.client import HostClient, _Chunks
from garrison.testing.tls import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator

LAUNCH = LaunchRequest("d.test/u/r:1.0.0", "https://s.test", Authority().root_pem, None, {})
PIECE = b"x" * (1 << 20)


class LyingHost:
    """A host whose keep has ended, with a log and a name of the host's choice."""

    name = "localhost"

    def __init__(self, name: str, lines: int = 0) -> None:
        self._name, self._lines = name, lines

    def make(self, _spec: object) -> dict[str, Any]:
        return {"id": self._name}

    def keep(self, _name: str) -> dict[str, Any]:
        return {"id": self._name, "phase": "ended", "exit_code": 1}

    def log(self, _name: str, *, follow: bool) -> Iterator[dict[str, str]]:
        assert not follow
        for number in range(self._lines):
            yield {"time": "", "stream": "stderr", "text": f"line {number} " + "x" * 100_000}


def deploy(host: LyingHost, config: bytes) -> None:
    package = Package({"main.wasm": b"", "Enarx.toml": config})
    deploy_to_host(
        host,  # type: ignore[arg-type]  # what is asked of it is there
        Fetched(package.entry, package.digest, dict(package.files)),
        Slug.parse(LAUNCH.slug),
        LAUNCH,
        backend="nil",
        policy=None,
        restart="no",
        memory_mib=None,
        measurements=None,
        digest=None,
        seconds=60,
        as_json=False,
    )


@pytest.mark.parametrize("begun", [b"fffffffffff\r\n", b""])
def test_a_chunk_without_end(begun: bytes) -> None:
    chunks = _Chunks(begun)
    with pytest.raises(Malformed):
        any(chunks.take(PIECE) for _ in range(16))


def test_chunks_as_they_come() -> None:
    chunks = _Chunks(b"")
    whole = b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n"
    assert b"".join(chunks.take(whole[i : i + 1]) for i in range(len(whole))) == b"abcdefg"
    assert chunks.ended


def test_a_keeps_name_that_would_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    deploy(LyingHost("\x1b]0;owned\x07"), b"")
    told = capsys.readouterr()
    assert told.out == "?]0;owned?\n"
    assert "\x1b" not in told.err


def test_a_log_without_end_is_not_kept() -> None:
    tracemalloc.start()
    try:
        # A port that is taken, and where nobody listens.
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            config = f'[network.incoming.{nobody.getsockname()[1]}]\nprot = "tls"\n'
            with pytest.raises(Rejected, match="line 999 "):
                deploy(LyingHost("k", 1000), config.encode())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 50 << 20


def test_a_token_that_is_none_is_not_shown() -> None:
    with pytest.raises(Malformed) as caught:
        HostClient("https://host.test", ca_pem=None, token="sec\nret")
    assert "sec" not in f"{caught.value!r} {caught.value}"


@pytest.mark.parametrize(
    "url",
    ["http://host.test", "https://", "https://host.test:99999", "https://[::1", "https://h/x"],
)
def test_what_is_no_url_of_a_host(url: str) -> None:
    with pytest.raises(Misuse, match="not the URL of a host"):
        HostClient(url, ca_pem=None, token="token")

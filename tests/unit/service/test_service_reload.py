"""TLS files that are replaced while a service runs."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from tests.unit.service.sample import Server, ask, running

from garrison.steward import authority, init

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.service.conftest import Pki


class Files:
    """A certificate and key that a service uses, to be replaced."""

    def __init__(self, directory: Path, pki: Pki) -> None:
        self._directory = directory
        self.certificate, self.key = directory / "tls.pem", directory / "tls.key"
        self.replace(pki.certificate, pki.key)
        new = directory / "new"
        init.create(new, trust_domain="example.test", hosts=("localhost",), now=datetime.now(UTC))
        self.new = (new / authority.SERVER_PEM, new / authority.SERVER_KEY)

    def replace(self, *files: Path) -> None:
        """Put `files` in place, each in one step."""
        for source, target in zip(files, (self.certificate, self.key), strict=False):
            shutil.copy(source, self._directory / "part")
            (self._directory / "part").rename(target)


@pytest.fixture
def files(tmp_path: Path, pki: Pki) -> Files:
    return Files(tmp_path, pki)


def shown(server: Server) -> bytes:
    """The certificate that a new connection is shown."""
    return ssl.get_server_certificate(("localhost", server.port)).encode()


def leaf(path: Path) -> bytes:
    end = b"-----END CERTIFICATE-----\n"
    return path.read_bytes().partition(end)[0] + end


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("look", [0.05, 1000.0], ids=["by-itself", "on-sighup"])
def test_new_connections_see_the_new_certificate_and_old_ones_live(
    pki: Pki, files: Files, look: float
) -> None:
    with running(pki, certificate=files.certificate, key=files.key, look=look) as server:
        with contextlib.closing(server.connect()) as kept:
            before = ask(kept)
            assert shown(server) == leaf(pki.certificate)
            files.replace(*files.new)
            if look > 1:
                server.process.send_signal(signal.SIGHUP)
            wait_for(lambda: shown(server) == leaf(files.new[0]))
            sock = kept.sock
            assert ask(kept)["id"] != before["id"]
            assert kept.sock is sock
        code, _, err = server.end()
    assert code == 0
    assert '"outcome": "reloaded"' in err


def test_invalid_pair_is_refused_and_the_old_one_stays(pki: Pki, files: Files) -> None:
    """Half replaced: one refusal in the log, however often it looks; the whole is then taken."""
    with running(pki, certificate=files.certificate, key=files.key, look=0.02) as server:
        files.replace(files.new[0])
        time.sleep(0.5)
        assert shown(server) == leaf(pki.certificate)
        files.certificate.unlink()
        time.sleep(0.2)
        assert shown(server) == leaf(pki.certificate)
        files.replace(*files.new)
        wait_for(lambda: shown(server) == leaf(files.new[0]))
        _, _, err = server.end()
    lines = [json.loads(line) for line in err.splitlines()]
    told = [line for line in lines if line["event"] == "tls"]
    assert [line["level"] for line in told[:2]] == ["error", "error"]
    assert "cannot use the TLS certificate and key" in told[0]["reason"]
    assert str(files.certificate) in told[0]["reason"]
    assert len(told) in {3, 4}
    assert told[-1]["outcome"] == "reloaded"


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_told_while_a_process_starts_is_not_lost_on_it(pki: Pki, workers: int) -> None:
    with running(pki, workers=workers, told_early=True) as server:
        code, _, err = server.end()
    assert code == 0
    told = [json.loads(line) for line in err.splitlines()]
    assert [line["event"] for line in told].count("tls") == workers


def test_what_cannot_be_read_again_ends_no_service(pki: Pki) -> None:
    with running(pki, workers=2, spoilt=True) as server:
        server.process.send_signal(signal.SIGHUP)
        server.expect('"nothing renewed", "reason": "RuntimeError: a defect"')
        with contextlib.closing(server.connect()) as connection:
            assert ask(connection)["id"]
        code, _, _ = server.end()
    assert code == 0

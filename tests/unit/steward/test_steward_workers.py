"""A steward of several workers: what they share holds, though one is killed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.unit.steward.test_steward_process import Running, garrison

from garrison.attesters.simulator_directory_insecure import process_measurement
from garrison.formats.identity import WorkloadIdentity
from garrison.steward.issuance_log import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKLOAD = WorkloadIdentity(None, bytes(32))
SECONDS = 30.0


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "issuance.log"


@pytest.fixture
def running(tmp_path: Path, log: Path) -> Iterator[Running]:
    started = Running(
        tmp_path, process_measurement().hex(), "--workers", "2", "--issuance-log", str(log)
    )
    yield started
    started.process.kill()
    started.process.communicate()


def workers_of(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_kill_under_requests_breaks_neither_challenges_nor_the_log(
    running: Running, log: Path
) -> None:
    """Each request takes a challenge from one worker, and often its certificate from another."""
    issued: list[bytes] = []
    broken: list[Exception] = []
    wrong: list[bytes] = []
    stop = threading.Event()

    def attest() -> None:
        while not stop.is_set():
            try:
                status, body = running.ask("POST", "/", running.request(WORKLOAD))
            except (OSError, http.client.HTTPException) as error:
                broken.append(error)
            else:
                (issued if status == 200 else wrong).append(body)

    def more_than(count: int) -> None:
        deadline = time.monotonic() + SECONDS
        while len(issued) <= count:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    threads = [threading.Thread(target=attest) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        more_than(10)
        victim = min(workers_of(running.process.pid))
        os.kill(victim, signal.SIGKILL)
        more_than(len(issued) + 20)
        assert victim not in workers_of(running.process.pid)
        assert len(workers_of(running.process.pid)) == 2
        # A reload in the middle of it, too.
        running.process.send_signal(signal.SIGHUP)
        more_than(len(issued) + 10)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    running.process.send_signal(signal.SIGTERM)
    _, err = running.process.communicate(timeout=SECONDS)
    assert running.process.returncode == 0
    assert wrong == []
    assert len(broken) <= 3
    # Every certificate that a client has is in the log; the chain of all workers is whole.
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert verify(log).lines == len(entries) >= len(issued)
    assert len({entry["serial"] for entry in entries}) == len(entries)
    assert err.count('"event": "policy", "outcome": "reloaded"') == 2


def test_a_worker_that_is_started_later_knows_what_was_denied_meanwhile(
    running: Running, tmp_path: Path
) -> None:
    """Who can end a worker, by memory or a defect, must not bring an older policy back."""
    policy = tmp_path / "policy.toml"
    policy.write_text(policy.read_text() + '[deny]\nserials = ["0a0b"]\n')
    running.process.send_signal(signal.SIGHUP)
    before = workers_of(running.process.pid)

    def denied() -> bool:
        try:
            status, body = running.ask("GET", "/deny")
        except (OSError, http.client.HTTPException):
            return False
        return status == 200 and json.loads(body)["serials"] == ["a0b"]

    # Each answer is of one worker or the other: of so many in a row, of both.
    in_a_row = 0
    deadline = time.monotonic() + SECONDS
    while in_a_row < 20:
        assert time.monotonic() < deadline
        in_a_row = in_a_row + 1 if denied() else 0
    # Without those that were told, none but the successors are left to answer.
    for victim in before:
        os.kill(victim, signal.SIGKILL)
    while True:
        assert time.monotonic() < deadline
        try:
            status, body = running.ask("GET", "/deny")
        except (OSError, http.client.HTTPException):
            continue
        break
    assert (status, json.loads(body)["serials"]) == (200, ["a0b"])


def test_a_second_steward_may_not_write_to_the_log(running: Running, tmp_path: Path) -> None:
    done = garrison(
        "steward", "serve", "--dir", str(running.directory), "--port", "0",
        "--policy", str(tmp_path / "policy.toml"), "--issuance-log", str(tmp_path / "issuance.log"),
    )  # fmt: skip
    assert done.returncode != 0
    assert "another steward writes to it" in done.stderr

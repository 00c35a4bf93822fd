"""Several workers behind one socket: one is killed, all are drained, all are told."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.unit.service.sample import Server, ask, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.service.conftest import Pki

SECONDS = 20.0


def workers_of(server: Server) -> list[int]:
    """The pids of a supervisor's workers."""
    supervisor = server.process.pid
    text = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text()
    return [int(pid) for pid in text.split()]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def slow_request(server: Server, seconds: float) -> http.client.HTTPSConnection:
    """A connection on which a request has begun that takes so long."""
    connection = server.connect()
    connection.request("GET", f"/slow?seconds={seconds}")
    server.expect("works")
    return connection


def test_kill_of_a_worker_disturbs_no_other_and_it_comes_back(pki: Pki) -> None:
    """Requests go on while a worker is killed: only its own connections break."""
    with running(pki, workers=2, metrics=["127.0.0.1", 0], json_output=True) as server:
        before = workers_of(server)
        assert len(before) == 2
        done = {"answered": 0, "broken": 0}
        stop = threading.Event()

        def request() -> None:
            while not stop.is_set():
                with contextlib.closing(server.connect()) as connection:
                    try:
                        ask(connection)
                    except (OSError, http.client.HTTPException):
                        done["broken"] += 1
                    else:
                        done["answered"] += 1

        threads = [threading.Thread(target=request) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: done["answered"] > 20)
            os.kill(before[0], signal.SIGKILL)
            wait_for(lambda: len(set(workers_of(server)) - set(before)) == 1)
            answered = done["answered"]
            wait_for(lambda: done["answered"] > answered + 20)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        # At most what was under way in it, from two clients.
        assert done["broken"] <= 2
        assert before[1] in workers_of(server)
        # What the dead one counted is not lost; a request under way in it never ended. It may
        # have died between the answer and the count, once for each of two clients.
        wait_for(lambda: server.counted()["garrison_requests_in_flight"] == 0)
        name = 'garrison_requests_total{method="GET",route="/",status="200"}'
        assert done["answered"] - 2 <= server.counted()[name] <= done["answered"] + 2
        code, _, err = server.end()
    assert code == 0
    (told,) = [json.loads(line) for line in err.splitlines() if '"worker"' in line]
    assert (told["pid"], told["code"], told["restart_in_seconds"]) == (before[0], -9, 0.0)


def test_worker_that_dies_again_and_again_is_started_ever_more_slowly(pki: Pki) -> None:
    with running(pki, workers=2) as server:
        first, *_ = workers_of(server)
        for _ in range(2):
            (victim,) = set(workers_of(server)) - {first}
            os.kill(victim, signal.SIGKILL)
            wait_for(partial(_has_successor, server, first, victim))
        with contextlib.closing(server.connect()) as connection:
            assert ask(connection)["id"]
        _, _, err = server.end()
    pauses = [
        json.loads(line)["restart_in_seconds"] for line in err.splitlines() if '"worker"' in line
    ]
    assert pauses == [0.0, 0.5]


def _has_successor(server: Server, first: int, victim: int) -> bool:
    return len(set(workers_of(server)) - {first, victim}) == 1


def test_term_lets_requests_end_and_takes_no_more(pki: Pki) -> None:
    with running(pki, workers=2) as server:
        with contextlib.closing(slow_request(server, 3)) as slow:
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: not _accepts(server))
            with slow.getresponse() as response:
                assert response.status == 200
                assert response.headers["Connection"] == "close"
                assert json.loads(response.read())["id"]
        assert server.process.wait(SECONDS) == 0


def _accepts(server: Server) -> bool:
    try:
        server.raw().close()
    except OSError:
        return False
    return True


def test_upload_under_way_is_finished(pki: Pki) -> None:
    words = b"POST /large HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc"
    with running(pki, workers=2) as server:
        with server.raw() as tls:
            tls.sendall(words)
            server.expect("reads")
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: not _accepts(server))
            tls.sendall(b"defghij")
            answer = b""
            while more := tls.recv(4096):
                answer += more
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b'{"length":10}')
        assert server.process.wait(SECONDS) == 0


def test_drain_has_an_end(pki: Pki) -> None:
    with running(pki, {"drain_seconds": 0.5}, workers=2) as server:
        with contextlib.closing(slow_request(server, 60)):
            started = time.monotonic()
            assert server.end()[0] == 0
        assert time.monotonic() - started < 30


def test_second_signal_does_not_wait(pki: Pki) -> None:
    with (
        running(pki, {"drain_seconds": 60}, workers=2) as server,
        contextlib.closing(slow_request(server, 60)),
    ):
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not _accepts(server))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0


def test_hup_reaches_all_workers(pki: Pki, tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.pem", tmp_path / "tls.key"
    shutil.copy(pki.certificate, certificate)
    shutil.copy(pki.key, key)
    with running(pki, certificate=certificate, key=key, workers=3) as server:
        certificate.touch()
        server.process.send_signal(signal.SIGHUP)
        for _ in range(3):
            server.expect('"reloaded"')
        _, _, err = server.end()
    assert err.count('"reloaded"') == 0


def test_workers_end_with_their_supervisor(pki: Pki) -> None:
    with running(pki, workers=2) as server:
        pids = workers_of(server)
        server.process.kill()
        server.process.wait(SECONDS)
        wait_for(lambda: not any(_lives(pid) for pid in pids))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_service_that_cannot_start_ends_with_its_error(pki: Pki) -> None:
    with running(pki, workers=2, fail=True) as server:
        assert server.line == ""
        code, _, err = server.end()
    assert code == 1
    # Two workers say it at once, and Python writes such a line in pieces: this is one of them.
    assert "cannot be built" in err
    assert "RuntimeError" in err

"""SIGINT and SIGTERM end a guest wherever it is; whole commands, in processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def started(
    probe: Path, environment: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "garrison", "run", str(probe), request.param]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("started", ["spin", "calls", "sleep", "read", "write"], indirect=True)
def test_a_signal_ends_the_guest(
    started: subprocess.Popen[bytes], number: signal.Signals, code: int
) -> None:
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    time.sleep(0.1)
    started.send_signal(number)
    # Not `communicate`: the end of standard input would end the guest that reads, too.
    assert started.wait(timeout=60) == code
    assert started.stderr is not None
    said = started.stderr.read()
    assert said in {b"error: interrupted\n", b"error: terminated\n"}


@pytest.mark.parametrize("delay", [i / 1000 for i in range(0, 40, 5)])
def test_a_signal_is_not_lost_whenever_it_comes(
    probe: Path, environment: dict[str, str], delay: float
) -> None:
    command = [sys.executable, "-m", "garrison", "run", str(probe), "calls"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


def test_an_ignored_signal_stays_ignored(probe: Path, environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "garrison", "run", str(probe), "read"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509  (one thread)
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        process.communicate(b"\n", timeout=60)
    assert process.returncode == 1


def test_a_clock_and_a_descriptor_are_waited_for_together(
    probe: Path, environment: dict[str, str]
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "garrison", "run", str(probe), "poll"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waited\n"
        out, _ = process.communicate(b"x", timeout=60)
    assert out == b"read x\n"
    assert process.returncode == 0


def test_the_short_way_reports_errors_and_codes(
    probe: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "garrison", "run", *args]
        return subprocess.run(command, capture_output=True, env=environment, check=False)

    assert run(str(probe), "exit", "9").returncode == 9
    trapped = run(str(probe), "abort")
    assert trapped.returncode == 134
    assert trapped.stderr.startswith(b"error: the guest trapped: wasm trap: wasm `unreachable`")
    bad = tmp_path / "bad.wasm"
    bad.write_bytes(b"#!/bin/sh")
    refused = run(str(bad))
    assert refused.returncode == 65
    assert b"not WebAssembly; found 9 bytes that begin with 23212f62" in refused.stderr
    assert run(str(tmp_path / "missing.wasm")).returncode == 2


def test_a_closed_standard_stream_is_null(probe: Path, environment: dict[str, str]) -> None:
    def close() -> None:
        os.close(0)
        os.close(1)

    command = [sys.executable, "-m", "garrison", "run", str(probe), "exit", "4"]
    found = subprocess.run(command, env=environment, preexec_fn=close, check=False)
    assert found.returncode == 4


def test_a_signal_ends_a_connection_that_is_being_made(
    probe: Path, environment: dict[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = f"/net/con/127.0.0.1:{server.getsockname()[1]}"
        with subprocess.Popen(
            [sys.executable, "-m", "garrison", "run", str(probe), "talk", target],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        ) as process:
            server.settimeout(60)
            client, _ = server.accept()
            with client:
                # The guest has begun its handshake, and nobody answers.
                client.settimeout(60)
                assert client.recv(1) == b"\x16"
                process.send_signal(signal.SIGTERM)
                _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said == b"error: terminated\n"


def _slow_to_compile(path: Path) -> None:
    """A program that takes the compiler long, and then never ends."""

    def number(value: int) -> bytes:
        low, rest = value & 0x7F, value >> 7
        return bytes([low | 0x80]) + number(rest) if rest else bytes([low])

    def section(kind: int, data: bytes) -> bytes:
        return bytes([kind]) + number(len(data)) + data

    def body(code: bytes) -> bytes:
        return number(len(code) + 2) + b"\0" + code + b"\x0b"

    count = 3000
    # local.get 0, i64.const 77, i64.mul, i64.popcnt, local.get 0, i64.xor, local.set 0
    work = body(b"\x20\0\x42\xcd\0\x7e\x7b\x20\0\x85\x21\0" * 400)
    path.write_bytes(
        b"\0asm\1\0\0\0"
        + section(1, b"\2\x60\0\0\x60\1\x7e\0")
        + section(3, number(count + 1) + b"\0" + b"\1" * count)
        + section(7, b"\1\6_start\0\0")
        + section(10, number(count + 1) + body(b"\3\x40\x0c\0\x0b") + work * count)
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_compilation(
    tmp_path: Path, environment: dict[str, str], number: signal.Signals, code: int
) -> None:
    _slow_to_compile(tmp_path / "slow.wasm")
    cache = tmp_path / "cache"
    with subprocess.Popen(
        [sys.executable, "-m", "garrison", "run", str(tmp_path / "slow.wasm")],
        stderr=subprocess.PIPE,
        env={**environment, "XDG_CACHE_HOME": str(cache)},
    ) as process:
        tasks = Path(f"/proc/{process.pid}/task")
        # The thread that waits for signals, and then the compiler's.
        while len(list(tasks.iterdir())) < 3 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert said in {b"error: interrupted\n", b"error: terminated\n"}
    # It never came to an end, or there would be an entry.
    assert [path.name for path in (cache / "garrison/modules").iterdir()] == ["key"]

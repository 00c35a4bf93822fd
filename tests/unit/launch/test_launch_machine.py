"""The host's side of a machine, with a QEMU that is played: its guest, and guests that attack."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from garrison.attesters.simulated_snp_insecure import SimulatedSnpInsecure, create_insecure
from garrison.errors import GarrisonError, Malformed, Unavailable
from garrison.formats.guest_request import GuestRequest, Local
from garrison.launch.machine import Place, run_machine
from garrison.launch.monitor import Publication
from garrison.launch.qemu_command import Guest, kvm_command

FAKE = "garrison.testing.fake_qemu"


class Host:
    """Runs a play, with standard streams of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = b""
        self.input = b""

    def run(self, play: str, *, boot_seconds: float = 20.0, simulate: bool = False) -> int:
        def command(place: Place) -> list[str]:
            guest = Guest(
                firmware=None,
                kernel=Path("/k"),
                initrd=Path("/i"),
                append="",
                memory=512,
                vcpus=1,
                console=place.console,
                channels=place.channels,
                monitor=place.monitor,
            )
            return [sys.executable, "-m", FAKE, play, *kvm_command(guest, kvm=False)[1:]]

        simulated = None
        if simulate:
            create_insecure(self.folder / "snp", name="unit")
            simulated = SimulatedSnpInsecure.open(self.folder / "snp", measurement=bytes(48))
        (read, send), (receive, write) = os.pipe(), os.pipe()
        os.write(send, self.input)
        os.close(send)
        try:
            return run_machine(
                command,
                GuestRequest(Local()),
                {"main.wasm": b"\0asm"},
                published=[Publication(8080, 18080, "127.0.0.1")],
                insecure_simulated=simulated,
                boot_seconds=boot_seconds,
                streams=(read, write, write),
            )
        finally:
            os.close(read)
            os.close(write)
            with os.fdopen(receive, "rb") as pipe:
                self.output = pipe.read()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    scratch = tmp_path / "t"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    return Host(tmp_path)


def kept(error: GarrisonError) -> str:
    """What the console's file has, that the hint names."""
    found = re.search(r"kept in (\S+\.log), and ends with", str(error.hint))
    assert found, error.hint
    return Path(found[1]).read_text()


def test_streams_and_exit_code_and_nothing_left(host: Host) -> None:
    host.input = b"to and fro\n" * 1000
    assert host.run("cat") == 7
    assert host.output == host.input
    assert list((host.folder / "t").iterdir()) == []


def test_a_guest_that_does_not_come_up_is_told_with_its_console(host: Host) -> None:
    start = time.monotonic()
    with pytest.raises(Unavailable, match=r"guest: did not answer in 2 s") as caught:
        host.run("silent", boot_seconds=2)
    assert time.monotonic() - start < 30
    assert "Kernel panic" in kept(caught.value)
    # It cannot steer the terminal.
    assert "\x1b" not in str(caught.value.hint)


def test_a_guest_that_fills_its_console_does_not_fill_the_host(host: Host) -> None:
    with pytest.raises(Unavailable, match="did not answer") as caught:
        host.run("chatter", boot_seconds=2)
    assert len(kept(caught.value)) <= 256 << 10


def test_a_console_that_cannot_be_kept_is_shown_all_the_same(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(Unavailable) as caught:
        host.run("dies")
    assert "cannot be kept (No space left on device)" in str(caught.value.hint)
    assert "out of memory" in str(caught.value.hint)


def test_a_guest_that_ends_in_the_middle(host: Host) -> None:
    with pytest.raises(Unavailable, match="ended without an exit code") as caught:
        host.run("dies")
    assert "out of memory" in kept(caught.value)


@pytest.mark.parametrize(
    ("play", "said"),
    [("missing-library", "libpixman"), ("old", "not a valid device model")],
)
def test_a_qemu_that_does_not_start_is_told_in_its_words(host: Host, play: str, said: str) -> None:
    with pytest.raises(Unavailable, match="QEMU: does not start") as caught:
        host.run(play)
    assert said in str(caught.value.hint)


@pytest.mark.parametrize(
    ("play", "said"),
    [
        ("garbage-control", "channel garrison.control: not a frame"),
        ("garbage-stdout", "channel garrison.stdout: not a frame"),
        ("huge-frame", "channel garrison.stderr: too long a frame"),
        ("no-frame-for-hosts", "channel garrison.control: takes no such frame"),
        ("two-byte-exit", "channel garrison.control: too long a frame"),
        ("bad-phase", "phase: not a word and a number"),
        ("garbage-monitor", "QEMU's monitor: not JSON"),
        ("asks-on", "channel garrison.control: asks on, and does not take the answers"),
        ("asks-on-simulated", "channel garrison.insecure-simulated: asks on, and does not take"),
        ("garbage-simulated", "channel garrison.insecure-simulated: not a frame"),
    ],
)
def test_a_guest_that_breaks_the_protocol_is_ended(host: Host, play: str, said: str) -> None:
    with pytest.raises(Malformed, match=re.escape(said)) as caught:
        host.run(play, simulate=play.endswith("-simulated"))
    assert "\x1b" not in str(caught.value)
    assert caught.value.hint


def test_a_port_is_forwarded_to_where_it_was_published(host: Host) -> None:
    assert host.run("listens") == 0
    assert host.output == b"hostfwd_add net tcp:127.0.0.1:18080-:8080 8080 0\n"


def test_a_port_of_udp_is_another_one(host: Host) -> None:
    """What was published is the port of TCP, so this one has its own number, on all addresses."""
    assert host.run("listens_udp") == 0
    assert host.output == b"hostfwd_add net udp:0.0.0.0:8080-:8080 8080 0\n"


def test_a_port_of_udp_that_cannot_be_had_is_told_to_the_guest(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAKE_QEMU", "taken")
    assert host.run("listens_udp") == 0
    assert host.output.endswith(b" 8080 98\n")
    assert "port 8080 of this host cannot be had" in caplog.text


def test_a_port_that_cannot_be_had_is_told_to_the_guest(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAKE_QEMU", "taken")
    with socket.socket() as taken, suppress(OSError):
        taken.bind(("127.0.0.1", 18080))
        taken.listen()
        assert host.run("listens") == 0
    assert host.output.endswith(b" 8080 98\n")
    assert "port 18080 of this host cannot be had: Address already in use" in caplog.text


def test_the_host_answers_for_a_tee(host: Host) -> None:
    assert host.run("attests", simulate=True) == 0
    assert host.output == b"True\n"


_SCRIPT = """#!/bin/sh
exec {python} -m garrison.testing.fake_qemu {play} "$@"
"""


def _command(tmp_path: Path, play: str) -> tuple[list[str], dict[str, str], Path]:
    """`garrison run --backend kvm`, with a QEMU that is played."""
    path, image, pid = tmp_path / "bin", tmp_path / "image", tmp_path / "pid"
    path.mkdir()
    (path / "qemu-system-x86_64").write_text(_SCRIPT.format(python=sys.executable, play=play))
    (path / "qemu-system-x86_64").chmod(0o755)
    image.mkdir()
    parts = dict.fromkeys(("vmlinuz", "initrd", "cmdline"), "sha256:00")
    for name in parts:
        (image / name).write_text("x")
    import json

    about = {"format": 1, "digest": "sha256:0", "inputs": "sha256:0", "parts": parts}
    (image / "image.json").write_text(json.dumps(about))
    (tmp_path / "main.wasm").write_bytes(b"\0asm\1\0\0\0")
    (tmp_path / "scratch").mkdir()
    environment = {
        "PATH": f"{path}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path / "scratch"),
        "FAKE_QEMU_PID": str(pid),
    }
    command = [sys.executable, "-m", "garrison", "run", "--backend", "kvm", "--image", str(image)]
    return [*command, str(tmp_path / "main.wasm")], environment, pid


def _await(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("play", ["starting", "waits"])
def test_a_signal_at_each_phase_ends_both(
    tmp_path: Path, play: str, number: signal.Signals
) -> None:
    command, environment, pid = _command(tmp_path, play)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as garrison:
        _await(pid.exists, "QEMU does not start")
        if play == "waits":
            assert garrison.stdout is not None
            assert garrison.stdout.readline() == "running\n"
        else:
            time.sleep(0.2)
        garrison.send_signal(number)
        _, errors = garrison.communicate(timeout=30)
    assert garrison.returncode == 128 + number, errors
    assert "Traceback" not in errors
    assert _gone(int(pid.read_text()))
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_second_signal_ends_a_guest_that_does_not_listen(tmp_path: Path) -> None:
    command, environment, pid = _command(tmp_path, "deaf")
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as garrison:
        assert garrison.stdout is not None
        assert garrison.stdout.readline() == "running\n"
        garrison.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert garrison.poll() is None
        garrison.send_signal(signal.SIGINT)
        assert garrison.wait(30) == 130
    assert _gone(int(pid.read_text()))


def test_no_qemu_outlives_a_command_that_is_killed(tmp_path: Path) -> None:
    command, environment, pid = _command(tmp_path, "deaf")
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as garrison:
        assert garrison.stdout is not None
        assert garrison.stdout.readline() == "running\n"
        garrison.kill()
    _await(lambda: _gone(int(pid.read_text())), "QEMU lives on")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_without_qemu_the_remedy_is_told(tmp_path: Path) -> None:
    command, environment, _ = _command(tmp_path, "cat")
    environment["PATH"] = str(tmp_path)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "qemu-system-x86_64: is not installed" in done.stderr
    assert "hint: install qemu-system-x86 (Debian)" in done.stderr


def test_without_an_image_the_remedy_is_told(tmp_path: Path) -> None:
    command, environment, _ = _command(tmp_path, "cat")
    command = [each for each in command if each not in {"--image", str(tmp_path / "image")}]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the keep image of this release is not built" in done.stderr
    assert "garrison image build" in done.stderr

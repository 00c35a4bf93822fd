"""A hostile host around a keep's machine: what it boots, says, and says about the time.

The host's simulator reports what the hardware would: the measurement of what is booted. So an image
that was changed stands here for a host that boots something else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Self

import pytest
from tests.machines import GROUP, keep_image

from garrison.formats.channel import CHANNELS, CONTROL, MAX_REQUEST
from garrison.image.folder import COMMAND_LINE, INITRD, load
from garrison.keep.engine.library import wat2wasm
from garrison.keep.selftest import _GUEST
from garrison.launch.qemu_command import QEMU, Guest, kvm_command
from garrison.testing.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group(GROUP)]
_NAME = "honest:0.1.0"
_SECONDS = 240.0


@pytest.fixture(scope="module")
def image() -> Path:
    return keep_image()


@pytest.fixture(scope="module")
def stack(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Services whose policy has the prediction for the image, and a workload."""
    with Stack(tmp_path_factory.mktemp("machines"), image) as stack:
        stack.start_services()
        stack.login()
        stack.register_repo("honest")
        package = stack.directory / "package"
        package.mkdir()
        (package / "main.wasm").write_bytes(wat2wasm(_GUEST))
        stack.publish(package, _NAME)
        yield stack


def _copy(image: Path, to: Path) -> Path:
    shutil.copytree(image, to)
    return to


def test_what_would_be_seen_if_an_attack_worked(stack: Stack) -> None:
    done = stack.run(*stack.deploy_arguments(_NAME))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hello from WebAssembly\n"


def _refused(stack: Stack, image: Path) -> None:
    measured = stack.command("image", "measure", str(image), "--tee", "snp").strip()
    assert measured != stack.measurement
    done = stack.run(*stack.deploy_arguments(_NAME, image=image))
    assert done.returncode == 77, done.stderr
    assert "launch measurement: the policy does not admit it" in done.stderr
    assert f"found {measured}" in done.stderr
    assert "hello" not in done.stdout


def test_an_extra_word_on_the_kernels_command_line(
    stack: Stack, image: Path, tmp_path: Path
) -> None:
    changed = _copy(image, tmp_path / "image")
    line = (image / COMMAND_LINE).read_text()
    (changed / COMMAND_LINE).write_text(f"{line} slab_nomerge")
    _refused(stack, changed)


def test_another_initial_file_system(stack: Stack, image: Path, tmp_path: Path) -> None:
    """More of it: Linux takes what follows an archive for another, over the first."""
    changed = _copy(image, tmp_path / "image")
    with (changed / INITRD).open("ab") as file:
        file.write(bytes(512))
    _refused(stack, changed)


def _wrapped(folder: Path, *arguments: str) -> str:
    """A path on which QEMU is started with more arguments than it was given."""
    real = shutil.which(QEMU)
    words = " ".join(f"'{each}'" for each in arguments)
    (folder / QEMU).write_text(f'#!/bin/sh\nexec {real} "$@" {words}\n')
    (folder / QEMU).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_the_host_lies_about_the_time(stack: Stack, tmp_path: Path) -> None:
    path = _wrapped(tmp_path, "-rtc", "base=2020-01-01T00:00:00")
    done = stack.run(
        *stack.deploy_arguments(_NAME), environment={**stack.environment, "PATH": path}
    )
    assert done.returncode == 76, done.stderr
    assert "certificate is not yet valid" in done.stderr
    assert "hello" not in done.stdout


class Machine:
    """A real machine whose host speaks as it likes."""

    def __init__(self, image: Path, tee: str | None = None, *more: str) -> None:
        """Start it, as a machine of `tee`, with `more` for QEMU."""
        found = load(image)
        names = (*CHANNELS, "console")
        pairs = {name: socket.socketpair() for name in names}
        self.ends = {name: ours for name, (ours, _) in pairs.items()}
        guest = Guest(
            firmware=None,
            kernel=found.kernel,
            initrd=found.initrd,
            append=found.command_line_in(tee),
            memory=512,
            vcpus=1,
            console=pairs["console"][1].fileno(),
            channels=tuple((name, pairs[name][1].fileno()) for name in CHANNELS),
        )
        self.process = subprocess.Popen(
            [*kvm_command(guest, kvm=False), *more],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno() for _, theirs in pairs.values()],
        )
        for _, theirs in pairs.values():
            theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for end in self.ends.values():
            end.close()

    def until(self, channel: str, text: bytes) -> bytes:
        """All that comes on a channel until `text` does."""
        said = b""
        deadline = time.monotonic() + _SECONDS
        while text not in said:
            self.ends[channel].settimeout(max(0.1, deadline - time.monotonic()))
            data = self.ends[channel].recv(1 << 16)
            assert data, f"ended with {said!r}"
            said += data
        return said


# The first serial port, and some memory where a guest with 512 MiB has nothing but memory.
_PORT, _MEMORY = 0x3F8, 0x0A000000
_FOUND = b"\nAML was here\n"


def _acpi_table() -> bytes:
    """A table whose program writes to the guest's memory, and says so if that worked.

    ACPI 6.5, section 5.2.6 (the header) and chapter 20 (AML): encoded here by hand.
    """

    def pack(content: bytes) -> bytes:
        """What has its length in front, which counts the length's own bytes (20.2.4)."""
        if len(content) < 0x3F:
            return bytes((len(content) + 1,)) + content
        size = len(content) + 2
        return bytes((0x40 | size & 0xF, size >> 4)) + content

    def store(value: bytes, name: bytes) -> bytes:
        return b"\x70" + value + name

    written = b"\x0c" + bytes.fromhex("efbeadde")
    program = b"".join(
        (
            # OperationRegion(COM1, SystemIO, _PORT, 1) and Field(COM1, ByteAcc) { THR_, 8 }
            b"\x5b\x80COM1\x01\x0b" + _PORT.to_bytes(2, "little") + b"\x01",
            b"\x5b\x81" + pack(b"COM1\x01THR_\x08"),
            # OperationRegion(MEM_, SystemMemory, _MEMORY, 4) and Field(MEM_, DWordAcc) { WORD, 32 }
            b"\x5b\x80MEM_\x00\x0c" + _MEMORY.to_bytes(4, "little") + b"\x0a\x04",
            b"\x5b\x81" + pack(b"MEM_\x03WORD\x20"),
            # Local0 = WORD; WORD = 0xDEADBEEF; if (WORD == 0xDEADBEEF) { say so }; WORD = Local0
            store(b"WORD", b"\x60"),
            store(written, b"WORD"),
            b"\xa0"
            + pack(
                b"\x93WORD"
                + written
                + b"".join(store(bytes((0x0A, letter)), b"THR_") for letter in _FOUND)
            ),
            store(b"\x60", b"WORD"),
        )
    )
    size = (36 + len(program)).to_bytes(4, "little")
    head = b"SSDT" + size + b"\x02\0ATTACKATTACKER" + b"\x01\0\0\0HOST\x01\0\0\0"
    table = bytearray(head + program)
    table[9] = -sum(table) & 0xFF
    return bytes(table)


@pytest.mark.parametrize(("tee", "runs"), [(None, True), ("tdx", True), ("snp", False)])
def test_programs_in_the_host_s_acpi_tables(
    image: Path, tmp_path: Path, tee: str | None, *, runs: bool
) -> None:
    """They run where nobody measures anything, or where RTMR0 has them; and not on SNP."""
    table = tmp_path / "table.aml"
    table.write_bytes(_acpi_table())
    with Machine(image, tee, "-acpitable", f"file={table}") as machine:
        machine.until(CONTROL, b"booted")
        machine.ends["console"].settimeout(0)
        said = b""
        with contextlib.suppress(BlockingIOError):
            said = machine.ends["console"].recv(1 << 16)
        assert (_FOUND.strip() in said) is runs, said


def test_a_machine_without_acpi_ends_when_its_first_process_does(image: Path) -> None:
    """The host that hangs up ends the keep; nothing is left that stands still."""
    with Machine(image, "snp") as machine:
        machine.until(CONTROL, b"booted")
        machine.ends[CONTROL].close()
        assert machine.process.wait(_SECONDS) == 0


def test_garbage_on_the_console_and_on_the_channel_of_control(image: Path) -> None:
    """Nobody listens on the console; on the channel a frame that is too long ends the machine."""
    with Machine(image) as machine:
        machine.until(CONTROL, b"booted")
        machine.ends["console"].sendall(b"\x03\x04root\nsh\n\x1b[c" * 50)
        size = (MAX_REQUEST + 1).to_bytes(4, "little")
        machine.ends[CONTROL].sendall(b"G\x01\0\0" + size + b"{}")
        said = machine.until("console", b"too long a frame (request)")
        assert b"channel garrison.control: too long a frame (request)" in said
        assert b"Traceback" not in said
        # It waits until the host has read all, and then is gone.
        machine.ends[CONTROL].close()
        assert machine.process.wait(120) == 0

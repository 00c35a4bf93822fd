"""Keeps in real machines, through the commands: emulated where KVM runs none."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.machines import GROUP, keep_image

from garrison.keep.engine.library import wat2wasm
from garrison.testing.configs import server_config
from garrison.testing.stack import GARRISON, READY_SECONDS, Process, free_port

pytestmark = pytest.mark.xdist_group(GROUP)
DEMO = Path(__file__).parents[2] / "examples" / "demo.py"

# Writes its last argument and a line of standard input, and ends with 7.
_SAYS = """
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read"
    (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (drop (call $sizes (i32.const 64) (i32.const 68)))
    (drop (call $args (i32.const 512) (i32.const 1024)))
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.load (i32.const 68)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 0) (i32.const 4096))
    (i32.store (i32.const 4) (i32.const 4096))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $exit (i32.const 7))))
"""


def _run(
    image: Path, *arguments: str, stdin: str = "", path: str | None = None
) -> subprocess.CompletedProcess[str]:
    environment = os.environ if path is None else {**os.environ, "PATH": path}
    return subprocess.run(
        [*GARRISON, "run", "--backend", "kvm", "--image", str(image), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=2 * READY_SECONDS,
        check=False,
        env=environment,
    )


@pytest.fixture(scope="module")
def image() -> Path:
    return keep_image()


@pytest.fixture(scope="module")
def says(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = tmp_path_factory.mktemp("guest") / "says.wasm"
    module.write_bytes(wat2wasm(_SAYS))
    return module


def test_a_workload_in_a_machine_has_arguments_streams_and_an_exit_code(
    image: Path, says: Path
) -> None:
    done = _run(image, str(says), "hello", stdin="from afar\n")
    assert done.returncode == 7, done.stderr
    assert done.stdout == "main.wasm\0hello\0"
    assert "from afar\n" in done.stderr


@pytest.mark.slow
def test_a_port_of_the_workload_is_one_of_the_host(image: Path, says: Path, tmp_path: Path) -> None:
    """At the place that was published; and one that is taken is the workload's error."""
    port, here = free_port(), free_port()
    config = tmp_path / "Enarx.toml"
    config.write_text(server_config(port, stdin="stdin", addr="::", more='prot = "tcp"'))
    arguments = [
        "--publish", f"127.0.0.1:{here}:{port}", "--wasmcfgfile", str(config), str(says), "up\n",
    ]  # fmt: skip
    command = [*GARRISON, "run", "--backend", "kvm", "--image", str(image), *arguments]
    keep = Process("the keep", command, os.environ)
    try:
        keep.expect("up")
        socket.create_connection(("127.0.0.1", here), timeout=10).close()
        keep.send("enough")
        assert keep.finish() == 7
        with socket.create_server(("127.0.0.1", here)):
            done = _run(image, *arguments)
        assert done.returncode != 0
        assert f"port {here} of this host cannot be had: Address already in use" in done.stderr
        assert f"the host cannot give port {port}: Address already in use" in done.stderr
    finally:
        keep.stop()


@pytest.mark.slow
def test_a_machine_that_cannot_boot_is_told_with_its_console(
    image: Path, says: Path, tmp_path: Path
) -> None:
    """A kernel without a file system panics, and the machine ends."""
    broken = tmp_path / "image"
    broken.mkdir()
    for each in image.iterdir():
        (broken / each.name).write_bytes(each.read_bytes())
    (broken / "initrd").write_bytes(bytes(1024))
    done = _run(broken, str(says))
    assert done.returncode == 69
    assert "guest: ended without an exit code" in done.stderr
    assert "Kernel panic" in done.stderr
    kept = re.search(r"kept in (\S+),", done.stderr)
    assert kept
    Path(kept[1]).unlink()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_machine_outlives_its_command(image: Path, says: Path, number: signal.Signals) -> None:
    command = [*GARRISON, "run", "--backend", "kvm", "--image", str(image), str(says), "up"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as garrison:
        assert garrison.stdout is not None
        assert garrison.stdout.read(2)
        children = Path(f"/proc/{garrison.pid}/task/{garrison.pid}/children").read_text().split()
        (qemu,) = map(int, children)
        descriptor = os.pidfd_open(qemu)
        try:
            garrison.send_signal(number)
            assert garrison.wait(30) in {128 + number, -number}
            import select

            assert select.select([descriptor], [], [], 10)[0], "QEMU lives on"
        finally:
            os.close(descriptor)


@pytest.mark.slow
def test_the_demonstration_in_machines(image: Path, tmp_path: Path) -> None:
    assert image.exists()
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, str(DEMO), "kvm"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    for step in range(1, 10):
        assert f"✔ {step}." in done.stdout
    assert "the policy does not admit it" in done.stdout
    assert list(tmp_path.iterdir()) == []

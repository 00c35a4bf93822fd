"""How long a keep in a machine takes from the command to its workload's first line, by phase.

The command is `garrison run --backend kvm` with an image that is built already, and QEMU as it
chooses it: with KVM where that runs guests, else emulated. Beside it stands the floor: the same
QEMU, devices and kernel with an initial file system of one static program, up to its first line.

Seconds by the clock, and of processor time of QEMU: on a machine that does other things too, the
latter says more.

    python bench/machine.py [RUNS]
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from start import build

from garrison.image import cpio
from garrison.image.build import Recipe, default_folder
from garrison.image.build import build as build_image
from garrison.image.cpio import Entry
from garrison.launch.acceleration import kvm_runs
from garrison.launch.qemu_command import QEMU, Guest, kvm_command

if TYPE_CHECKING:
    from garrison.image.folder import Image

# From the command to the first line, emulated on two cores.
GOAL_SECONDS = 6.0

_INIT = '#include <unistd.h>\nint main(void) { write(1, "hello\\n", 6); for (;;) pause(); }\n'
_PHASE = re.compile(r"garrison\.launch: (\w+) ([0-9.]+) s after the command; ([0-9.]+) s by")
_TICKS = os.sysconf("SC_CLK_TCK")
# What happens until each phase is told, in order.
_PHASES = {
    "kernel": "firmware, kernel, unpacking of the file system",
    "booted": "Python, kernel modules, the guest's code",
    "ready": "the request, and the network",
}


def processor_seconds(pid: int) -> float:
    """What a process has taken of the processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def floor(image: Image, folder: Path) -> tuple[float, float]:
    """Seconds, and processor seconds, until a bare kernel's only program says its line."""
    source, init, initrd = folder / "init.c", folder / "init", folder / "bare"
    if not initrd.exists():
        source.write_text(_INIT)
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-musl"]
        subprocess.run([*compiler, "-static", "-O2", "-s", source, "-o", init], check=True)
        tree = {
            "init": Entry.file(init.read_bytes(), executable=True),
            "dev": Entry.directory(),
        }
        initrd.write_bytes(cpio.archive(tree))
    qemu = shutil.which(QEMU) or QEMU
    ours, its = socket.socketpair()
    guest = Guest(
        firmware=None,
        kernel=image.kernel,
        initrd=initrd,
        append=image.command_line,
        memory=512,
        vcpus=1,
        console=its.fileno(),
        qemu=qemu,
    )
    start = time.perf_counter()
    with (
        ours,
        ours.makefile("rb") as console,
        subprocess.Popen(
            kvm_command(guest, kvm=kvm_runs(qemu)),
            stdin=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
        ) as process,
    ):
        its.close()
        if not any(b"hello" in line for line in console):
            sys.exit("error: the bare kernel's program said nothing")
        taken = time.perf_counter() - start, processor_seconds(process.pid)
        process.kill()
    return taken


def keep(image: Image, guest: Path) -> dict[str, tuple[float, float]]:
    """Seconds until each phase: after the command, and by the guest's clock or of the processor."""
    command = [str(Path(sys.executable).parent / "garrison"), "--log-level", "debug"]
    command += ["run", "--backend", "kvm", "--image", str(image.folder), str(guest)]
    found = {}
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != "hello\n":
            sys.exit(f"error: no hello: {process.stderr.read()}")
        taken = time.perf_counter() - start
        (qemu,) = children(process.pid)
        found["hello"] = taken, processor_seconds(qemu)
        said = process.stderr.read()
        found["end"] = time.perf_counter() - start, 0.0
    for name, after, clock in _PHASE.findall(said):
        found[name] = float(after), float(clock)
    return found


def main() -> int:
    """Measure, print a table, and return 1 if the goal is missed."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    if shutil.which(QEMU) is None:
        sys.exit(f"error: {QEMU} is not installed: apt-get install qemu-system-x86")
    recipe = Recipe.of_this_release()
    image = build_image(recipe, default_folder(recipe), say=lambda _: None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        guest = build(folder)
        # The first fills caches: of files, and of whether KVM runs.
        keep(image, guest)
        bare = [floor(image, folder) for _ in range(runs)]
        found = [keep(image, guest) for _ in range(runs)]

    def median(phase: str, which: int) -> float:
        return statistics.median(each[phase][which] for each in found)

    def row(what: str, seconds: float, processor: float | None) -> None:
        shown = "" if processor is None else f"{processor:.2f}"
        print(f"| {what} | {seconds:.2f} | {shown} |")

    print("| from the command until | s | QEMU's processor s |")
    print("|---|---|---|")
    row(
        "**floor**: a bare kernel's static program",
        *map(statistics.median, zip(*bare, strict=True)),
    )
    # The machine's clock starts with its kernel.
    off = median("booted", 0) - median("booted", 1)
    row("the kernel's clock starts: command, QEMU, firmware", off, None)
    for phase, what in _PHASES.items():
        row(f"{phase}: {what}", off + median(phase, 1), None)
    row(
        "**hello**: the keep's code, the workload's first line",
        median("hello", 0),
        median("hello", 1),
    )
    row("the command ends", median("end", 0), None)
    return int(median("hello", 0) > GOAL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())

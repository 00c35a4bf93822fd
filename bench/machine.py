"""How long a keep in a machine takes from the command to its workload's first line, by phase.

The command is `garrison run --backend kvm` with an image that is built already, and QEMU as it
chooses it: with KVM where that runs guests, else emulated. Beside it stands the floor: the same
QEMU, devices and kernel with an initial file system of one static program, up to its first line.

Seconds by the clock, of processor time of QEMU, and by the clock without what QEMU waited for a
processor: on a machine that does other things too, the last is what the goal is held to.

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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from start import build

from garrison.image import cpio
from garrison.image.build import Recipe, default_folder
from garrison.image.build import build as build_image
from garrison.image.cpio import Entry
from garrison.launch.acceleration import kvm_runs
from garrison.launch.machine import touch_few_pages
from garrison.launch.qemu_command import EMULATED, QEMU, Guest, kvm_command

if TYPE_CHECKING:
    from garrison.image.folder import Image

# From the command to the first line, emulated on two cores.
GOAL_SECONDS = 6.0

_INIT = '#include <unistd.h>\nint main(void) { write(1, "hello\\n", 6); for (;;) pause(); }\n'
_PHASE = re.compile(r"garrison\.launch: (\w+) [0-9.]+ s after the command")
_TICKS = os.sysconf("SC_CLK_TCK")
_LAST = "ready"
_PHASES = {
    "floor": "**floor**: a bare kernel's static program",
    "booted": "booted: firmware, kernel, file system, Python, the guest's code",
    "ready": "ready: the request",
    "hello": "**hello**: the keep's code, compiling, the workload's first line",
}


@dataclass(frozen=True, slots=True)
class Taken:
    """Until something happened: seconds by the clock, those of QEMU's processor time, and those by
    the clock without what QEMU waited for a processor that others had."""

    clock: float
    processor: float
    alone: float


def taken(start: float, pid: int) -> Taken:
    """What was taken since `start`, of which QEMU is the process `pid`."""
    clock = time.perf_counter() - start
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    # Linux, Documentation/scheduler/sched-stats.rst: nanoseconds on a processor, and waiting.
    threads = [each.read_text().split() for each in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    waited = int(max(threads, key=lambda each: int(each[0]))[1]) / 1e9
    return Taken(clock, (int(fields[11]) + int(fields[12])) / _TICKS, clock - waited)


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def floor(image: Image, folder: Path) -> Taken:
    """What a bare kernel takes until its only program says its line."""
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
        kernel=image.unpacked_kernel,
        initrd=initrd,
        append=image.command_line,
        memory=512,
        vcpus=1,
        console=its.fileno(),
        qemu=qemu,
    )
    command = kvm_command(guest, kvm=kvm_runs(qemu))
    start = time.perf_counter()
    with (
        ours,
        ours.makefile("rb") as console,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
            preexec_fn=touch_few_pages if EMULATED in command else None,  # noqa: PLW1509  (a prctl)
        ) as process,
    ):
        its.close()
        if not any(b"hello" in line for line in console):
            sys.exit("error: the bare kernel's program said nothing")
        found = taken(start, process.pid)
        process.kill()
    return found


def keep(image: Image, guest: Path) -> dict[str, Taken]:
    """What a keep takes until each phase."""
    command = [str(Path(sys.executable).parent / "garrison"), "--log-level", "debug"]
    command += ["run", "--backend", "kvm", "--image", str(image.folder), str(guest)]
    found = {}
    said = []
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            phase = _PHASE.match(line)
            if phase is not None:
                (qemu,) = children(process.pid)
                found[phase[1]] = taken(start, qemu)
                if phase[1] == _LAST:
                    break
        if process.stdout.readline() != "hello\n":
            sys.exit(f"error: no hello: {''.join(said)}{process.stderr.read()}")
        (qemu,) = children(process.pid)
        found["hello"] = taken(start, qemu)
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
        found = []
        for _ in range(runs):
            bare = floor(image, folder)
            found.append({"floor": bare, **keep(image, guest)})
    print("| from the command until | s | QEMU's processor s | s, with a processor to itself |")
    print("|---|---|---|---|")
    for phase, what in _PHASES.items():
        medians = [
            statistics.median(getattr(each[phase], name) for each in found)
            for name in ("clock", "processor", "alone")
        ]
        print(f"| {what} | {' | '.join(f'{each:.2f}' for each in medians)} |")
    return int(statistics.median(each["hello"].alone for each in found) > GOAL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())

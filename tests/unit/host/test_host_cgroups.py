"""What the kernel holds a tenant to: a cgroup that a file system in user space stands in for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garrison.errors import Misuse, Unavailable
from garrison.host.cgroups import Bounds, Cgroups, own_cgroup
from garrison.host.quota import KEEPER_MIB, Quota
from garrison.testing.fuse import cgroups as mounted
from garrison.testing.fuse import mountable

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL = Bounds(cpus=1.5, memory_mib=512, tasks=100)


pytestmark = pytest.mark.skipif(not mountable(), reason="needs libfuse and /dev/fuse")


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process that has started another."""
    code = "import subprocess; subprocess.run(['sleep', '600'])"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.02)
        yield process.pid
        os.kill(int(found[0]), 15)


def test_a_tenant_has_a_cgroup_with_all_bounds(tmp_path: Path) -> None:
    with mounted(tmp_path) as root:
        cgroups = Cgroups(root, ALL)
        jane, joe = cgroups.of("jane"), cgroups.of("../joe")
        assert jane == cgroups.of("jane") != joe
        assert {jane.parent, joe.parent} == {root}
        assert (jane / "cpu.max").read_text() == "150000 100000\n"
        assert (jane / "memory.max").read_text() == f"{512 << 20}\n"
        assert (jane / "pids.max").read_text() == "100\n"
        # What was bounded, and is not any more.
        assert Cgroups(root, Bounds(tasks=50)).of("jane") == jane
        assert (jane / "cpu.max").read_text() == "max\n"
        assert (jane / "pids.max").read_text() == "50\n"


def test_the_agent_makes_room_for_itself(tmp_path: Path) -> None:
    with mounted(tmp_path, os.getpid()) as root:
        Cgroups(root, ALL)
        assert (root / "cgroup.procs").read_text().split() == []
        assert (root / "agent/cgroup.procs").read_text().split() == [str(os.getpid())]
        assert (root / "cgroup.subtree_control").read_text().split() == ["cpu", "memory", "pids"]


def test_processes_that_run_are_taken_with_those_below(tmp_path: Path, sleeper: int) -> None:
    with mounted(tmp_path) as root:
        cgroups = Cgroups(root, ALL)
        # One that has ended meanwhile stops nobody.
        cgroups.take("jane", [_ended(), sleeper])
        there = set((cgroups.of("jane") / "cgroup.procs").read_text().split())
        child = Path(f"/proc/{sleeper}/task/{sleeper}/children").read_text().split()
        assert there == {str(sleeper), *child}
        # One that has nobody goes; hers does not.
        nobody = cgroups.of("joe")
        cgroups.sweep()
        assert not nobody.exists()
        assert cgroups.of("jane").exists()


def _ended() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_bound_that_cannot_be_set_is_refused(tmp_path: Path, sleeper: int) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(Misuse, match="not a cgroup of version 2") as caught:
        Cgroups(tmp_path / "plain", ALL)
    assert "Delegate=" in (caught.value.hint or "")
    with mounted(tmp_path, controllers="memory,pids") as root:
        with pytest.raises(Misuse, match="lacks controllers") as caught:
            Cgroups(root, ALL)
        assert caught.value.found == f"{root}: memory pids"
        assert caught.value.expected == "cpu memory pids"
        # What it has is enough for this one.
        Cgroups(root, Bounds(tasks=20))
    (tmp_path / "cgroup").rmdir()
    with (
        mounted(tmp_path, sleeper) as root,
        pytest.raises(Misuse, match="cannot be divided: Device or resource busy"),
    ):
        Cgroups(root, ALL)


def test_a_cgroup_that_goes_away_is_noticed(tmp_path: Path) -> None:
    with mounted(tmp_path) as root:
        cgroups = Cgroups(root, ALL)
    with pytest.raises(Unavailable, match="cannot bound a tenant's keeps"):
        cgroups.of("jane")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("0::/system.slice/garrison-host.service", "system.slice/garrison-host.service"),
        ("0::/system.slice/garrison-host.service/agent", "system.slice/garrison-host.service"),
        ("3:cpu:/elsewhere\n0::/", "."),
    ],
)
def test_the_agent_finds_what_it_was_given(tmp_path: Path, line: str, found: str) -> None:
    (tmp_path / "cgroup").write_text(line + "\n")
    (tmp_path / "mountinfo").write_text(
        "24 1 0:22 / /proc rw shared:1 - proc proc rw\n"
        "31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
    )
    assert own_cgroup(tmp_path) == Path("/sys/fs/cgroup") / found


def test_without_version_2_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("4:memory:/\n")
    (tmp_path / "mountinfo").write_text("31 24 0:27 / /sys/fs/cgroup rw - cgroup cgroup rw\n")
    with pytest.raises(Misuse, match="no cgroup of version 2"):
        own_cgroup(tmp_path)


def test_what_a_quota_asks_of_the_kernel() -> None:
    assert Quota(keeps=4, memory_mib=100).bounds() is None
    bounds = Quota(keeps=4, memory_mib=100, cpus=0.005, tasks=64).bounds()
    assert bounds == Bounds(0.005, 100 + 4 * KEEPER_MIB, 64)
    # The kernel takes no less than a millisecond.
    assert bounds.files()["cpu.max"] == "1000 100000"


_SPINS = """
import sys, time
from pathlib import Path
from garrison.host.cgroups import join
join(Path(sys.argv[1]))
began, end = time.process_time(), time.monotonic() + 3
while time.monotonic() < end:
    pass
print(time.process_time() - began)
"""


def test_the_kernel_bounds_a_spinning_process() -> None:
    """A real cgroup, below the root of those of this machine."""
    root = Path("/sys/fs/cgroup")
    directory = root / f"garrison-test-{os.getpid()}"
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error.strerror}")
    made = [directory]
    try:
        controllers = directory / "cgroup.controllers"
        if not controllers.exists() or "cpu" not in controllers.read_text().split():
            pytest.skip("the machine's cgroups are not of version 2, or keep their processors")
        tenant = Cgroups(directory, Bounds(cpus=0.2)).of("jane")
        made.append(tenant)
        done = subprocess.run(
            [sys.executable, "-c", _SPINS, str(tenant)],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        # A fifth of three seconds, and one period more.
        assert float(done.stdout) < 0.9
    finally:
        for each in reversed(made):
            each.rmdir()

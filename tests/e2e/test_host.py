"""Another's host: tenants believe nothing it says, and its keeps outlive its agent."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from garrison.testing.configs import server_config
from garrison.testing.fuse import cgroups, mountable
from garrison.testing.stack import GARRISON, Process, Stack, free_port

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "languages"))
from build import LANGUAGES  # type: ignore[import-not-found]  # (not ours)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.xdist_group("stack")]

_CAT = """
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
  char line[100];
  setvbuf(stdout, NULL, _IOLBF, 0);
  puts("cat is here");
  while (fgets(line, sizeof line, stdin))
    printf("you said %s", line);
  return 3;
}
"""
_HOG = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (int mib = 16; mib <= 1024; mib += 16) {
    volatile char *more = malloc(16 << 20);
    if (more == NULL) return 4;
    for (int at = 0; at < 16 << 20; at += 4096) more[at] = 1;
    printf("took %d\\n", mib);
  }
  return 0;
}
"""


class Host:
    """An agent, its directory, and tenants that are logged in there."""

    def __init__(self, stack: Stack, directory: Path, *options: str) -> None:
        self.stack = stack
        self.directory = directory
        self.options = options
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        self.agent = self.start()
        for tenant in ("jane", "joe"):
            self.login(tenant)

    @property
    def ca(self) -> Path:
        return self.directory / "tls" / "ca.pem"

    def start(self) -> Process:
        agent = self.stack.start(
            "the host", "host", "serve", "--dir", str(self.directory), "--port", str(self.port),
            "--insecure-dev", "--tenant", "jane", "--tenant", "joe", "--max-keeps", "3",
            *self.options,
        )  # fmt: skip
        agent.expect("listening on https://")
        return agent

    def login(self, tenant: str) -> None:
        done = self.run(
            tenant, "user", "login", "--ca-bundle", str(self.ca), "--oidc-client-id", tenant,
            "--oidc-domain", f"{self.url}/insecure-oidc/",
            "--oidc-secret-file", str(self.directory / "insecure-oidc-secret"),
            f"localhost:{self.port}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def environment(self, tenant: str) -> dict[str, str]:
        home = self.directory.parent / f"home-{tenant}"
        home.mkdir(exist_ok=True)
        return {**self.stack.environment, "HOME": str(home)}

    def run(
        self, tenant: str, *arguments: str, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self.stack.run(*arguments, stdin=stdin, environment=self.environment(tenant))

    def host(self, tenant: str, verb: str, *arguments: str, **options: Any) -> str:
        there = ("--host", self.url, "--host-ca", str(self.ca))
        done = self.run(tenant, "host", verb, *there, *arguments, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def deploy(self, tenant: str, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        arguments = self.stack.deploy_arguments(name)
        there = ("--host", self.url, "--host-ca", str(self.ca), *options)
        return self.run(tenant, arguments[0], *there, *arguments[1:])

    def keeps(self, tenant: str = "jane") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.host(tenant, "ps", "--json"))
        return found


@pytest.fixture(scope="module")
def server(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """A published echo server, and the port that it listens on."""
    package = tmp_path_factory.mktemp("echo")
    LANGUAGES["c"].build("server", package / "main.wasm")
    port = free_port()
    (package / "Enarx.toml").write_text(server_config(port, stdin="stdin"))
    stack.register_repo("echo")
    stack.publish(package, "echo:0.1.0")
    return "echo:0.1.0", port


@pytest.fixture(scope="module")
def cat(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A published program that answers its input, and ends with 3."""
    return published(stack, tmp_path_factory, "cat", _CAT)


@pytest.fixture(scope="module")
def hog(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A published program that takes all the memory that it gets."""
    return published(stack, tmp_path_factory, "hog", _HOG)


def published(stack: Stack, tmp_path_factory: pytest.TempPathFactory, name: str, text: str) -> str:
    package = tmp_path_factory.mktemp(name)
    source = tmp_path_factory.mktemp("source") / f"{name}.c"
    source.write_text(text)
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s"]
    environment = {"ZIG_GLOBAL_CACHE_DIR": str(Path(sys.prefix) / "zig-cache"), **os.environ}
    subprocess.run(
        [*compiler, str(source), "-o", str(package / "main.wasm")], check=True, env=environment
    )
    stack.register_repo(name)
    stack.publish(package, f"{name}:0.1.0")
    return f"{name}:0.1.0"


@pytest.fixture
def host(stack: Stack, tmp_path: Path) -> Iterator[Host]:
    found = Host(stack, tmp_path / "host")
    try:
        yield found
    finally:
        done = stack.run("host", "drain", str(found.directory))
        found.agent.stop()
        assert done.returncode == 0, done.stderr


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def eventually(true: Callable[[], bool]) -> bool:
    """Whether it comes to be true."""
    for _ in range(100):
        if true():
            return True
        time.sleep(0.2)
    return False


def test_running_is_said_once_the_keep_has_shown_it(host: Host, server: tuple[str, int]) -> None:
    name, port = server
    done = host.deploy("jane", name, "--json", "--measurement", host.stack.measurement)
    assert done.returncode == 0, done.stderr
    assert "running" not in done.stdout
    told = json.loads(done.stdout)
    assert told["slug"] == host.stack.slug(name)
    assert told["at"] == f"localhost:{port}"
    assert told["measurement"] == host.stack.measurement
    assert told["tee"] == "snp"
    (keep,) = host.keeps()
    assert (keep["id"], keep["phase"], keep["ports"]) == (told["keep"], "running", [port])
    assert host.keeps("joe") == []
    for verb in ("stop", "inspect", "logs", "attach"):
        there = ("--host", host.url, "--host-ca", str(host.ca))
        other = host.run("joe", "host", verb, *there, told["keep"], stdin="")
        assert other.returncode == 77, verb
        assert "no such keep" in other.stderr or "404" in other.stderr
        assert other.stdout == ""

    # A port has one keep at a time.
    again = host.deploy("joe", name)
    assert again.returncode == 77
    assert "taken by another keep" in again.stderr

    # The agent is killed, the keep goes on, and the next agent finds it.
    os.kill(host.agent.pid, signal.SIGKILL)
    host.agent.stop()
    os.kill(keep["pid"], 0)
    host.agent = host.start()
    host.login("jane")
    (found,) = host.keeps()
    assert (found["id"], found["pid"], found["phase"]) == (keep["id"], keep["pid"], "running")
    assert "listening" in host.host("jane", "logs", keep["id"])

    host.host("jane", "stop", keep["id"])
    assert gone(keep["pid"])
    (ended,) = host.keeps()
    assert (ended["phase"], ended["exit_code"], ended["stopped"]) == ("ended", 143, True)
    host.host("jane", "stop", keep["id"])
    assert host.keeps() == []


def test_another_measurement_digest_or_root_is_not_running(
    host: Host, server: tuple[str, int], tmp_path: Path
) -> None:
    name, _ = server
    done = host.deploy("jane", name, "--measurement", "11" * 48)
    assert done.returncode == 77
    assert "the host runs something else" in done.stderr
    assert "measurement" in done.stderr
    assert "running" not in done.stdout
    digest = host.deploy("jane", name, "--digest", "A" * 43)
    assert digest.returncode == 77
    assert "another workload under this tag" in digest.stderr
    assert len(host.keeps()) == 1  # nothing was asked of the host


def test_an_impostor_in_the_keeps_place_is_not_running(
    host: Host, server: tuple[str, int], cat: str
) -> None:
    """The host says that it started a keep, and answers in its place."""
    name, port = server
    impostor = subprocess.Popen(
        ["openssl", "s_server", "-accept", str(port), "-quiet",
         "-cert", str(host.directory / "tls/server.pem"),
         "-key", str(host.directory / "tls/server.key")],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(0.5)
        done = host.deploy("jane", name)
    finally:
        impostor.terminate()
        impostor.wait()
    assert done.returncode in {76, 77}, done.stderr
    assert "running: verified" not in done.stderr + done.stdout


def test_logs_attach_and_restarts(host: Host, cat: str) -> None:
    done = host.deploy("jane", cat, "--restart", "on-failure")
    assert done.returncode == 0, done.stderr
    assert "not verified" in done.stderr
    name = done.stdout.strip()
    follower = Process(
        "logs",
        [*GARRISON, "host", "logs", "-f", "--host", host.url, "--host-ca", str(host.ca), name],
        host.environment("jane"),
    )
    try:
        follower.expect("cat is here")
        attached = Process(
            "attach",
            [*GARRISON, "host", "attach", "--host", host.url, "--host-ca", str(host.ca), name],
            host.environment("jane"),
        )
        try:
            attached.send("hello")
            attached.expect("you said hello")
            follower.expect("you said hello")
        finally:
            attached.stop()
        # It fails, and is started again.
        (keep,) = host.keeps()
        os.kill(keep["pid"], signal.SIGKILL)
        follower.expect("ended with 137; started again in 1 s")
        follower.expect("cat is here")
        (again,) = host.keeps()
        assert (again["restarts"], again["phase"], again["exit_code"]) == (1, "running", 137)
        assert again["pid"] != keep["pid"]
        host.host("jane", "stop", name)
        assert follower.finish() == 0
    finally:
        follower.stop()


def test_the_end_of_the_machine_and_a_keep_that_should_go_on(host: Host, cat: str) -> None:
    """All ends at once, as when the power fails: what was to go on does, with the next agent."""
    names = {}
    for restart in ("always", "no"):
        done = host.deploy("jane", cat, "--restart", restart)
        assert done.returncode == 0, done.stderr
        names[restart] = done.stdout.strip()
    os.kill(host.agent.pid, signal.SIGKILL)
    for name in names.values():
        state = json.loads((host.directory / "keeps" / name / "state.json").read_text())
        os.kill(state["shim"], signal.SIGKILL)
        assert gone(state["pid"])
    host.agent.stop()
    host.agent = host.start()
    host.login("jane")

    def phases() -> dict[str, str]:
        return {keep["id"]: keep["phase"] for keep in host.keeps()}

    assert eventually(lambda: phases()[names["always"]] == "running")
    assert phases()[names["no"]] == "ended"


def test_memory_is_bounded(host: Host, hog: str) -> None:
    """A workload that takes a gigabyte, in a keep of 256 MiB."""
    done = host.deploy("jane", hog, "--memory-mib", "256")
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    lines = host.host("jane", "logs", "-f", name).splitlines()
    taken = [int(line.split()[1]) for line in lines if line.startswith("took ")]
    assert 16 <= max(taken) < 256
    (keep,) = host.keeps()
    assert (keep["phase"], keep["memory_mib"]) == ("ended", 256)
    assert keep["exit_code"] not in (0, None)


@contextlib.contextmanager
def running(stack: Stack, directory: Path, *options: str) -> Iterator[Host]:
    """A host of its own, all of whose keeps end with the block."""
    host = Host(stack, directory, *options)
    try:
        yield host
    finally:
        drained = stack.run("host", "drain", str(directory))
        host.agent.stop()
        assert drained.returncode == 0, drained.stderr


@pytest.mark.skipif(not mountable(), reason="needs libfuse and /dev/fuse")
def test_processors_and_tasks_are_the_kernels_to_bound(
    stack: Stack, cat: str, tmp_path: Path
) -> None:
    """In a cgroup that is played; that the kernel's bounds is for its own tests to show."""
    with cgroups(tmp_path) as root:
        bounds = ("--cgroup", str(root), "--max-cpus", "0.5", "--max-tasks", "64")
        with running(stack, tmp_path / "h", *bounds, "--max-memory-mib", "512") as host:
            done = host.deploy("jane", cat, "--memory-mib", "256")
            assert done.returncode == 0, done.stderr
            (keep,) = host.keeps()
            shim = json.loads((host.directory / f"keeps/{keep['id']}/state.json").read_text())
            (tenant,) = root.glob("tenant-*")
            files = {path.name: path.read_text().strip() for path in tenant.iterdir()}
            # The keeper went there by itself; children are born where it is, but not in this play.
            assert files["cgroup.procs"] == str(shim["shim"])
            assert files["cpu.max"] == "50000 100000"
            assert files["pids.max"] == "64"
            assert files["memory.max"] == str((512 + 3 * 128) << 20)
            # The next agent has other bounds, and holds what runs to them.
            host.agent.stop()
            host.options = ("--cgroup", str(root), "--max-cpus", "0.25")
            host.start()
            host.login("jane")
            assert (tenant / "cpu.max").read_text() == "25000 100000\n"
            assert (tenant / "pids.max").read_text() == "max\n"
            there = (tenant / "cgroup.procs").read_text().split()
            assert there == [str(shim["shim"]), str(keep["pid"])]
            # No cgroup, no keep: nothing is left of it.
            subprocess.run(["umount", "--lazy", str(root)], check=True)
            refused = host.deploy("jane", cat)
            assert refused.returncode == 69
            assert "the host cannot bound a tenant's keeps" in refused.stderr
            assert host.keeps() == [keep]


def test_a_bound_that_cannot_be_had_stops_the_agent(stack: Stack, tmp_path: Path) -> None:
    start = ("host", "serve", "--dir", str(tmp_path / "h"), "--insecure-dev", "--tenant", "jane")
    done = stack.run(*start, "--max-cpus", "1", "--cgroup", str(tmp_path))
    assert done.returncode == 2
    assert "--cgroup: not a cgroup of version 2" in done.stderr
    assert "Delegate=cpu memory pids" in done.stderr
    idle = stack.run(*start, "--cgroup", str(tmp_path))
    assert idle.returncode == 2
    assert "--cgroup: bounds nothing" in idle.stderr
    assert not (tmp_path / "h").exists()


def test_a_tenants_part_of_the_disk_is_bounded(stack: Stack, cat: str, tmp_path: Path) -> None:
    with running(stack, tmp_path / "h", "--max-disk-mib", "24") as host:
        first, second = (host.deploy("jane", cat).stdout.strip() for _ in range(2))
        full = host.deploy("jane", cat)
        assert full.returncode == 77
        assert "the quota of the host's disk is used up" in full.stderr
        assert host.deploy("joe", cat).returncode == 0
        # One that has ended takes what it wrote, and no more.
        host.host("jane", "stop", first)
        third = host.deploy("jane", cat)
        assert third.returncode == 0, third.stderr
        for keep in (second, third.stdout.strip()):
            host.host("jane", "stop", keep)
        written = host.directory / f"keeps/{second}/log"
        written.write_bytes(bytes(20 << 20))
        full = host.deploy("jane", cat)
        assert full.returncode == 77
        assert "`garrison host stop` forgets a keep" in full.stderr
        host.host("jane", "stop", second)
        assert host.deploy("jane", cat).returncode == 0


def test_a_full_disk_costs_the_log_and_not_the_keep(stack: Stack, cat: str, tmp_path: Path) -> None:
    directory = tmp_path / "small"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)]
    may = os.geteuid() == 0 and shutil.which("mount") is not None
    if not may or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system of a bounded size can be mounted here")
    try:
        with running(stack, directory) as host:
            name = host.deploy("jane", cat, "--restart", "always").stdout.strip()
            (keep,) = host.keeps()
            filler = directory / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(b"\0" * 4096):
                    pass
            full = host.deploy("jane", cat)
            assert full.returncode == 69
            assert "cannot write down a keep: No space left on device" in full.stderr
            assert host.keeps() == [keep]
            # It ends, and is started again; that is written down when there is room.
            os.kill(keep["pid"], signal.SIGKILL)
            assert gone(keep["pid"])
            time.sleep(3)
            filler.unlink()
            assert eventually(lambda: host.keeps()[0]["restarts"] == 1)
            (again,) = host.keeps()
            assert (again["id"], again["phase"]) == (name, "running")
            assert again["pid"] != keep["pid"]
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_relative_directory_and_a_port_that_is_taken(
    stack: Stack, server: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Of two the last one counts.
    with running(stack, tmp_path / "h", "--dir", "h") as host:
        name, port = server
        first = host.deploy("jane", name)
        assert first.returncode == 0, first.stderr
        assert "running: verified" in first.stderr + first.stdout
        # Whose it is, is not told.
        second = host.deploy("joe", name)
        assert second.returncode == 77
        assert f"keep: ports: taken by another keep; found [{port}]" in second.stderr


def test_quotas_strangers_and_draining(host: Host, cat: str) -> None:
    for _ in range(3):
        assert host.deploy("jane", cat).returncode == 0
    full = host.deploy("jane", cat)
    assert full.returncode == 77
    assert "the quota is used up" in full.stderr
    # Another tenant has a quota of its own.
    assert host.deploy("joe", cat).returncode == 0
    host.login("mallory")
    stranger = host.deploy("mallory", cat)
    assert stranger.returncode == 77
    assert "not a tenant of this host" in stranger.stderr
    nobody = host.run("nobody", "host", "ps", "--host", host.url, "--host-ca", str(host.ca))
    assert nobody.returncode == 2
    assert "no token for this host" in nobody.stderr

    pids = [keep["pid"] for keep in host.keeps()]
    drained = host.stack.run("host", "drain", str(host.directory))
    assert drained.returncode == 0, drained.stderr
    assert "ended 4 keeps" in drained.stderr
    assert all(map(gone, pids))
    refused = host.deploy("jane", cat)
    assert refused.returncode == 69
    assert "drained" in refused.stderr
    assert [keep["phase"] for keep in host.keeps()] == ["ended"] * 3


def test_a_host_without_tenants_does_not_start(stack: Stack, tmp_path: Path) -> None:
    done = stack.run("host", "serve", "--dir", str(tmp_path / "h"), "--insecure-dev")
    assert done.returncode == 2
    assert "--tenant" in done.stderr
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize("engine", ["kubernetes", "nomad", "systemd"])
def test_manifests_for_other_schedulers(stack: Stack, server: tuple[str, int], engine: str) -> None:
    name, port = server
    verb, *arguments = stack.deploy_arguments(name, simulate=False)
    container = [] if engine == "systemd" else ["--container-image", "garrison:test"]
    done = stack.run(verb, "--output", engine, *container, *arguments)
    assert done.returncode == 0, done.stderr
    assert stack.slug(name) in done.stdout
    assert "BEGIN CERTIFICATE" in done.stdout
    if engine != "systemd":
        assert str(port) in done.stdout
        assert stack.run(verb, "--output", engine, *arguments).returncode == 2
    simulated = stack.run(verb, "--output", engine, *stack.deploy_arguments(name)[1:])
    assert simulated.returncode == 2
    assert "--insecure-simulate" in simulated.stderr


def test_manifests_for_machines(stack: Stack, server: tuple[str, int]) -> None:
    name, port = server
    verb, *arguments = stack.deploy_arguments(name, simulate=False)
    machine = ("--backend", "kvm", "--image", "/srv/image", "--publish", f"9443:{port}")
    done = stack.run(verb, *arguments, "--output", "nomad", *machine)
    assert done.returncode == 0, done.stderr
    (group,) = json.loads(done.stdout)["Job"]["TaskGroups"]
    assert group["Networks"][0]["ReservedPorts"][0]["Value"] == 9443
    assert group["Tasks"][0]["Driver"] == "raw_exec"
    for options, reason in (
        (("nomad", *machine, "--container-image", "x"), "--container-image: is not for this"),
        (("kubernetes", *machine), "--container-image: missing"),
        (("systemd", "--container-image", "x", *machine), "--container-image: is not for this"),
        (("systemd", "--backend", "snp", "--image", "image"), "--image: missing, or not the whole"),
        (("systemd", "--backend", "tdx"), "--image: missing"),
        (("systemd", "--backend", "nil", "--publish", "1:2"), "--publish: is for a machine"),
        (("systemd", "--backend", "sgx"), "found --backend sgx"),
    ):
        refused = stack.run(verb, *arguments, "--output", *options)
        assert refused.returncode == 2, options
        assert reason in refused.stderr

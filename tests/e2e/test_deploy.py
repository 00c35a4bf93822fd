"""Keeps deployed against real services: what works, and the refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garrison.testing.stack import GARRISON, Process, Stack

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.xdist_group("stack")]

_HELLO = """
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
  printf("hello from %s with %d arguments\\n", argv[0], argc - 1);
  return argc > 1 ? atoi(argv[1]) : 0;
}
"""
_SPIN = """
#include <stdio.h>
int main(void) {
  puts("spinning");
  fflush(stdout);
  for (volatile unsigned i = 0;; i++) {}
}
"""


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], Path]:
    """Build a package directory from C, and an `Enarx.toml`."""

    def build(name: str, source: str, config: str) -> Path:
        directory = tmp_path_factory.mktemp(name)
        (directory / "main.c").write_text(source)
        wasm = directory / "main.wasm"
        subprocess.run(
            [
                sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s",
                "-o", str(wasm), str(directory / "main.c"),
            ],
            check=True,
            env={"ZIG_GLOBAL_CACHE_DIR": str(Path(sys.prefix) / "zig-cache"), **os.environ},
        )  # fmt: skip
        published = directory / "package"
        published.mkdir()
        wasm.rename(published / "main.wasm")
        (published / "Enarx.toml").write_text(config)
        return published

    return build


@pytest.fixture(scope="session")
def published(stack: Stack, package: Callable[[str, str, str], Path]) -> Stack:
    """The stack, with `hello:0.1.0` and `spin:0.1.0` published, readable by keeps on SNP."""
    stack.register_repo("hello", "--private", "--keep", "tee=snp")
    stack.publish(package("hello", _HELLO, 'args = ["7"]\n'), "hello:0.1.0")
    stack.register_repo("spin", "--private", "--keep", "tee=snp")
    stack.publish(package("spin", _SPIN, ""), "spin:0.1.0")
    return stack


def test_the_exit_code_and_the_output_are_the_workloads(published: Stack) -> None:
    done = published.run(*published.deploy_arguments("hello:0.1.0"))
    assert done.stdout == "hello from main.wasm with 1 arguments\n"
    assert done.returncode == 7, done.stderr
    assert "INSECURE" in done.stderr.upper()


def test_a_keep_without_evidence_gets_401_and_runs_nothing(published: Stack) -> None:
    done = published.run(*published.deploy_arguments("hello:0.1.0", simulate=False))
    assert done.returncode == 77
    assert "401" in done.stderr
    assert done.stdout == ""


def test_an_unknown_tag_is_refused_by_name(published: Stack) -> None:
    done = published.run(*published.deploy_arguments("hello:9.9.9"))
    assert done.returncode in {69, 77}
    assert "9.9.9" in done.stderr
    assert done.stdout == ""


def test_a_wrong_steward_root_is_refused_before_anything_is_sent(
    published: Stack, tmp_path: Path
) -> None:
    published.command("steward", "init", str(tmp_path / "other"), "--trust-domain", "other.test")
    arguments = published.deploy_arguments("hello:0.1.0")
    arguments[arguments.index("--steward-root") + 1] = str(tmp_path / "other" / "root.pem")
    done = published.run(*arguments)
    assert done.returncode == 76, done.stderr
    assert "--steward-root" in done.stderr
    assert done.stdout == ""


def test_a_steward_that_is_down_is_waited_for_until_a_signal(published: Stack) -> None:
    arguments = published.deploy_arguments("hello:0.1.0")
    arguments[arguments.index("--steward") + 1] = "https://localhost:1"
    keep = published.start("a keep", *arguments)
    assert "https://localhost:1" in keep.expect("trying again for 60 s")
    # By itself it would end with 69.
    assert keep.stop() == 143


def deployed_under(published: Stack, policy: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What comes of a deployment at another steward, which has `policy`."""
    (folder / "policy.toml").write_text(policy)
    steward = published.start(
        "another steward", "steward", "serve", "--port", "0",
        "--policy", str(folder / "policy.toml"), "--dir", str(published.directory / "steward"),
    )  # fmt: skip
    url = steward.expect("listening on https://").rpartition(" ")[2]
    arguments = published.deploy_arguments("hello:0.1.0")
    arguments[arguments.index("--steward") + 1] = f"https://localhost:{url.rpartition(':')[2]}"
    done = published.run(*arguments)
    steward.stop()
    return done


def test_a_measurement_that_the_policy_does_not_list_gets_no_certificate(
    published: Stack, tmp_path: Path
) -> None:
    policy = published.policy().replace(published.measurement, "00" * 48)
    done = deployed_under(published, policy, tmp_path)
    assert done.returncode == 77, done.stderr
    assert "measurement" in done.stderr
    assert published.measurement in done.stderr
    assert done.stdout == ""


def test_a_workload_of_a_drawbridge_that_the_policy_does_not_name_gets_no_certificate(
    published: Stack, tmp_path: Path
) -> None:
    policy = published.policy().replace(f'"{published.registry}"', '"elsewhere.example"')
    done = deployed_under(published, policy, tmp_path)
    assert done.returncode == 77, done.stderr
    assert "elsewhere.example" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_ends_a_workload_that_never_calls_the_host(
    number: signal.Signals, code: int, published: Stack
) -> None:
    keep = published.start("spin", *published.deploy_arguments("spin:0.1.0"))
    keep.expect("spinning")
    os.kill(keep.pid, number)
    assert keep.finish(20) == code
    assert not any("Traceback" in line for line in keep.lines)


def test_a_keep_does_not_outlive_its_supervisor(published: Stack) -> None:
    keep = published.start("spin", *published.deploy_arguments("spin:0.1.0"))
    keep.expect("spinning")
    (child,) = _children(keep)
    os.kill(keep.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (alive := _is_alive(child)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive


def test_a_local_workload_is_certified_by_its_digest(
    published: Stack, package: Callable[[str, str, str], Path]
) -> None:
    directory = package("local", _HELLO, "")
    done = published.run(
        "run", "--steward", published.steward_url, "--steward-root", str(published.steward_root),
        "--insecure-simulate", f"snp={published.simulator}", str(directory / "main.wasm"), "3",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "spiffe://demo.test/local/" in done.stderr


def test_hello_without_anything(package: Callable[[str, str, str], Path], tmp_path: Path) -> None:
    directory = package("plain", _HELLO, "")
    done = subprocess.run(
        [*GARRISON, "run", str(directory / "main.wasm"), "5", "x"],
        capture_output=True,
        text=True,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        5,
        "hello from main.wasm with 2 arguments\n",
        "",
    )


def test_a_tenant_s_limit_ends_a_workload(published: Stack, tmp_path: Path) -> None:
    policy = tmp_path / "limits.toml"
    policy.write_text("[limits]\nrun_seconds = 1\nmemory = '64MiB'\n")
    arguments = published.deploy_arguments("spin:0.1.0")
    done = published.run(arguments[0], "--policy", str(policy), *arguments[1:])
    assert done.returncode == 124, done.stderr
    assert done.stdout == "spinning\n"
    assert "limits.run_seconds: the workload's time is over" in done.stderr


def _children(process: Process) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

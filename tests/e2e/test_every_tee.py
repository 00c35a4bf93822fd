"""The one flow, on each TEE that is simulated: its peer sees which TEE, and what was measured.

A server on SNP and a client on the other: keep, request, steward, certificate, mutual TLS. The
policy is what `garrison image measure --policy` prints.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garrison.testing.stack import Stack, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.xdist_group("every-tee")]

TEES = ("tdx", "sgx", "nitro")
# Serves one connection, or makes one; each side prints what it learns of the other.
_SOURCE = """
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
static int show(const char *path) {
  char text[4096];
  int fd = open(path, O_RDONLY);
  ssize_t count = fd < 0 ? -1 : read(fd, text, sizeof text);
  if (count < 0) return 1;
  printf("%.*s\\n", (int)count, text);
  return fflush(stdout);
}
int main(int argc, char **argv) {
  char text[4];
  int fd = open(argv[2], O_RDWR);
  if (fd < 0) return 2;
  if (!strcmp(argv[1], "serve")) {
    puts("serving");
    fflush(stdout);
    if ((fd = accept(fd, NULL, NULL)) < 0) return 3;
    if (recv(fd, text, 4, 0) != 4 || send(fd, text, 4, 0) != 4) return 4;
    return show("/net/peer/lis");
  }
  if (send(fd, "ping", 4, 0) != 4 || recv(fd, text, 4, 0) != 4) return 5;
  return show("/net/peer/con");
}
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("stack")
    with Stack(directory, local_workloads=True, more_tees=TEES) as stack:
        stack.start_services()
        stack.login()
        stack.register_repo("server")
        stack.register_repo("client")
        yield stack


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("module")
    (directory / "main.c").write_text(_SOURCE)
    subprocess.run(
        [
            sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s",
            "-o", str(directory / "main.wasm"), str(directory / "main.c"),
        ],
        check=True,
        env={"ZIG_GLOBAL_CACHE_DIR": str(Path(sys.prefix) / "zig-cache"), **os.environ},
    )  # fmt: skip
    return (directory / "main.wasm").read_bytes()


@pytest.mark.parametrize("tee", TEES)
def test_the_whole_flow(stack: Stack, module: bytes, tmp_path: Path, tee: str) -> None:
    port = free_port()
    peers = {"server": "client", "client": "server"}
    tag = f"0.1.{TEES.index(tee)}"
    for name, mode, rules in (
        ("server", f'serve", "/net/lis/{port}', f"[network.incoming.{port}]"),
        (
            "client",
            f'ask", "/net/con/localhost:{port}',
            f'[network.outgoing."localhost:{port}"]',
        ),
    ):
        package = tmp_path / name
        package.mkdir()
        (package / "main.wasm").write_bytes(module)
        (package / "Enarx.toml").write_text(
            f'args = ["{mode}"]\n[stdout]\nkind = "host"\n{rules}\nprot = "tls"\n'
            f'peers = ["{stack.slug(f"{peers[name]}:{tag}")}"]\n'
        )
        stack.publish(package, f"{name}:{tag}")
    server = stack.deploy(f"server:{tag}", "the server")
    server.expect("serving")
    client = stack.run(*stack.deploy_arguments(f"client:{tag}", tee=tee))
    assert client.returncode == 0, client.stderr + "\n".join(server.lines)
    shown = json.loads(server.expect('"peer"'))["peer"]
    assert server.finish() == 0
    assert (shown["kind"], shown["workload"]) == ("keep", stack.slug(f"client:{tag}"))
    assert shown["tee"] == tee
    measured = json.loads(
        stack.command(
            "image", "measure", "--insecure-simulate", f"{tee}={stack.simulator_of(tee)}", "--json"
        )
    )["registers"]
    assert shown["measurement"] == next(iter(measured.values()))
    assert json.loads(client.stdout)["peer"]["tee"] == "snp"
    assert "simulated" in client.stderr.lower()


@pytest.mark.parametrize("tee", TEES)
def test_no_policy_no_certificate(stack: Stack, tmp_path: Path, tee: str) -> None:
    """Another simulator of the same TEE is another vendor, whom nobody named."""
    other = tmp_path / "other"
    stack.command("platform", "insecure-simulator", "--tee", tee, str(other))
    arguments = stack.deploy_arguments("client:0.1.0", tee=tee)
    arguments[arguments.index("--insecure-simulate") + 1] = f"{tee}={other}"
    done = stack.run(*arguments)
    assert done.returncode == 77, done.stderr
    assert "not a trusted root" in done.stderr
    assert done.stdout == ""

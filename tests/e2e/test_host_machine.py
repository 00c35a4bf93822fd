"""Another's host that runs keeps in machines: the tenant verifies the image that it boots."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.machines import GROUP, keep_image

from garrison.testing.configs import server_config
from garrison.testing.stack import Stack, free_port

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "languages"))
from build import LANGUAGES  # type: ignore[import-not-found]  # (not ours)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group(GROUP)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("machines") / "stack", image=keep_image()) as stack:
        stack.start_services()
        stack.login()
        yield stack


def test_a_keep_in_a_machine_of_another_s_host(stack: Stack, tmp_path: Path) -> None:
    package, port = tmp_path / "package", free_port()
    package.mkdir()
    LANGUAGES["c"].build("server", package / "main.wasm")
    (package / "Enarx.toml").write_text(server_config(port, addr="::"))
    stack.register_repo("echo")
    stack.publish(package, "echo:0.1.0")
    at = free_port()
    there = tmp_path / "host"
    agent = stack.start(
        "the host", "host", "serve", "--dir", str(there), "--port", str(at), "--tenant", "jane",
        "--backend", "kvm", "--image", str(stack.image),
        "--insecure-dev", "--insecure-simulate", f"snp={stack.simulator}",
    )  # fmt: skip
    agent.expect("listening on https://")
    ca = str(there / "tls" / "ca.pem")
    stack.command(
        "user", "login", "--ca-bundle", ca, "--oidc-client-id", "jane",
        "--oidc-domain", f"https://localhost:{at}/insecure-oidc/",
        "--oidc-secret-file", str(there / "insecure-oidc-secret"), f"localhost:{at}",
    )  # fmt: skip
    host = ("--host", f"https://localhost:{at}", "--host-ca", ca)
    verb, *arguments = stack.deploy_arguments("echo:0.1.0")
    # The image is the host's: the tenant names what it must measure.
    place = arguments.index("--image")
    del arguments[place : place + 2]
    try:
        demanded = ("--measurement", stack.measurement, "--wait", "150", "--memory-mib", "512")
        done = stack.run(verb, *host, *demanded, "--json", *arguments)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["measurement"] == stack.measurement
        assert told["at"] == f"localhost:{port}"
        shown = json.loads(stack.command("host", "inspect", *host, told["keep"]))
        assert (shown["backend"], shown["phase"]) == ("kvm", "running")
        # What the host does not offer is refused.
        arguments[arguments.index("kvm")] = "nil"
        other = stack.run(verb, *host, *arguments)
        assert other.returncode == 77
        assert "this host has no such backend" in other.stderr
        stack.command("host", "stop", *host, told["keep"])
        ended = json.loads(stack.command("host", "inspect", *host, told["keep"]))
        assert (ended["phase"], ended["exit_code"]) == ("ended", 143)
    finally:
        stack.command("host", "drain", str(there))
        agent.stop()

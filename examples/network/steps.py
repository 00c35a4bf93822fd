"""Steps 8 to 10 of the demonstration: keeps run on while things change around them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from motion import Motion  # type: ignore[import-not-found]  # (beside this file)
from transcript import error_of, require, said  # type: ignore[import-not-found]  # (likewise)

from garrison.testing.stack import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from transcript import Transcript

    from garrison.testing.stack import Stack


def in_motion(show: Transcript, stack: Stack, directory: Path) -> None:
    """An upgrade, a revocation, a restart of the steward, and a foreign host."""
    motion = Motion(stack, directory)
    with show.step("8. A rolling upgrade and a steward that restarts, under a steady client"):
        first, steady = motion.server("0.1.0"), motion.client()
        show.fact(f"client    {_peer(steady.expect('talking to'))}")
        stack.restart_steward()
        time.sleep(1.5)
        require(not any("ended:" in line for line in steady.lines), "a connection was lost")
        show.fact("          the steward restarted; no connection ended")
        second = motion.server("0.2.0")
        first.stop()
        show.fact(f"client    {_peer(steady.expect('talking to'))}")

    with show.step("9. A revoked version is cut off while it is connected"):
        third = motion.server("0.1.0")
        seconds, line = motion.cut_off("0.2.0", [steady])
        show.fact(f"after {seconds:.1f} s: {said(line)}")
        show.fact(f"client    {_peer(steady.expect('talking to'))}")
        for keep in (steady, second, third):
            keep.stop()

    with show.step("10. On another's host: `running` is what the keep itself has shown"):
        verified(show, stack, directory)


def verified(show: Transcript, stack: Stack, directory: Path) -> None:
    """Deploy to a host's agent, which is believed nothing."""
    port = free_port()
    agent = stack.start(
        "the host's agent", "host", "serve", "--dir", str(directory / "host"), "--insecure-dev",
        "--port", str(port), "--tenant", "jane",
    )  # fmt: skip
    agent.expect("listening on https://")
    there = directory / "host"
    ca = str(there / "tls" / "ca.pem")
    stack.command(
        "user", "login", "--ca-bundle", ca, "--oidc-client-id", "jane",
        "--oidc-domain", f"https://localhost:{port}/insecure-oidc/",
        "--oidc-secret-file", str(there / "insecure-oidc-secret"), f"localhost:{port}",
    )  # fmt: skip
    try:
        verb, *arguments = stack.deploy_arguments("echo:0.1.0")
        host = ("--host", f"https://localhost:{port}", "--host-ca", ca)
        measured = ("--measurement", stack.measurement)
        told = json.loads(stack.command(verb, *host, *measured, "--json", *arguments))
        show.fact(f"running at {told['at']}: {told['slug']}@{told['digest']}")
        show.fact(f"           {told['tee']}, measurement {told['measurement'][:32]}…, as demanded")
        stack.command("host", "stop", *host, told["keep"])
        other = stack.run(verb, *host, "--measurement", "00" * 48, *arguments)
        require(other.returncode == 77, f"another measurement gave {other.returncode}")
        show.fact(f"with another measurement demanded: {error_of(other.stderr)}")
    finally:
        stack.command("host", "drain", str(there))
        agent.stop()


def _peer(line: str) -> str:
    """What a client prints of its peer, shorter."""
    peer = json.loads(line.partition("talking to ")[2])
    return f"talks to {peer['workload']} ({peer['tee']}, {peer['tcb_status']})"

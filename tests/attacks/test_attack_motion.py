"""Property: what holds when a keep starts goes on to hold while it runs, whatever its host does.

Keeps that talk with each other are frozen, cut off from their steward, and denied by it in every
way that it has. The steward is asked every second.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from garrison.formats.snp import Report
from garrison.formats.snp_evidence import SnpEvidence
from garrison.testing.attacks import Host
from garrison.testing.relay import Relay
from garrison.testing.stack import Stack

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "network"))
from motion import Motion  # type: ignore[import-not-found]  # (an example's)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from garrison.testing.stack import Process

pytestmark = [pytest.mark.xdist_group("attacks-in-motion")]

# Beyond the poll of a second: a request to the steward, and a loaded machine.
_BOUND_SECONDS = 15.0
_NOTHING = "poll_seconds = 1"
# The tenant bounds how long the steward may be silent, and leaves the rest to the workload.
_SILENCE = '[limits]\nsilence_seconds = 10\n[network.incoming.default]\npeers = ["any"]\n'


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("motion"), denied=_NOTHING) as stack:
        stack.start_services()
        stack.login()
        yield stack


@pytest.fixture(scope="module")
def motion(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Motion:
    return Motion(stack, tmp_path_factory.mktemp("packages"))


@contextmanager
def talking(motion: Motion, server: Process) -> Iterator[tuple[Process, dict[str, Any]]]:
    """A client that talks with `server`, and who that is, as the client sees it."""
    client = motion.client()
    try:
        server.expect("listening")
        yield client, peer_of(client)
    finally:
        client.stop()
        server.stop()


def peer_of(client: Process) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(client.expect("talking to ").partition("talking to ")[2])
    return found


def first_of(keeps: list[Process], text: str) -> str:
    """The first line of any of `keeps` that has `text` in it."""
    for _ in range(600):
        for keep in keeps:
            for line in list(keep.lines):
                if text in line:
                    return line
        time.sleep(0.1)
    raise AssertionError([keep.lines[-5:] for keep in keeps])


def chip(stack: Stack) -> str:
    evidence = Host(stack).simulator().attest(bytes(64))
    return Report.from_bytes(SnpEvidence.from_bytes(evidence.payload).report).chip_id.hex()


@pytest.mark.parametrize("kind", ["serial number", "measurement", "platform", "slug"])
def test_a_peer_that_is_denied_while_it_is_connected(
    stack: Stack, motion: Motion, kind: str
) -> None:
    """The steward denies a certificate, an image, a chip or a program: the connection ends."""
    server = Host(stack).start("the server", Host(stack).request("echo:0.1.0"))
    with talking(motion, server) as (client, peer):
        lines = {
            "serial number": f'serials = ["{peer["serial"]}"]',
            "measurement": f'measurements = ["{peer["measurement"]}"]',
            "platform": f'chip_ids = ["{chip(stack)}"]',
            # Every version of it.
            "slug": f'slugs = ["{stack.slug("echo")}"]',
        }
        began = time.monotonic()
        try:
            stack.deny(f"{_NOTHING}\n{lines[kind]}")
            # What denies both ends it, whoever hears of it first.
            line = first_of([client, server], "ended a connection")
            took = time.monotonic() - began
            assert f"the peer's {kind}" in line
            assert "the steward denies it" in line
            assert took < _BOUND_SECONDS
            # Nor does a new one begin, once the client has heard of it itself.
            assert "the steward denies it" in client.expect("refused a peer")
            heard = len(client.lines)
            client.expect("refused a peer")
            assert not any("talking to" in line for line in client.lines[heard:])
        finally:
            stack.deny(_NOTHING)
        # What was denied no longer is: nothing else was lost.
        assert peer_of(client)["workload"] == stack.slug("echo:0.1.0")


def test_a_host_that_silences_the_steward(stack: Stack, motion: Motion) -> None:
    """The host lets nothing of the steward through, lest a denial be heard."""
    port = int(stack.steward_url.rpartition(":")[2])
    host = Host(stack)
    with Relay(port) as relay:
        url = f"https://localhost:{relay.port}"
        request = host.request("echo:0.1.0", steward=url, policy=_SILENCE)
        server = host.start("the server", request)
        with talking(motion, server) as (client, peer):
            assert "policy" in peer
            relay.close()
            began = time.monotonic()
            line = server.expect("no TLS connection can be opened")
            assert "1 ended" in line
            assert "limits.silence_seconds" in line
            # From the last word on, which came up to three seconds earlier.
            assert 5 < time.monotonic() - began < 10 + _BOUND_SECONDS
            assert "the steward has not said for too long" in server.expect("refused a peer")
            with Relay(port, port=relay.port):
                assert peer_of(client)["workload"] == stack.slug("echo:0.1.0")


@pytest.mark.slow
def test_a_keep_that_is_frozen_past_its_certificate(tmp_path: Path) -> None:
    """The host stops the keep's process until its certificate has expired, and lets it go on."""
    with Stack(tmp_path / "stack", denied=_NOTHING, lifetime_minutes=1) as stack:
        stack.start_services()
        stack.login()
        motion = Motion(stack, tmp_path)
        server = Host(stack).start("the server", Host(stack).request("echo:0.1.0"))
        with talking(motion, server) as (client, peer):
            stack.steward.stop()
            os.kill(server.pid, signal.SIGSTOP)
            until = datetime.fromisoformat(peer["expires"])
            time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds()) + 1)
            # Whoever comes while it is frozen is in the queue, and the first that it looks at.
            address = ("localhost", motion.ports["0.1.0"])
            with socket.create_connection(address, timeout=30) as plain:
                os.kill(server.pid, signal.SIGCONT)
                context = ssl.create_default_context(cafile=str(stack.steward_root))
                context.check_hostname = False
                with pytest.raises((ssl.SSLError, OSError)):
                    context.wrap_socket(plain, server_hostname="localhost")
            told = [server.expect("certificate has expired") for _ in range(2)]
            assert any("no TLS connection can be opened" in line for line in told)
            assert any("refused a peer: rule certificate" in line for line in told)
            # The steward is back: so are both.
            stack.start_steward(int(stack.steward_url.rpartition(":")[2]))
            assert peer_of(client)["workload"] == stack.slug("echo:0.1.0")

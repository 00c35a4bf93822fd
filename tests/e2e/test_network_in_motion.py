"""Keeps that run while versions, denials and stewards change, under clients that never stop."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garrison.testing.stack import Stack

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "network"))
from motion import Motion  # type: ignore[import-not-found]  # (an example's)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.xdist_group("stack-in-motion")]

# Beyond the poll of a second: a request to the steward, and a loaded machine.
_BOUND_SECONDS = 15.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("motion"), denied="poll_seconds = 1") as stack:
        stack.start_services()
        stack.login()
        yield stack


def test_upgrade_revocation_and_a_restart_of_the_steward(stack: Stack, tmp_path: Path) -> None:
    motion = Motion(stack, tmp_path)
    old = motion.server("0.1.0")
    clients = [motion.client() for _ in range(2)]
    for client in clients:
        event = json.loads(client.expect("connected ").partition("connected ")[2])
        assert event["port"] == motion.ports["0.1.0"]
        assert event["peer"]["workload"] == stack.slug("echo:0.1.0")
        assert "echo:0.1.0" in client.expect("talking to")

    # A steward that restarts is not noticed: nobody's conversation ends.
    stack.restart_steward()
    time.sleep(1.5)
    for client in clients:
        assert not any("ended" in line for line in client.lines)

    # The new version beside the old one, which then goes: clients go over.
    new = motion.server("0.2.0")
    old.stop()
    for client in clients:
        assert "echo:0.2.0" in client.expect("talking to")

    # The new version is denied while they talk to it. It goes on, without them.
    again = motion.server("0.1.0")
    seconds, line = motion.cut_off("0.2.0", clients)
    assert seconds < _BOUND_SECONDS
    assert "the steward denies it" in line
    assert stack.slug("echo:0.2.0") in line
    for client in clients:
        assert "echo:0.1.0" in client.expect("talking to")
    # It gets no new certificate either.
    refused = stack.run(*stack.deploy_arguments("echo:0.2.0"))
    assert refused.returncode == 77
    assert "denies" in refused.stderr

    # No client ever stopped.
    assert [client.stop() for client in clients] == [143, 143]
    for keep in (new, again):
        keep.stop()

"""The host turns its machine against a keep: network, clock and memory.

Property: whatever the host does to what it owns, the workload runs as it should or not at all,
and what the host changes on the way never reaches it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garrison.testing.relay import Relay
from garrison.testing.stack import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.attacks.conftest import Attack

pytestmark = [pytest.mark.xdist_group("attacks")]

_DAY = 24 * 3600
_CUTS = 5


def _steward_port(attack: Attack) -> int:
    return int(attack.stack.steward_url.rpartition(":")[2])


def _by_way_of(
    attack: Attack, relay: Relay, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    url = f"https://localhost:{relay.port}"
    return attack.run(attack.request("plain:1.0.0", steward=url), seconds)


def _nothing_ran(done: subprocess.CompletedProcess[str], *codes: int) -> None:
    assert done.returncode in codes, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "error:" in done.stderr


@pytest.fixture(scope="module")
def length(attack: Attack) -> int:
    """How many bytes the steward sends in the life of a short keep, all in one connection."""
    with Relay(_steward_port(attack)) as relay:
        done = _by_way_of(attack, relay)
        assert done.returncode == 7, done.stderr
        assert relay.opened >= 1
        return relay.answered


@pytest.mark.parametrize("step", range(_CUTS))
def test_the_network_is_cut_at_each_step(attack: Attack, length: int, step: int) -> None:
    """The connection to the steward ends early, in the handshake or in any answer, and once."""
    place = length * step // _CUTS
    with Relay(_steward_port(attack), cut_after=place, harms=1) as relay:
        done = _by_way_of(attack, relay)
    assert done.returncode == 7, done.stderr
    assert "trying again" in done.stderr


@pytest.mark.slow
def test_the_network_stays_cut(attack: Attack) -> None:
    with Relay(_steward_port(attack), connections=0) as relay:
        done = _by_way_of(attack, relay, seconds=300)
    _nothing_ran(done, 69)


@pytest.mark.parametrize("step", range(_CUTS))
def test_one_bit_of_the_steward_s_words_is_flipped(attack: Attack, length: int, step: int) -> None:
    """TLS is changed on the way, in the handshake or in any answer."""
    place = length * (step + 1) // (_CUTS + 1)
    with Relay(_steward_port(attack), flip=place, harms=1) as relay:
        done = _by_way_of(attack, relay, seconds=300)
    if "trying again" in done.stderr:
        # In the length of a record, say: what came was not changed, it did not come.
        assert done.returncode == 7, done.stderr
    else:
        _nothing_ran(done, 76)


@contextmanager
def _two_keeps(attack: Attack, version: str) -> Iterator[tuple[int, int]]:
    """A server and a client that the host has to carry: the server's port, the client's target."""
    slug = attack.stack.slug
    port, target = free_port(), free_port()
    table = f'[network.incoming.{port}]\npeers = ["{slug(f"connect:{version}")}"]\n'
    attack.publish(f"listen:{version}", attack.package("listen", str(port), network=table))
    table = f'[network.outgoing."localhost:{target}"]\npeers = ["{slug(f"listen:{version}")}"]\n'
    connect = attack.package("connect", f"localhost:{target}", network=table)
    attack.publish(f"connect:{version}", connect)
    yield port, target


def test_a_relay_between_two_keeps_sees_and_changes_nothing(attack: Attack) -> None:
    """All traffic of two keeps goes through the attacker, who also changes it."""
    with _two_keeps(attack, "3.0.0") as (port, target):
        server = attack.start("the server", attack.request("listen:3.0.0"))
        server.expect("listening")
        with Relay(port, port=target) as relay:
            done = attack.run(attack.request("connect:3.0.0"))
            assert done.returncode == 0, done.stderr
            assert server.expect("heard") == "heard confidential"
            through, answered = bytes(relay.seen), relay.answered
        assert b"confidential" not in through
        assert b"hello" not in through
        # Neither is the workload's name: certificates are encrypted.
        assert attack.stack.slug("connect:3.0.0").encode() not in through
        # What the server sends last is its answer, and the announcement of its end.
        for place in range(answered - 60, answered, 20):
            with Relay(port, port=target, flip=place) as relay:
                changed = attack.run(attack.request("connect:3.0.0"))
            assert changed.returncode in {0, 3}, changed.stderr
            if changed.returncode == 3:
                assert "failed to" in changed.stdout
        heard = [line for line in server.lines if line.startswith("heard")]
        assert set(heard) <= {"heard confidential", "heard "}
        server.stop()


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that moves the clock of the process that it is loaded into."""
    out: Path = tmp_path_factory.mktemp("clock") / "clock.so"
    subprocess.run(
        [
            sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC",
            "-o", str(out), str(Path(__file__).parent / "clock.c"),
        ],
        check=True,
        env={"ZIG_GLOBAL_CACHE_DIR": str(Path(sys.prefix) / "zig-cache"), **os.environ},
    )  # fmt: skip
    return out


@pytest.mark.parametrize("offset", [0, -2 * _DAY, 2 * _DAY], ids=["right", "back", "forward"])
def test_the_host_rolls_the_clock(attack: Attack, clock: Path, offset: int) -> None:
    """The keep's clock says another day than the steward's."""
    environment = {
        **attack.stack.environment,
        "LD_PRELOAD": str(clock),
        "CLOCK_OFFSET": str(offset),
    }
    arguments = attack.stack.deploy_arguments("plain:1.0.0")
    done = attack.stack.run(*arguments, environment=environment)
    if offset == 0:
        assert done.returncode == 7, done.stderr
        return
    _nothing_ran(done, 69, 76)
    assert "certificate" in done.stderr


@pytest.mark.parametrize("mib", [8, 24, 32, 40])
def test_the_host_gives_too_little_memory(attack: Attack, mib: int) -> None:
    """The keep runs out of memory somewhere between its start and its workload's."""
    limit = f"{mib << 20}"
    done = subprocess.run(
        ["prlimit", f"--data={limit}", sys.executable, "-P", "-m", "garrison",
         *attack.stack.deploy_arguments("plain:1.0.0")],
        env=attack.stack.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 7, "this much memory is enough"
    assert done.returncode != 0
    assert done.stdout == ""


def test_the_host_gives_no_descriptors(attack: Attack) -> None:
    """The keep may open almost nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft > 10
    done = subprocess.run(
        ["prlimit", f"--nofile=12:{hard}", sys.executable, "-P", "-m", "garrison",
         *attack.stack.deploy_arguments("plain:1.0.0")],
        env=attack.stack.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    # Enough for a keep that opens little, or not: but never half of it.
    assert done.returncode == 7 or (done.returncode != 0 and done.stdout == "")


def test_the_host_s_disk_is_full(attack: Attack) -> None:
    """Nothing can be written where programs write: a keep needs no file."""
    nowhere = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), "/proc/nowhere")
    arguments = attack.stack.deploy_arguments("plain:1.0.0")
    done = attack.stack.run(*arguments, environment={**attack.stack.environment, **nowhere})
    assert (done.returncode, done.stdout) == (7, "the workload ran\n"), done.stderr


@pytest.fixture(scope="module")
def no_entropy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that starts another one, to which the kernel gives no random numbers."""
    out: Path = tmp_path_factory.mktemp("entropy") / "no_entropy"
    source = Path(__file__).parent / "no_entropy.c"
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-O2", "-o", str(out), str(source)],
        check=True,
        env={"ZIG_GLOBAL_CACHE_DIR": str(Path(sys.prefix) / "zig-cache"), **os.environ},
    )
    return out


def test_the_host_gives_no_entropy(attack: Attack, no_entropy: Path) -> None:
    """No key is ever made of anything but random numbers: the keep ends, and asks for nothing."""
    before = len(attack.stack.steward.lines)
    done = subprocess.run(
        [no_entropy, sys.executable, "-P", "-m", "garrison",
         *attack.stack.deploy_arguments("plain:1.0.0")],
        # So that not even Python's own start is where it ends.
        env={**attack.stack.environment, "PYTHONHASHSEED": "0"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode not in (0, 7)
    assert done.stdout == ""
    assert "random" in done.stderr
    assert "certified as" not in done.stderr
    assert not any('"issued"' in line for line in attack.stack.steward.lines[before:])

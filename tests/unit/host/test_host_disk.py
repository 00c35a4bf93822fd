"""A host whose disk is full, broken, or without its last moments: what tenants are told holds."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from garrison.cli.main import main
from garrison.disk import write_whole
from garrison.errors import Unavailable
from garrison.formats.launch_request import LaunchRequest
from garrison.host.agent import Agent, Offer
from garrison.host.quota import Quota
from garrison.host.record import Records, State
from garrison.host.spec import KeepSpec

if TYPE_CHECKING:
    from garrison.host.record import Phase, Record
    from garrison.testing.power import Disk

LAUNCH = LaunchRequest("d.test/u/r:1.0.0", "https://s.test", "pem", None, {"kind": "nil"})


@pytest.fixture
def agent(disk: Disk) -> Agent:
    return Agent(disk.folder, Quota(), Offer(frozenset({"nil"})))


@pytest.fixture
def record(disk: Disk) -> Record:
    return Records(disk.folder).make(KeepSpec(LAUNCH), "jane", "2026-01-01")


class _Shim:
    """In place of a keep's keeper."""

    def poll(self) -> None:
        return None


def test_a_keep_is_told_of_when_the_disk_knows_that_it_runs(
    agent: Agent, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keeper has written that, and still waits for the disk."""

    def start(_agent: Agent, record: Record, _cgroup: None) -> _Shim:
        write_whole(record.path / "state.json", json.dumps(asdict(State("running", 1))).encode())
        return _Shim()

    monkeypatch.setattr(Agent, "_start", start)
    record = asyncio.run(agent.make(KeepSpec(LAUNCH), "jane"))
    assert f"keeps/{record.id}/state.json" in disk.least()


class _Writer:
    """Of a connection to a keep's keeper."""

    def close(self) -> None:
        return


@pytest.mark.parametrize(
    ("written", "broken", "told"),
    [("running", None, "not written down"), ("ended", errno.EIO, "on fire"), ("ended", None, None)],
)
def test_an_end_that_is_not_on_the_disk_is_not_told(
    agent: Agent, disk: Disk, record: Record, monkeypatch: pytest.MonkeyPatch,
    written: Phase, broken: int | None, told: str | None,
) -> None:  # fmt: skip
    """Attack: fill the disk, and a keep that its tenant ended is started by the next agent."""

    async def ask(_record: Record, _what: str) -> tuple[asyncio.StreamReader, _Writer]:
        # Its keeper ended whatever the disk said, and with it the connection.
        record.write_state(State(written, 1))
        disk.broken = lambda _: broken
        reader = asyncio.StreamReader()
        reader.feed_eof()
        return reader, _Writer()

    monkeypatch.setattr("garrison.host.agent._ask", ask)
    monkeypatch.setattr("garrison.host.record._alive", lambda _pid, _path: True)
    record.write_state(State("running", 1))
    with pytest.raises(Unavailable, match=told) if told else contextlib.nullcontext():
        asyncio.run(agent.end(record))


def test_a_keep_that_cannot_be_forgotten_is_not_told_to_be(disk: Disk, record: Record) -> None:
    record.write_state(State("ended", 1))
    disk.broken = lambda _: errno.EIO
    # The second time it is gone for whoever looks, and may be there again all the same.
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot forget a keep: on fire"):
            record.remove()
    disk.broken = lambda _: None
    record.remove()
    assert [path for path in disk.least() if path.startswith(f"keeps/{record.id}")] == []


def test_what_was_made_or_forgotten_by_half_does_not_stay(
    agent: Agent, disk: Disk, record: Record
) -> None:
    """It is nobody's, counts for no quota, and may hold what a tenant's keep printed."""
    (disk.folder / "keeps" / f".{'a' * 32}").mkdir()
    going = Records(disk.folder).make(KeepSpec(LAUNCH), "eve", "2026-01-01")
    disk.broken = lambda _: errno.EIO
    with pytest.raises(Unavailable):
        going.remove()
    disk.broken = lambda _: None
    assert len([*(disk.folder / "keeps").iterdir()]) == 3
    agent.revive()
    assert [*(disk.folder / "keeps").iterdir()] == [record.path]


def test_a_keep_whose_keeper_cannot_be_started_is_forgotten(
    agent: Agent, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk may have room for a record, and none for what its keeper has to say."""

    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("garrison.host.agent.subprocess.Popen", full)
    with pytest.raises(Unavailable, match="did not start: full"):
        asyncio.run(agent.make(KeepSpec(LAUNCH), "jane"))
    assert [*Records(disk.folder)] == []


def test_a_keep_of_which_nobody_was_told_has_ended(agent: Agent, record: Record) -> None:
    """The power went while it was made: its tenant could not end it, nor could a drain."""
    assert record.state().phase == "starting"
    assert agent.revive() == []
    assert record.state().phase == "ended"
    asyncio.run(agent.end(record))
    assert agent.all_of("jane") == []


def test_a_keep_that_starts_while_the_agent_does_goes_on(
    agent: Agent, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("garrison.host.record._alive", lambda _pid, path: path == record.path)
    assert agent.revive() == []
    assert record.state().phase == "starting"


def test_an_agents_own_directory_is_there_to_stay(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it makes that itself, all its keeps are in it."""
    directory = disk.folder / "srv/host"
    monkeypatch.setattr("garrison.service.server.serve", lambda *_: None)
    serve = ("host", "serve", "--dir", str(directory), "--insecure-dev", "--tenant", "jane")
    assert main([*serve, "--port", "0"]) == 0
    Records(directory).make(KeepSpec(LAUNCH), "jane", "2026-01-01")
    assert [path for path in disk.least() if path.startswith("srv/host/keeps/")]

"""Keeps on a host's disk: whoever looks sees whole ones, while others are forgotten."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from garrison.cli.host import drain
from garrison.errors import Rejected, Unavailable
from garrison.formats.launch_request import LaunchRequest
from garrison.host.agent import Agent, Offer
from garrison.host.quota import Quota
from garrison.host.record import NotFound, Record, Records, State
from garrison.host.spec import KeepSpec

if TYPE_CHECKING:
    from pathlib import Path

LAUNCH = LaunchRequest("d.test/u/r:1.0.0", "https://s.test", "pem", None, {"kind": "nil"})


def test_an_end_while_a_keep_is_forgotten_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Records(tmp_path)
    first = kept.make(KeepSpec(LAUNCH), "jane", "2026-01-01T00:00:00")
    second = kept.make(KeepSpec(LAUNCH), "eve", "2026-01-02T00:00:00")

    def ended(path: Path) -> None:
        (path / "owner.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("garrison.host.record.shutil.rmtree", ended)
    with pytest.raises(KeyboardInterrupt):
        first.remove()
    assert [record.id for record in Records(tmp_path)] == [second.id]
    with pytest.raises(NotFound):
        kept.of(first.id, "jane")
    # As an agent does that was asked for it twice.
    first.remove()


def test_one_that_an_earlier_agent_forgot_by_half(tmp_path: Path) -> None:
    kept = Records(tmp_path)
    (tmp_path / "keeps" / ("a" * 32)).mkdir()
    whole = kept.make(KeepSpec(LAUNCH), "jane", "2026-01-01T00:00:00")
    assert [record.id for record in kept] == [whole.id]


def test_a_keep_that_is_forgotten_while_others_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Records(tmp_path)
    made = [kept.make(KeepSpec(LAUNCH), who, f"2026-01-0{day}") for who, day in
            (("jane", 1), ("eve", 2), ("jane", 3))]  # fmt: skip
    for record in made:
        record.write_state(State("ended", 0))
    agent = Agent(tmp_path, Quota(), Offer(frozenset({"nil"})))
    whose = Record.owner
    asked: list[str] = []

    def owner(self: Record) -> tuple[str, str]:
        # Between the listing and the second look at each.
        asked.append(self.id)
        if asked.count(made[0].id) == 2:
            made[0].remove()
        return whose(self)

    monkeypatch.setattr(Record, "owner", owner)
    assert [keep["id"] for keep in agent.all_of("jane")] == [made[2].id]


def test_another_tenants_end_does_not_refuse_a_new_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Records(tmp_path)
    going = kept.make(KeepSpec(LAUNCH), "eve", "2026-01-01")
    going.write_state(State("ended", 0))
    agent = Agent(tmp_path, Quota(memory_mib=128), Offer(frozenset({"nil"})))
    whose = Record.owner

    def owner(self: Record) -> tuple[str, str]:
        found = whose(self)
        going.remove()
        return found

    monkeypatch.setattr(Record, "owner", owner)
    # It comes as far as what is missing in the request.
    with pytest.raises(Rejected, match="memory_mib"):
        asyncio.run(agent.make(KeepSpec(LAUNCH), "jane"))


def test_a_keep_that_ends_by_itself_does_not_end_a_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Records(tmp_path)
    for who in ("jane", "eve"):
        kept.make(KeepSpec(LAUNCH), who, "2026-01-01")
    told: list[int] = []

    def kill(shim: int, _signal: int) -> None:
        told.append(shim)
        raise ProcessLookupError

    monkeypatch.setattr(
        Record, "state", lambda _self: State("ended" if len(told) == 2 else "running", 1)
    )
    monkeypatch.setattr("garrison.cli.host.os.kill", kill)
    assert drain.callback is not None
    drain.callback(tmp_path)
    assert len(told) == 2


@pytest.mark.parametrize("name", ["owner.json", "spec.json", "state.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b'{"phase": 1}', b"\xff"])
def test_a_damaged_record_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    """A host does not start with a keep of which it does not know whose it is, or whether it is."""
    record = Records(tmp_path).make(KeepSpec(LAUNCH), "jane", "2026-01-01")
    record.write_state(State("running", 0))
    (record.path / name).write_bytes(content)
    agent = Agent(tmp_path, Quota(), Offer(frozenset({"nil"})))
    with pytest.raises(Unavailable, match="is damaged") as raised:
        agent.revive()
    assert raised.value.field == f"keeps/{record.id}/{name}"
    record.path.rename(tmp_path / "aside")
    assert agent.revive() == []

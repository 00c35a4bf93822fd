"""Files that are to stay: whole at every loss of power, and there once that was acknowledged."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from garrison.disk import make_folder, write_new, write_whole
from garrison.errors import Misuse, Unavailable
from garrison.formats.launch_request import LaunchRequest
from garrison.host.record import Records, State
from garrison.host.spec import KeepSpec
from garrison.steward.init import make_directory
from garrison.steward.revocation import FILE, Reason, Revocation, load, revoke
from garrison.testing.power import Disk, put_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from garrison.testing.power import Left

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LAUNCH = LaunchRequest("d.test/u/r:1.0.0", "https://s.test", "pem", None, {"kind": "nil"})


@pytest.fixture
def left(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Iterator[tuple[Path, Left]]]:
    """Each folder that a loss of power may have left, and what had been acknowledged."""

    def moments() -> Iterator[tuple[Path, Left]]:
        monkeypatch.undo()
        disk.power_goes()
        assert len(disk.moments) > 5
        for index, (files, acknowledged) in enumerate(disk.moments):
            put_back(files, tmp_path / str(index))
            yield tmp_path / str(index), acknowledged

    return moments


def test_what_is_written_whole_is_the_old_or_the_new(
    disk: Disk, left: Callable[[], Iterator[tuple[Path, Left]]]
) -> None:
    path = disk.folder / "file"
    for content in (b"old", b"new"):
        write_whole(path, content)
    seen = {(folder / "file").read_bytes() for folder, _ in left() if (folder / "file").exists()}
    assert seen == {b"old", b"new"}


def test_what_was_there_stays_where_nothing_can_be_written(disk: Disk) -> None:
    path = disk.folder / "file"
    write_whole(path, b"old")
    disk.broken = lambda _: errno.ENOSPC
    with pytest.raises(OSError, match="on fire"):
        write_whole(path, b"new")
    with pytest.raises(OSError, match="on fire"):
        write_new(disk.folder / "other", b"new")
    with pytest.raises(FileExistsError):
        write_new(path, b"new")
    assert [(found.name, found.read_bytes()) for found in disk.folder.iterdir()] == [
        ("file", b"old")
    ]


def test_modes_are_what_was_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "secret", b"")
        write_whole(tmp_path / "public", b"", 0o666)
        write_new(tmp_path / "new", b"", 0o666)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"secret": 0o600, "public": 0o640, "new": 0o640}


def test_many_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    contents = [bytes([number]) * 5000 for number in range(20)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda content: write_whole(path, content), contents * 5))
    assert path.read_bytes() in contents
    assert [*tmp_path.iterdir()] == [path]


def test_a_folder_that_is_made_is_there_to_stay(disk: Disk) -> None:
    make_folder(disk.folder / "a/b/c")
    below = [path.removeprefix(str(disk.folder)) for path in disk.flushed]
    assert below == ["/a/b", "/a", ""]
    make_folder(disk.folder / "a/b/c")
    assert len(disk.flushed) == 3
    disk.broken = lambda _: errno.EINVAL
    with pytest.raises(OSError, match="on fire"):
        make_folder(disk.folder / "d")


def test_a_host_keeps_what_it_said_of_its_keeps(
    disk: Disk, left: Callable[[], Iterator[tuple[Path, Left]]]
) -> None:
    """One that a tenant ended is not started again; one that it made is not forgotten."""
    kept = Records(disk.folder)
    for tenant in ("jane", "eve"):
        record = kept.make(KeepSpec(LAUNCH), tenant, "2026-01-01")
        for state in (State("running", 1), State("running", 1, stopped=True), State("ended", 1)):
            disk.acknowledged.pop(record.id, None)
            record.write_state(state)
            disk.acknowledged[record.id] = json.dumps(asdict(state)).encode()
        if tenant == "jane":
            del disk.acknowledged[record.id]
            record.remove()
            disk.acknowledged[record.id] = b"gone"
    for folder, acknowledged in left():
        found = {record.id: record for record in Records(folder)}
        for record in found.values():
            assert record.owner()[0] in {"jane", "eve"}
            assert record.spec() == KeepSpec(LAUNCH)
            record.state()
        for name, said in acknowledged.items():
            if said == b"gone":
                assert name not in found
            else:
                assert (found[name].path / "state.json").read_bytes() == said


@pytest.mark.parametrize("part", ["/.garrison-", "/keeps"])
def test_a_host_that_cannot_write_down_a_keep_has_none(disk: Disk, part: str) -> None:
    kept = Records(disk.folder)
    disk.broken = lambda path: errno.EIO if part in path[-30:] else None
    with pytest.raises(Unavailable, match="cannot write down a keep"):
        kept.make(KeepSpec(LAUNCH), "jane", "2026-01-01")
    assert [*(disk.folder / "keeps").iterdir()] == []


def test_what_was_revoked_stays_revoked(
    disk: Disk, left: Callable[[], Iterator[tuple[Path, Left]]]
) -> None:
    for serial in (1, 2, 3):
        end = NOW + timedelta(hours=1)
        revoke(disk.folder, Revocation(serial, NOW, end, Reason.UNSPECIFIED), NOW)
        disk.acknowledged[str(serial)] = b""
    for folder, acknowledged in left():
        assert {str(item.serial) for item in load(folder, NOW)} >= acknowledged.keys()


def test_a_revocation_that_is_not_on_the_disk_is_not_acknowledged(disk: Disk) -> None:
    revocation = Revocation(1, NOW, NOW + timedelta(hours=1), Reason.UNSPECIFIED)
    disk.broken = lambda path: errno.EIO if path == str(disk.folder) else None
    # Nor where it is tried again, and can be read already.
    for _ in range(2):
        with pytest.raises(Misuse, match="cannot be written: on fire"):
            revoke(disk.folder, revocation, NOW)
    disk.broken = lambda _: None
    with pytest.raises(Misuse, match="revoked already"):
        revoke(disk.folder, revocation, NOW)
    assert [*disk.least()] == [FILE]


def test_a_new_steward_has_all_its_keys(
    disk: Disk, left: Callable[[], Iterator[tuple[Path, Left]]]
) -> None:
    files = {"root.pem": b"root", "root.key": b"key", "tls/server.key": b"server"}
    make_directory(disk.folder / "steward", files)
    disk.acknowledged["steward"] = b""
    for folder, acknowledged in left():
        there = folder / "steward"
        if acknowledged or there.exists():
            found = {str(path.relative_to(there)): path.read_bytes()
                     for path in there.rglob("*") if path.is_file()}  # fmt: skip
            assert found == files


def test_a_steward_that_may_be_lost_is_not_left(disk: Disk) -> None:
    """Who makes it again would be told that it exists already."""
    disk.broken = lambda path: errno.EINVAL if path == str(disk.folder) else None
    with pytest.raises(Misuse, match="cannot be made: on fire"):
        make_directory(disk.folder / "steward", {"root.pem": b"root"})
    assert [*disk.folder.iterdir()] == []

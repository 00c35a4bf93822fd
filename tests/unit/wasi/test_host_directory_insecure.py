"""A directory of the host: what a guest can do in it, and that it never gets out of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garrison.errors import Misuse
from garrison.keep import life
from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.host_directory_insecure import HostDirectory, host_directory
from garrison.keep.vfs.nodes import Directory, File, Node, Quota
from garrison.keep.vfs.paths import resolve
from garrison.keep.wasi.descriptors import put_stat

if TYPE_CHECKING:
    from collections.abc import Callable

_SECRET = b"of the host"


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(_SECRET)
    path = tmp_path / "inside"
    (path / "below").mkdir(parents=True)
    (path / "file").write_bytes(b"hello")
    return path


def _open_descriptors(inside: Path) -> int:
    """How many descriptors of this process lead into a folder."""
    held = 0
    for link in Path("/proc/self/fd").iterdir():
        # Other threads, and the listing itself, close theirs meanwhile.
        with suppress(FileNotFoundError):
            held += link.readlink().is_relative_to(inside)
    return held


def _top(path: Path, *, read_only: bool = False) -> Directory:
    return host_directory(str(path), read_only=read_only).node()


def _read(top: Directory, path: str) -> bytes:
    opened = resolve(top, path, follow=True).existing().open(read=True, write=False)
    buffer = bytearray(100)
    try:
        return bytes(buffer[: opened.read(memoryview(buffer))])
    finally:
        opened.close()


def _number(act: Callable[[], object]) -> int:
    with pytest.raises(Errno) as caught:
        act()
    return caught.value.number


def test_files_are_those_of_the_host(inside: Path) -> None:
    top = _top(inside)
    opened = top.create_file("new").open(read=True, write=True)
    assert opened.write(memoryview(b"written")) == 7
    assert opened.pwrite(memoryview(b"W"), 0) == 1
    opened.set_size(5)
    assert (inside / "new").read_bytes() == b"Writt"
    opened.set_times(10**18, None)
    assert (inside / "new").stat().st_atime_ns == 10**18
    stat = opened.stat()
    assert (stat.filetype, stat.size, stat.ino) == (d.REGULAR, 5, (inside / "new").stat().st_ino)
    assert _read(top, "file") == b"hello"


def test_what_has_the_same_number_elsewhere_is_something_else(inside: Path) -> None:
    def told(node: Node) -> tuple[int, int]:
        out = memoryview(bytearray(64))
        put_stat(out, node.stat())
        return int.from_bytes(out[:8], "little"), int.from_bytes(out[8:16], "little")

    file, second = (resolve(_top(inside), "file", follow=True).existing() for _ in range(2))
    # A file of the keep has whatever number comes next.
    mine = File(Quota(0))
    mine.ino = file.ino
    assert told(file) == told(second)
    assert told(file)[1] == told(mine)[1]
    assert told(file)[0] != told(mine)[0]
    assert told(file)[0] == told(_top(inside))[0]
    if Path("/dev/shm").stat().st_dev != inside.stat().st_dev:
        assert told(file)[0] != told(_top(Path("/dev/shm"), read_only=True))[0]


def test_times_that_wasi_cannot_tell_are_told_as_near_as_can_be(inside: Path) -> None:
    os.utime(inside / "file", (-86400, 5))
    found = resolve(_top(inside), "file", follow=True).existing().stat()
    assert (found.atim, found.mtim) == (0, 5 * 10**9)
    put_stat(memoryview(bytearray(64)), found)


def test_names_are_made_moved_and_removed(inside: Path) -> None:
    top = _top(inside)
    top.create_directory("made")
    top.create_symlink("link", "file")
    top.add("second", resolve(top, "file", follow=False).existing())
    assert (inside / "second").samefile(inside / "file")
    assert resolve(top, "second", follow=False).existing().same(top.lookup("file"))
    assert _read(top, "link") == b"hello"
    top.move("second", resolve(top, "below/.", follow=False).existing().open(
        read=True, write=False).node(), "third")  # fmt: skip
    assert (inside / "below" / "third").read_bytes() == b"hello"
    for name in ("made", "link"):
        top.remove(name)
    assert sorted(name for name, _, _ in top.listing()) == ["below", "file"]
    below = resolve(top, "below", follow=False).existing()
    assert isinstance(below, HostDirectory)
    assert not below.empty()


@pytest.mark.parametrize(
    "path", ["../secret", "below/../../secret", "/etc/passwd", "out", "absolute", "chain/secret"]
)
def test_no_path_leads_out(inside: Path, tmp_path: Path, path: str) -> None:
    (inside / "out").symlink_to("../secret")
    (inside / "absolute").symlink_to(tmp_path / "secret")
    (inside / "chain").symlink_to("below/../..")
    assert _number(lambda: _read(_top(inside), path)) == errno.PERM


@pytest.mark.parametrize("name", ["../secret", "below/../../secret"])
def test_names_made_do_not_lead_out(inside: Path, name: str) -> None:
    assert _number(lambda: resolve(_top(inside), name, follow=False)) == errno.PERM


def test_a_race_of_links_does_not_lead_out(inside: Path, tmp_path: Path) -> None:
    """While the host swaps a directory and a link that leads out, only the directory is found."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(_SECRET)
    (inside / "below" / "file").write_bytes(b"inside")
    (inside / "link").symlink_to(tmp_path / "elsewhere")
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            for one, two in (("below", "kept"), ("link", "below"), ("below", "link"),
                             ("kept", "below")):  # fmt: skip
                (inside / one).rename(inside / two)

    swapping = threading.Thread(target=swap)
    swapping.start()
    found = set()
    try:
        top = _top(inside)
        # By the clock: two threads that take turns at each call can be very slow.
        end = time.monotonic() + 1
        while time.monotonic() < end:
            try:
                found.add(_read(top, "below/file"))
            except (Errno, OSError) as error:
                found.add(type(error).__name__.encode())
    finally:
        ended.set()
        swapping.join()
    assert found
    assert _SECRET not in found
    # Each round of the swapping ends as it began.
    assert _read(top, "below/file") == b"inside"


def test_a_directory_that_is_moved_out_gives_no_way_up(inside: Path, tmp_path: Path) -> None:
    below = resolve(_top(inside), "below", follow=False).existing()
    assert isinstance(below, HostDirectory)
    (inside / "below").rename(tmp_path / "moved")
    assert _number(lambda: _read(below, "../secret")) == errno.PERM


def test_what_is_no_file_is_not_opened(inside: Path) -> None:
    os.mkfifo(inside / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(inside / "s"))
        top = _top(inside)
        assert _number(lambda: top.lookup("pipe")) == errno.NOTSUP
        assert _number(lambda: top.lookup("s")) == errno.NOTSUP


def test_the_host_s_devices_are_the_keep_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """`/dev/null` and its like; others, as terminals and disks, are refused."""
    top = _top(Path("/dev"))
    assert _read(top, "null") == b""
    assert _read(top, "zero") == bytes(100)
    assert len(_read(top, "urandom")) == 100
    null = resolve(top, "null", follow=True).existing()
    assert null.stat().filetype == d.CHARACTER
    assert null.stat().ino == Path("/dev/null").stat().st_ino
    assert type(null.open(read=True, write=True)).__module__ == "garrison.keep.vfs.streams"
    assert _number(lambda: top.lookup("tty")) == errno.NOTSUP

    def never(*_args: object, **_options: object) -> None:
        raise AssertionError("the host would have lost it")

    for name in ("unlink", "rename"):
        monkeypatch.setattr(os, name, never)
    assert _number(lambda: top.remove("null")) == errno.PERM
    assert _number(lambda: top.move("null", top, "other")) == errno.PERM
    assert _number(lambda: top.move("other", top, "null")) == errno.PERM


def test_read_only_is_read_only(inside: Path) -> None:
    top = _top(inside, read_only=True)
    file = resolve(top, "file", follow=False).existing()
    assert isinstance(file, File)
    for act in (
        lambda: file.open(read=True, write=True),
        lambda: file.resize(0),
        lambda: file.set_times(0, 0),
        lambda: top.create_file("new"),
        lambda: top.create_directory("new"),
        lambda: top.create_symlink("new", "file"),
        lambda: top.add("new", file),
        lambda: top.remove("file"),
        lambda: top.move("file", top, "new"),
    ):
        assert _number(act) == errno.ROFS
    assert _read(top, "file") == b"hello"
    assert sorted(path.name for path in inside.iterdir()) == ["below", "file"]


def test_nothing_moves_between_the_host_and_memory(inside: Path) -> None:
    top, memory = _top(inside), Directory(Quota(10_000))
    made = memory.create_file("made")
    for act in (
        lambda: memory.move("made", top, "made"),
        lambda: top.move("file", memory, "file"),
        lambda: top.add("made", made),
        lambda: memory.add("file", top.lookup("file") or made),
    ):
        assert _number(act) == errno.XDEV


def test_names_that_are_not_utf8_are_not_seen(inside: Path) -> None:
    (inside / os.fsdecode(b"\xff")).touch()
    (inside / "link").symlink_to(os.fsdecode(b"\xff"))
    top = _top(inside)
    assert sorted(name for name, _, _ in top.listing()) == ["below", "file", "link"]
    assert _number(lambda: top.lookup("link")) == errno.ILSEQ


def test_descriptors_of_the_host_are_closed(inside: Path) -> None:
    folder = host_directory(str(inside), read_only=False)
    for _ in range(100):
        _read(folder.node(), "file")
        folder.names(again=True)
    assert _open_descriptors(inside) == 1
    folder.close()
    del folder
    assert _open_descriptors(inside) == 0


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="--dir: cannot be opened as a directory"):
        host_directory(str(tmp_path / "none"), read_only=True)


def test_a_keep_with_an_identity_refuses(inside: Path) -> None:
    folder = host_directory(str(inside), read_only=True)
    with pytest.raises(Misuse, match="nothing of the host"):
        # What it is does not matter: that it is there does.
        life.run({}, credentials=object(), directories={"/data": folder})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        pytest.param(["--dir", "{}::/data:ro"], 0, "warning: insecure", id="given"),
        pytest.param(["--dir", "::/data"], 2, "names no directory", id="no-host"),
        pytest.param(["--dir", "{}::/a", "--dir", "{}::/a"], 2, "at one place", id="twice"),
        pytest.param(
            ["--dir", "{}", "--steward", "https://localhost:1", "--steward-root", "{}/root.pem"],
            2,
            "nothing of the host",
            id="with-identity",
        ),
    ],
)
def test_the_command(
    options: list[str],
    code: int,
    said: str,
    inside: Path,
    probe: Path,
    environment: dict[str, str],
) -> None:
    (inside / "root.pem").write_text("-----BEGIN CERTIFICATE-----")
    given = [option.format(inside) for option in options]
    found = subprocess.run(
        [sys.executable, "-m", "garrison", "run", *given, str(probe), "cat", "/data/file"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said in found.stderr
    assert found.returncode == code, found.stderr
    assert (found.stdout == "hello") == (code == 0)

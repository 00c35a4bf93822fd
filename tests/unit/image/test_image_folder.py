"""An image's folder: read, compared, and never put in the place of something else."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from garrison.cli.main import main
from garrison.errors import Malformed, Misuse, Unverified
from garrison.image import build, folder, init
from garrison.image.build import Recipe
from garrison.image.lock import Lock

if TYPE_CHECKING:
    from pathlib import Path

_RECIPE = Recipe(Lock("trixie", 1, (), ()), {"garrison/__init__.py": b""})


def _image(place: Path, inputs: str = _RECIPE.digest) -> Path:
    place.mkdir()
    for name in ("vmlinuz", "initrd", "cmdline"):
        (place / name).write_bytes(name.encode())
    parts = {name: folder.part(place / name) for name in ("vmlinuz", "initrd", "cmdline")}
    about = {"format": 1, "digest": "sha256:00", "inputs": inputs, "parts": parts}
    (place / "image.json").write_text(json.dumps(about))
    return place


def test_an_image_is_read(tmp_path: Path) -> None:
    image = folder.load(_image(tmp_path / "image"))
    assert image.command_line == "cmdline"
    assert image.kernel.read_bytes() == b"vmlinuz"
    assert image.initrd.read_bytes() == b"initrd"
    image.check()


@pytest.mark.parametrize("name", ["vmlinuz", "initrd", "cmdline"])
def test_a_changed_part_is_found(tmp_path: Path, name: str) -> None:
    place = _image(tmp_path / "image")
    (place / name).write_bytes(name.upper().encode())
    with pytest.raises(Unverified, match=f"{name}: is not what was built"):
        folder.load(place).check()


@pytest.mark.parametrize("name", ["vmlinuz", "initrd"])
def test_a_part_of_any_size_is_not_read(tmp_path: Path, name: str) -> None:
    """A file with holes takes no disk, and all memory of who reads it."""
    place = _image(tmp_path / "image")
    with (place / name).open("r+b") as file:
        file.truncate(folder.MAX_PART)
        folder.load(place)
        file.truncate(folder.MAX_PART + 1)
    with pytest.raises(Malformed, match=f"{name}: too large for an image"):
        folder.load(place)


def test_the_command_needs_no_more_of_an_image_than_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that lies there with the right inputs, by whomever, is not built again."""
    place = _image(tmp_path / "image", Recipe.of_this_release().digest)
    assert main(["image", "build", "--output", str(place)]) == 0
    assert "sha256:00, 0.0 MiB" in capsys.readouterr().err


def test_a_folder_without_an_image_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="no image there") as refused:
        folder.load(tmp_path)
    assert refused.value.hint == "make one: garrison image build"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', "[" * 100_000, " " * (1 << 20) + "{}"],
    ids=["empty", "list", "object", "format", "deep", "long"],
)
def test_a_folder_with_another_description_is_refused(tmp_path: Path, text: str) -> None:
    place = _image(tmp_path / "image")
    (place / "image.json").write_text(text)
    with pytest.raises(Malformed, match="does not describe an image"):
        folder.load(place)


def test_parts_elsewhere_are_refused(tmp_path: Path) -> None:
    place = _image(tmp_path / "image")
    about = json.loads((place / "image.json").read_text())
    about["parts"]["../../etc/shadow"] = "sha256:00"
    (place / "image.json").write_text(json.dumps(about))
    with pytest.raises(Malformed, match="does not describe an image"):
        folder.load(place)


@pytest.mark.parametrize("name", ["vmlinuz", "initrd", "cmdline"])
def test_a_missing_part_is_named(tmp_path: Path, name: str) -> None:
    place = _image(tmp_path / "image")
    (place / name).unlink()
    with pytest.raises(Malformed, match=f"no {name}"):
        folder.load(place)


@pytest.mark.parametrize("line", ["a\nb", "é", "x" * 2048, "\x00"], ids=range(4))
def test_a_command_line_that_no_kernel_takes_is_refused(tmp_path: Path, line: str) -> None:
    place = _image(tmp_path / "image")
    (place / "cmdline").write_text(line)
    with pytest.raises(Malformed, match="cannot be a command line"):
        folder.load(place)


def test_an_image_of_the_same_inputs_is_not_built_again(tmp_path: Path) -> None:
    place = _image(tmp_path / "image")
    said: list[str] = []
    assert build.build(_RECIPE, place, say=said.append).folder == place
    assert said == ["built before"]


def test_an_image_that_was_changed_is_not_taken_for_the_one_built(tmp_path: Path) -> None:
    place = _image(tmp_path / "image")
    (place / "initrd").write_bytes(b"another")
    with pytest.raises(Unverified, match="is not what was built"):
        build.build(_RECIPE, place)


def test_nothing_else_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(Misuse, match=r"there is something else; found thesis\.tex"):
        build.build(_RECIPE, tmp_path)
    with pytest.raises(Misuse, match="expected a folder"):
        build.build(_RECIPE, tmp_path / "thesis.tex")


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "images" / "one"
    # Without a kernel there is no image.
    with pytest.raises(Malformed):
        build.build(_RECIPE, place, inputs=tmp_path / "inputs")
    assert list((tmp_path / "images").iterdir()) == []


def test_what_a_killed_build_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_make", lambda *_args: None)
    dead, alive = tmp_path / ".building-dead", tmp_path / ".building-alive"
    for each in (dead, alive):
        _image(each)
    descriptor = os.open(alive, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(Misuse, match="no image there"):  # nothing was made here
            build.build(_RECIPE, tmp_path / "one", inputs=tmp_path / "inputs")
    finally:
        os.close(descriptor)
    assert not dead.exists()
    assert alive.exists()


@pytest.mark.parametrize("before", [True, False])
def test_builds_that_begin_at_once_take_no_folder_of_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, before: bool
) -> None:
    """Another one comes in the moment between the folder is made and it is claimed."""
    monkeypatch.setattr(build, "_make", lambda *_args: None)
    opened = os.open
    begun: list[object] = []

    def interrupted(path: Any, *rest: Any, **more: Any) -> int:
        if begun or not str(path).startswith(str(tmp_path / ".building-")):
            return opened(path, *rest, **more)
        begun.append(path)
        descriptor = -1 if before else opened(path, *rest, **more)
        build._sweep(tmp_path)
        return opened(path, *rest, **more) if before else descriptor

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(Misuse, match="no image there"):  # nothing was made here
        build.build(_RECIPE, tmp_path / "one", inputs=tmp_path / "inputs")
    assert len(begun) == 1


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "")  # as a write to an open file: without a name

    monkeypatch.setattr(build, "_make", full)
    place = tmp_path / "images" / "one"
    with pytest.raises(OSError, match="No space left") as refused:
        build.build(_RECIPE, place, inputs=tmp_path / "inputs")
    assert refused.value.filename == str(place)
    assert list((tmp_path / "images").iterdir()) == []


def test_all_that_makes_a_difference_is_in_the_digest() -> None:
    lock, sources = _RECIPE.lock, _RECIPE.sources
    others = (
        Recipe(Lock("sid", 1, (), ()), sources),
        Recipe(Lock("trixie", 2, (), ()), sources),
        Recipe(lock, {"garrison/__init__.py": b" "}),
        Recipe(lock, {**sources, "garrison/more.py": b""}),
        Recipe(lock, sources, entry="other"),
        Recipe(lock, sources, command_line="debug"),
    )
    assert len({each.digest for each in (_RECIPE, *others)}) == 1 + len(others)


def test_only_the_kernel_starts_the_first_process() -> None:
    with pytest.raises(SystemExit, match="only the kernel starts this"):
        init.main()

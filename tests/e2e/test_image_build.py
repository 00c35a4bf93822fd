"""An image built twice and booted: slow, and it fetches packages the first time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from garrison.errors import Unavailable
from garrison.image.build import Recipe, build
from garrison.image.folder import cache
from garrison.keep import selftest

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.image.folder import Image

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("image")]
_QEMU = "qemu-system-x86_64"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    try:
        return build(Recipe.of_this_release(), tmp_path_factory.mktemp("image") / "first")
    except Unavailable as error:
        pytest.skip(f"the packages of the image cannot be fetched: {error}")


def test_two_builds_are_the_same(image: Image, tmp_path: Path) -> None:
    """Another folder, user settings, time zone, locale, hashes and a process of its own.

    A colon would part the loader's list of folders, and have this machine's libraries loaded.
    """
    other = tmp_path / "a longer path: with spaces" / "second"
    environment = {
        **os.environ,
        "TZ": "Pacific/Chatham",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "7",
        "SOURCE_DATE_EPOCH": "1",
        "XDG_CACHE_HOME": str(cache().parent.parent),
    }
    subprocess.run(
        [sys.executable, "-m", "garrison", "image", "build", "--output", other],
        env=environment,
        check=True,
        capture_output=True,
        umask=0o077,
    )
    names = sorted(each.name for each in image.folder.iterdir())
    assert sorted(each.name for each in other.iterdir()) == names
    for name in names:
        assert (other / name).read_bytes() == (image.folder / name).read_bytes(), name


def test_the_image_has_what_it_says_and_no_more(image: Image) -> None:
    packages = {each["name"]: each for each in image.about["packages"] if each["files"]}
    assert all(each["why"] for each in packages.values())
    assert {each["name"] for each in image.about["packages"]} - packages.keys() == {"liblz4-1"}
    sbom = json.loads((image.folder / "sbom.spdx.json").read_text())
    named = {each["name"] for each in sbom["packages"]}
    assert named == {*packages, "garrison-keep-image"}
    sizes = image.about["sizes"]
    assert sum(sizes.values()) - sizes["vmlinux"] < 48 << 20


def _boot(image: Image, kernel: Path) -> str:
    if shutil.which(_QEMU) is None:
        pytest.skip(f"{_QEMU} is not installed")
    done = subprocess.run(
        [_QEMU, "-M", "q35", "-accel", "tcg,thread=single", "-cpu", "EPYC", "-m", "512",
         "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
         "-kernel", kernel, "-initrd", image.initrd,
         "-append", image.command_line],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=240,
        check=False,
    )  # fmt: skip
    return done.stdout.decode(errors="replace")


def test_it_boots_and_has_all_that_a_keep_stands_on(tmp_path: Path) -> None:
    recipe = replace(Recipe.of_this_release(), entry=selftest.__name__)
    image = build(recipe, tmp_path / "selftest")
    console = _boot(image, image.kernel)
    assert "hello from WebAssembly" in console
    assert "TEE: none" in console
    assert selftest.DONE in console


_CULPRIT = b"def main() -> None:\n    raise RuntimeError('the entry failed')\n"


def test_an_entry_that_fails_is_told_on_the_console(tmp_path: Path) -> None:
    recipe = Recipe.of_this_release()
    recipe = replace(recipe, sources={**recipe.sources, "culprit.py": _CULPRIT}, entry="culprit")
    image = build(recipe, tmp_path / "culprit")
    console = _boot(image, image.unpacked_kernel)
    assert "the entry failed" in console
    assert "Power down" in console

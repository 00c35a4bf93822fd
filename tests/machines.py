"""What tests of real machines share: QEMU and the image, or the reason why they are not there."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from garrison.errors import Unavailable
from garrison.image.build import Recipe, build, default_folder
from garrison.launch.qemu_command import QEMU

if TYPE_CHECKING:
    from pathlib import Path

#: One worker runs all of them: each takes a processor for itself.
GROUP = "machine"


def keep_image() -> Path:
    """The image of this release, built if it is not there; the test is skipped where it cannot."""
    if shutil.which(QEMU) is None:
        pytest.skip(f"needs {QEMU}: apt-get install qemu-system-x86")
    recipe = Recipe.of_this_release()
    try:
        return build(recipe, default_folder(recipe)).folder
    except Unavailable as error:
        pytest.skip(f"the packages of the image cannot be fetched: {error}")

"""What was found by fuzzing, and what it begins with: each parser reads or refuses all of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "fuzz"))
from corpus import kept  # type: ignore[import-not-found]  # (not of the package)
from targets import TARGETS  # type: ignore[import-not-found]  # (likewise)

_KEPT = kept()


@pytest.mark.parametrize("name", TARGETS)
def test_each_input_is_read_or_refused(name: str) -> None:
    target = TARGETS[name]
    inputs = [*target.seeds(), *_KEPT.get(name, ())]
    assert inputs
    for data in inputs:
        target.check(data)


def test_every_target_has_inputs_that_were_found_and_no_other_has() -> None:
    assert set(_KEPT) == set(TARGETS)

"""Finds the recorded real evidence, which is not part of this repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parent.parent


def vectors(kind: str) -> Path:
    """The directory of the vectors of `kind`; without one, the test is skipped."""
    root = Path(os.environ.get("GARRISON_VECTORS", _REPOSITORY.parent / "shared" / "vectors"))
    if not (root / kind).is_dir():
        pytest.skip(f"no recorded evidence in {root / kind}: set GARRISON_VECTORS")
    return root / kind

"""Finds the recorded real evidence, which is not part of this repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garrison.errors import Malformed, Unverified

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_REPOSITORY = Path(__file__).resolve().parent.parent


def vectors(kind: str) -> Path:
    """The directory of the vectors of `kind`; without one, the test is skipped."""
    root = Path(os.environ.get("GARRISON_VECTORS", _REPOSITORY.parent / "shared" / "vectors"))
    if not (root / kind).is_dir():
        pytest.skip(f"no recorded evidence in {root / kind}: set GARRISON_VECTORS")
    return root / kind


def accepted_flips(
    data: bytes, offsets: Iterable[int], verify: Callable[[bytes], object]
) -> list[int]:
    """Of `offsets`, those that `verify` accepts with one bit flipped; any is a defect."""
    accepted = []
    for offset in offsets:
        flipped = bytearray(data)
        flipped[offset] ^= 1 << offset % 8
        try:
            verify(bytes(flipped))
        except (Malformed, Unverified):
            continue
        accepted.append(offset)
    return accepted

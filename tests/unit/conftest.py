"""Fixtures of more than one part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from garrison.testing.power import Disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A folder whose power goes whenever something is flushed or renamed."""
    (tmp_path / "folder").mkdir()
    disk = Disk(tmp_path / "folder", monkeypatch)
    yield disk
    disk.close()

"""The page of the image names each package that is in it, with the reason in the lock."""

from __future__ import annotations

import re
from pathlib import Path

from garrison.image import lock

_PAGE = Path(__file__).parents[3] / "docs" / "reference" / "image.md"


def test_the_table_has_the_packages_of_the_lock() -> None:
    rows = re.findall(
        r"^\| (\S+) \| (\S+) \| \d+ \| [\d.]+ \| (.+) \|$", _PAGE.read_text(), re.MULTILINE
    )
    found = lock.read()
    locked = [(each.name, each.version, each.why) for each in (*found.packages, *found.wheels)]
    assert [row for row in rows if row[0] != "garrison"] == locked, (
        "write the table anew, from `garrison image build --json`"
    )

"""The page of the policies names every key that is read, no other, and its examples are read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from garrison.formats.strict_toml import Table
from garrison.steward.policy import TeePolicies

PAGE = (Path(__file__).parents[3] / "docs/reference/policy.md").read_text()
SECTIONS = re.findall(r"^## `\[(\w+)\]`", PAGE, re.MULTILINE)
EXAMPLE = "\n".join(
    re.findall(r"```toml\n(.*?)```", PAGE.partition("## Simulated vendors")[0], re.DOTALL)
)


class Noting(Table):
    """A table that remembers the names of the keys that were asked for, in a dictionary of all."""

    asked: dict[str, set[str]] = {}  # noqa: RUF012 - emptied by the test

    def _note(self, *keys: str) -> None:
        self.asked.setdefault(str(self._path[-1]) if self._path else "", set()).update(keys)

    def __contains__(self, key: str) -> bool:
        # What may be left out is sometimes looked for before it is taken.
        self._note(key)
        return super().__contains__(key)

    def done(self) -> None:
        self._note(*self._taken)
        super().done()

    def table(self, key: str) -> Table:
        made = super().table(key)
        made.__class__ = Noting
        return made


@pytest.fixture(scope="module")
def asked() -> dict[str, set[str]]:
    Noting.asked = {}
    table = Noting.parse(EXAMPLE, source="policy.md")
    policies = TeePolicies.from_table(table, Path())
    assert policies.tees() == ["snp", "nitro", "sgx", "tdx", "azure", "cca"]
    return Noting.asked


def test_all_tees_have_a_section() -> None:
    assert sorted(SECTIONS) == ["azure", "cca", "nitro", "sgx", "snp", "tdx"]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_table_names_the_keys_that_are_read(section: str, asked: dict[str, set[str]]) -> None:
    body = PAGE.partition(f"## `[{section}]`")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", body, re.MULTILINE)
    named = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert named == asked[section]

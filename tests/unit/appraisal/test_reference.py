"""Reference values with names and ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from garrison.appraisal.reference import one_of, read_digests, read_registers
from garrison.errors import Malformed
from garrison.formats.strict_toml import Table

ENDS = datetime(2027, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
OLD, NEW = b"\xab" * 4, b"\xcd" * 4
POLICY = """
values = [
    "cdcdcdcd",
    { value = "abababab", name = "keep 1.2", comment = "old", expires = 2027-01-01T00:00:00Z },
]
"""


def table(text: str) -> Table:
    return Table.parse(text, source="policy")


@pytest.mark.parametrize(
    ("now", "passed", "word"),
    [
        (ENDS - SECOND, True, "until"),
        (ENDS, False, "expired"),
        (ENDS + SECOND, False, "expired"),
    ],
)
def test_a_value_admits_nothing_from_its_end_on(now: datetime, passed: bool, word: str) -> None:
    values = read_digests(table(POLICY), "values", 4, named=True)
    check = one_of("measurement", OLD, values, "remedy", now)
    assert check.passed is passed
    assert check.wanted == f"cdcdcdcd, abababab (keep 1.2, {word} 2027-01-01T00:00:00+00:00)"
    assert one_of("measurement", NEW, values, "remedy", now).passed


def test_of_two_that_are_the_same_one_that_has_not_ended_is_enough() -> None:
    text = POLICY.replace('"cdcdcdcd"', '{ value = "abababab", name = "for good" }')
    values = read_digests(table(text), "values", 4, named=True)
    check = one_of("measurement", OLD, values, "remedy", ENDS)
    assert check.passed
    assert check.wanted.startswith("abababab (for good), ")


def test_registers() -> None:
    named = '{ value = "abababab", name = "firmware", expires = 2027-01-01T00:00:00Z }'
    registers = read_registers(table(f'0 = [{named}]\nothers = "any"'), 2, 4)
    assert one_of("PCR0", OLD, registers[0], "", ENDS - SECOND).passed
    assert not one_of("PCR0", OLD, registers[0], "", ENDS).passed


@pytest.mark.parametrize(
    "entry",
    [
        '{ value = "abababab" }',
        '{ name = "x" }',
        '{ value = "abab", name = "x" }',
        '{ value = 5, name = "x" }',
        '{ value = "abababab", name = "" }',
        '{ value = "abababab", name = 5 }',
        '{ value = "abababab", name = "\\u001b[31m" }',
        '{ value = "abababab", name = "x", comment = 5 }',
        '{ value = "abababab", name = "x", expires = "2027-01-01T00:00:00Z" }',
        '{ value = "abababab", name = "x", expires = 2027-01-01 }',
        '{ value = "abababab", name = "x", expires = 2027-01-01T00:00:00 }',
        '{ value = "abababab", name = "x", until = 2027-01-01T00:00:00Z }',
    ],
)
def test_other_entries_are_malformed(entry: str) -> None:
    with pytest.raises(Malformed, match="wrong entry"):
        read_digests(table(f"values = [{entry}]"), "values", 4, named=True)


def test_where_nobody_would_hold_to_an_end_there_is_none() -> None:
    with pytest.raises(Malformed, match="wrong entry"):
        read_digests(table(POLICY), "values", 4)

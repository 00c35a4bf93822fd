"""Versions and ranges, against the standard's examples and against a plain reading of ranges."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats.semver import Range, Version

# Semantic Versioning 2.0.0, clause 11: each is below the next.
ORDERED = [
    "0.0.1",
    "0.1.0",
    "1.0.0-1",
    "1.0.0-2",
    "1.0.0-10",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "1.2.0",
    "1.10.0",
    "2.0.0",
    "10.0.0",
]

NUMBER = st.integers(0, 4)
IDENTIFIER = st.sampled_from(["0", "1", "2", "10", "a", "b", "rc", "x-y"])
VERSIONS = st.builds(
    Version,
    NUMBER,
    NUMBER,
    NUMBER,
    st.lists(IDENTIFIER, max_size=3).map(".".join),
    st.sampled_from(["", "b1"]),
)


def admits(range_text: str, version: str) -> bool:
    return Range.parse(range_text).admits(Version.parse(version))


def test_the_standards_order() -> None:
    keys = [Version.parse(text).key for text in ORDERED]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


def test_build_metadata_has_no_precedence() -> None:
    assert Version.parse("1.0.0+a").key == Version.parse("1.0.0+b").key


def brute_precedes(a: Version, b: Version) -> bool:
    """Clause 11, word by word."""
    for x, y in ((a.major, b.major), (a.minor, b.minor), (a.patch, b.patch)):
        if x != y:
            return x < y
    if a.pre and not b.pre:
        return True
    if not a.pre:
        return False
    if not b.pre:
        return False
    ours, theirs = a.pre.split("."), b.pre.split(".")
    for left, right in zip(ours, theirs, strict=False):
        if left == right:
            continue
        if left.isdigit() and right.isdigit():
            return int(left) < int(right)
        if left.isdigit() != right.isdigit():
            return left.isdigit()
        return left < right
    return len(ours) < len(theirs)


@given(VERSIONS, VERSIONS)
def test_order_is_the_brute_one(a: Version, b: Version) -> None:
    assert (a.key < b.key) == brute_precedes(a, b)


@given(VERSIONS)
def test_what_parses_writes_itself_back(version: Version) -> None:
    assert Version.parse(str(version)) == version


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("1.2.3", ["1.2.3"], ["1.2.4", "1.2.3-rc.1", "1.2.3+b1"]),
        ("1.2.3+b1", ["1.2.3+b1"], ["1.2.3", "1.2.3+b2"]),
        ("^1.2.3", ["1.2.3", "1.9.0", "1.2.3+b1"], ["1.2.2", "2.0.0", "1.5.0-rc.1", "2.0.0-rc.1"]),
        ("^1.2", ["1.2.0", "1.99.0"], ["1.1.9", "2.0.0"]),
        ("^1", ["1.0.0", "1.99.9"], ["0.9.9", "2.0.0"]),
        ("^0.2.3", ["0.2.3", "0.2.9"], ["0.2.2", "0.3.0", "1.0.0"]),
        ("^0.0.3", ["0.0.3"], ["0.0.2", "0.0.4", "0.1.0"]),
        ("^0.0", ["0.0.0", "0.0.9"], ["0.1.0"]),
        ("^0", ["0.0.0", "0.9.9"], ["1.0.0"]),
        ("^0.2", ["0.2.0", "0.2.9"], ["0.1.9", "0.3.0"]),
        ("^1.0.0-rc.1", ["1.0.0-rc.1", "1.0.0-rc.2", "1.0.0", "1.5.0"], ["1.0.0-beta", "1.5.0-a"]),
        ("~1.2.3", ["1.2.3", "1.2.9"], ["1.2.2", "1.3.0"]),
        ("~1.2", ["1.2.0", "1.2.9"], ["1.1.9", "1.3.0"]),
        ("~1", ["1.0.0", "1.9.0"], ["0.9.0", "2.0.0"]),
        (">=1.0, <2.0", ["1.0.0", "1.99.99"], ["0.9.9", "2.0.0", "2.0.0-rc.1"]),
        (">1.2", ["1.3.0", "2.0.0"], ["1.2.0", "1.2.9"]),
        (">1.2.3", ["1.2.4"], ["1.2.3"]),
        ("<=1.2", ["1.2.9", "0.0.0"], ["1.3.0"]),
        ("<=1.2.3", ["1.2.3"], ["1.2.4"]),
        (">=1.0.0,>1.0.0", ["1.0.1"], ["1.0.0"]),
        ("<=1.0.0, <1.0.0", ["0.9.9"], ["1.0.0"]),
        (">=2.0, <1.0", [], ["0.5.0", "1.5.0", "2.5.0"]),
    ],
)
def test_ranges(text: str, inside: list[str], outside: list[str]) -> None:
    assert [version for version in inside if not admits(text, version)] == []
    assert [version for version in outside if admits(text, version)] == []


@given(
    st.lists(
        st.tuples(st.sampled_from(["^", "~", ">=", ">", "<=", "<"]), VERSIONS),
        min_size=1,
        max_size=3,
    ),
    VERSIONS,
)
def test_a_range_is_all_of_its_bounds(bounds: list[tuple[str, Version]], version: Version) -> None:
    """Each bound judged alone and by brute force; together they admit what all admit."""
    plain = [(operator, Version(v.major, v.minor, v.patch, v.pre)) for operator, v in bounds]
    text = ", ".join(f"{operator}{v}" for operator, v in plain)
    core = (version.major, version.minor, version.patch)
    pre_allowed = not version.pre or any(
        v.pre and (v.major, v.minor, v.patch) == core for _, v in plain
    )
    wanted = pre_allowed and all(brute_admits(operator, v, version) for operator, v in plain)
    assert Range.parse(text).admits(version) == wanted


def brute_admits(operator: str, bound: Version, version: Version) -> bool:
    below, above = brute_precedes(version, bound), brute_precedes(bound, version)
    if operator == ">":
        return above
    if operator == "<":
        return below
    if operator == "<=":
        return not above
    if below or operator == ">=":
        return not below
    if operator == "~":
        end = Version(bound.major, bound.minor + 1, 0)
    elif bound.major:
        end = Version(bound.major + 1, 0, 0)
    elif bound.minor:
        end = Version(0, bound.minor + 1, 0)
    else:
        end = Version(0, 0, bound.patch + 1)
    return brute_precedes(version, end)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "1",
        "1.2",
        "=1.2.3",
        "^",
        "^x",
        "1.2.3,",
        ">=1.0 <2.0",
        "1.2.3 || 2.0.0",
        "^1.2.x",
        "^01.2",
        "^1.2.3.4",
        "^1.2.3+b1",
        "^1.2-rc",
        "v1.2.3",
        "^1.2.3, 1.2.4",
        "\u0661.0.0",
        f"^{'9' * 400}",
        f">=1.{'0' * 300}",
        ">= 1.2.3 ,",
        " 1.2.3",
        "^\u0661",
    ],
)
def test_anything_else_is_malformed(text: str) -> None:
    with pytest.raises(Malformed) as caught:
        Range.parse(text, field="peers")
    assert caught.value.field == "peers"
    assert caught.value.expected is not None


@given(st.text(max_size=60) | st.from_regex(re.compile(r"[\^~<>=0-9.a, +-]{0,40}"), fullmatch=True))
def test_parsing_raises_malformed_only(text: str) -> None:
    try:
        parsed = Range.parse(text)
    except Malformed:
        return
    assert str(parsed) == text

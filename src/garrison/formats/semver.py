"""Semantic versions: their order, and the ranges of them that a rule may admit.

Order is that of Semantic Versioning 2.0.0, clause 11; build metadata has no part in it. A
range is what Cargo means by it: `^1.2`, `~1.2.3`, `>=1.0, <2.0`, or one exact version, which
then admits exactly itself, build metadata included. A range admits a pre-release only where
one of its bounds is a pre-release of that same version, so `^1.0` is never met by `1.5.0-rc.1`.
Wildcards and alternatives (`*`, `||`) are refused: a rule says one thing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.errors import Malformed
from garrison.formats.slug import check_tag

if TYPE_CHECKING:
    from collections.abc import Callable

# Far more than anybody needs, and short enough to show in an error.
_MAX_RANGE = 300
# A tag may be 250 characters long (formats/slug.py), and so may a number in it.
_BOUND = re.compile(r"(\^|~|>=|<=|>|<)\s*([0-9][0-9A-Za-z.+-]*)", re.ASCII)
_PARTIAL = re.compile(r"(0|[1-9][0-9]*)(?:\.(0|[1-9][0-9]*))?", re.ASCII)

# A release is above all its pre-releases; numbers are below words (clause 11.4).
_Identifier = tuple[int, int, str]
_Key = tuple[int, int, int, bool, tuple[_Identifier, ...]]


@dataclass(frozen=True, slots=True)
class Version:
    """One semantic version."""

    major: int
    minor: int
    patch: int
    pre: str = ""
    build: str = ""

    @classmethod
    def parse(cls, text: str, *, field: str = "version") -> Version:
        """Read a full version, such as `1.2.3-rc.1+b5`.

        Raises:
            Malformed: `text` is anything else.
        """
        core, _, build = check_tag(text, field=field).partition("+")
        core, _, pre = core.partition("-")
        major, minor, patch = core.split(".")
        return cls(int(major), int(minor), int(patch), pre, build)

    @property
    def key(self) -> _Key:
        """What versions are sorted by; equal for versions of the same precedence."""
        identifiers = tuple(
            (0, int(part), "") if part.isdigit() else (1, 0, part)
            for part in self.pre.split(".")
            if part
        )
        return (self.major, self.minor, self.patch, not self.pre, identifiers)

    def __str__(self) -> str:
        pre = f"-{self.pre}" if self.pre else ""
        build = f"+{self.build}" if self.build else ""
        return f"{self.major}.{self.minor}.{self.patch}{pre}{build}"


@dataclass(frozen=True, slots=True)
class Range:
    """A set of versions: one exact version, or all between bounds."""

    text: str
    exact: Version | None
    low: tuple[Version, bool] | None
    high: tuple[Version, bool] | None
    pre_of: frozenset[tuple[int, int, int]]

    @classmethod
    def parse(cls, text: str, *, field: str = "version range") -> Range:
        """Read a range: an exact version, or bounds separated by commas.

        Raises:
            Malformed: `text` is anything else.
        """
        if len(text) > _MAX_RANGE:
            raise _malformed(text, field)
        if text[:1].isdigit():
            return cls(text, Version.parse(text, field=field), None, None, frozenset())
        lows: list[tuple[Version, bool]] = []
        highs: list[tuple[Version, bool]] = []
        pre_of = set()
        for part in text.split(","):
            match = _BOUND.fullmatch(part.strip())
            if match is None:
                raise _malformed(text, field)
            version, given = _partial(match[2], text, field)
            low, high = _BOUNDS[match[1]](version, given)
            lows += [low] if low else []
            highs += [high] if high else []
            if version.pre:
                pre_of.add((version.major, version.minor, version.patch))
        # The narrowest bounds hold: of two equal ones, the one that leaves the version out.
        return cls(
            text,
            None,
            max(lows, key=lambda bound: (bound[0].key, not bound[1]), default=None),
            min(highs, key=lambda bound: (bound[0].key, bound[1]), default=None),
            frozenset(pre_of),
        )

    def admits(self, version: Version) -> bool:
        """Whether `version` is in the range."""
        if self.exact is not None:
            return version == self.exact
        if version.pre and (version.major, version.minor, version.patch) not in self.pre_of:
            return False
        if self.low is not None:
            bound, included = self.low
            if version.key < bound.key or (version.key == bound.key and not included):
                return False
        if self.high is not None:
            bound, included = self.high
            if version.key > bound.key or (version.key == bound.key and not included):
                return False
        return True

    def __str__(self) -> str:
        return self.text


def _malformed(text: str, field: str) -> Malformed:
    return Malformed(
        "not a version range",
        field=field,
        found=repr(text[:80]),
        expected="1.2.3, ^1.2, ~1.2.3, or bounds such as '>=1.0, <2.0'",
    )


def _partial(text: str, whole: str, field: str) -> tuple[Version, int]:
    """Read `1`, `1.2` or a full version, and say how many of the three numbers were given."""
    match = _PARTIAL.fullmatch(text)
    if match is not None and len(text) <= _MAX_RANGE:
        return Version(int(match[1]), int(match[2] or 0), 0), 2 if match[2] else 1
    try:
        version = Version.parse(text, field=field)
    except Malformed:
        raise _malformed(whole, field) from None
    if version.build:
        # A bound cannot mean it: build metadata has no order.
        raise _malformed(whole, field)
    return version, 3


def _bump(version: Version, given: int) -> Version:
    """The first version after all those that begin with the `given` numbers of `version`."""
    if given == 1:
        return Version(version.major + 1, 0, 0)
    if given == 2:
        return Version(version.major, version.minor + 1, 0)
    return Version(version.major, version.minor, version.patch + 1)


_Bound = tuple[Version, bool] | None


def _caret(version: Version, given: int) -> tuple[_Bound, _Bound]:
    """Change nothing left of the first number that is not zero."""
    numbers = (version.major, version.minor, version.patch)
    first = next((index for index, number in enumerate(numbers) if number), 2)
    return (version, True), (_bump(version, min(first + 1, given)), False)


def _tilde(version: Version, given: int) -> tuple[_Bound, _Bound]:
    return (version, True), (_bump(version, min(given, 2)), False)


def _above(version: Version, given: int) -> tuple[_Bound, _Bound]:
    return ((version, False) if given == 3 else (_bump(version, given), True)), None


def _up_to(version: Version, given: int) -> tuple[_Bound, _Bound]:
    return None, ((version, True) if given == 3 else (_bump(version, given), False))


_BOUNDS: dict[str, Callable[[Version, int], tuple[_Bound, _Bound]]] = {
    "^": _caret,
    "~": _tilde,
    ">=": lambda version, _given: ((version, True), None),
    ">": _above,
    "<=": _up_to,
    "<": lambda version, _given: (None, (version, False)),
}

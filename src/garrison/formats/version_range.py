"""Ranges of versions of two parts, as requirements in Cargo's syntax name them.

    range = "*" / requirement *("," requirement)
    requirement = ["^" / "~" / "=" / ">" / ">=" / "<" / "<="] major ["." minor ["." "0"]]

The firmware's ABI has a major and a minor number, and so have these: a patch number other than
zero, a wildcard within a version and a pre-release are refused, because no ABI could have one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from garrison.errors import Malformed

_MAX_TEXT = 256
_REQUIREMENT = re.compile(r"(\^|~|=|>=|>|<=|<|) *(\d{1,3})(?:\.(\d{1,3})(?:\.0)?)?", re.ASCII)
# Above every version: the parts have a byte each, in text three digits.
_END = (1000, 0)

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class VersionRange:
    """The versions from `least`, and below `end`."""

    least: Version
    end: Version

    @classmethod
    def parse(cls, text: str) -> VersionRange:
        """Read a range.

        Raises:
            Malformed: it is none, or has no version in it.
        """
        if len(text) > _MAX_TEXT:
            raise _malformed("too long", text)
        least, end = (0, 0), _END
        if text.strip() != "*":
            for part in text.split(","):
                match = _REQUIREMENT.fullmatch(part.strip())
                if match is None:
                    raise _malformed("not a range of versions", text)
                minor = None if match[3] is None else int(match[3])
                lower, upper = _bounds(match[1] or "^", int(match[2]), minor)
                least, end = max(least, lower), min(end, upper)
        if least >= end:
            raise _malformed("a range without a version in it", text)
        return cls(least, end)

    def admits(self, version: Version) -> bool:
        """Whether `version` is in the range."""
        return self.least <= version < self.end

    def __str__(self) -> str:
        least = f">={self.least[0]}.{self.least[1]}"
        return least if self.end == _END else f"{least}, <{self.end[0]}.{self.end[1]}"


def _bounds(operator: str, major: int, minor: int | None) -> tuple[Version, Version]:
    """What one requirement admits: from the first, below the second."""
    given = (major, minor or 0)
    # What the version stands for, as it is written: one version, or all of a major number.
    following = (major + 1, 0) if minor is None else (major, minor + 1)
    return {
        "^": (given, (major + 1, 0) if major or minor is None else following),
        "~": (given, following),
        "=": (given, following),
        ">=": (given, _END),
        ">": (following, _END),
        "<": ((0, 0), given),
        "<=": ((0, 0), following),
    }[operator]


def _malformed(message: str, text: str) -> Malformed:
    return Malformed(
        message, field="version range", found=repr(text[:100]), expected='a range like ">=1.51, <2"'
    )

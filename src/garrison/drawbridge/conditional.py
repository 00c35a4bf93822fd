"""Conditional requests and ranges (RFC 9110, sections 13 and 14), for what never changes. Pure.

The entity tag of an answer is the SHA-256 of its body, in hex: strong, and the same at every
replica. There are no dates: nothing here has one that says more than the tag.
"""

from __future__ import annotations

import re

from garrison.errors import Malformed, Misuse

# Section 14.1.2: one range of bytes, `first-last`, `first-` or `-suffix`.
_RANGE = re.compile(r"bytes\s*=\s*([0-9]{0,18})-([0-9]{0,18})", re.ASCII | re.IGNORECASE)
# Section 8.8.3, as an element of a list (section 5.6.1.2), which may be empty.
_ELEMENT = re.compile(r'[ \t]*(?:(W/)?("[\x21\x23-\x7e\x80-\xff]*")[ \t]*)?(?:,|\Z)')
_MAX_HEADER = 8192


class PreconditionFailed(Misuse):
    """What is there, or is not, is not what the client expects: HTTP 412."""


class Unsatisfiable(Misuse):
    """No byte of the content is in the range: HTTP 416.

    Args:
        length: how long the content is.
    """

    def __init__(self, found: str, length: int) -> None:
        super().__init__(
            "no byte is in this range",
            field="Range",
            found=found[:100],
            expected=f"from 0 to {length - 1}" if length else "none, for it is empty",
        )
        self.length = length


def entity_tag(sha256: bytes) -> str:
    """The entity tag of a body with this digest."""
    return f'"{sha256.hex()}"'


def is_unchanged(if_none_match: str | None, tag: str) -> bool:
    """Whether the client has the body already (section 13.1.2), by the weak comparison.

    Raises:
        Malformed: the header is not a list of entity tags.
    """
    return if_none_match is not None and _names(if_none_match, tag, "If-None-Match", weak=True)


def check_match(if_match: str | None, tag: str) -> None:
    """Check what the client expects to be there (section 13.1.1), by the strong comparison.

    Raises:
        PreconditionFailed: something else is.
        Malformed: the header is not a list of entity tags.
    """
    if if_match is not None and not _names(if_match, tag, "If-Match", weak=False):
        raise PreconditionFailed(
            "there is something else", field="If-Match", found=if_match[:100], expected=tag
        )


def check_change(if_match: str | None, if_none_match: str | None, tag: str | None) -> None:
    """Check what the client expects to be there before something is put there, or removed.

    Args:
        if_match: what must be there.
        if_none_match: what must not be there.
        tag: the entity tag of what is there; None if nothing is.

    Raises:
        PreconditionFailed: something else is there.
        Malformed: a header is not a list of entity tags.
    """
    if if_match is not None and (tag is None or not _names(if_match, tag, "If-Match", weak=False)):
        raise PreconditionFailed(
            "there is something else",
            field="If-Match",
            found=if_match[:100],
            expected=tag or "none, for nothing is there",
        )
    if if_none_match is not None and tag is not None and is_unchanged(if_none_match, tag):
        raise PreconditionFailed("it is there", field="If-None-Match", found=if_none_match[:100])


def byte_range(
    header: str | None, if_range: str | None, tag: str, length: int
) -> tuple[int, int] | None:
    """The bytes that are asked for: from the first to below the second.

    Args:
        header: `Range`.
        if_range: `If-Range`: another tag there, or a date, asks for all of it.
        tag: the entity tag.
        length: how long the content is.

    Returns:
        The range, or None for all: where none is asked for, or several, or in other units.

    Raises:
        Unsatisfiable: the content has no such bytes.
    """
    if header is None or (if_range is not None and if_range.strip() != tag):
        return None
    match = _RANGE.fullmatch(header.strip())
    if match is None or match[1] == match[2] == "":
        # Section 14.2: a range that is not understood is as if it were not there.
        return None
    if match[1] == "":
        start, end = max(0, length - int(match[2])), length
    else:
        start = int(match[1])
        end = min(length, int(match[2]) + 1) if match[2] else length
        if match[2] and int(match[2]) < start:
            return None
    if start >= end:
        raise Unsatisfiable(header, length)
    return start, end


def _names(header: str, tag: str, field: str, *, weak: bool) -> bool:
    if len(header) > _MAX_HEADER:
        raise Malformed("too long", field=field, expected=f"at most {_MAX_HEADER}")
    if header.strip() == "*":
        return True
    found, at = False, 0
    while at < len(header):
        match = _ELEMENT.match(header, at)
        if match is None:
            raise Malformed("not an entity tag", field=field, found=repr(header[at : at + 80]))
        found = found or (match[2] == tag and (weak or match[1] is None))
        at = match.end()
    return found

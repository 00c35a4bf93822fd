"""Reference values in policies, and the checks against them, as several TEEs have them.

A reference value is a list of digests in hex, or the word "any". A digest may have a name, and an
end, from which on it admits nothing. Of a register it may also be "zero", which is as many bytes
as there are. Every register is spoken for: one by one, or the rest of them by `others`.

    measurements = [
        "<hex digits>",
        { value = "<hex digits>", name = "1.2", comment = "...", expires = 2027-01-01T00:00:00Z },
    ]
    [<tee>.pcrs]
    0 = ["<hex digits>"]
    8 = "zero"
    others = "any"
"""

from __future__ import annotations

import re
from datetime import datetime
from hmac import compare_digest
from typing import TYPE_CHECKING, Self

from garrison.appraisal.result import Check
from garrison.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from garrison.formats.strict_toml import Table

ANY = "any"
_ZERO = "zero"
_OTHERS = "others"
# Of a reference value: as long as a version of an image is ever told.
_MAX_NAME = 128
_HINT = 'write "any" to admit all'
_ROOT_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Reference(bytes):
    """A reference value with a name, which may end; it equals its bytes."""

    name: str
    expires: datetime | None

    def __new__(cls, value: bytes, name: str, expires: datetime | None) -> Self:
        """Name a value."""
        found = super().__new__(cls, value)
        found.name, found.expires = name, expires
        return found


# None stands for "any".
Bytes = tuple[bytes, ...] | None


def read_hex(text: object) -> bytes | None:
    """Read hex digits, None if it is anything else; the parser itself would skip blanks."""
    if not isinstance(text, str) or re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", text) is None:
        return None
    return bytes.fromhex(text)


def read_sha256(table: Table, key: str) -> bytes:
    """Take a SHA-256.

    Raises:
        Malformed: it is anything else, or absent.
    """
    digest = read_hex(table.string(key))
    if digest is None or len(digest) != 32:
        raise table.malformed(key, "not a SHA-256", expected="64 hex digits")
    return digest


def read_simulated_roots(
    table: Table, base: Path, *, endorsed: bool
) -> tuple[dict[str, str], dict[str, Path]]:
    """Take simulated roots to trust: a table for each, by its name.

    Args:
        table: of all.
        base: what directories are relative to.
        endorsed: whether each has a directory of endorsements; else it may have one.

    Returns:
        The SHA-256 of each one's key, in hex, and the directories that there are.

    Raises:
        Malformed: it is anything else.
    """
    keys: dict[str, str] = {}
    directories: dict[str, Path] = {}
    for name in list(table.keys()):
        if _ROOT_NAME.fullmatch(name) is None:
            raise Malformed(
                "wrong name", field=table.where(name), expected="letters, digits, - and _"
            )
        root = table.table(name)
        key = read_sha256(root, "key_sha256").hex()
        if key in keys.values():
            raise root.malformed("key_sha256", "named twice", expected="another root's key")
        keys[name] = key
        directory = (root.string if endorsed else root.optional_string)("endorsements")
        if directory is not None:
            directories[name] = base / directory
        root.done()
    table.done()
    return keys, directories


def read_list(table: Table, key: str, expected: str) -> list[object] | None:
    """Take a list that is not empty, or "any" (None).

    Raises:
        Malformed: it is anything else, or absent.
    """
    if key not in table:
        raise Malformed("missing", field=table.where(key), expected=expected, hint=_HINT)
    value = table.value(key)
    if value == ANY:
        return None
    if not isinstance(value, list):
        raise table.malformed(key, "wrong type", expected=expected, hint=_HINT)
    if not value:
        raise table.malformed(key, "an empty list admits nothing", expected=expected, hint=_HINT)
    return value


def read_digests(table: Table, key: str, *sizes: int, named: bool = False) -> Bytes:
    """Take a list of digests, each of one of `sizes` bytes, or "any" (None).

    Args:
        table: where it stands.
        key: its name.
        sizes: how long a digest may be.
        named: whether values may have a name and an end; then `one_of` must hold to them.

    Raises:
        Malformed: it is anything else, or absent.
    """
    digits = " or ".join(str(2 * size) for size in sizes)
    expected = f'a list of {digits} hex digits each, or "any"'
    values = read_list(table, key, expected)
    if values is None:
        return None
    found = []
    for value in values:
        entry = value if named and isinstance(value, dict) else None
        data = read_hex(value if entry is None else entry.get("value"))
        if data is None or len(data) not in sizes:
            raise table.malformed(key, f"wrong entry {str(value)[:140]!r}", expected=expected)
        found.append(data if entry is None else _reference(data, entry, table, key))
    return tuple(found)


def _reference(data: bytes, entry: Mapping[str, object], table: Table, key: str) -> Reference:
    name, expires = entry.get("name"), entry.get("expires")
    right = (
        set(entry) <= {"value", "name", "comment", "expires"}
        and isinstance(name, str)
        and name.isprintable()
        and 0 < len(name) <= _MAX_NAME
        and isinstance(entry.get("comment", ""), str)
        and (expires is None or (isinstance(expires, datetime) and expires.tzinfo is not None))
    )
    if not right or not isinstance(name, str):
        raise table.malformed(
            key,
            f"wrong entry {str(dict(entry))[:140]!r}",
            expected="value and name; comment and expires (a time with its offset) if wanted",
        )
    return Reference(data, name, expires if isinstance(expires, datetime) else None)


def read_registers(table: Table, count: int, *sizes: int) -> Mapping[int, Bytes]:
    """Take the reference values of registers 0 to `count` - 1, each of one of `sizes` bytes.

    Raises:
        Malformed: a register is left out and there is no `others`, or a value is wrong.
    """

    def read(key: str) -> Bytes:
        if table.value(key) == _ZERO:
            return tuple(map(bytes, sizes))
        return read_digests(table, key, *sizes, named=True)

    others = (read(_OTHERS),) if _OTHERS in table else ()
    found = {}
    for index in range(count):
        found[index] = others[0] if others and str(index) not in table else read(str(index))
    table.done()
    return found


def register_checks(
    name: str, values: Sequence[bytes], wanted: Mapping[int, Bytes], remedy: str, now: datetime
) -> list[Check]:
    """Hold each register to its reference values."""
    return [
        one_of(f"{name}{index}", value, wanted[index], remedy, now)
        for index, value in enumerate(values)
    ]


def one_of(name: str, found: bytes, admitted: Bytes, remedy: str, now: datetime) -> Check:
    """Check that `found` is one of `admitted`, as far as they have not ended."""
    if admitted is None:
        return Check(name, found.hex(), ANY, passed=True, remedy=remedy)
    passed = any(value == found and not _ended(value, now) for value in admitted)
    wanted = ", ".join(_described(value, now) for value in admitted)
    return Check(name, found.hex(), wanted, passed, remedy)


def _ended(value: bytes, now: datetime) -> bool:
    expires = value.expires if isinstance(value, Reference) else None
    return expires is not None and now >= expires


def _described(value: bytes, now: datetime) -> str:
    if not isinstance(value, Reference):
        return value.hex()
    if value.expires is None:
        return f"{value.hex()} ({value.name})"
    word = "expired" if _ended(value, now) else "until"
    return f"{value.hex()} ({value.name}, {word} {value.expires.isoformat()})"


def bound(name: str, found: bytes, expected: bytes) -> Check:
    """Check that evidence is bound to what it must be bound to."""
    return Check(
        name=name,
        found=found.hex() or "none",
        wanted=expected.hex(),
        passed=compare_digest(found, expected),
        remedy="the evidence is bound to another key or challenge: attest again",
    )


def word_of(name: str, found: str, admitted: Sequence[str] | None, remedy: str) -> Check:
    """Check that `found` is one of `admitted`."""
    wanted = ANY if admitted is None else ", ".join(admitted)
    return Check(name, found, wanted, admitted is None or found in admitted, remedy)


def flag(name: str, *, found: bool, wanted: bool | None, remedy: str) -> Check:
    """Check that a flag is as `wanted`; None admits both."""
    return Check(
        name=name,
        found=_yes_no(found),
        wanted=ANY if wanted is None else _yes_no(wanted),
        passed=wanted is None or found is wanted,
        remedy=remedy,
    )


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"

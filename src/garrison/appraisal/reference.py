"""Reference values in policies, and the checks against them, as several TEEs have them.

A reference value is a list of digests in hex, or the word "any". Of a register it may also be
"zero", which is as many bytes as there are. Every register is spoken for: one by one, or the rest
of them by `others`.

    [<tee>.pcrs]
    0 = ["<hex digits>"]
    8 = "zero"
    others = "any"
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from garrison.appraisal.result import Check
from garrison.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from garrison.formats.strict_toml import Table

ANY = "any"
_ZERO = "zero"
_OTHERS = "others"
_HINT = 'write "any" to admit all'

# None stands for "any".
Bytes = tuple[bytes, ...] | None


def read_hex(text: object) -> bytes | None:
    """Read hex digits, None if it is anything else; the parser itself would skip blanks."""
    if not isinstance(text, str) or re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", text) is None:
        return None
    return bytes.fromhex(text)


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


def read_digests(table: Table, key: str, *sizes: int) -> Bytes:
    """Take a list of digests, each of one of `sizes` bytes, or "any" (None).

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
        data = read_hex(value)
        if data is None or len(data) not in sizes:
            raise table.malformed(key, f"wrong entry {str(value)[:140]!r}", expected=expected)
        found.append(data)
    return tuple(found)


def read_registers(table: Table, count: int, *sizes: int) -> Mapping[int, Bytes]:
    """Take the reference values of registers 0 to `count` - 1, each of one of `sizes` bytes.

    Raises:
        Malformed: a register is left out and there is no `others`, or a value is wrong.
    """

    def read(key: str) -> Bytes:
        if table.value(key) == _ZERO:
            return tuple(map(bytes, sizes))
        return read_digests(table, key, *sizes)

    others = (read(_OTHERS),) if _OTHERS in table else ()
    found = {}
    for index in range(count):
        found[index] = others[0] if others and str(index) not in table else read(str(index))
    table.done()
    return found


def register_checks(
    name: str, values: Sequence[bytes], wanted: Mapping[int, Bytes], remedy: str
) -> list[Check]:
    """Hold each register to its reference values."""
    return [
        one_of(f"{name}{index}", value, wanted[index], remedy) for index, value in enumerate(values)
    ]


def one_of(name: str, found: bytes, admitted: Bytes, remedy: str) -> Check:
    """Check that `found` is one of `admitted`."""
    wanted = ANY if admitted is None else ", ".join(value.hex() for value in admitted)
    return Check(name, found.hex(), wanted, admitted is None or found in admitted, remedy)


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

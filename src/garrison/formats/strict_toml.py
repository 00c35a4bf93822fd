"""TOML read strictly: every key has a type, and a key that nobody asked for is an error.

A reader takes each key it knows from a `Table`, then calls `done()`. Errors name the key by
its full path and the line it stands on. Nothing is unchecked by omission: an unread table
is an unknown key.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, TypeVar

from garrison.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Path = tuple[str | int, ...]
T = TypeVar("T")

# Finding a line costs a parse of each statement before it. A document beyond these bounds
# gets its errors without line numbers.
_MAX_LINES = 5000
_MAX_STATEMENT_LINES = 200

_NAMES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    bool: "true or false",
    list: "an array",
    dict: "a table",
}


class Table:
    """One table of a TOML document, from which keys are taken one by one."""

    def __init__(self, values: dict[str, Any], path: Path, source: str, text: str) -> None:
        self._values = values
        self._path = path
        self._source = source
        self._text = text
        self._taken: set[str] = set()

    @classmethod
    def parse(cls, data: bytes | str, *, source: str, limit: int = 1 << 20) -> Table:
        """Read the document `data`, called `source` in errors, of at most `limit` bytes.

        Raises:
            Malformed: it is too long, not UTF-8, or not TOML.
        """
        if len(data) > limit:
            raise Malformed(
                "too long", field=source, found=f"{len(data)} bytes", expected=f"at most {limit}"
            )
        try:
            text = data if isinstance(data, str) else data.decode()
            return cls(tomllib.loads(text), (), source, text)
        except UnicodeDecodeError as error:
            raise Malformed("not UTF-8", field=source) from error
        except (ValueError, RecursionError) as error:
            # A bare ValueError is Python's refusal of a number of thousands of digits.
            raise Malformed(f"not TOML: {error}", field=source) from error

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def keys(self) -> Iterator[str]:
        """The keys of this table, in the order of the document."""
        return iter(self._values)

    def where(self, key: str | None = None) -> str:
        """How errors name `key` of this table, or the table itself: file, line and path."""
        path = self._path if key is None else (*self._path, key)
        # What is not there has the line of the table that lacks it.
        lengths = range(len(path), 0, -1)
        line = next(filter(None, (_line_of(self._text, path[:length]) for length in lengths)), None)
        name = ".".join(_quoted(part) for part in path) or "the document"
        return f"{self._source}:{line}: {name}" if line else f"{self._source}: {name}"

    def malformed(
        self, key: str, message: str, *, expected: str, hint: str | None = None
    ) -> Malformed:
        """An error about the value of `key`, for the caller to raise."""
        found = _shown(self._values.get(key))
        return Malformed(message, field=self.where(key), found=found, expected=expected, hint=hint)

    def value(self, key: str) -> Any:
        """Take the value of `key` as it is, None if it is absent, for the caller to check."""
        self._taken.add(key)
        return self._values.get(key)

    def _take(self, key: str, kind: type[T], default: tuple[T, ...]) -> T:
        """Take a value of `kind`; `default` holds what stands in for it, if anything may."""
        self._taken.add(key)
        if key not in self._values:
            if default:
                return default[0]
            raise Malformed("missing", field=self.where(key), expected=_NAMES[kind])
        value = self._values[key]
        # bool is a subclass of int in Python and not in TOML.
        if type(value) is not kind:
            raise self.malformed(key, "wrong type", expected=_NAMES[kind])
        return value

    def string(self, key: str, *default: str, choices: Sequence[str] = ()) -> str:
        """Take a string, one of `choices` if there are any; `default` if it is absent.

        Raises:
            Malformed: it is absent without a default, of another type, or no choice.
        """
        value = self._take(key, str, default)
        if choices and value not in choices:
            raise self.malformed(key, "unknown value", expected=" | ".join(choices))
        return value

    def optional_string(self, key: str) -> str | None:
        """Take a string, None if it is absent.

        Raises:
            Malformed: it is of another type.
        """
        return self._take(key, str, ()) if key in self else self.value(key)

    def integer(self, key: str, *default: int, low: int, high: int) -> int:
        """Take an integer from `low` to `high`; `default` if it is absent.

        Raises:
            Malformed: it is absent without a default, of another type, or out of range.
        """
        value = self._take(key, int, default)
        if not low <= value <= high:
            raise self.malformed(key, "out of range", expected=f"{low} to {high}")
        return value

    def boolean(self, key: str, *default: bool) -> bool:
        """Take a boolean; `default` if it is absent.

        Raises:
            Malformed: it is absent without a default, or of another type.
        """
        return self._take(key, bool, default)

    def strings(self, key: str, *default: list[str]) -> list[str]:
        """Take an array of strings; `default` if it is absent.

        Raises:
            Malformed: it is absent without a default, or of another type.
        """
        values = self._take(key, list, default)
        if not all(isinstance(value, str) for value in values):
            raise self.malformed(key, "wrong type", expected="an array of strings")
        return list(values)

    def table(self, key: str) -> Table:
        """Take a table; an empty one if it is absent.

        Raises:
            Malformed: it is of another type.
        """
        values = self._take(key, dict, ({},))
        return Table(values, (*self._path, key), self._source, self._text)

    def tables(self, key: str) -> list[Table]:
        """Take an array of tables; an empty list if it is absent.

        Raises:
            Malformed: it is of another type.
        """
        values = self._take(key, list, ([],))
        if not all(isinstance(value, dict) for value in values):
            raise self.malformed(key, "wrong type", expected="an array of tables")
        return [
            Table(value, (*self._path, key, index), self._source, self._text)
            for index, value in enumerate(values)
        ]

    def done(self) -> None:
        """Refuse every key that was not taken.

        Raises:
            Malformed: there is one.
        """
        for key in self._values:
            if key not in self._taken:
                known = ", ".join(sorted(self._taken)) or "no keys at all"
                raise Malformed("unknown key", field=self.where(key), expected=known)


def _quoted(part: str | int) -> str:
    if isinstance(part, int):
        return str(part)
    bare = part.replace("-", "").replace("_", "")
    return part if bare.isascii() and bare.isalnum() else f'"{part[:80]}"'


def _shown(value: object) -> str:
    """Show what was found, bounded; strings quoted."""
    return repr(value)[:100]


def _line_of(text: str, path: Path) -> int | None:
    """The line on which `path` is first set, which the standard parser does not tell.

    The document is known to parse. It is cut into statements, each the shortest run of lines
    that parses alone, and each statement says by itself which path it sets.
    """
    if not path:
        return None
    table: Path = ()
    counts: dict[Path, int] = {}
    # TOML has two ends of a line, and Python's `splitlines` many more.
    start, lines = 0, text.replace("\r\n", "\n").split("\n")
    if len(lines) > _MAX_LINES:
        return None
    while start < len(lines):
        for end in range(start + 1, min(len(lines), start + _MAX_STATEMENT_LINES) + 1):
            try:
                statement = tomllib.loads("\n".join(lines[start:end]))
                break
            except (ValueError, RecursionError):
                continue
        else:
            return None
        stripped = lines[start].lstrip()
        if stripped.startswith("["):
            table = _only_path(statement)
            if stripped.startswith("[["):
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            elif table[:1] and (parent := _latest(counts, table)):
                table = parent
            here = [table]
        else:
            here = [(*table, *_only_path(statement))] if statement else []
            here += (
                [(*here[0], *rest) for rest in _inner_paths(statement, here[0][len(table) :])]
                if here
                else []
            )
        for found in here:
            if found[: len(path)] == path:
                return start + 1
        start = end
    return None


def _only_path(statement: dict[str, Any]) -> Path:
    """The path of a statement that sets one thing: `[a.b]` or `a.b = 1`."""
    path: Path = ()
    value: Any = statement
    while isinstance(value, dict) and len(value) == 1:
        key = next(iter(value))
        path, value = (*path, key), value[key]
    return path


def _inner_paths(statement: dict[str, Any], path: Path) -> list[Path]:
    """The keys of an inline table that stands as the value of `path`."""
    value: Any = statement
    for part in path:
        value = value[part]
    return [(key,) for key in value] if isinstance(value, dict) else []


def _latest(counts: dict[Path, int], table: Path) -> Path | None:
    """`[a.b]` after `[[a]]` belongs to the latest element of `a`."""
    for length in range(len(table) - 1, 0, -1):
        if table[:length] in counts:
            return (*table[:length], counts[table[:length]], *table[length:])
    return None

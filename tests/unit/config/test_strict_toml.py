"""Strict TOML: every key has a type and a line, and what nobody asked for is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats.strict_toml import Table

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENT = """\
# comment
name = "x"
port = 80
on = true
list = ["a",
  "b"]
text = '''
[not.a.table]
unknown = 1
'''

[table]
inner = { deep = 1, other = "é" }
"quoted key" = 2
a.b.c = 3

[[array]]
first = 1

[[array]]
second = 2
[array.sub]
third = 3
[last."do.tted"]
x = "\\u2028"
y = 5
"""


def parse(text: str = DOCUMENT) -> Table:
    return Table.parse(text.encode(), source="f.toml")


def test_values_are_taken_by_type() -> None:
    table = parse()
    assert table.string("name") == "x"
    assert table.string("name", choices=("x", "y")) == "x"
    assert table.string("absent", "default") == "default"
    assert table.optional_string("name") == "x"
    assert table.optional_string("absent") is None
    assert table.integer("port", low=1, high=65535) == 80
    assert table.integer("absent", 7, low=1, high=9) == 7
    assert table.boolean("on")
    assert table.strings("list") == ["a", "b"]
    assert table.strings("absent", []) == []
    assert table.table("table").table("inner").integer("deep", low=0, high=1) == 1
    assert [list(entry.keys()) for entry in table.tables("array")] == [["first"], ["second", "sub"]]
    assert list(table.table("absent").keys()) == []
    assert table.tables("absent") == []


@pytest.mark.parametrize(
    ("path", "where"),
    [
        (("name",), "f.toml:2: name"),
        (("list",), "f.toml:5: list"),
        (("text",), "f.toml:7: text"),
        (("table",), "f.toml:12: table"),
        (("table", "inner"), "f.toml:13: table.inner"),
        (("table", "inner", "other"), "f.toml:13: table.inner.other"),
        (("table", "quoted key"), 'f.toml:14: table."quoted key"'),
        (("table", "a", "b", "c"), "f.toml:15: table.a.b.c"),
        (("array", 0), "f.toml:17: array.0"),
        (("array", 1, "second"), "f.toml:21: array.1.second"),
        (("array", 1, "sub", "third"), "f.toml:23: array.1.sub.third"),
        (("last", "do.tted", "y"), 'f.toml:26: last."do.tted".y'),
    ],
)
def test_errors_say_the_line(path: tuple[str | int, ...], where: str) -> None:
    for document in (DOCUMENT, DOCUMENT.replace("\n", "\r\n")):
        table = Table.parse(document, source="f.toml")
        for part in path[:-1]:
            if isinstance(part, str) and part == "array":
                continue
            table = table.tables("array")[part] if isinstance(part, int) else table.table(part)
        last = path[-1]
        found = table.tables("array")[last].where() if isinstance(last, int) else table.where(last)
        assert found == where


def test_lines_are_those_of_toml_alone() -> None:
    """Python knows more ends of a line than TOML does."""
    table = parse('a = "\u2028\u0085"\nb = 1\n')
    assert table.where("b") == "f.toml:2: b"


@pytest.mark.parametrize(
    ("take", "message", "found", "expected"),
    [
        (lambda t: t.string("port"), "wrong type", "80", "a string"),
        (lambda t: t.string("absent"), "missing", None, "a string"),
        (lambda t: t.string("name", choices=("a", "b")), "unknown value", "'x'", "a | b"),
        (lambda t: t.optional_string("on"), "wrong type", "True", "a string"),
        (lambda t: t.integer("on", low=0, high=1), "wrong type", "True", "an integer"),
        (lambda t: t.integer("port", low=0, high=79), "out of range", "80", "0 to 79"),
        (lambda t: t.boolean("port"), "wrong type", "80", "true or false"),
        (lambda t: t.strings("name"), "wrong type", "'x'", "an array"),
        (lambda t: t.strings("array"), "wrong type", None, "an array of strings"),
        (lambda t: t.table("name"), "wrong type", "'x'", "a table"),
        (lambda t: t.tables("list"), "wrong type", "['a', 'b']", "an array of tables"),
    ],
)
def test_a_wrong_value_is_malformed(
    take: Callable[[Table], object], message: str, found: str | None, expected: str
) -> None:
    with pytest.raises(Malformed) as caught:
        take(parse())
    assert caught.value.message == message
    assert caught.value.expected == expected
    if found is not None:
        assert caught.value.found == found


def test_what_was_not_taken_is_unknown() -> None:
    table = parse("a = 1\nb = 2\n")
    table.integer("a", low=1, high=1)
    with pytest.raises(Malformed) as caught:
        table.done()
    assert str(caught.value) == "f.toml:2: b: unknown key; expected a"
    table.value("b")
    table.done()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a = ", "not TOML"),
        (b"a = 1\na = 2", "not TOML"),
        (b"a = '\xff'", "not UTF-8"),
        (b"a = " + b"9" * 5000, "not TOML"),
        (b"a = " + b"[" * 100_000, "not TOML"),
        (b"#" * ((1 << 20) + 1), "too long"),
    ],
)
def test_what_is_no_document(data: bytes, message: str) -> None:
    with pytest.raises(Malformed) as caught:
        Table.parse(data, source="f.toml")
    assert caught.value.message.startswith(message)
    assert caught.value.field == "f.toml"


def test_a_document_too_long_to_search_has_no_lines() -> None:
    assert parse("\n" * 6000 + "a = 1").where("a") == "f.toml: a"
    assert parse("a = [\n" + "1,\n" * 300 + "]\nb = 1").where("b") == "f.toml: b"


@given(st.binary(max_size=60) | st.text("ab[]{}=.,\"'#\n\r 1", max_size=60).map(str.encode))
def test_parsing_raises_malformed_only(data: bytes) -> None:
    try:
        table = Table.parse(data, source="f.toml")
    except Malformed:
        return
    keys = list(table.keys())
    assert all(table.where(key).startswith("f.toml") for key in keys)
    if keys:
        with pytest.raises(Malformed):
            table.done()

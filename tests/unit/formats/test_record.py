"""Records: what `dataclasses` would make of the same class, and none of its modules imported."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from garrison.formats.record import Record


class Place(Record):
    """A class with a default."""

    name: str
    port: int = 80

    def shown(self) -> str:
        return f"{self.name}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """The same of the library's."""

    name: str
    port: int = 80


class Other(Record):
    """One with the same fields."""

    name: str
    port: int = 80


class Itself(Record, eq=False):
    """One whose values are equal to themselves alone."""

    name: str


# How a value is made: by order, by name, by both; and wrongly.
CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("a", 1), {}),
    (("a",), {}),
    (("a",), {"port": 1}),
    ((), {"port": 1, "name": "a"}),
    ((), {"name": "a"}),
    ((), {}),
    ((), {"port": 1}),
    (("a", 1, 2), {}),
    (("a",), {"name": "b"}),
    (("a", 1), {"port": 1}),
    (("a",), {"host": "b"}),
]


@pytest.mark.parametrize(("values", "named"), CALLS, ids=str)
def test_it_takes_what_a_dataclass_takes(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    try:
        wanted = Wanted(*values, **named)
    except TypeError:
        with pytest.raises(TypeError, match="Place takes name, port, each once"):
            Place(*values, **named)
    else:
        made = Place(*values, **named)
        assert (made.name, made.port) == (wanted.name, wanted.port)
        assert made.shown() == f"{wanted.name}:{wanted.port}"


def test_its_values_are_what_it_is_equal_by() -> None:
    made = Place("a", 1)
    assert made == made  # noqa: PLR0124  (by identity, before any value is looked at)
    assert made == Place("a", 1)
    assert hash(made) == hash(Place("a", 1))
    assert len({made, Place("a", 1), Place("a"), Other("a", 1)}) == 3
    assert made != Place("a", 2)
    assert made != Other("a", 1)
    assert made != ("a", 1)


def test_with_a_value_that_has_no_hash_it_has_none() -> None:
    made = Place(["a"])  # type: ignore[arg-type]
    assert made == Place(["a"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unhashable"):
        hash(made)


def test_it_can_be_equal_to_itself_alone() -> None:
    made = Itself("a")
    assert made == made  # noqa: PLR0124
    assert made != Itself("a")
    assert len({made, made, Itself("a")}) == 2


def test_it_cannot_be_changed() -> None:
    made = Place("a", 1)
    with pytest.raises(AttributeError, match="cannot assign to field 'port'"):
        made.port = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="cannot assign to field 'host'"):
        made.host = "b"
    with pytest.raises(AttributeError, match="cannot delete field 'port'"):
        del made.port
    assert not hasattr(made, "__dict__")
    assert made == Place("a", 1)


def test_a_pattern_reads_its_fields_in_order() -> None:
    match Place("a", 1):
        case Place(name, port):
            assert (name, port) == ("a", 1)


def test_what_it_holds_is_not_shown() -> None:
    assert repr(Place("secret")) == "Place(...)"


def test_no_class_stands_below_one_with_fields() -> None:
    with pytest.raises(TypeError, match="Below: a record with fields has no classes below it"):

        class Below(Place):
            """One more field."""

            host: str = ""


def test_it_imports_none_of_what_it_is_there_to_avoid() -> None:
    avoided = ("dataclasses", "inspect", "typing", "re")
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "import garrison.formats.record\n"
        f"print([name for name in {avoided} if name in sys.modules])"
    )
    # Without `site`, whose files in an installation may import anything.
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

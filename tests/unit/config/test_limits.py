"""`[limits]`: what can be said, what cannot, and which of two values holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats.deployment_policy import DeploymentPolicy
from garrison.formats.enarx_toml import TEMPLATE, Config
from garrison.formats.limits import DEFAULTS, LIMITS, Limits, parse_limit

_PAGE = Path(__file__).parents[3] / "docs/reference/enarx-toml.md"
_POSSIBLE = st.fixed_dictionaries(
    {}, optional={name: st.integers(low, high) for name, (_, low, high) in LIMITS.items()}
)


@pytest.mark.parametrize(
    ("value", "amount"),
    [("1048576", 1 << 20), ('"1048576"', 1 << 20), ('"1MiB"', 1 << 20), ('"1024 KiB"', 1 << 20)],
    ids=["number", "text", "unit", "blank"],
)
def test_an_amount_has_several_spellings(value: str, amount: int) -> None:
    text = f"[limits]\nmemory = {value}\n".encode()
    assert Config.from_bytes(text).limits == {"memory": amount}
    assert DeploymentPolicy.from_bytes(text).limits == {"memory": amount}
    assert parse_limit(f"memory={value.strip(chr(34))}", field="--limit") == ("memory", amount)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("memmory = 1", "unknown key"),
        ("memory = 65535", "out of range"),
        ("memory = '5GiB'", "out of range"),
        ("memory = 1.5", "not an amount"),
        ("memory = true", "not an amount"),
        ("memory = '1MB'", "not an amount"),
        ("memory = '-1'", "not an amount"),
        ("memory = '\u0661'", "not an amount"),
        ("memory = '99999999999999999'", "not an amount"),
        ("run_seconds = 0", "out of range"),
    ],
    ids=["name", "low", "high", "float", "bool", "unit", "sign", "digit", "long", "zero"],
)
def test_what_no_limit_is(line: str, message: str) -> None:
    for parse in (Config.from_bytes, DeploymentPolicy.from_bytes):
        with pytest.raises(Malformed, match=message) as caught:
            parse(f"[limits]\n{line}\n".encode())
        assert f":2: limits.{line.split(maxsplit=1)[0]}" in str(caught.value.field)


@pytest.mark.parametrize("text", ["memory", "memory=", "=1", "memmory=1", "memory=1 2", "tmp=-1"])
def test_what_a_command_line_cannot_say(text: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse_limit(text, field="--limit")
    assert str(caught.value.field).startswith("--limit")


@given(_POSSIBLE, _POSSIBLE)
def test_a_tenant_only_narrows(ours: dict[str, int], theirs: dict[str, int]) -> None:
    alone, both = Limits.narrowed(ours, {}), Limits.narrowed(ours, theirs)
    for name in LIMITS:
        before, after = getattr(alone, name), getattr(both, name)
        asked = [value for value in (before, theirs.get(name)) if value is not None]
        assert after == min(asked, default=None)
        assert before == ours.get(name, DEFAULTS[name])


def test_the_template_s_limits_can_be_used() -> None:
    text = re.sub(r"^# (memory|run_seconds)", r"\1", TEMPLATE, flags=re.MULTILINE)
    assert Config.from_bytes(text.encode()).limits == {"memory": 256 << 20, "run_seconds": 3600}


def test_the_page_has_every_limit_with_its_default_and_range() -> None:
    def shown(amount: int | None) -> str:
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if amount and amount % size == 0:
                return f"{amount // size} {unit}"
        return "none" if amount is None else str(amount)

    page = _PAGE.read_text()
    for name, (default, low, high) in LIMITS.items():
        bytes_ = name in {"memory", "stack", "http_head", "tmp", "files"}
        values = [
            shown(v) if bytes_ else str("none" if v is None else v) for v in (default, low, high)
        ]
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        cells = [cell.strip() for cell in row.split("|")[2:4]]
        assert cells == [values[0], f"{values[1]} to {values[2]}"]

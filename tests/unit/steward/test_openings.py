"""Who lets the host in by a policy is told so, and who does not is told nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from garrison.cli.steward import command
from garrison.formats.strict_toml import Table
from garrison.steward.openings import openings
from garrison.steward.policy import TeePolicies

# The page's own examples, of all TEEs.
_PAGE = (Path(__file__).parents[3] / "docs/reference/policy.md").read_text()
_WIDE = "\n".join(
    re.findall(r"```toml\n(.*?)```", _PAGE.partition("## Simulated vendors")[0], re.DOTALL)
)
_48 = f'["{"00" * 48}"]'
_32 = f'["{"00" * 32}"]'


def found(text: str) -> list[str]:
    return openings(TeePolicies.from_table(Table.parse(text, source="policy.toml"), Path()))


def changed(*changes: tuple[str, str]) -> str:
    text = _WIDE
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        assert count, pattern
    return text


def test_what_any_leaves_open_is_told() -> None:
    told = [line.partition(": ")[0] for line in found(_WIDE)]
    assert told == [
        'nitro.pcrs.0 and pcrs.8 = "any"',
        'tdx.mr_td = "any"',
        'tdx.rtmrs.0 = "any"',
        'tdx.rtmrs.1 = "any"',
        'tdx.rtmrs.2 = "any"',
        'azure.pcrs.4 and pcrs.11 = "any"',
        'cca.initial_measurements = "any"',
    ]


_CLOSED = (
    (r'^mr_td = "any"', f"mr_td = {_48}"),
    (r"(?<=\[tdx.rtmrs\]\n)3 = .*\nothers = .*", f"others = {_48}"),
    (r"(?<=\[nitro.pcrs\]\n)", f"0 = {_48}\n"),
    (r'(?<=\[azure.pcrs\]\n)4 = "any"', f"4 = {_32}"),
    (r'^initial_measurements = "any"', f"initial_measurements = {_32}"),
)


def test_a_policy_that_names_what_runs_leaves_nothing_open() -> None:
    assert found(changed(*_CLOSED)) == []


@pytest.mark.parametrize(
    ("section", "line", "told"),
    [
        ("snp", "", "snp.measurements, id_key_digests and author_key_digests"),
        ("sgx", "", "sgx.measurements and signers"),
        ("snp", "debug = true", "snp.debug = true: the host can read and write all of it"),
        ("snp", "migration = true", "snp.migration = true"),
        ("sgx", "debug = true", "sgx.debug = true"),
        ("tdx", "debug = true", "tdx.debug = true"),
        ("tdx", "migratable = true", 'tdx.migratable = true, mr_service_td = "any"'),
        ("azure", 'console = "any"', 'azure.console = "any"'),
        ("cca", 'lifecycle = "any"', "cca.lifecycle"),
        ("cca", 'lifecycle = ["secured", "non-CCA platform debug"]', "cca.lifecycle"),
    ],
)
def test_each_way_in_is_told(section: str, line: str, told: str) -> None:
    text = changed(*_CLOSED)
    if not line:
        text = re.sub(r"(?<=\[snp\]\n)measurements = .*", 'measurements = "any"', text)
        if section == "sgx":
            text = changed(*_CLOSED, (r"^\[\[sgx.signers\]\]\n(.+\n)+", ""))
            line = 'signers = "any"'
    if f"[{section}]" not in text:
        text = text.replace(f"[{section}.", f"[{section}]\n{line}\n[{section}.", 1)
    else:
        text = text.replace(f"[{section}]\n", f"[{section}]\n{line}\n", 1)
    (only,) = found(text)
    assert only.startswith(told)


@pytest.mark.parametrize(
    "line",
    [f"8 = {_48}", f"1 = {_48}\n2 = {_48}"],
    ids=["signer", "parts"],
)
def test_an_image_of_nitros_can_be_named_in_other_ways(line: str) -> None:
    assert found(f'[nitro.pcrs]\n{line}\nothers = "any"\n') == []
    assert found(f'[nitro]\ndebug = true\n[nitro.pcrs]\n{line}\nothers = "any"\n') != []
    assert found(f'[nitro.pcrs]\n1 = {_48}\nothers = "any"\n') != []


def test_the_command_warns(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('[nitro.pcrs]\nothers = "any"\n')
    done = CliRunner().invoke(command, ["policy", "check", str(path)])
    assert done.exit_code == 0
    assert "the policy leaves open: nitro.pcrs.0 and pcrs.8" in done.stderr.replace("\n", " ")
    path.write_text(f"[nitro.pcrs]\nothers = {_48}\n")
    assert "leaves open" not in CliRunner().invoke(command, ["policy", "check", str(path)]).stderr

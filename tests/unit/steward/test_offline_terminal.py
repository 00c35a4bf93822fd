"""Verdicts in a terminal: colours where one is, and plain text everywhere else."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from garrison.cli.main import main
from garrison.formats.dcap_quote import TeeType
from garrison.testing.dcap import NOW, FakeIntel, FakeQuoter, sgx_report
from garrison.testing.nitro import FakeNitro
from garrison.testing.stack import GARRISON
from garrison.testing.tees import collateral_json, sgx_section

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INTEL = FakeIntel()
POLICY = sgx_section(INTEL, minimum_tcb_evaluation="18")
GREEN, RED, YELLOW, RESET = "\x1b[1;32m", "\x1b[1;31m", "\x1b[1;33m", "\x1b[0m"
COMMANDS = {
    "verify": ("verify", "{quote}", "--policy", "{policy}"),
    "policy check": ("steward", "policy", "check", "{policy}", "{quote}"),
}


@pytest.fixture
def words(tmp_path: Path, request: pytest.FixtureRequest) -> list[str]:
    """The command, for a quote of which one check fails."""
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / "quote").write_bytes(FakeQuoter(INTEL).quote(sgx_report(), 3))
    (tmp_path / "collateral").write_bytes(collateral_json(INTEL.collateral(TeeType.SGX)))
    paths = {"policy": tmp_path / "policy.toml", "quote": tmp_path / "quote"}
    command = [word.format_map(paths) for word in COMMANDS[request.param]]
    more = ["--collateral", str(tmp_path / "collateral"), "--at", NOW.isoformat()]
    return [*GARRISON, *command, *more]


def in_a_terminal(
    words: list[str], environment: Mapping[str, str], *, also_errors: bool = True
) -> tuple[int, str, str]:
    """Exit code, what the terminal showed, and standard error where it went into a pipe."""
    main, side = os.openpty()
    clean = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(
        words,
        stdin=side,
        stdout=side,
        stderr=side if also_errors else subprocess.PIPE,
        env={**clean, "TERM": "xterm", **environment},
    ) as process:
        os.close(side)
        shown = b""
        try:
            while True:
                shown += os.read(main, 65536)
        except OSError:
            # EIO: nobody has the terminal open any more.
            pass
        finally:
            os.close(main)
        _, piped = process.communicate(timeout=60)
    return process.returncode, shown.decode(), (piped or b"").decode()


@pytest.mark.parametrize("words", COMMANDS, indirect=True)
def test_a_terminal_shows_colours(words: list[str]) -> None:
    code, shown, _ = in_a_terminal(words, {})
    assert code == 77
    assert f"{GREEN}✔{RESET} MRENCLAVE" in shown
    assert f"{RED}✗{RESET} TCB evaluation\r\n      found   17\r\n      wanted  at least 18" in shown
    assert f"{RED}error:{RESET}" in shown
    failed = re.findall(rf"{re.escape(RED)}✗{re.escape(RESET)} ([A-Za-z ]+)", shown)
    assert set(failed) == {"TCB evaluation"}
    assert f"{YELLOW}warning:{RESET} INSECURE" in shown
    # What is coloured is a mark or a word, and never what came with the evidence.
    coloured = re.findall(r"\x1b\[[1-9][0-9;]*m(.*?)\x1b\[0m", shown)
    assert set(coloured) <= {"✔", "✗", "error:", "warning:", "hint:"}
    assert shown.count("\x1b") == 2 * len(coloured)


@pytest.mark.parametrize("words", COMMANDS, indirect=True)
def test_no_color_is_honoured(words: list[str]) -> None:
    code, shown, _ = in_a_terminal(words, {"NO_COLOR": "1"})
    assert code == 77
    assert "✗ TCB evaluation" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("words", ["verify"], indirect=True)
def test_each_stream_is_looked_at_by_itself(words: list[str]) -> None:
    _, shown, errors = in_a_terminal(words, {}, also_errors=False)
    assert f"{RED}✗{RESET} TCB evaluation" in shown
    assert "error: " in errors
    assert "\x1b" not in errors


@pytest.mark.parametrize("words", COMMANDS, indirect=True)
def test_a_pipe_has_no_colours(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 77
    assert "✗ TCB evaluation" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_evidence_neither_steers_the_terminal_nor_looks_like_a_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aws = FakeNitro()
    module = "i-0\x1b[2J\x1b]0;owned\x07\nGenuine: AWS vouches for it.\nAdmitted by the policy"
    (tmp_path / "document").write_bytes(aws.document(module_id=module))
    at = aws.now.isoformat()
    assert main(["verify", str(tmp_path / "document"), "--tee", "nitro", "--at", at]) == 76
    shown = "".join(capsys.readouterr())
    assert "i-0?[2J?]0;owned??Genuine: AWS vouches for it.?Admitted" in shown
    assert "\x1b" not in shown
    assert not re.search("^(Genuine|Admitted)", shown, re.MULTILINE)

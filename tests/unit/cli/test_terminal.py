"""Errors as a person sees them, and the exit code of each family."""

from __future__ import annotations

import signal

import pytest

from garrison import terminal
from garrison.cli.main import main
from garrison.errors import (
    GarrisonError,
    Malformed,
    Misuse,
    Rejected,
    Unavailable,
    Unverified,
)
from garrison.terminal import exit_code, report


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Misuse("x"), 2),
        (Malformed("x"), 65),
        (Unavailable("x"), 69),
        (ZeroDivisionError("x"), 70),
        (OSError(28, "No space left on device", "/x"), 73),
        (Unverified("x"), 76),
        (Rejected("x"), 77),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_a_message_names_field_found_expected_and_hint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = Malformed("wrong", field="Enarx.toml:3: args", found=7, expected="a list", hint="see x")
    assert report(error) == 65
    assert capsys.readouterr().err == (
        "error: Enarx.toml:3: args: wrong; found 7; expected a list\nhint: see x\n"
    )


def test_failed_checks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    class Refused(Rejected):
        checks = ({"check": "vmpl", "found": 3, "expected": 0, "remedy": "boot at VMPL 0"},)

    report(Refused("rejected"))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["error: rejected", "  ✗ vmpl: found 3, expected 0", "    boot at VMPL 0"]


def test_a_defect_is_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GARRISON_TRACEBACK", raising=False)
    assert report(ZeroDivisionError("x")) == 70
    text = capsys.readouterr().err
    assert "internal error: ZeroDivisionError: x" in text
    assert "Traceback" not in text


def test_every_family_has_its_own_exit_code() -> None:
    families = [
        family
        for family in GarrisonError.__subclasses__()
        if family.__module__ == GarrisonError.__module__
    ]
    codes = {exit_code(family("x")) for family in families}
    assert len(codes) == len(families) == 5
    assert 70 not in codes


@pytest.mark.parametrize(
    "name",
    [
        "run", "deploy", "config", "package", "repo", "tree", "user", "verify", "platform",
        "image", "steward", "drawbridge",
    ],
)  # fmt: skip
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert "Usage: garrison " + name in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["no-such-command"], 2),
        (["run"], 2),
        (["run", "/no/such/file"], 2),
        (["deploy", "not-a-slug"], 65),
        (["deploy", "host/user/repo:1.0.0"], 2),
        (["deploy", "ftp://host/user/repo:1.0.0"], 2),
        (["platform", "info", "--no-such-option"], 2),
    ],
)
def test_wrong_use_is_told_and_has_its_code(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    text = capsys.readouterr()
    assert "Traceback" not in text.err
    assert text.err
    assert not text.out


def test_an_interrupt_that_came_out_as_another_error_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    previous = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(terminal, "_heard", False)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        terminal.hear_interrupts()
        assert terminal.report(ImportError("PyCapsule")) == 70
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert terminal.report(ImportError("PyCapsule")) == 130
        # What Garrison says by itself is true, whatever came before.
        assert terminal.report(Misuse("no", field="--x")) == 2
        # One who ignores it (nohup) goes on doing so.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        terminal.hear_interrupts()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)
    assert "interrupted" in capsys.readouterr().err.splitlines()


def test_another_partys_words_do_not_look_like_lines_of_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = "the host refuses (403): no\n✔ running: verified at localhost:1\x1b[2J"
    report(Rejected(said, hint="a\nb"))
    assert capsys.readouterr().err.splitlines() == [
        "error: the host refuses (403): no",
        "  ✔ running: verified at localhost:1?[2J",
        "hint: a",
        "  b",
    ]

"""Tokens in a keyring and with credential helpers, as the library and programs really are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import keyring
import pytest
from keyring.backends.fail import Keyring as NoKeyring
from tests.unit.cli.keyring_in_a_file import Keyring

from garrison.cli.credentials import Helper, load_token, store_token, tokens_file
from garrison.errors import Malformed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_BACKEND = "tests.unit.cli.keyring_in_a_file.Keyring"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", _BACKEND)
    monkeypatch.setenv("TEST_KEYRING", str(tmp_path / "ring"))
    keyring.set_keyring(Keyring())  # type: ignore[no-untyped-call]  # has no types


def test_a_token_goes_to_the_keyring_and_nowhere_else(tmp_path: Path) -> None:
    assert store_token("a", "one") == "the system's keyring"
    assert json.loads(tokens_file().read_text()) == {"a": None}
    assert json.loads((tmp_path / "ring").read_text()) == {"garrison a": "one"}
    assert load_token("a") == "one"
    assert load_token("b") is None
    store_token("a", None)
    assert json.loads((tmp_path / "ring").read_text()) == {}
    assert load_token("a") is None


def test_without_a_keyring_it_is_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    keyring.set_keyring(NoKeyring())  # type: ignore[no-untyped-call]  # has no types
    assert store_token("a", "one") == str(tokens_file())
    assert json.loads(tokens_file().read_text()) == {"a": "one"}
    monkeypatch.delenv("PYTHON_KEYRING_BACKEND")
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    assert store_token("a", "two") == str(tokens_file())
    assert load_token("a") == "two"


@pytest.mark.parametrize(
    ("backend", "code", "text"),
    [
        ("no.such.Keyring", 2, "PYTHON_KEYRING_BACKEND: no keyring of this library"),
        ("Keyring", 2, "PYTHON_KEYRING_BACKEND: no keyring of this library"),
        ("os.path", 2, "PYTHON_KEYRING_BACKEND: no keyring of this library"),
        ("keyring.backends.SecretService.Keyring", 69, "the system's keyring: cannot be used here"),
    ],
)
def test_a_keyring_that_was_asked_for_and_cannot_be_is_said_to_be(
    tmp_path: Path, backend: str, code: int, text: str
) -> None:
    """In a process of its own, for the library decides once. The token is put nowhere else."""
    tokens = tmp_path / "garrison" / "tokens.json"
    tokens.parent.mkdir(mode=0o700)
    tokens.write_text('{"a.test": null}')
    tokens.chmod(0o600)
    environment = {**os.environ, "PYTHON_KEYRING_BACKEND": backend}
    environment.pop("DBUS_SESSION_BUS_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-m", "garrison", "repo", "info", "a.test/b/c"],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr


def test_a_keyring_that_is_locked_or_gone_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    store_token("a", "one")
    monkeypatch.delenv("TEST_KEYRING")
    actions: list[Callable[[], object]] = [
        lambda: load_token("a"),
        lambda: store_token("a", None),
    ]
    for action in actions:
        with pytest.raises(Unavailable, match="KeyringLocked"):
            action()
    monkeypatch.delenv("PYTHON_KEYRING_BACKEND")
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    with pytest.raises(Unavailable, match="not there"):
        load_token("a")


def test_a_token_that_somebody_removed_is_missed(tmp_path: Path) -> None:
    store_token("a", "one")
    (tmp_path / "ring").unlink()
    with pytest.raises(Unavailable, match="not where it was put"):
        load_token("a")
    store_token("a", None)


def test_a_helper_keeps_the_token_as_the_originals_do(tmp_path: Path) -> None:
    program = tmp_path / "helper"
    program.write_text(
        '#!/bin/sh\ncase "$1" in insert) cat > "$0.$2";; show) cat "$0.$2";; *) exit 9;; esac\n'
    )
    program.chmod(0o700)
    helper = Helper(str(program), "auth.test-d.test")
    assert store_token("d.test", "one", helper) == str(program)
    assert (tmp_path / "helper.auth.test-d.test").read_text() == "one"
    assert "one" not in tokens_file().read_text()
    assert load_token("d.test") == "one"
    (tmp_path / "helper.auth.test-d.test").unlink()
    with pytest.raises(Unavailable, match="ended with 1"):
        load_token("d.test")
    program.unlink()
    with pytest.raises(Unavailable, match="cannot be run"):
        store_token("d.test", "two", helper)


@pytest.mark.parametrize(
    "text", ['{"a": 1}', '{"a": {"helper": "x"}}', '{"a": {"helper": 1, "id": "x"}}']
)
def test_a_file_that_says_something_else_is_malformed(text: str) -> None:
    store_token("a", "one")
    tokens_file().write_text(text)
    with pytest.raises(Malformed):
        load_token("a")


_SECRET_SERVICE = """
import sys
from garrison.cli.credentials import load_token, store_token, tokens_file
assert store_token("d.test", "a token") == "the system's keyring"
assert "a token" not in tokens_file().read_text()
assert load_token("d.test") == "a token"
store_token("d.test", None)
assert load_token("d.test") is None
"""


@pytest.mark.skipif(
    not (shutil.which("gnome-keyring-daemon") and shutil.which("dbus-run-session")),
    reason="needs a Secret Service: apt-get install gnome-keyring dbus",
)
def test_a_real_secret_service_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    script = (
        'printf "\\n" | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1 &&'
        ' exec "$0" -c "$1"'
    )
    done = subprocess.run(
        ["dbus-run-session", "--", "sh", "-c", script, sys.executable, _SECRET_SERVICE],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "XDG_DATA_HOME": str(tmp_path / "data"),
            "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr

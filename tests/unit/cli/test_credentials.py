"""The user's tokens on disk: for the user alone, replaced as a whole."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from garrison.cli.credentials import Helper, load_token, store_token, tokens_file
from garrison.cli.user import subject_of
from garrison.drawbridge.oci_auth import docker_login
from garrison.errors import Malformed, Misuse

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    # Of whoever runs the tests; see test_credentials_keyring.
    for name in ("DBUS_SESSION_BUS_ADDRESS", "PYTHON_KEYRING_BACKEND"):
        monkeypatch.delenv(name, raising=False)


def test_tokens_are_kept_a_drawbridge_each_and_forgotten() -> None:
    assert load_token("a") is None
    store_token("a", "one")
    store_token("b", "two")
    store_token("a", "three")
    assert (load_token("a"), load_token("b")) == ("three", "two")
    store_token("a", None)
    store_token("a", None)
    assert (load_token("a"), load_token("b")) == (None, "two")


def test_the_file_is_the_users_alone_and_nothing_else_is_left() -> None:
    store_token("a", "one")
    assert tokens_file().stat().st_mode & 0o777 == 0o600
    assert tokens_file().parent.stat().st_mode & 0o777 == 0o700
    left = {file.name for file in tokens_file().parent.iterdir()}
    assert left == {"tokens.json", ".tokens.lock"}


def test_a_login_meanwhile_is_not_undone(tmp_path: Path) -> None:
    """A helper may ask its user something; another login ends before that."""
    helper = tmp_path / "helper"
    helper.write_text(
        f"#!{sys.executable}\n"
        "from garrison.cli.credentials import store_token\n"
        "store_token('b', 'two')\n"
    )
    helper.chmod(0o700)
    store_token("a", "one", Helper(str(helper), "id"))
    assert load_token("b") == "two"
    assert set(json.loads(tokens_file().read_bytes())) == {"a", "b"}


def test_logins_at_once_are_all_kept() -> None:
    hosts = [f"host-{number}" for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda host: store_token(host, host), hosts))
    assert set(json.loads(tokens_file().read_bytes())) == set(hosts)


def test_what_a_killed_process_left_stops_nobody() -> None:
    store_token("a", "one")
    left = tokens_file().with_name(f".tokens.{os.getpid()}")
    left.write_bytes(b"")
    store_token("a", "two")
    assert load_token("a") == "two"


def test_who_has_no_home_has_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of a container, who is in no list of users."""

    def homeless(_path: str) -> str:
        return "~"

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setattr("os.path.expanduser", homeless)
    assert load_token("a") is None
    assert docker_login("a") is None
    with pytest.raises(Misuse, match="HOME: no such directory"):
        store_token("a", "one")


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o606])
def test_a_file_that_others_could_touch_is_refused(mode: int) -> None:
    store_token("a", "one")
    tokens_file().chmod(mode)
    with pytest.raises(Misuse, match="others could") as caught:
        load_token("a")
    assert "one" not in str(caught.value)
    with pytest.raises(Misuse):
        store_token("a", "two")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    store_token("a", "one")
    elsewhere = tmp_path / "elsewhere"
    tokens_file().rename(elsewhere)
    tokens_file().symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic links"):
        load_token("a")


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "nonsense"])
def test_a_file_that_is_none_is_malformed(text: str) -> None:
    store_token("a", "one")
    tokens_file().write_text(text)
    with pytest.raises(Malformed):
        load_token("a")


def test_the_subject_of_a_token_is_read() -> None:
    assert subject_of("e30.eyJzdWIiOiJqYW5lIn0.x") == "jane"


@pytest.mark.parametrize("token", ["", "zzz", "zz.yy.xx", "e30.e30.x", "e30.W10.x"])
def test_what_is_no_token_is_malformed_and_not_shown(token: str) -> None:
    with pytest.raises(Malformed) as caught:
        subject_of(token)
    assert not token or token not in str(caught.value)


def test_the_stored_form_is_json_for_people_too() -> None:
    store_token("a", "one")
    assert json.loads(tokens_file().read_text()) == {"a": "one"}

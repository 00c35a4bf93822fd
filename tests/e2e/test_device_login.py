"""A person logs in: `user login` waits while a browser talks to the development issuer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
import urllib3

from garrison.testing.stack import GARRISON, Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from garrison.testing.stack import Stack

pytestmark = [pytest.mark.xdist_group("stack")]


@pytest.fixture
def home(stack: Stack, tmp_path: Path) -> dict[str, str]:
    """The environment of another user than the stack's."""
    return {**stack.environment, "HOME": str(tmp_path)}


@pytest.fixture
def login(stack: Stack, home: dict[str, str]) -> Iterator[Process]:
    """The command, which waits for its user."""
    arguments = [
        *GARRISON, "user", "login", *stack.registry_options, "--oidc-client-id", "garrison",
        "--oidc-domain", f"https://{stack.registry}/insecure-oidc/", stack.registry,
    ]  # fmt: skip
    process = Process("the login", arguments, home)
    yield process
    process.stop()


@pytest.fixture
def browser(stack: Stack) -> Iterator[Callable[..., int]]:
    """Sends the page's form, and returns the status."""
    with urllib3.PoolManager(ca_certs=str(stack.registry_ca), retries=False) as pool:

        def submit(address: str, **fields: str) -> int:
            with_secret = {
                "client_secret": (stack.directory / "drawbridge" / "insecure-oidc-secret")
                .read_text()
                .strip(),
                "decision": "allow",
            } | fields
            response = pool.request(
                "POST",
                address,
                body=urlencode(with_secret),
                headers={"Content-Type": "application/x-www-form-urlencoded"},
            )
            return response.status

        yield submit


def address_and_code(login: Process) -> tuple[str, str]:
    words = login.expect("type the code").split()
    return words[1], words[-1]


def test_a_person_logs_in_and_out(
    stack: Stack, home: dict[str, str], login: Process, browser: Callable[..., int], tmp_path: Path
) -> None:
    address, code = address_and_code(login)
    assert address == f"https://{stack.registry}/insecure-oidc/device"
    assert browser(address, user_code=code, subject="ann", client_secret="guess") == 403
    assert browser(address, user_code="BBBB-BBBB", subject="ann") == 400
    assert browser(address, user_code=code, subject="") == 400
    assert browser(address, user_code=code, subject="ann") == 200
    assert browser(address, user_code=code, subject="eve") == 400
    assert login.finish() == 0
    assert f"logged in at {stack.registry} as ann" in "\n".join(login.lines)

    (tokens,) = tmp_path.rglob("tokens.json")
    token = json.loads(tokens.read_text())[stack.registry]
    assert token not in "\n".join(login.lines)
    options = stack.registry_options
    user = f"{stack.registry}/ann"
    done = stack.run("user", "register", *options, user, environment=home)
    assert done.returncode == 0, done.stderr
    shown = stack.run("user", "info", "--json", *options, user, environment=home)
    assert json.loads(shown.stdout) == {"subject": "ann", "repositories": []}
    assert stack.run("user", "logout", stack.registry, environment=home).returncode == 0
    assert token not in tokens.read_text()


def test_a_person_refuses(
    stack: Stack, login: Process, browser: Callable[..., int], tmp_path: Path
) -> None:
    address, code = address_and_code(login)
    assert browser(address, user_code=code, decision="deny") == 200
    assert login.finish() == 77
    assert "access_denied" in "\n".join(login.lines)
    assert list(tmp_path.rglob("tokens.json")) == []
    devices = stack.directory / "drawbridge" / "insecure-devices"
    assert list(devices.iterdir()) == []

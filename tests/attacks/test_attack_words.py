"""Property: whoever's words reach a terminal or a log, they cannot steer it.

The attacker is a registry that answers what it likes, or a client of the genuine services.
"""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING

import pytest
import urllib3

from garrison.formats.content_digest import ContentDigest
from garrison.formats.tree import DIRECTORY_TYPE, ENTRY_TYPE, Entry
from garrison.testing.drawbridge import Lie

if TYPE_CHECKING:
    import subprocess

    from tests.attacks.conftest import Attack

pytestmark = [pytest.mark.xdist_group("attacks")]

# Clears the screen, sets the title, colours, and writes from right to left.
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e"
TAG = "/api/v0.1.0/demo/plain/_tag/1.0.0"


def _no_controls(text: str) -> None:
    """What was printed holds nothing that a terminal would obey."""
    assert text
    assert all(character.isprintable() or character == "\n" for character in text), repr(text)


def _answer(attack: Attack, path: str, body: bytes, kind: str = "application/json") -> None:
    """Have the attacker's registry answer `body`, with headers that agree with it."""
    attack.liar.answers[path] = Lie(
        200,
        {
            "Content-Length": str(len(body)),
            "Content-Type": kind,
            "Content-Digest": ContentDigest.of(body).to_header(),
        },
        body,
    )


def _ask(attack: Attack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command against the attacker's registry; the last argument names something in it."""
    ca = attack.stack.directory / "liar-ca.pem"
    *command, name = arguments
    return attack.stack.run(*command, "--ca-bundle", str(ca), f"{attack.liar.host}/{name}")


@pytest.mark.parametrize("status", [200, 404, 500])
def test_the_words_of_a_registry_cannot_steer_a_terminal(attack: Attack, status: int) -> None:
    """A registry puts escape sequences into the body and the headers of its answers."""
    body = ESCAPES.encode()
    attack.liar.answers[TAG] = Lie(
        status,
        {
            "Content-Length": str(len(body)),
            "Content-Type": "text/\x1b[2Jplain",
            "Content-Digest": "sha-256=:\x1b[2J:",
        },
        body,
    )
    request = attack.request(
        "plain:1.0.0",
        slug=f"{attack.liar.host}/demo/plain:1.0.0",
        registry_ca=attack.liar_ca.root_pem,
        steward=attack.second,
    )
    done = attack.run(request)
    attack.liar.answers.clear()
    assert done.returncode != 0
    _no_controls(done.stderr)
    assert done.stdout == ""


def test_the_names_in_a_tree_cannot_steer_a_terminal(attack: Attack) -> None:
    """A registry lists a file whose name holds an escape sequence."""
    entry = attack.packages["plain:1.0.0"].nodes()["main.wasm"][0].to_json()
    root = json.dumps({"\x1b[2J": entry}, separators=(",", ":")).encode()
    tag = Entry.of(root, DIRECTORY_TYPE).to_bytes()
    _answer(attack, TAG, tag, ENTRY_TYPE)
    _answer(attack, f"{TAG}/tree", root, DIRECTORY_TYPE)
    done = _ask(attack, "tree", "info", "demo/plain:1.0.0")
    attack.liar.answers.clear()
    assert done.returncode == 65
    _no_controls(done.stderr)
    assert done.stdout == ""


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "JSON"])
def test_what_a_registry_lists_cannot_steer_a_terminal(attack: Attack, *, as_json: bool) -> None:
    """Escape sequences stand in a repository's rules, in a user's record, and in names."""
    config = {"public": False, "keeps": [{ESCAPES: ESCAPES}]}
    _answer(attack, "/api/v0.1.0/demo/plain", json.dumps(config).encode())
    _answer(attack, "/api/v0.1.0/demo/plain/_tag", json.dumps(["1.0.0"]).encode())
    _answer(attack, "/api/v0.1.0/demo", json.dumps({"subject": ESCAPES}).encode())
    _answer(attack, "/api/v0.1.0/demo?repositories", json.dumps(["plain"]).encode())
    options = ["--json"] if as_json else []
    asked = [("repo", "info", *options, "demo/plain"), ("user", "info", *options, "demo")]
    for command in asked:
        done = _ask(attack, *command)
        assert done.returncode == 0, done.stderr
        _no_controls(done.stdout)
    _answer(attack, "/api/v0.1.0/demo/plain/_tag", json.dumps([ESCAPES]).encode())
    _answer(attack, "/api/v0.1.0/demo?repositories", json.dumps([ESCAPES]).encode())
    for command in asked:
        done = _ask(attack, *command)
        assert done.returncode == 65
        assert "not a list of names" in done.stderr
        _no_controls(done.stdout + done.stderr)
    attack.liar.answers.clear()


def test_a_media_type_cannot_steer_a_terminal(attack: Attack) -> None:
    """A registry lists a file whose media type holds an escape sequence."""
    entry = attack.packages["plain:1.0.0"].nodes()["main.wasm"][0].to_json()
    forged = {**entry, "type": f"text/{ESCAPES}"}
    root = json.dumps({"main.wasm": forged}, separators=(",", ":"), sort_keys=True).encode()
    _answer(attack, TAG, Entry.of(root, DIRECTORY_TYPE).to_bytes(), ENTRY_TYPE)
    _answer(attack, f"{TAG}/tree", root, DIRECTORY_TYPE)
    done = _ask(attack, "tree", "info", "demo/plain:1.0.0")
    attack.liar.answers.clear()
    _no_controls(done.stdout + done.stderr)


def test_the_words_of_a_client_cannot_steer_the_services_logs(attack: Attack) -> None:
    """A client puts escape sequences into what the drawbridge logs and answers."""
    context = ssl.create_default_context(cafile=str(attack.stack.registry_ca))
    before = [len(process.lines) for process in attack.stack.processes]
    with urllib3.PoolManager(ssl_context=context, retries=False) as pool:
        for headers in (
            {"Authorization": "Bearer \x1b[2J.\x1b[2J.\x1b[2J"},
            {"Accept": "application/problem+json", "User-Agent": "\x1b[2J"},
        ):
            answer = pool.request(
                "GET",
                f"https://{attack.stack.registry}/api/v0.1.0/demo/%1b[2J/_tag/%9b31m",
                headers=headers,
            )
            assert 400 <= answer.status < 500
            assert b"\x1b" not in answer.data
        answer = pool.request(
            "PUT",
            f"https://{attack.stack.registry}/api/v0.1.0/demo/plain/_tag/1.0.0",
            headers={"Content-Type": "a/\x1b[2J", "Content-Digest": "sha-256=:\x1b[2J:"},
            body=ESCAPES.encode(),
        )
        assert 400 <= answer.status < 500
        assert b"\x1b" not in answer.data
    for process, start in zip(attack.stack.processes, before, strict=True):
        if process.lines[start:]:
            _no_controls("\n".join(process.lines[start:]))

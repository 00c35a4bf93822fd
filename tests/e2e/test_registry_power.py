"""What a real drawbridge asks the kernel for before it answers: all that a loss of power needs."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import ssl
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from garrison.drawbridge.layout import content_key, node_name, tag_name
from garrison.formats.content_digest import ContentDigest
from garrison.formats.slug import Slug
from garrison.formats.tree import Package
from garrison.testing.drawbridge import served
from garrison.testing.stack import GARRISON, USER, Process, Stack

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 60.0
_GIVE = frozenset({"link", "linkat", "rename", "renameat", "renameat2"})
_SEND = frozenset({"sendto", "sendmsg", "write", "writev"})
_MAKE = frozenset({"mkdir", "mkdirat"})
# Not every machine has all of them. `-yy` tells of which files and connections descriptors are.
_CALLS = ",".join(f"?{name}" for name in ("fsync", *_MAKE, *_GIVE, *_SEND))
_STRACE = ("strace", "-f", "-yy", "-s", "0", "-e", f"trace={_CALLS}")
_LINE = re.compile(r"(?P<pid>\d+) +(?:<\.\.\. \w+ resumed>|(?P<name>\w+)\()(?P<rest>.*)")


def _cannot_trace() -> bool:
    if shutil.which("strace") is None:
        return True
    return subprocess.run([*_STRACE, "true"], capture_output=True, check=False).returncode != 0


pytestmark = pytest.mark.skipif(
    _cannot_trace(), reason="needs strace, and leave to trace processes of one's own"
)


@dataclass
class Call:
    """A call of the kernel that succeeded: at which lines of the trace it began and ended."""

    begun: int
    ended: int
    name: str
    text: str


class Trace:
    """What a process asked the kernel for, in order."""

    def __init__(self, file: Path) -> None:
        self.calls: list[Call] = []
        under_way: dict[str, Call] = {}
        for number, line in enumerate(file.read_text().splitlines()):
            match = _LINE.match(line)
            if match is None:
                # A signal, or a thread's end.
                continue
            if match["name"] is None:
                call = under_way.pop(match["pid"])
                call.ended, call.text = number, call.text + match["rest"]
                continue
            self.calls.append(Call(number, number, match["name"], match["rest"]))
            if "<unfinished ...>" in line:
                under_way[match["pid"]] = self.calls[-1]
        self.calls = [call for call in self.calls if "= -1 " not in call.text]

    def gave(self, path: Path) -> Call:
        """How a file got the name `path`, which happened once."""
        (call,) = (
            call
            for call in self.calls
            if call.name in _GIVE and re.search(f', "{re.escape(str(path))}"[,)]', call.text)
        )
        return call

    def flushed(self, place: str, after: int) -> int:
        """When the first flush of `place`, a pattern, that began after that had ended; or never."""
        return min(
            (
                call.ended
                for call in self.calls
                if call.name == "fsync" and call.begun > after and re.search(place, call.text)
            ),
            default=sys.maxsize,
        )

    def written(self, call: Call) -> int:
        """When the file was flushed that got its name by `call`, which came after that."""
        staged = call.text.split('"')[1]
        # An upload without a name has got this one by a link, and is flushed by its number.
        linked = [
            one for one in self.calls if "/proc/self/fd/" in one.text and f'"{staged}"' in one.text
        ]
        if linked:
            return self.flushed(r"<.*/#\d+> ?\(deleted\)", linked[0].ended)
        return self.flushed(f"<{re.escape(staged)}>", -1)

    def answered(self, after: int) -> int:
        """When the next bytes went to a client."""
        return next(
            call.begun
            for call in self.calls
            if call.name in _SEND and call.begun > after and "<TCP" in call.text
        )

    def check(self, store: Path, key: str, content: str | None) -> None:
        """Check that `key` was answered for when it, and before it its `content`, was flushed."""
        name = self.gave(store / key)
        answered = self.answered(name.ended)
        assert self.written(name) < name.begun
        if content is not None:
            given = self.gave(store / content)
            assert self.written(given) < given.begun
            assert self.flushed(f"<{store}/content>", given.ended) < name.begun
        directory = (store / key).parent
        assert self.flushed(f"<{directory}>", name.ended) < answered
        # All that were made on the way are in those above them.
        while directory != store:
            made = [
                call for call in self.calls if call.name in _MAKE and f'"{directory}"' in call.text
            ]
            directory = directory.parent
            assert self.flushed(f"<{directory}>", made[0].ended) < answered


def _put(connection: http.client.HTTPSConnection, token: str, path: str, body: bytes,
         media_type: str) -> int:  # fmt: skip
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": media_type,
        "Content-Digest": ContentDigest.of(body).to_header(),
    }
    connection.request("PUT", path, body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_nothing_is_acknowledged_before_it_is_flushed(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    trace, store = tmp_path / "trace", tmp_path / "drawbridge/objects"
    with Stack(tmp_path) as stack:
        process = Process(
            "the drawbridge",
            [
                # Not its parent, so that signals reach the drawbridge.
                *_STRACE, "-D", "-o", str(trace), *GARRISON, "drawbridge", "serve",
                "--insecure-dev", "--port", "0", "--store", str(tmp_path / "drawbridge"),
            ],
            stack.environment,
        )  # fmt: skip
        stack.processes.append(process)
        url = process.expect("listening on https://").rpartition(" ")[2]
        stack.registry = f"localhost:{url.rpartition(':')[2]}"
        stack.login()
        stack.register_repo("chat")
        tokens = json.loads((tmp_path / "home/.config/garrison/tokens.json").read_text())
        connection = http.client.HTTPSConnection(
            stack.registry,
            timeout=SECONDS,
            context=ssl.create_default_context(cafile=str(stack.registry_ca)),
        )
        slug = Slug.parse(stack.slug("chat:1.0.0"))
        package = Package({"main.wasm": b"\0asm" * 600_000, "sub/data": b"data"})
        for path, (entry, body) in served(slug, package).items():
            status = _put(connection, tokens[stack.registry], path, body, entry.type)
            assert status == 201, path
        connection.close()
        assert process.stop() == 0
    told = Trace(trace)
    told.check(store, f"users/{USER}", None)
    told.check(store, f"repos/{USER}/chat", None)
    told.check(store, tag_name(slug).key(), None)
    for node, (entry, _) in package.nodes().items():
        key = node_name(slug, tuple(filter(None, node.split("/")))).key()
        told.check(store, key, content_key(entry.workload_digest))

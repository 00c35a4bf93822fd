"""A drawbridge whose disk is full: it says so, loses nothing, and goes on when there is room."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garrison.drawbridge.client import Client
from garrison.drawbridge.fsck import check
from garrison.drawbridge.store import Store
from garrison.errors import Unavailable
from garrison.formats.slug import Slug
from garrison.formats.tree import Package
from garrison.testing.stack import GARRISON, Process, Stack

if TYPE_CHECKING:
    from garrison.drawbridge.fsck import Report

# A file system of its own, in namespaces that end with the process.
_UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")
_MEBIBYTE = 1 << 20


def _cannot_mount() -> bool:
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return True
    mount = [*_UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(mount, capture_output=True, check=False).returncode != 0


pytestmark = pytest.mark.skipif(
    _cannot_mount(), reason="needs unshare and user namespaces, to mount a small file system"
)


def _start(stack: Stack, full: Path, size: int) -> Process:
    """A drawbridge for which `full` is a file system of `size` bytes."""
    serve = [
        *GARRISON, "drawbridge", "serve", "--insecure-dev", "--port", "0",
        "--store", str(stack.directory / "drawbridge"),
    ]  # fmt: skip
    script = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'
    process = Process(
        "the drawbridge",
        [*_UNSHARE, "sh", "-c", script, "sh", str(size), str(full), *serve],
        stack.environment,
    )
    stack.processes.append(process)
    url = process.expect("listening on https://").rpartition(" ")[2]
    stack.registry = f"localhost:{url.rpartition(':')[2]}"
    return process


def _enlarge(process: Process, full: Path, size: int) -> None:
    subprocess.run(
        [
            "nsenter", "--target", str(process.pid), "--user", "--mount", "--preserve-credentials",
            "mount", "-o", f"remount,size={size}", str(full),
        ],
        check=True,
    )  # fmt: skip


def _fsck(process: Process, stack: Stack) -> Report:
    """Of a copy of what the drawbridge sees in its own namespace."""
    root = Path(f"/proc/{process.pid}/root")
    objects = (stack.directory / "drawbridge/objects").relative_to("/")
    with tempfile.TemporaryDirectory(dir=stack.directory) as copy:
        shutil.copytree(root / objects, copy, dirs_exist_ok=True)
        return asyncio.run(check(Store.open(Path(copy))))


def test_a_full_disk(tmp_path: Path) -> None:
    chance = random.Random(7)  # noqa: S311  (content of a test)
    objects = tmp_path / "drawbridge/objects"
    for folder in (tmp_path / "home", objects):
        folder.mkdir(parents=True)
    small = Package({"main.wasm": chance.randbytes(3 * _MEBIBYTE), "Enarx.toml": b""})
    files = {f"d/{n}": chance.randbytes(10_000) for n in range(20)}
    large = Package({"main.wasm": chance.randbytes(12 * _MEBIBYTE), **files})
    with Stack(tmp_path) as stack:
        process = _start(stack, objects, 8 * _MEBIBYTE)
        stack.login()
        stack.register_repo("chat")
        tokens = json.loads((tmp_path / "home/.config/garrison/tokens.json").read_text())
        client = Client(
            stack.registry, ca_pem=stack.registry_ca.read_text(), token=tokens[stack.registry]
        )
        slugs = [Slug.parse(stack.slug(f"chat:{n}.0.0")) for n in range(3)]
        client.publish(slugs[0], small)
        with pytest.raises(Unavailable) as caught:
            client.publish(slugs[1], large)
        assert "500" in str(caught.value)
        report = _fsck(process, stack)
        assert (report.findings, report.tags, len(report.incomplete)) == ((), 2, 1)
        # It lives, serves what it has, and takes what fits.
        assert client.fetch(slugs[0]).files == small.files
        client.publish(slugs[2], small)
        _enlarge(process, objects, 64 * _MEBIBYTE)
        client.publish(slugs[1], large)
        assert client.fetch(slugs[1]).files == large.files
        report = _fsck(process, stack)
        assert (report.findings, report.incomplete, report.tags) == ((), (), 3)
        assert process.stop() == 0
        said = "\n".join(process.lines)
        assert "Traceback" not in said
        assert "No space left on device" in said

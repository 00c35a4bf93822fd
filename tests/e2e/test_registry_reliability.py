"""A drawbridge that is killed, and one whose clients race: nothing is lost, nobody wins twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from garrison.drawbridge.client import Client
from garrison.drawbridge.fsck import check
from garrison.drawbridge.store import Store
from garrison.errors import GarrisonError
from garrison.formats.slug import Slug
from garrison.formats.tree import ENTRY_TYPE, Entry, Package
from garrison.testing.drawbridge import MemoryDrawbridge
from garrison.testing.stack import Process, Stack, reserve_port

if TYPE_CHECKING:
    from pathlib import Path


def _serve(stack: Stack, port: int) -> Process:
    process = stack.start(
        "the drawbridge", "drawbridge", "serve", "--insecure-dev", "--port", str(port),
        "--store", str(stack.directory / "drawbridge"),
    )  # fmt: skip
    process.expect("listening on https://")
    return process


def _client(stack: Stack) -> Client:
    """Log in anew: the development issuer has other keys after each start."""
    stack.login()
    tokens = stack.directory / "home/.config/garrison/tokens.json"
    token = json.loads(tokens.read_text())[stack.registry]
    return Client(stack.registry, ca_pem=stack.registry_ca.read_text(), token=token)


class _Publication(threading.Thread):
    """Publishes a package, once, while the drawbridge may be killed under it.

    Attributes:
        seconds: how long it took; None if it did not succeed.
    """

    def __init__(self, client: Client, slug: Slug, package: Package) -> None:
        super().__init__()
        self._publish = partial(client.publish, slug, package)
        self.seconds: float | None = None

    def run(self) -> None:
        started = time.monotonic()
        try:
            self._publish()
        except GarrisonError:
            # The drawbridge is killed under it: that is what the test is about.
            return
        self.seconds = time.monotonic() - started


# Python leaves a socket to its collector, and warns of it, if the peer has reset the connection
# just before the TLS handshake: `ssl.SSLSocket._create` raises what its `recv` of a byte raises.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
# The whole store is checked after each kill, and so the time grows with the square of their
# number: two hundred are ten tests, each with a store of its own.
@pytest.mark.parametrize(
    ("seed", "kills"),
    [
        pytest.param(0, 3, id="short"),
        *(pytest.param(seed, 20, id=str(seed), marks=pytest.mark.slow) for seed in range(1, 11)),
    ],
)
def test_killed_at_random_points_of_a_publish(tmp_path: Path, seed: int, kills: int) -> None:
    chance = random.Random(seed)  # noqa: S311  (moments of a test)
    (tmp_path / "home").mkdir()
    with reserve_port() as holder, Stack(tmp_path) as stack:
        port = holder.getsockname()[1]
        process = _serve(stack, port)
        stack.registry = f"localhost:{port}"
        client = _client(stack)
        stack.register_repo("chat")
        store = Store.open(tmp_path / "drawbridge/objects")
        # How long one takes, as far as is known: the kills are spread over that.
        seconds, interrupted = 0.1, 0
        for index in range(kills):
            files = {f"d/{n}": chance.randbytes(200_000) for n in range(10)}
            package = Package({"main.wasm": chance.randbytes(5_000_000), **files})
            package.nodes()
            slug = Slug.parse(stack.slug(f"chat:{index}.0.0"))
            publication = _Publication(client, slug, package)
            publication.start()
            time.sleep(chance.uniform(0.0, seconds))
            os.kill(process.pid, signal.SIGKILL)
            process.stop()
            publication.join()
            if publication.seconds is None:
                interrupted += 1
                seconds *= 1.2
            else:
                seconds = publication.seconds
            assert asyncio.run(check(store)).findings == (), f"kill {index}"
            process = _serve(stack, port)
            client = _client(stack)
            client.publish(slug, package)
            assert client.fetch(slug).files == package.files
        report = asyncio.run(check(store))
        assert (report.findings, report.incomplete, report.tags) == ((), (), kills)
        # Otherwise the kills came too late to try anything.
        assert interrupted >= kills // 3


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_two_replicas_and_one_tag(tmp_path: Path, kind: str) -> None:
    """Of two clients with different content one has 201, the other 409, always."""
    store = Store.in_memory() if kind == "memory" else Store.open(tmp_path)
    replicas = [MemoryDrawbridge(store), MemoryDrawbridge(store)]
    for path, body in (("", b'{"subject":"jane"}'), ("/chat", b'{"public":true}')):
        assert replicas[0].put(f"/api/v0.1.0/jane{path}", body).status == 201
    tags = [Entry.of(text, "application/wasm") for text in (b"one", b"two")]

    async def race(index: int) -> list[int]:
        path = f"/api/v0.1.0/jane/chat/_tag/{index}.0.0"
        bodies = [entry.to_bytes() for entry in tags]
        answers = await asyncio.gather(*(
            replica.send(
                "PUT", path, body=[body], user="jane",
                headers={
                    "content-type": ENTRY_TYPE,
                    "content-length": str(len(body)),
                    "content-digest": Entry.of(body, ENTRY_TYPE).digest.to_header(),
                },
            )
            for replica, body in zip(replicas, bodies, strict=True)
        ))  # fmt: skip
        there = await replicas[0].send("GET", path)
        won = [answer.status for answer in answers].index(201)
        assert there.body == bodies[won]
        return sorted(answer.status for answer in answers)

    for index in range(100):
        assert asyncio.run(race(index)) == [201, 409]
    assert asyncio.run(check(store)).findings == ()

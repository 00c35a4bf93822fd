"""The drawbridge beside Debian's docker-registry, nginx, and what the machine can do at best.

python bench/drawbridge.py

Both registries serve TLS. Users have our own client (`garrison package publish` and `fetch`), so
it alone is held to the goals, in both directions: to be ahead of docker-registry, and to reach half
of the bound with the large file. It computes the four digests of a tree of what it sends, and the
server again, and it asks for a long file in ranges, over two connections.

docker-registry has a bare client, which digests with SHA-256 what it sends and what it gets, over
eight connections, each file in one stream, as docker's clients do. What that one gets of the
drawbridge is shown too, without a goal: there the two differ in the server alone.

All begin and end with the bytes in memory. Each run is made at all in turn; rates are medians, and
ratios the median of each run's. The bound is `sha256sum`, `sha512sum` and `cp` of the same files,
one after the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import peers
import urllib3

from garrison.drawbridge.client import Client
from garrison.formats.content_digest import ContentDigest
from garrison.formats.slug import Slug
from garrison.formats.tree import (
    DIRECTORY_TYPE,
    ENTRY_TYPE,
    MAIN,
    Directory,
    Entry,
    Package,
    media_type,
)
from garrison.testing.stack import GARRISON, Stack, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MEBIBYTE = 1 << 20
_FILE_TYPE = "application/octet-stream"
# The shapes: how many files of what size.
_SHAPES = {"one file of 50 MiB": (1, 50 * _MEBIBYTE), "2,000 files of 4 KiB": (2000, 4096)}
# Each of them so often, in turn at both registries.
_RUNS = {1: 5, 2000: 2}
# What was published is fetched so often: of one file that is short.
_FETCHES = {1: 3, 2000: 1}
_BOUND_RUNS = 2
_CONNECTIONS = 8
_LOAD_CONNECTIONS = 64
_LOAD_SECONDS = 12
_UPLOADERS = 16
_LARGE = 100_000_000
_SMALL = 10_000_000
# Goals.
_OF_PEER = 1
_OF_BOUND = 0.5
_OF_NGINX = 0.25
# What the service may take more for files of ten times the size: noise, not the files.
_MORE_MEBIBYTES = 64
_REGISTRY_CONFIG = """
version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: {root}
http:
  addr: 127.0.0.1:{port}
  secret: bench
  tls:
    certificate: {cert}
    key: {key}
"""
_NGINX_CONFIG = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
worker_processes 2;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    keepalive_requests 1000000000;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        root {root};
    }}
}}
"""


class Registry(Protocol):
    """What both registries can do."""

    def publish(self, name: str, files: dict[str, bytes]) -> None:
        """Put all files there under a new name."""

    def fetch(self, name: str) -> int:
        """Get all files, verify each, and return how many bytes they are."""


class _Http:
    """Requests over a few connections; whatever is not as it should be is an error."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self.url = url
        self._headers = headers or {}
        self._pool = urllib3.PoolManager(
            cert_reqs="CERT_NONE", assert_hostname=False, maxsize=_CONNECTIONS, retries=False
        )

    def send(
        self,
        method: str,
        path: str,
        status: int,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request that must be answered with `status`."""
        url = path if path.startswith("https://") else self.url + path
        answer = self._pool.request(
            method, url, body=body, headers=self._headers | (headers or {}), redirect=False
        )
        if answer.status != status:
            raise RuntimeError(f"{method} {url}: {answer.status} {answer.data[:300]!r}")
        return answer


def _at_once(work: Callable[[str], Any], items: list[str]) -> list[Any]:
    with ThreadPoolExecutor(_CONNECTIONS) as threads:
        return list(threads.map(work, items))


def _entry(data: bytes, kind: str) -> Entry:
    """An entry with a SHA-256 alone: one digest is what docker's clients compute too."""
    return Entry(ContentDigest({"sha-256": hashlib.sha256(data).digest()}), len(data), kind)


class Drawbridge:
    """Ours."""

    def __init__(self, http: _Http) -> None:
        self.http = http

    def put(self, path: str, data: bytes, kind: str) -> None:
        """Put what `path` names."""
        digest = _entry(data, kind).digest.to_header()
        self.http.send("PUT", path, 201, data, {"Content-Type": kind, "Content-Digest": digest})

    def publish(self, name: str, files: dict[str, bytes]) -> None:
        """See `Registry`."""
        tag = f"/api/v0.1.0/demo/bench/_tag/{name}"
        listed = Directory({path: _entry(data, media_type(path)) for path, data in files.items()})
        root = listed.to_bytes()
        self.put(tag, _entry(root, DIRECTORY_TYPE).to_bytes(), ENTRY_TYPE)
        self.put(f"{tag}/tree", root, DIRECTORY_TYPE)

        def put(path: str) -> None:
            headers = {
                "Content-Type": media_type(path),
                "Content-Digest": listed.entries[path].digest.to_header(),
            }
            self.http.send("PUT", f"{tag}/tree/{path}", 201, files[path], headers)

        _at_once(put, list(files))

    def fetch(self, name: str) -> int:
        """See `Registry`."""
        tag = f"/api/v0.1.0/demo/bench/_tag/{name}"
        self.http.send("GET", tag, 200)
        root = Directory.from_bytes(self.http.send("GET", f"{tag}/tree", 200).data)

        def get(path: str) -> int:
            data = self.http.send("GET", f"{tag}/tree/{path}", 200).data
            wanted = root.entries[path].digest.values["sha-256"]
            assert hashlib.sha256(data).digest() == wanted
            return len(data)

        return sum(_at_once(get, list(root.entries)))


class OwnClient:
    """Ours, by the client that users run."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def _slug(self, name: str) -> Slug:
        # Beside what the bare client puts there.
        return Slug.parse(f"{self._client.host}/demo/bench:{name}-client")

    def publish(self, name: str, files: dict[str, bytes]) -> None:
        """See `Registry`."""
        self._client.publish(self._slug(name), Package(files))

    def fetch(self, name: str) -> int:
        """See `Registry`."""
        return sum(map(len, self._client.fetch(self._slug(name)).files.values()))


class DockerRegistry:
    """Debian's docker-registry: each file a layer, pushed in one piece."""

    _TYPE = "application/vnd.oci.image.manifest.v1+json"

    def __init__(self, http: _Http) -> None:
        self.http = http

    def _push(self, data: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        place = self.http.send("POST", "/v2/bench/blobs/uploads/", 202).headers["Location"]
        self.http.send("PUT", f"{place}&digest={digest}", 201, data, {"Content-Type": _FILE_TYPE})
        return {"mediaType": _FILE_TYPE, "digest": digest, "size": len(data)}

    def publish(self, name: str, files: dict[str, bytes]) -> None:
        """See `Registry`."""
        layers = _at_once(lambda path: self._push(files[path]), list(files))
        manifest = {
            "schemaVersion": 2,
            "mediaType": self._TYPE,
            "config": self._push(b"{}"),
            "layers": layers,
        }
        body = json.dumps(manifest).encode()
        self.http.send(
            "PUT", f"/v2/bench/manifests/{name}", 201, body, {"Content-Type": self._TYPE}
        )

    def fetch(self, name: str) -> int:
        """See `Registry`."""
        path = f"/v2/bench/manifests/{name}"
        manifest = json.loads(self.http.send("GET", path, 200, headers={"Accept": self._TYPE}).data)

        def get(digest: str) -> int:
            data = self.http.send("GET", f"/v2/bench/blobs/{digest}", 200).data
            assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
            return len(data)

        return sum(_at_once(get, [layer["digest"] for layer in manifest["layers"]]))


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each run, in which all registries had their turn."""

    publish: list[float]
    fetch: list[float]


def timed(work: Callable[[], object]) -> float:
    """How many seconds `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(
    registries: list[Registry],
    make: Callable[[], dict[str, bytes]],
    names: list[str],
    fetches: int,
) -> list[Times]:
    """Publish and fetch new files under each name, at one registry after the other, in turns."""
    published: list[list[float]] = [[] for _ in registries]
    fetched: list[list[float]] = [[] for _ in registries]
    for name in names:
        for index, registry in enumerate(registries):
            files = make()
            published[index].append(timed(partial(registry.publish, name, files)))
        for _ in range(fetches):
            for index, registry in enumerate(registries):
                fetched[index].append(timed(partial(registry.fetch, name)))
    return [Times(puts, gets) for puts, gets in zip(published, fetched, strict=True)]


def bound(files: dict[str, bytes], folder: Path) -> float:
    """Seconds of digests and a plain copy."""
    source = folder / "bound"
    source.mkdir()
    for path, data in files.items():
        (source / path).write_bytes(data)
    names = [str(source / path) for path in files]
    seconds = []
    for run in range(_BOUND_RUNS):
        target = folder / f"bound-{run}"
        commands = (
            ["sha256sum", *names],
            ["sha512sum", *names],
            ["cp", "-r", str(source), str(target)],
        )

        def work(commands: tuple[list[str], ...] = commands) -> None:
            for command in commands:
                subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

        seconds.append(timed(work))
    return min(seconds)


@contextlib.contextmanager
def drawbridge(folder: Path) -> Iterator[tuple[int, Drawbridge, OwnClient]]:
    """Ours, with two workers, and a user's repository; gives the supervisor's process."""
    (folder / "ours/home").mkdir(parents=True)
    port = free_port()
    with Stack(folder / "ours") as stack:
        command = [
            *GARRISON, "drawbridge", "serve", "--insecure-dev", "--port", str(port),
            "--workers", "2", "--store", str(stack.directory / "drawbridge"),
        ]  # fmt: skip
        with peers.running(command, port) as process:
            stack.registry = f"localhost:{port}"
            stack.login()
            stack.register_repo("bench")
            tokens = stack.directory / "home/.config/garrison/tokens.json"
            token = json.loads(tokens.read_text())[stack.registry]
            authorization = {"Authorization": f"Bearer {token}"}
            ca_pem = (stack.directory / "drawbridge/tls/ca.pem").read_text()
            client = Client(stack.registry, ca_pem=ca_pem, token=token)
            bare = Drawbridge(_Http(f"https://{stack.registry}", authorization))
            yield process.pid, bare, OwnClient(client)


@contextlib.contextmanager
def docker_registry(folder: Path) -> Iterator[DockerRegistry]:
    """Debian's, with TLS.

    Raises:
        MissingPeerError: it is not installed.
    """
    program = peers.installed("docker-registry")
    (folder / "theirs").mkdir()
    cert, key = peers.certificate(folder / "theirs")
    config, port = folder / "theirs/config.yml", free_port()
    config.write_text(
        _REGISTRY_CONFIG.format(root=folder / "theirs/root", port=port, cert=cert, key=key)
    )
    with peers.running([program, "serve", str(config)], port):
        yield DockerRegistry(_Http(f"https://127.0.0.1:{port}"))


@contextlib.contextmanager
def nginx(folder: Path, content: bytes) -> Iterator[str]:
    """A static file of this content; gives its URL.

    Raises:
        MissingPeerError: it is not installed.
    """
    program = peers.installed("nginx")
    root = folder / "nginx"
    root.mkdir()
    (root / "tag").write_bytes(content)
    cert, key = peers.certificate(root)
    config, port = root / "nginx.conf", free_port()
    config.write_text(_NGINX_CONFIG.format(folder=root, root=root, port=port, cert=cert, key=key))
    # Its workers would be `nobody`, who may not read here.
    options = ["-g", "user root;"] if os.geteuid() == 0 else []
    with peers.running([program, "-e", "stderr", "-c", str(config), *options], port):
        yield f"https://127.0.0.1:{port}/tag"


@dataclass(frozen=True, slots=True)
class Load:
    """What `wrk` saw."""

    requests: float
    p50: str
    p99: str


def load(url: str) -> Load:
    """GET it over and over, on many connections.

    Raises:
        MissingPeerError: `wrk` is not installed.
    """
    done = subprocess.run(
        [
            peers.installed("wrk"), "-t1", f"-c{_LOAD_CONNECTIONS}", f"-d{_LOAD_SECONDS}s",
            "--latency", url,
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = {
        name: re.search(pattern, done.stdout)
        for name, pattern in (
            ("requests", r"Requests/sec:\s+([\d.]+)"),
            ("p50", r"(?m)^ +50%\s+(\S+)"),
            ("p99", r"(?m)^ +99%\s+(\S+)"),
        )
    }
    values = {name: match[1] for name, match in found.items() if match is not None}
    if len(values) < len(found) or "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(done.stdout)
    return Load(float(values["requests"]), values["p50"], values["p99"])


def _pss(pid: int) -> int:
    """The proportional set size of a process and its children, in kilobytes."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) + sum(_pss(int(child)) for child in children)


def memory(pid: int, registry: Drawbridge, size: int, version: str) -> float:
    """The most mebibytes that the service has while clients upload files of `size` bytes."""
    block = random.Random(size).randbytes(_MEBIBYTE)  # noqa: S311  (content)
    repeated = block * (size // _MEBIBYTE + 1)
    # Each has content of its own, or it would be stored once.
    names = [f"f{number:02}" for number in range(_UPLOADERS)]
    files = {name: name.encode() + repeated[: size - len(name)] for name in names}
    tag = f"/api/v0.1.0/demo/bench/_tag/{version}"
    listed = Directory({path: _entry(data, _FILE_TYPE) for path, data in files.items()})
    registry.put(tag, _entry(listed.to_bytes(), DIRECTORY_TYPE).to_bytes(), ENTRY_TYPE)
    registry.put(f"{tag}/tree", listed.to_bytes(), DIRECTORY_TYPE)
    most, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.1):
            most = max(most, _pss(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(_UPLOADERS) as threads:
            list(
                threads.map(
                    lambda name: registry.put(f"{tag}/tree/{name}", files[name], _FILE_TYPE), names
                )
            )
    finally:
        ended.set()
        watcher.join()
    return most / 1024


def transfers(
    ours: Drawbridge, client: OwnClient, theirs: DockerRegistry | None, folder: Path
) -> bool:
    """Measure publishing and fetching, print a table, and tell whether the goals are met."""
    chance = random.Random(4)  # noqa: S311  (content)
    print("| | drawbridge | docker-registry | ratio | of the bound |\n|---|---|---|---|---|")
    are_met = True
    for first, (shape, (count, size)) in enumerate(_SHAPES.items()):

        def make(count: int = count, size: int = size) -> dict[str, bytes]:
            names = [MAIN, *(f"f{number:04}" for number in range(1, count))]
            return {name: chance.randbytes(size) for name in names}

        names = [f"{10 * first + run}.0.0" for run in range(_RUNS[count])]
        registries: list[Registry] = [ours, client, *([] if theirs is None else [theirs])]
        bare, own, *others = measure(registries, make, names, _FETCHES[count])
        other = others[0] if others else None
        best = bound(make(), folder / str(first)) if count == 1 else None
        for what in ("publish", "fetch"):
            for by, mine in (("our client", own), ("bare client", bare)):
                has_goal = mine is own
                seconds = statistics.median(getattr(mine, what))
                amount, unit = (size / 1e6, "MB/s") if count == 1 else (count, "files/s")
                row = [f"{what} {shape}, {by}", f"{amount / seconds:,.0f} {unit}"]
                if other is None:
                    row += ["not installed", ""]
                else:
                    # Of each pair of runs: others may have the machine in one run, and not in
                    # the next.
                    pairs = zip(getattr(other, what), getattr(mine, what), strict=True)
                    ratio = statistics.median(theirs / ours for theirs, ours in pairs)
                    are_met = are_met and (ratio >= _OF_PEER or not has_goal)
                    row += [f"{amount / statistics.median(getattr(other, what)):,.0f} {unit}"]
                    row += [f"{ratio:.2f}" + (f" (goal {_OF_PEER})" if has_goal else "")]
                if best is None:
                    row.append("")
                else:
                    share = best / seconds
                    are_met = are_met and (share >= _OF_BOUND or not has_goal)
                    row.append(f"{share:.2f}" + (f" (goal {_OF_BOUND})" if has_goal else ""))
                print(f"| {' | '.join(row)} |")
    return are_met


def tags(ours: Drawbridge, folder: Path) -> bool:
    """Measure GET of a tag, print a table, and tell whether the goal is met."""
    path = "/api/v0.1.0/demo/bench/_tag/0.0.0"
    content = ours.http.send("GET", path, 200).data
    print(
        f"\n| GET of a tag of {len(content)} bytes, {_LOAD_CONNECTIONS} connections |"
        " requests/s | median | 99th percentile |\n|---|---|---|---|"
    )
    try:
        mine = load(ours.http.url + path)
        with nginx(folder, content) as url:
            other = load(url)
    except peers.MissingPeerError as missing:
        print(f"| left out: {missing} | | | |")
        return True
    for name, found in (("drawbridge, two workers", mine), ("nginx, two workers", other)):
        print(f"| {name} | {found.requests:,.0f} | {found.p50} | {found.p99} |")
    ratio = mine.requests / other.requests
    print(f"| ratio, goal {_OF_NGINX} | {ratio:.2f} | | |")
    return ratio >= _OF_NGINX


def main() -> int:
    """Measure and print the tables; 1 if a goal is missed."""
    urllib3.disable_warnings()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as opened:
        folder = Path(name)
        for number in range(len(_SHAPES)):
            (folder / str(number)).mkdir()
        pid, ours, client = opened.enter_context(drawbridge(folder))
        try:
            theirs = opened.enter_context(docker_registry(folder))
        except peers.MissingPeerError:
            theirs = None
        are_met = transfers(ours, client, theirs, folder)
        are_met &= tags(ours, folder)
        small = memory(pid, ours, _SMALL, "100.0.0")
        large = memory(pid, ours, _LARGE, "101.0.0")
        are_met &= large - small < _MORE_MEBIBYTES
        print("\n| memory of the service, two workers | MiB at most |\n|---|---|")
        for size, found in ((_SMALL, small), (_LARGE, large)):
            clients = f"{_UPLOADERS} clients that upload {size // 10**6} MB each"
            print(f"| {clients} | {found:,.0f} |")
    return 0 if are_met else 1


if __name__ == "__main__":
    sys.exit(main())

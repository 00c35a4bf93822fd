"""A sample service as a real process, over TLS."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.unit.service.conftest import Pki

# `/` tells who asks, `/large` says so and reads 10 bytes at most, `/broken` fails,
# `/slow` says so and takes as long as it is told, `/prompt` answers at once unless its body says
# that it must wait, `/placed` reads a body into a place over and over, or `once`, and tells of it.
# It is not ready while the file `trouble` exists.
APP = """
import asyncio, contextlib, hashlib, json, os, signal, sys
from pathlib import Path
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from garrison.errors import GarrisonError, Unavailable
from garrison.service.bodies import Body
from garrison.service.problem import problem
from garrison.service.limits import Limits
from garrison.service.requests import read_limited
from garrison.service.server import Settings, serve
from garrison.service.stages import stage
from garrison.service import worker
from garrison.service.worker import Hosted

async def who(request):
    certificate = request.state.client_certificate
    told = None if certificate is None else certificate.hex()
    return JSONResponse({"client": told, "id": request.state.request_id})

def say(word):
    # In one piece, whatever the other workers say.
    os.write(1, word.encode() + b"\\n")

async def large(request):
    say("reads")
    try:
        return JSONResponse({"length": len(await read_limited(request, 10))})
    except GarrisonError as error:
        return problem(error, request_id=request.state.request_id)

async def slow(request):
    say("works")
    await asyncio.sleep(float(request.query_params["seconds"]))
    return JSONResponse({"id": request.state.request_id})

async def placed(request):
    place = memoryview(bytearray(int(request.query_params["room"])))
    body, counts, digest = Body(request), [], hashlib.sha256()
    try:
        while not counts or counts[-1] == len(place):
            counts.append(await body.into(place))
            digest.update(place[:counts[-1]])
            say("filled")
            if "once" in request.query_params:
                break
    except GarrisonError as error:
        return problem(error, request_id=request.state.request_id)
    return JSONResponse({"counts": counts, "sha256": digest.hexdigest()})

checks = 0
async def ready():
    global checks
    checks += 1
    if Path(sys.argv[4]).exists():
        raise Unavailable("told not to be", field="sample", found=checks)

async def big(request):
    async def pieces():
        for _ in range(300):
            yield bytes(1 << 20)
    return StreamingResponse(pieces())

async def staged(request):
    def work():
        with stage("count"):
            sum(range(1000))
        with contextlib.suppress(Unavailable), stage("fail"):
            raise Unavailable("s3cret")
    await run_in_threadpool(work)
    return JSONResponse({"id": request.state.request_id})

async def broken(request):
    raise RuntimeError("a defect")

async def long_way(request):
    how = getattr(request.state, "begun", "the long way")
    body = (await request.body()).decode()
    return JSONResponse({"how": how, "body": body, "id": request.state.request_id})

def prompt(request, body):
    if request.scope["path"] != "/prompt":
        return {}
    if body == b"break":
        raise RuntimeError("a defect")
    if body == b"wait":
        return {"begun": "begun as " + request.state.request_id}
    how = "at once" + request.scope["query_string"].decode()
    return JSONResponse({"how": how, "body": body.decode(), "id": request.state.request_id})

app = Starlette(routes=[
    Route("/", who), Route("/large", large, methods=["POST"]), Route("/broken", broken),
    Route("/slow", slow),
    Route("/staged", staged),
    Route("/big", big),
    Route("/placed", placed, methods=["POST"]),
    Route("/prompt", long_way, methods=["POST"]),
])
root, certificate, key, _, options = sys.argv[1:]
options = json.loads(options)
limits = Limits(**options.pop("limits", {}))
worker._LOOK_SECONDS = options.pop("look", worker._LOOK_SECONDS)
if "metrics" in options:
    options["metrics"] = tuple(options["metrics"])
fail = options.pop("fail", False)
told_early = options.pop("told_early", False)
spoilt = options.pop("spoilt", False)

def build():
    if fail:
        raise RuntimeError("cannot be built")
    if told_early:
        os.kill(os.getpid(), signal.SIGHUP)
    return Hosted(app, ready, ["/", "/prompt"], prompt=prompt)

def renew():
    if spoilt:
        raise RuntimeError("a defect")

serve(build, Settings(
    name="sample", host="localhost", port=0, certificate=Path(certificate), key=Path(key),
    client_ca=Path(root), limits=limits, **options,
), renew)
"""


class Server:
    """The sample service, running."""

    def __init__(self, process: subprocess.Popen[str], line: str, pki: Pki) -> None:
        self.process = process
        self.line = line
        told = json.loads(line) if line.startswith("{") else {"url": line.rpartition(" ")[2]}
        # No line, where it cannot start.
        self.port = int(told["url"].rpartition(":")[2] or 0)
        self.metrics: str | None = told.get("metrics")
        self._pki = pki

    def connect(self, client: Path | None = None) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self._pki.root))
        if client is not None:
            context.load_cert_chain(client)
        return http.client.HTTPSConnection("localhost", self.port, context=context, timeout=20)

    def watch(self, path: str) -> tuple[int, str]:
        """What the port for those who watch answers."""
        assert self.metrics is not None
        host, _, port = self.metrics.removeprefix("http://").partition("/")[0].rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", path)
            with connection.getresponse() as response:
                return response.status, response.read().decode()

    def counted(self) -> dict[str, float]:
        """The metrics, by name and labels."""
        status, text = self.watch("/metrics")
        assert status == 200
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def raw(self) -> ssl.SSLSocket:
        """A connection on which anything can be said."""
        context = ssl.create_default_context(cafile=str(self._pki.root))
        plain = socket.create_connection(("localhost", self.port), timeout=20)
        return context.wrap_socket(plain, server_hostname="localhost")

    def expect(self, word: str) -> None:
        """Wait for a line that says so, on standard output or as an event on standard error."""
        stream = self.process.stderr if word.startswith('"') else self.process.stdout
        assert stream is not None
        for line in iter(stream.readline, ""):
            if word in line:
                return
        raise AssertionError(f"ended without {word}")

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """End it, and return exit code, the rest of standard output, and standard error."""
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@contextlib.contextmanager
def running(
    pki: Pki,
    limits: Mapping[str, float] | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    **options: Any,
) -> Iterator[Server]:
    """The sample service, with `options` of `Settings`."""
    text = json.dumps({"limits": limits or {}, **options})
    trouble = str(pki.directory.parent / "trouble")
    files = [str(certificate or pki.certificate), str(key or pki.key)]
    arguments = [str(pki.root), *files, trouble, text]
    process = subprocess.Popen(
        [sys.executable, "-c", APP, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Server(process, process.stdout.readline(), pki)
    finally:
        process.kill()
        process.communicate()


def ask(connection: http.client.HTTPSConnection, path: str = "/") -> dict[str, str | None]:
    connection.request("GET", path)
    with connection.getresponse() as response:
        assert response.status == 200
        answer: dict[str, str | None] = json.loads(response.read())
        assert response.headers["X-Request-Id"] == answer["id"]
        return answer

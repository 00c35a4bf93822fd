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

# `/` tells who asks, `/large` reads 10 bytes at most, `/broken` fails,
# `/slow` takes as long as it is told.
APP = """
import asyncio, json, sys
from pathlib import Path
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from garrison.errors import GarrisonError
from garrison.service.problem import problem
from garrison.service.limits import Limits
from garrison.service.requests import read_limited
from garrison.service.server import Settings, serve
from garrison.service.worker import Hosted

async def who(request):
    certificate = request.state.client_certificate
    told = None if certificate is None else certificate.hex()
    return JSONResponse({"client": told, "id": request.state.request_id})

async def large(request):
    try:
        return JSONResponse({"length": len(await read_limited(request, 10))})
    except GarrisonError as error:
        return problem(error, request_id=request.state.request_id)

async def slow(request):
    await asyncio.sleep(float(request.query_params["seconds"]))
    return JSONResponse({"id": request.state.request_id})

async def broken(request):
    raise RuntimeError("a defect")

app = Starlette(routes=[
    Route("/", who), Route("/large", large, methods=["POST"]), Route("/broken", broken),
    Route("/slow", slow),
])
root, certificate, key, options = sys.argv[1:]
options = json.loads(options)
limits = Limits(**options.pop("limits", {}))
serve(lambda: Hosted(app), Settings(
    name="sample", host="localhost", port=0, certificate=Path(certificate), key=Path(key),
    client_ca=Path(root), limits=limits, **options,
))
"""


class Server:
    """The sample service, running."""

    def __init__(self, process: subprocess.Popen[str], line: str, pki: Pki) -> None:
        self.process = process
        self.line = line
        self.port = int(line.rstrip('"}\n').rpartition(":")[2])
        self._pki = pki

    def connect(self, client: Path | None = None) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self._pki.root))
        if client is not None:
            context.load_cert_chain(client)
        return http.client.HTTPSConnection("localhost", self.port, context=context, timeout=20)

    def raw(self) -> ssl.SSLSocket:
        """A connection on which anything can be said."""
        context = ssl.create_default_context(cafile=str(self._pki.root))
        plain = socket.create_connection(("localhost", self.port), timeout=20)
        return context.wrap_socket(plain, server_hostname="localhost")

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """End it, and return exit code, the rest of standard output, and standard error."""
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@contextlib.contextmanager
def running(
    pki: Pki, limits: Mapping[str, float] | None = None, **options: Any
) -> Iterator[Server]:
    """The sample service, with `options` of `Settings`."""
    text = json.dumps({"limits": limits or {}, **options})
    arguments = [str(pki.root), str(pki.certificate), str(pki.key), text]
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

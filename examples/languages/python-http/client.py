"""Sends a line to HOST:PORT by `wasi:http/outgoing-handler`, and says who answered, and what."""

import json
import sys

from componentize_py_types import Ok
from poll_loop import PollLoop, Stream, send
from wit_world import exports
from wit_world.imports.types import (
    Fields,
    Method_Post,
    OutgoingBody,
    OutgoingRequest,
    Scheme_Http,
)

_PEER = "garrison-peer-"


class Run(exports.Run):
    """`wasi:cli/run`."""

    def run(self) -> None:
        """Say one thing."""
        PollLoop().run_until_complete(_say(sys.argv[1], sys.argv[2]))


async def _say(target: str, text: str) -> None:
    request = OutgoingRequest(Fields.from_list([("content-type", b"text/plain")]))
    request.set_method(Method_Post())
    # TLS is the keep's: the rule for the host and port says that there is.
    request.set_scheme(Scheme_Http())
    request.set_authority(target)
    body = request.body()
    with body.write() as stream:
        stream.blocking_write_and_flush(text.encode())
    OutgoingBody.finish(body, None)
    response = await send(request)
    if isinstance(response, Ok):
        response = response.value
    peer = {
        name.removeprefix(_PEER).replace("-", "_"): str(value, "ascii")
        for name, value in response.headers().entries()
        if name.startswith(_PEER)
    }
    print("peer", json.dumps(peer))
    stream, answer = Stream(response.consume()), b""
    while (data := await stream.next()) is not None:
        answer += data
    print("echo", answer.decode())

"""Sends back what it is sent, and says who sent it: a handler of the world `wasi:http/proxy`."""

import json

from componentize_py_types import Ok
from poll_loop import PollLoop, Sink, Stream
from wit_world import exports
from wit_world.imports.types import Fields, IncomingRequest, OutgoingResponse, ResponseOutparam

_PEER = "garrison-peer-"


class IncomingHandler(exports.IncomingHandler):
    """`wasi:http/incoming-handler`."""

    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        """Answer one request."""
        # The keep sets these fields; a client cannot.
        peer = {
            name.removeprefix(_PEER).replace("-", "_"): str(value, "ascii")
            for name, value in request.headers().entries()
            if name.startswith(_PEER)
        }
        print("peer", json.dumps(peer), flush=True)
        PollLoop().run_until_complete(_echo(request, response_out))


async def _echo(request: IncomingRequest, response_out: ResponseOutparam) -> None:
    response = OutgoingResponse(Fields.from_list([("content-type", b"text/plain")]))
    sink = Sink(response.body())
    ResponseOutparam.set(response_out, Ok(response))
    stream = Stream(request.consume())
    while (data := await stream.next()) is not None:
        await sink.send(data)
    sink.close()

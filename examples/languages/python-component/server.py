"""Sends back what it gets, on the port that is its argument, and says who sent it."""

import asyncio
import encodings.idna  # noqa: F401  (what is not imported when it is built is not there)
import json
import sys
from pathlib import Path

from wit_world import exports


class Run(exports.Run):
    """`wasi:cli/run`."""

    def run(self) -> None:
        """Serve many clients at once."""
        asyncio.run(_serve(int(sys.argv[1])))


async def _serve(port: int) -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", port)
    print("listening", flush=True)
    await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # Connections are answered in the order in which they were accepted, as the events are told.
    event = json.loads(Path("/net/peer/lis").read_text())  # noqa: ASYNC240  (in memory)
    print("peer", json.dumps(event["peer"]), flush=True)
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()
    writer.close()

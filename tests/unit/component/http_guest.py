"""The component of `tests/guests/http.c`, and a keep in this process that serves it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from garrison.formats.enarx_toml import Config, Rule
from garrison.formats.limits import Limits
from garrison.keep.component.run import Component
from garrison.keep.engine.failures import Interrupted
from garrison.keep.engine.runtime import Engine, Module
from garrison.keep.net.network import Network
from garrison.keep.vfs.nodes import Directory
from garrison.testing.component import handler
from garrison.testing.stack import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_TYPES = "wasi:http/types"
_FUNCTIONS = {
    "path": (_TYPES, "[method]incoming-request.path-with-query"),
    "authority": (_TYPES, "[method]incoming-request.authority"),
    "headers": (_TYPES, "[method]incoming-request.headers"),
    "consume": (_TYPES, "[method]incoming-request.consume"),
    "contents": (_TYPES, "[method]incoming-body.stream"),
    "rest": (_TYPES, "[static]incoming-body.finish"),
    "rest-ready": (_TYPES, "[method]future-trailers.subscribe"),
    "rest-get": (_TYPES, "[method]future-trailers.get"),
    "fields": (_TYPES, "[constructor]fields"),
    "append": (_TYPES, "[method]fields.append"),
    "entries": (_TYPES, "[method]fields.entries"),
    "response": (_TYPES, "[constructor]outgoing-response"),
    "status": (_TYPES, "[method]outgoing-response.set-status-code"),
    "body": (_TYPES, "[method]outgoing-response.body"),
    "stream": (_TYPES, "[method]outgoing-body.write"),
    "finish": (_TYPES, "[static]outgoing-body.finish"),
    "set": (_TYPES, "[static]response-outparam.set"),
    "request": (_TYPES, "[constructor]outgoing-request"),
    "set-authority": (_TYPES, "[method]outgoing-request.set-authority"),
    "set-path": (_TYPES, "[method]outgoing-request.set-path-with-query"),
    "set-scheme": (_TYPES, "[method]outgoing-request.set-scheme"),
    "send": ("wasi:http/outgoing-handler", "handle"),
    "answered": (_TYPES, "[method]future-incoming-response.subscribe"),
    "answer": (_TYPES, "[method]future-incoming-response.get"),
    "answer-status": (_TYPES, "[method]incoming-response.status"),
    "answer-headers": (_TYPES, "[method]incoming-response.headers"),
    "answer-consume": (_TYPES, "[method]incoming-response.consume"),
    "options": (_TYPES, "[constructor]request-options"),
    "first-byte": (_TYPES, "[method]request-options.set-first-byte-timeout"),
    "read": ("wasi:io/streams", "[method]input-stream.blocking-read"),
    "write": ("wasi:io/streams", "[method]output-stream.blocking-write-and-flush"),
    "after": ("wasi:clocks/monotonic-clock", "subscribe-duration"),
    "block": ("wasi:io/poll", "[method]pollable.block"),
}
_DROPS = {
    "drop-output": ("wasi:io/streams", "output-stream"),
    "drop-input": ("wasi:io/streams", "input-stream"),
    "drop-pollable": ("wasi:io/poll", "pollable"),
    "drop-body": (_TYPES, "outgoing-body"),
    "drop-fields": (_TYPES, "fields"),
}
# From 1 MiB on, and from there again: no list of the host's is kept for long.
_ALLOCATOR = """
  (global $next (mut i32) (i32.const 1048576))
  (func (export "realloc") (param i32 i32 i32 i32) (result i32)
    (if (i32.gt_u (i32.add (global.get $next) (local.get 3)) (i32.const 2000000))
      (then (global.set $next (i32.const 1048576))))
    (global.set $next (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
    (global.get $next)
    (global.set $next (i32.add (global.get $next) (local.get 3))))
"""
_SOURCE = Path(__file__).parents[2] / "guests" / "http.c"


def built(folder: Path) -> bytes:
    """Build it."""
    core = folder / "http.wasm"
    options = ("-target", "wasm32-freestanding", "-O2", "-s", "-nostdlib", "-fno-builtin")
    linked = ("-Wl,--no-entry", "-Wl,--import-memory", "-Wl,-z,stack-size=65536")
    warnings = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-function")
    command = [sys.executable, "-m", "ziglang", "cc", *options, *linked, *warnings]
    environment = {"ZIG_GLOBAL_CACHE_DIR": str(Path(sys.prefix) / "zig-cache"), **os.environ}
    subprocess.run([*command, str(_SOURCE), "-o", str(core)], check=True, env=environment)
    return handler(core.read_bytes(), _FUNCTIONS, drops=_DROPS, allocator=_ALLOCATOR)


class _Interrupts:
    """Signals that come when a test says so."""

    def __init__(self) -> None:
        self.ended, self._end = os.pipe()
        self._over = False

    def check(self) -> None:
        if self._over:
            raise Interrupted(15)

    def start_clock(self) -> None:
        pass

    def wait(self, _events: list[tuple[int, int]], seconds: float | None) -> dict[int, int]:
        time.sleep(seconds or 0)
        return {}

    def end(self) -> None:
        self._over = True
        os.write(self._end, b"\0")

    def close(self) -> None:
        os.close(self.ended)
        os.close(self._end)


@contextmanager
def served(
    wasm: bytes,
    *,
    limits: Mapping[str, Any] | None = None,
    network: Network | None = None,
    port: int | None = None,
) -> Iterator[Served]:
    """Serve a component, in the clear if no `network` says otherwise."""
    port = port or free_port()
    outgoing = {"default": Rule("tcp"), "localhost:9": Rule("deny")}
    config = Config(incoming={str(port): Rule("tcp")}, outgoing=outgoing, files=None)
    network = network or Network(config, None, [])
    interrupts = _Interrupts()
    engine = Engine()
    component = Component(wasm, engine, lambda wasm: Module.compile(engine, wasm))
    failures: list[BaseException] = []

    def run() -> None:
        try:
            component.run(
                descriptors={},
                args=["main.wasm"],
                env={},
                network=network,
                limits=Limits(**(limits or {})),
                interrupts=interrupts,  # all that a proxy asks of it
                root=lambda _: Directory(None, []).open(read=True, write=False),
            )
        except BaseException as error:  # noqa: BLE001  (looked at below)
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    made = Served(port, interrupts, thread)
    made.wait()
    try:
        yield made
    finally:
        interrupts.end()
        thread.join(20)
        assert not thread.is_alive()
        component.close()
        engine.close()
        interrupts.close()
    assert [type(failure) for failure in failures] == [Interrupted], failures


class Served:
    """A keep that serves.

    Attributes:
        port: where.
    """

    def __init__(self, port: int, interrupts: _Interrupts, thread: threading.Thread) -> None:
        self.port = port
        self.end = interrupts.end
        self.thread = thread

    def wait(self) -> None:
        """Wait until it listens."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.thread.is_alive():
            try:
                self.connect().close()
            except ConnectionRefusedError:
                time.sleep(0.01)
            else:
                return
        raise TimeoutError("it does not listen")

    def connect(self) -> socket.socket:
        """A connection."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=8)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def raw(self, data: bytes, *, end: bool = False) -> bytes:
        """All that comes for `data`, up to the end of the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
            return everything(connection)


def plain(answer: bytes) -> bytes:
    """An answer without its chunks' heads."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head:
        return answer
    found = bytearray()
    while body and (size := int(body.partition(b"\r\n")[0], 16)):
        _, _, body = body.partition(b"\r\n")
        found += body[:size]
        body = body[size + 2 :]
    return head + b"\r\n\r\n" + bytes(found)


def everything(connection: socket.socket) -> bytes:
    """All that still comes; a reset is an end too."""
    found = bytearray()
    try:
        while data := connection.recv(1 << 16):
            found += data
    except ConnectionResetError:
        found += b"<reset>"
    return bytes(found)

"""Components: a start beside `wasmtime run`, an echo beside preview 1's, HTTP beside `serve`.

The hello is the same component for both, warm (compiled code in the cache) and cold. The echo
runs in a keep with TLS 1.3, once as a module for preview 1 and once as a component, under the
same load; see `echo.py`. The handler of HTTP says hello, in a keep and in `wasmtime serve` behind
nginx, over TLS 1.3, a new instance for each request in both.

    python bench/components.py [RUNS [SECONDS]]
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import peers
import start
import web

from garrison.testing.component import command as component
from garrison.testing.component import handler
from garrison.testing.stack import free_port

# The most that a component's start may take, as a multiple of wasmtime's, warm and cold; and the
# least that its echo may do, of what preview 1's does.
START_GOALS = {"warm": 7.0, "cold": 7.0}
ECHO_GOAL = 0.6
# The least that a component answers over TLS, of what it does in `wasmtime serve` behind nginx.
# One thread that takes 300 us for a request answers 3,300 in a second, 0.45 to 0.47 of what two
# cores do for wasmtime and nginx; the rest is room for machines (docs/reference/performance.md).
HTTP_GOAL = 0.4
HTTP_CONNECTIONS = (1, 32)
CELLS = ((64, 1), (64, 64), (65536, 4))
_ECHO_RUNS = 3
_HTTP_RUNS = 3

_HELLO = component(
    """(data (i32.const 0) "hello\\n") (func (export "run") (result i32)
        (call $write (call $out) (i32.const 0) (i32.const 6) (i32.const 64))
        (i32.load8_u (i32.const 64)))""",
    {
        "out": ("wasi:cli/stdout", "get-stdout"),
        "write": ("wasi:io/streams", "[method]output-stream.blocking-write-and-flush"),
    },
)
_TYPES = "wasi:http/types"
_HANDLED = {
    "fields": (_TYPES, "[constructor]fields"),
    "response": (_TYPES, "[constructor]outgoing-response"),
    "body": (_TYPES, "[method]outgoing-response.body"),
    "stream": (_TYPES, "[method]outgoing-body.write"),
    "finish": (_TYPES, "[static]outgoing-body.finish"),
    "set": (_TYPES, "[static]response-outparam.set"),
    "write": ("wasi:io/streams", "[method]output-stream.blocking-write-and-flush"),
}
_HANDLER = """(data (i32.const 0) "hello, world")
    (func (export "handle") (param $request i32) (param $out i32)
      (local $response i32) (local $body i32) (local $stream i32)
      (local.set $response (call $response (call $fields)))
      (call $body (local.get $response) (i32.const 64))
      (local.set $body (i32.load (i32.const 68)))
      (call $set (local.get $out) (i32.const 0) (local.get $response) (i32.const 0) (i64.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
      (call $stream (local.get $body) (i32.const 64))
      (local.set $stream (i32.load (i32.const 68)))
      (call $write (local.get $stream) (i32.const 0) (i32.const 12) (i32.const 64))
      (call $drop-stream (local.get $stream))
      (call $finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 64)))"""
_FUNCTIONS = {
    "network": ("wasi:sockets/instance-network", "instance-network"),
    "create": ("wasi:sockets/tcp-create-socket", "create-tcp-socket"),
    "bind": ("wasi:sockets/tcp", "[method]tcp-socket.start-bind"),
    "bound": ("wasi:sockets/tcp", "[method]tcp-socket.finish-bind"),
    "listen": ("wasi:sockets/tcp", "[method]tcp-socket.start-listen"),
    "listening": ("wasi:sockets/tcp", "[method]tcp-socket.finish-listen"),
    "accept": ("wasi:sockets/tcp", "[method]tcp-socket.accept"),
    "incoming": ("wasi:sockets/tcp", "[method]tcp-socket.subscribe"),
    "readable": ("wasi:io/streams", "[method]input-stream.subscribe"),
    "writable": ("wasi:io/streams", "[method]output-stream.subscribe"),
    "block": ("wasi:io/poll", "[method]pollable.block"),
    "poll": ("wasi:io/poll", "poll"),
    "read": ("wasi:io/streams", "[method]input-stream.read"),
    "check": ("wasi:io/streams", "[method]output-stream.check-write"),
    "write": ("wasi:io/streams", "[method]output-stream.write"),
}
_DROPS = {
    "drop-socket": ("wasi:sockets/tcp", "tcp-socket"),
    "drop-input": ("wasi:io/streams", "input-stream"),
    "drop-output": ("wasi:io/streams", "output-stream"),
    "drop-pollable": ("wasi:io/poll", "pollable"),
}
# All that the host gives comes to one place, beyond what the program has.
_ALLOCATOR = '(func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1048576))'
_CONFIG = '[stderr]\nkind = "host"\n[network.incoming.{port}]\n'


def echo(folder: Path, port: int) -> Path:
    """Build the echo component, which listens on `port`."""
    core, out = folder / "echo-core.wasm", folder / f"echo-{port}.wasm"
    options = ("-target", "wasm32-freestanding", "-O2", "-s", "-nostdlib", f"-DPORT={port}")
    linked = ("-Wl,--no-entry", "-Wl,--import-memory", "-Wl,-z,stack-size=65536")
    source = str(peers.PROGRAMS / "echo_component.c")
    compiler = [sys.executable, "-m", "ziglang", "cc", *options, *linked]
    subprocess.run([*compiler, source, "-o", str(core)], check=True)
    wasm = component(core.read_bytes(), _FUNCTIONS, drops=_DROPS, allocator=_ALLOCATOR)
    out.write_bytes(wasm)
    return out


def starts(folder: Path, runs: int) -> bool:
    """Measure the start of a hello world, print the table; whether a goal is missed."""
    guest = folder / "hello.wasm"
    guest.write_bytes(_HELLO)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    wasmtime = str(start.native_wasmtime(folder))
    commands = {
        "wasmtime run": [wasmtime, "run", "-C", "cache=y", str(guest)],
        "garrison run": [str(Path(sys.executable).parent / "garrison"), "run", str(guest)],
    }
    times: dict[tuple[str, str], list[float]] = {}
    for state in ("cold", "warm"):
        for _ in range(runs):
            for label, command in commands.items():
                if state == "cold":
                    shutil.rmtree(folder / ".cache", ignore_errors=True)
                found = start.milliseconds(command, environment)
                times.setdefault((state, label), []).append(found)
    missed = False
    print("| start of a hello | wasmtime run | garrison run | ratio |\n|---|---|---|---|")
    for state, goal in START_GOALS.items():
        other, ours = (statistics.median(times[state, label]) for label in commands)
        missed = missed or ours > goal * other
        print(f"| {state} | {other:.1f} ms | {ours:.1f} ms | {ours / other:.1f} |")
    return missed


def echoes(folder: Path, seconds: str) -> bool:
    """Measure the echo of both kinds, print the table; whether the goal is missed."""
    found: dict[tuple[str, int, int], list[float]] = {}
    with contextlib.ExitStack() as running:
        load = str(peers.native("load", folder))
        made = running.enter_context(peers.stack(folder))
        ports = {"preview 1": free_port(), "component": free_port()}
        module = peers.compiled(peers.PROGRAMS / "echo.c", folder)
        command = peers.keep_command(made, module, ports["preview 1"], folder)
        running.enter_context(peers.running(command, ports["preview 1"]))
        port = ports["component"]
        command = peers.keep_command(made, echo(folder, port), port, folder)
        (folder / f"keep-{port}.toml").write_text(_CONFIG.format(port=port))
        running.enter_context(peers.running(command, port))
        # In turns, so that a busy moment of the machine meets both.
        for _ in range(_ECHO_RUNS):
            for size, connections in CELLS:
                for label, port in ports.items():
                    given = [load, str(port), str(connections), str(size), seconds]
                    done = subprocess.run(given, capture_output=True, text=True, check=False)
                    value = float(done.stdout) if done.returncode == 0 else 0.0
                    found.setdefault((label, size, connections), []).append(value)
    missed = False
    print("\n| echo: message, connections | preview 1 | component | ratio |\n|---|---|---|---|")
    for size, connections in CELLS:
        first, ours = (statistics.median(found[label, size, connections]) for label in ports)
        ratio = ours / first if first else 0.0
        missed = missed or ratio < ECHO_GOAL
        print(f"| {size} B, {connections} | {first:,.0f}/s | {ours:,.0f}/s | {ratio:.2f} |")
    return missed


def answers(folder: Path) -> bool:
    """Measure requests to a handler, print the table; whether the goal is missed."""
    guest = folder / "handler.wasm"
    drops = {"drop-stream": ("wasi:io/streams", "output-stream")}
    guest.write_bytes(handler(_HANDLER, _HANDLED, drops=drops))
    found: dict[tuple[str, int], list[float]] = {}
    try:
        peers.installed("wrk")
        identity = peers.certificate(folder)
        wasmtime = str(start.native_wasmtime(folder))
        inner, port = free_port(), free_port()
        serve = [wasmtime, "serve", "--addr", f"127.0.0.1:{inner}", str(guest)]
        with (
            peers.stack(folder / "http") as made,
            peers.running(peers.keep_command(made, guest, port, folder), port),
            peers.running(serve, inner),
            peers.terminated("nginx", inner, folder, identity) as other,
        ):
            web.wait_for_answer(port)
            # In turns, so that a busy moment of the machine meets both.
            for _ in range(_HTTP_RUNS):
                for connections in HTTP_CONNECTIONS:
                    for label, at in (("ours", port), ("theirs", other)):
                        value = web.requests(at, connections)
                        found.setdefault((label, connections), []).append(value)
    except peers.MissingPeerError as missing:
        print(f"\nHTTP is left out: {missing}")
        return False
    missed = False
    print("\n| HTTP over TLS: connections | wasmtime serve, nginx | garrison | ratio |")
    print("|---|---|---|---|")
    for connections in HTTP_CONNECTIONS:
        ours, theirs = (
            statistics.median(found[label, connections]) for label in ("ours", "theirs")
        )
        missed = missed or ours < HTTP_GOAL * theirs
        print(f"| {connections} | {theirs:,.0f}/s | {ours:,.0f}/s | {ours / theirs:.2f} |")
    return missed


def main() -> int:
    """Measure, print three tables, and return 1 if a goal is missed."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seconds = sys.argv[2] if len(sys.argv) > 2 else "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        missed = [starts(folder, runs), echoes(folder, seconds), answers(folder)]
        return int(any(missed))


if __name__ == "__main__":
    sys.exit(main())

"""Components that speak by datagrams, for tests: commands, and some that answer HTTP requests.

Each binds a socket of its own, on loopback if nothing else is said, and drops nothing. A function
that fails ends it with its error code of `wasi:sockets/network`, plus one.
"""

from __future__ import annotations

from garrison.testing.component import command, handler

_FUNCTIONS = {
    "network": ("wasi:sockets/instance-network", "instance-network"),
    "resolve": ("wasi:sockets/ip-name-lookup", "resolve-addresses"),
    "next": ("wasi:sockets/ip-name-lookup", "[method]resolve-address-stream.resolve-next-address"),
    "create": ("wasi:sockets/udp-create-socket", "create-udp-socket"),
    "bind": ("wasi:sockets/udp", "[method]udp-socket.start-bind"),
    "bound": ("wasi:sockets/udp", "[method]udp-socket.finish-bind"),
    "stream": ("wasi:sockets/udp", "[method]udp-socket.stream"),
    "check": ("wasi:sockets/udp", "[method]outgoing-datagram-stream.check-send"),
    "send": ("wasi:sockets/udp", "[method]outgoing-datagram-stream.send"),
    "receive": ("wasi:sockets/udp", "[method]incoming-datagram-stream.receive"),
    "subscribe": ("wasi:sockets/udp", "[method]incoming-datagram-stream.subscribe"),
    "block": ("wasi:io/poll", "[method]pollable.block"),
    "write": ("wasi:io/streams", "[method]output-stream.blocking-write-and-flush"),
    "out": ("wasi:cli/stdout", "get-stdout"),
    "exit": ("wasi:cli/exit", "exit-with-code"),
}
_DROPS = {
    "drop-socket": ("wasi:sockets/udp", "udp-socket"),
    "drop-incoming": ("wasi:sockets/udp", "incoming-datagram-stream"),
    "drop-outgoing": ("wasi:sockets/udp", "outgoing-datagram-stream"),
}
# What the cases of an address have more than the first one's port and four bytes.
_NO_ADDRESS = "(i32.const 0) " * 6
_NONE = "(i32.const 0) " * 13


_TYPES = "wasi:http/types"
_HTTP = {
    "fields": (_TYPES, "[constructor]fields"),
    "response": (_TYPES, "[constructor]outgoing-response"),
    "set": (_TYPES, "[static]response-outparam.set"),
    "body": (_TYPES, "[method]outgoing-response.body"),
    "contents": (_TYPES, "[method]outgoing-body.write"),
    "finish": (_TYPES, "[static]outgoing-body.finish"),
}


def component(
    body: str, port: int = 0, *, everywhere: bool = False, host: str = "localhost"
) -> bytes:
    """Binds a socket to a port, of all addresses or loopback's, and goes on as `body` says.

    `host`, of at most 16 characters, is at 0.
    """
    return command(
        f"""{_start(host)}
        (func (export "run") (result i32) {_bound(port, everywhere=everywhere)}
          {body} (i32.const 0))""",
        _FUNCTIONS,
        drops=_DROPS,
    )


def _answering(body: str, port: int = 0) -> bytes:
    """As `component`, for each HTTP request; answers with the data of the datagram at 1028."""
    return handler(
        f"""{_start("localhost")}
        (func (export "handle") (param $request i32) (param $out i32)
          {_bound(port, everywhere=False)} {body}
          (local.set $in (i32.load (i32.const 1028)))
          (local.set $net (call $response (call $fields)))
          (call $body (local.get $net) (i32.const 640))
          (call $set (local.get $out) (i32.const 0) (local.get $net) (i32.const 0) (i64.const 0)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
          (local.set $net (i32.load (i32.const 644)))
          (call $contents (local.get $net) (i32.const 640))
          (local.set $to (i32.load (i32.const 644)))
          (call $write (local.get $to) (i32.load (local.get $in))
            (i32.load (i32.add (local.get $in) (i32.const 4))) (i32.const 640))
          (call $drop-output (local.get $to))
          (call $finish (local.get $net) (i32.const 0) (i32.const 0) (i32.const 640)))""",
        _FUNCTIONS | _HTTP,
        drops=_DROPS | {"drop-output": ("wasi:io/streams", "output-stream")},
    )


def _start(host: str) -> str:
    return f"""(data (i32.const 0) "{host}") (data (i32.const 16) "ping")
        (func $ok (param $at i32) (if (i32.load8_u (i32.const 1024)) (then
          (call $exit (i32.add (i32.const 1)
            (i32.load8_u (i32.add (i32.const 1024) (local.get $at))))))))"""


def _bound(port: int, *, everywhere: bool) -> str:
    """The beginning of a function: its locals, and a socket."""
    address = (0, 0, 0, 0) if everywhere else (127, 0, 0, 1)
    bytes_of_it = " ".join(f"(i32.const {part})" for part in address)
    return f"""(local $net i32) (local $socket i32) (local $in i32) (local $to i32)
          (local.set $net (call $network))
          (call $create (i32.const 0) (i32.const 1024)) (call $ok (i32.const 4))
          (local.set $socket (i32.load (i32.const 1028)))
          (call $bind (local.get $socket) (local.get $net) (i32.const 0) (i32.const {port})
            {bytes_of_it} {_NO_ADDRESS} (i32.const 1024))
          (call $ok (i32.const 1))
          (call $bound (local.get $socket) (i32.const 1024)) (call $ok (i32.const 1))"""


STREAM = f"""
  (call $stream (local.get $socket) {_NONE} (i32.const 1024)) (call $ok (i32.const 4))
  (local.set $in (i32.load (i32.const 1028))) (local.set $to (i32.load (i32.const 1032)))
"""
_CHECK = "(call $check (local.get $to) (i32.const 1024)) (call $ok (i32.const 8))"
# Of the datagram at 128: its data is "ping", and it has a destination.
PING = """
  (i32.store (i32.const 128) (i32.const 16)) (i32.store (i32.const 132) (i32.const 4))
  (i32.store (i32.const 136) (i32.const 1)) (i32.store (i32.const 140) (i32.const 0))
"""
SEND = """
  (call $send (local.get $to) (i32.const 128) (i32.const 1) (i32.const 1024))
  (call $ok (i32.const 8))
"""
_RECEIVE = """
  (call $block (call $subscribe (local.get $in)))
  (call $receive (local.get $in) (i64.const 10) (i32.const 1024)) (call $ok (i32.const 4))
  (if (i32.ne (i32.load (i32.const 1032)) (i32.const 1)) (then (call $exit (i32.const 99))))
"""
_PRINT = """
  (local.set $to (i32.load (i32.const 1028)))
  (call $write (call $out) (i32.load (local.get $to))
    (i32.load (i32.add (local.get $to) (i32.const 4))) (i32.const 640))
"""


def _asked(port: int, host: str) -> str:
    """Looks a host up, sends "ping" there, and takes what comes."""
    return f"""
      (call $resolve (local.get $net) (i32.const 0) (i32.const {len(host)}) (i32.const 1024))
      (call $ok (i32.const 4))
      (call $next (i32.load (i32.const 1028)) (i32.const 512))
      {STREAM}{_CHECK}{PING}
      (i32.store16 (i32.const 144) (i32.const {port}))
      (i32.store (i32.const 146) (i32.load (i32.const 518)))
      {SEND}{_RECEIVE}"""


def client(port: int, host: str = "localhost", *, everywhere: bool = False) -> bytes:
    """Looks a host up, sends "ping" there, and prints what comes back from that address."""
    return component(
        f"""{_asked(port, host)}
      (local.set $socket (i32.load (i32.const 1028)))
      (if (i32.ne (i32.load (i32.add (local.get $socket) (i32.const 14)))
          (i32.load (i32.const 518)))
        (then (call $exit (i32.const 98))))
      {_PRINT}""",
        everywhere=everywhere,
        host=host,
    )


def asking_handler(port: int) -> bytes:
    """For each HTTP request sends "ping" to a port of localhost, and answers with what comes."""
    return _answering(_asked(port, "localhost"))


def hearing_handler(port: int) -> bytes:
    """For each HTTP request takes one datagram at a port, and answers with it."""
    return _answering(f"{STREAM}{_RECEIVE}", port)


def server(port: int, *, everywhere: bool = False) -> bytes:
    """Takes one datagram, prints it, and says "ping" to whom it is from."""
    return component(
        f"""{STREAM}{_CHECK}{_RECEIVE}{PING}
        (local.set $in (i32.load (i32.const 1028)))
        (i32.store16 (i32.const 144) (i32.load16_u (i32.add (local.get $in) (i32.const 12))))
        (i32.store (i32.const 146) (i32.load (i32.add (local.get $in) (i32.const 14))))
        (local.set $net (i32.load (i32.const 1028)))
        {SEND}
        (call $write (call $out) (i32.load (local.get $net))
          (i32.load (i32.add (local.get $net) (i32.const 4))) (i32.const 640))""",
        port,
        everywhere=everywhere,
    )

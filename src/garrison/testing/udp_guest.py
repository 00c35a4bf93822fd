"""Components that speak by datagrams, for tests.

Each binds a socket of its own, on loopback if nothing else is said. A function that fails ends it
with its error code of `wasi:sockets/network`, plus one.
"""

from __future__ import annotations

from garrison.testing.component import command

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


def component(
    body: str, port: int = 0, *, everywhere: bool = False, host: str = "localhost"
) -> bytes:
    """Binds a socket to a port, of all addresses or loopback's, and goes on as `body` says.

    `host`, of at most 16 characters, is at 0.
    """
    address = (0, 0, 0, 0) if everywhere else (127, 0, 0, 1)
    bytes_of_it = " ".join(f"(i32.const {part})" for part in address)
    return command(
        f"""(data (i32.const 0) "{host}") (data (i32.const 16) "ping")
        (func $ok (param $at i32) (if (i32.load8_u (i32.const 1024)) (then
          (call $exit (i32.add (i32.const 1)
            (i32.load8_u (i32.add (i32.const 1024) (local.get $at))))))))
        (func (export "run") (result i32)
          (local $net i32) (local $socket i32) (local $in i32) (local $to i32)
          (local.set $net (call $network))
          (call $create (i32.const 0) (i32.const 1024)) (call $ok (i32.const 4))
          (local.set $socket (i32.load (i32.const 1028)))
          (call $bind (local.get $socket) (local.get $net) (i32.const 0) (i32.const {port})
            {bytes_of_it} {_NO_ADDRESS} (i32.const 1024))
          (call $ok (i32.const 1))
          (call $bound (local.get $socket) (i32.const 1024)) (call $ok (i32.const 1))
          {body} (i32.const 0))""",
        _FUNCTIONS,
        drops=_DROPS,
    )


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


def client(port: int, host: str = "localhost", *, everywhere: bool = False) -> bytes:
    """Looks a host up, sends "ping" there, and prints what comes back from that address."""
    return component(
        f"""
      (call $resolve (local.get $net) (i32.const 0) (i32.const {len(host)}) (i32.const 1024))
      (call $ok (i32.const 4))
      (call $next (i32.load (i32.const 1028)) (i32.const 512))
      {STREAM}{_CHECK}{PING}
      (i32.store16 (i32.const 144) (i32.const {port}))
      (i32.store (i32.const 146) (i32.load (i32.const 518)))
      {SEND}{_RECEIVE}
      (local.set $socket (i32.load (i32.const 1028)))
      (if (i32.ne (i32.load (i32.add (local.get $socket) (i32.const 14)))
          (i32.load (i32.const 518)))
        (then (call $exit (i32.const 98))))
      {_PRINT}""",
        everywhere=everywhere,
        host=host,
    )


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

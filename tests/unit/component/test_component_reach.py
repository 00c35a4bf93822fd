"""A component calls every function of every interface, with real handles, to reach the host.

Python tells an audit hook of every file that is opened, every socket and every program: while
a component runs there must be none. What it asks of the network must come to the keep's network.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import pytest

from garrison.errors import Rejected
from garrison.formats.endpoint import Endpoint
from garrison.keep.component import interfaces
from garrison.keep.component import types as t
from garrison.keep.component.abi import codec
from garrison.keep.component.boundary import Boundary
from garrison.keep.component.callbacks import lowered_signature
from garrison.keep.component.handles import Handles
from garrison.keep.engine.failures import Trap
from garrison.keep.net import dial  # noqa: F401  (a thread of the host imports it when it likes)
from garrison.testing.component import command

if TYPE_CHECKING:
    from conftest import Runner  # type: ignore[import-not-found]  # (pytest's own way)

# Each makes one handle; what comes first in a component's table is handle 1.
_MADE = {
    "wasi:io/streams input-stream": ("wasi:cli/stdin", "get-stdin", "(drop (call $made0))"),
    "wasi:io/streams output-stream": ("wasi:cli/stdout", "get-stdout", "(drop (call $made1))"),
    "wasi:io/poll pollable": (
        "wasi:clocks/monotonic-clock", "subscribe-duration", "(drop (call $made2 (i64.const 0)))",
    ),
    "wasi:sockets/network network": (
        "wasi:sockets/instance-network", "instance-network", "(drop (call $made3))",
    ),
    "wasi:filesystem/types descriptor": (
        "wasi:filesystem/preopens", "get-directories", "(call $made4 (i32.const 2048))",
    ),
    "wasi:filesystem/types directory-entry-stream": (
        "wasi:filesystem/types", "[method]descriptor.read-directory",
        "(call $made5 (i32.const 5) (i32.const 2048))",
    ),
    "wasi:sockets/tcp tcp-socket": (
        "wasi:sockets/tcp-create-socket", "create-tcp-socket",
        "(call $made6 (i32.const 0) (i32.const 2048))",
    ),
    "wasi:sockets/ip-name-lookup resolve-address-stream": (
        "wasi:sockets/ip-name-lookup", "resolve-addresses",
        "(call $made7 (i32.const 4) (i32.const 224) (i32.const 9) (i32.const 2048))",
    ),
    # What a read of a directory fails with, for there are bytes only in files.
    "wasi:io/error error": (
        "wasi:io/streams", "[method]output-stream.check-write",
        "(call $made8 (i32.const 2) (i32.const 2048))",
    ),
    "wasi:http/types fields": ("wasi:http/types", "[constructor]fields", "(drop (call $made9))"),
    # What owns its headers takes their number.
    "wasi:http/types outgoing-request": (
        "wasi:http/types", "[constructor]outgoing-request", "(drop (call $made10 (call $made9)))",
    ),
    "wasi:http/types outgoing-response": (
        "wasi:http/types", "[constructor]outgoing-response", "(drop (call $made11 (call $made9)))",
    ),
    "wasi:http/types outgoing-body": (
        "wasi:http/types", "[method]outgoing-response.body",
        "(call $made12 (i32.const 11) (i32.const 2048))",
    ),
    "wasi:http/types request-options": (
        "wasi:http/types", "[constructor]request-options", "(drop (call $made13))",
    ),
    "wasi:http/types future-incoming-response": (
        "wasi:http/outgoing-handler", "handle",
        """(drop (call $made10 (call $made9)))
        (drop (call $authority (i32.const 14) (i32.const 1) (i32.const 224) (i32.const 9)))
        (call $made14 (i32.const 14) (i32.const 0) (i32.const 0) (i32.const 2048))""",
    ),
    "wasi:sockets/udp udp-socket": (
        "wasi:sockets/udp-create-socket", "create-udp-socket",
        "(call $made15 (i32.const 0) (i32.const 2048))",
    ),
    # Of another socket, which has its number, and both at once.
    "wasi:sockets/udp outgoing-datagram-stream": (
        "wasi:sockets/udp", "[method]udp-socket.stream",
        f"""(call $made15 (i32.const 0) (i32.const 2048))
        (call $bind (i32.const 16) (i32.const 4) {"(i32.const 0) " * 12} (i32.const 2048))
        (call $bound (i32.const 16) (i32.const 2048))
        (call $made16 (i32.const 16) {"(i32.const 0) " * 13} (i32.const 2048))""",
    ),
    "wasi:sockets/udp incoming-datagram-stream": (
        "wasi:sockets/udp", "[method]outgoing-datagram-stream.check-send",
        "(call $made17 (i32.const 18) (i32.const 2048))",
    ),
}  # fmt: skip
_MORE = {
    "authority": ("wasi:http/types", "[method]outgoing-request.set-authority"),
    "bind": ("wasi:sockets/udp", "[method]udp-socket.start-bind"),
    "bound": ("wasi:sockets/udp", "[method]udp-socket.finish-bind"),
}
# There is no error without a failure, so what comes after it has its number.
_NUMBERS = {
    resource: index + (index <= list(_MADE).index("wasi:io/error error"))
    for index, resource in enumerate(_MADE)
}
_NUMBERS["wasi:sockets/udp outgoing-datagram-stream"] = 18
_PATHS = ("../../../../etc/passwd", "/etc/passwd", "pkg/../..", "tmp/x", "net/con/localhost:22")
_HOST_ADDRESS = ("ipv4", (22, (127, 0, 0, 1)))
# What a list of one has: a handle, and, as a datagram, that address.
_LISTED = "".join(
    f"\\{byte:02x}" for byte in bytes([3, *([0] * 7), 1, *([0] * 7), 22, 0, 127, 0, 0, 1])
)

_WATCHED = ("open", "os.", "socket.", "subprocess.", "shutil.", "ctypes.dlopen", "import")
_seen: list[str] | None = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _seen is not None and event.startswith(_WATCHED) and event != "import":
        _seen.append(f"{event} {args}")


sys.addaudithook(_hook)


# What a command never has a handle of: what comes with a request or an answer, which the calls of
# `test_http_fuzz.py` have and make; and terminals. Their functions, if there are any, are tried
# with another's handle.
_UNMADE = {
    "wasi:cli/terminal-input terminal-input", "wasi:cli/terminal-output terminal-output",
    "wasi:http/types future-trailers", "wasi:http/types incoming-body",
    "wasi:http/types incoming-request", "wasi:http/types incoming-response",
    "wasi:http/types response-outparam",
}  # fmt: skip

# 64 KiB of zeros are too many at once.
_TRAPS = ("[method]output-stream.blocking-write-zeroes-and-flush",)


class _Network:
    """The keep's network: it notes what is asked of it, and refuses."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def connect(self, target: str, *_: object) -> Any:
        self.asked.append(target)
        raise Rejected("denied by the workload's configuration", found=target)

    listen = connect

    def listen_all(self) -> Any:
        raise AssertionError("a command does not serve")

    def check_outgoing(self, target: str) -> None:
        self.asked.append(target)

    def next_event(self, direction: str) -> None:
        self.asked.append(direction)

    def speaks_udp(self) -> bool:
        return True

    def datagrams(self, *, ipv6: bool) -> Any:
        return _Datagrams(self.asked)


class _Datagrams:
    """A socket of the keep's for datagrams, likewise."""

    def __init__(self, asked: list[str]) -> None:
        self._asked = asked

    def bind(self, address: str, port: int) -> None:
        if port:
            self._refuse(Endpoint(address, port))

    def connect(self, target: Endpoint | None, _wait: object) -> None:
        if target is not None:
            self._refuse(target)

    def send(self, _data: object, target: Endpoint | None, _wait: object) -> None:
        self._refuse(target)

    def _refuse(self, target: Endpoint | None) -> None:
        self._asked.append(str(target))
        raise Rejected("denied by the workload's configuration", found=str(target))

    def receive(self, _room: object) -> None:
        return

    def address(self) -> tuple[str, int]:
        raise AssertionError("it is not bound")

    def option(self, level: int, number: int, value: int) -> None:
        pass

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass


def _flat(kind: t.Type, path: str) -> list[Any]:
    """Core values of a hostile parameter: real handles, and addresses of what is in memory."""
    match kind:
        case t.Option(t.Own(resource)):
            return [1, _NUMBERS.get(resource.name, 1)]
        case t.Own(resource) | t.Borrow(resource):
            return [_NUMBERS.get(resource.name, 1)]
        case t.Primitive("string"):
            return [128, len(path)]
        case t.Listed():
            return [192, 1]
        case t.Variant(cases) if cases[0][0] == "ipv4":
            return codec(kind).lower(Boundary(None, Handles()), _HOST_ADDRESS)
        case t.Flags(labels):
            return [(1 << len(labels)) - 1]
        case t.Primitive("u64"):
            return [65536]
    return [1 if letter in "IQ" else 1.0 for letter in codec(kind).flat]


def _attempt(interface: t.Interface, function: str, path: str) -> bytes:
    kind = interface.functions[function]
    letters, result = lowered_signature(kind)
    given = [value for _, part in kind.parameters for value in _flat(part, path)]
    constants = {"I": "i32.const", "Q": "i64.const", "f": "f32.const", "d": "f64.const"}
    given += [1024] * (len(letters) - len(given))
    call = "(call $tried " + " ".join(
        f"({constants[letter]} {value})" for letter, value in zip(letters, given, strict=True)
    )
    body = "".join(prelude for *_, prelude in _MADE.values())
    body += f"(drop {call}))" if result else call + ")"
    functions = {f"made{i}": (owner, f) for i, (owner, f, _) in enumerate(_MADE.values())}
    functions |= _MORE
    functions["tried"] = (interface.name, function)
    data = "".join(f"\\{byte:02x}" for byte in path.encode())
    return command(
        f"""(data (i32.const 128) "{data}") (data (i32.const 192) "{_LISTED}")
        (data (i32.const 224) "localhost")
        (func (export "run") (result i32) {body} (i32.const 0))""",
        functions,
    )


def _every() -> list[Any]:
    return [
        pytest.param(interface, function, id=f"{interface.name} {function}")
        for interface in interfaces.known()
        if interface.name not in interfaces.EXPORTED
        for function in interface.functions
    ]


def test_every_kind_of_handle_is_made_or_known_not_to_be() -> None:
    """Who adds an interface with a resource of its own says how its functions are tried."""
    kinds = {
        kind.name
        for interface in interfaces.known()
        for kind in interface.types.values()
        if isinstance(kind, t.Resource)
    }
    assert kinds == set(_MADE) | _UNMADE


@pytest.mark.parametrize(("interface", "function"), _every())
def test_no_function_reaches_the_host(
    interface: t.Interface, function: str, runner: Runner
) -> None:
    global _seen  # noqa: PLW0603  (a hook cannot be taken away again)
    takes_path = any(
        part == t.Primitive("string") for _, part in interface.functions[function].parameters
    )
    unmade = any(
        isinstance(part, t.Own | t.Borrow) and part.resource.name not in _NUMBERS
        for _, part in interface.functions[function].parameters
    )
    traps = unmade or "error" in function or function in _TRAPS
    for path in _PATHS if takes_path else _PATHS[:1]:
        wasm = _attempt(interface, function, path)
        # Once before: what the host imports at the first call is not the component's.
        events: list[str] = []
        for watched in (None, events):
            network = _Network()
            _seen = watched
            try:
                # No cache, which is the host's and in files.
                with pytest.raises(Trap) if traps else contextlib.nullcontext():
                    runner.run(wasm, network=network, cached=False)
            finally:
                _seen = None
            assert events == []
            assert set(network.asked) <= {"localhost:22", "127.0.0.1:22", "localhost:443"}
            if function == "[method]outgoing-datagram-stream.send":
                assert "127.0.0.1:22" in network.asked

"""A keep over its channels, and hosts that do not keep to the protocol."""

from __future__ import annotations

import errno
import signal

import pytest

from garrison.formats.channel import (
    CONTROL,
    MAX_DATA,
    MAX_REQUEST,
    STDERR,
    STDIN,
    STDOUT,
    File,
    Frame,
    Kind,
    Reachable,
)
from garrison.formats.guest_request import GuestRequest, Local
from garrison.keep.engine.library import wat2wasm
from garrison.terminal import ExitCode
from garrison.testing.component import command
from garrison.testing.guest_channels import Played
from garrison.testing.stack import free_port

# Copies standard input to standard output, and ends with 7.
_CAT = """
(module
  (import "wasi_snapshot_preview1" "fd_read"
    (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 1024))
    (loop $again
      (i32.store (i32.const 4) (i32.const 65536))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (i32.store (i32.const 4) (i32.load (i32.const 8)))
      (if (i32.load (i32.const 8))
        (then
          (loop $rest
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
            (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.load (i32.const 12))))
            (i32.store (i32.const 4) (i32.sub (i32.load (i32.const 4)) (i32.load (i32.const 12))))
            (br_if $rest (i32.load (i32.const 4))))
          (i32.store (i32.const 0) (i32.const 1024))
          (br $again))))
    (call $exit (i32.const 7))))
"""
REQUEST = GuestRequest(Local()).to_json()
HOST_STDIO = b'[stdin]\nkind = "host"\n[stdout]\nkind = "host"\n[stderr]\nkind = "host"\n'


def _give_cat(keep: Played) -> None:
    keep.send(CONTROL, Kind.FILE, File("main.wasm", wat2wasm(_CAT)).to_bytes())
    keep.send(CONTROL, Kind.FILE, File("Enarx.toml", HOST_STDIO).to_bytes())
    keep.send(CONTROL, Kind.REQUEST, REQUEST)


def test_streams_and_the_exit_code_are_carried() -> None:
    text = bytes(range(256)) * 1024
    with Played() as keep:
        _give_cat(keep)
        for start in range(0, len(text), MAX_DATA):
            keep.send(STDIN, Kind.DATA, text[start : start + MAX_DATA])
        keep.send(STDIN, Kind.DATA)
        assert keep.stream(STDOUT) == text
        assert keep.stream(STDERR) == b""
        assert keep.exit_code() == 7
        assert keep.ended() == (7, "")


# preview 1, `errno`.
_WASI_EACCES = 2


def _listener(port: int) -> bytes:
    """A module that listens at `port` of five digits, and ends with what opening it gave."""
    return wat2wasm(f"""
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "net/lis/{port}")
  (func (export "_start")
    (call $exit
      (call $open (i32.const 3) (i32.const 1) (i32.const 64) (i32.const 13) (i32.const 0)
        (i64.const 0x3fffffff) (i64.const 0x3fffffff) (i32.const 0) (i32.const 0)))))
""")


def test_a_module_alone_is_carried_as_well() -> None:
    """It is run by `keep.bare`, without what the configuration of a package would need."""
    with Played() as keep:
        keep.send(CONTROL, Kind.FILE, File("main.wasm", wat2wasm(_CAT)).to_bytes())
        keep.send(CONTROL, Kind.REQUEST, REQUEST)
        keep.send(STDIN, Kind.DATA, b"here\n")
        keep.send(STDIN, Kind.DATA)
        assert keep.stream(STDOUT) == b"here\n"
        assert keep.exit_code() == 7


@pytest.mark.parametrize("configuration", [None, b""], ids=["alone", "configured"])
def test_a_module_alone_may_what_an_empty_configuration_allows(configuration: bytes | None) -> None:
    """Listening is by TLS, for which it has no certificate."""
    with Played() as keep:
        keep.send(CONTROL, Kind.FILE, File("main.wasm", _listener(free_port())).to_bytes())
        if configuration is not None:
            keep.send(CONTROL, Kind.FILE, File("Enarx.toml", configuration).to_bytes())
        keep.send(CONTROL, Kind.REQUEST, REQUEST)
        assert keep.exit_code() == _WASI_EACCES


@pytest.mark.parametrize("level", ["info", "error"])
@pytest.mark.parametrize("configuration", [None, b""], ids=["alone", "configured"])
def test_it_logs_as_much_as_is_asked(configuration: bytes | None, level: str) -> None:
    """A module alone too, though `logging` is imported when there is something to log."""
    with Played() as keep:
        keep.send(CONTROL, Kind.FILE, File("main.wasm", _listener(free_port())).to_bytes())
        if configuration is not None:
            keep.send(CONTROL, Kind.FILE, File("Enarx.toml", configuration).to_bytes())
        keep.send(CONTROL, Kind.REQUEST, GuestRequest(Local(), log=level).to_json())
        said = keep.stream(STDERR)
        assert said.startswith(b"garrison.keep: refused to the workload") == (level == "info")
        assert bool(said) == (level == "info")
        assert keep.exit_code() == _WASI_EACCES


def test_a_module_alone_needs_no_network_until_it_uses_it() -> None:
    with Played(network=False) as keep:
        keep.send(CONTROL, Kind.FILE, File("main.wasm", wat2wasm(_CAT)).to_bytes())
        keep.send(CONTROL, Kind.REQUEST, REQUEST)
        keep.send(STDIN, Kind.DATA)
        assert keep.exit_code() == 7


@pytest.mark.parametrize("configuration", [None, b""], ids=["alone", "configured"])
def test_a_machine_without_a_network_ends_what_may_use_it(configuration: bytes | None) -> None:
    with Played(network=False) as keep:
        keep.send(CONTROL, Kind.FILE, File("main.wasm", _listener(free_port())).to_bytes())
        if configuration is not None:
            keep.send(CONTROL, Kind.FILE, File("Enarx.toml", configuration).to_bytes())
        keep.send(CONTROL, Kind.REQUEST, REQUEST)
        assert keep.stream(STDERR) == b"error: network card: the host gives none\n"
        assert keep.exit_code() == ExitCode.UNAVAILABLE


@pytest.mark.parametrize("error", [0, errno.EADDRINUSE])
@pytest.mark.parametrize("prot", ["tcp", "udp"])
def test_a_host_says_whether_a_port_is_reached(prot: str, error: int) -> None:
    port = free_port()
    wasm, asked = {
        "tcp": (_listener(port), Kind.LISTENING),
        "udp": (_udp_listener(port), Kind.LISTENING_UDP),
    }[prot]
    configuration = f'[network.incoming.{port}]\nprot = "{prot}"\n'.encode()
    with Played() as keep:
        keep.send(CONTROL, Kind.FILE, File("main.wasm", wasm).to_bytes())
        keep.send(CONTROL, Kind.FILE, File("Enarx.toml", configuration).to_bytes())
        keep.send(CONTROL, Kind.REQUEST, REQUEST)
        while (frame := keep.next(CONTROL)).kind is not asked:
            assert frame.kind is Kind.PHASE
        assert int.from_bytes(frame.body, "little") == port
        keep.send(CONTROL, Kind.REACHABLE, Reachable(port, error).to_bytes())
        assert (keep.exit_code() == 0) == (error == 0)


def _udp_listener(port: int) -> bytes:
    """A component that binds a port of all addresses, and ends with 1 if that fails."""
    return command(
        f"""(func (export "run") (result i32)
          (call $create (i32.const 0) (i32.const 1024))
          (call $bind (i32.load (i32.const 1028)) (call $network) (i32.const 0) (i32.const {port})
            {"(i32.const 0) " * 10} (i32.const 1024))
          (i32.load8_u (i32.const 1024)))""",
        {
            "network": ("wasi:sockets/instance-network", "instance-network"),
            "create": ("wasi:sockets/udp-create-socket", "create-udp-socket"),
            "bind": ("wasi:sockets/udp", "[method]udp-socket.start-bind"),
        },
    )


def test_a_signal_of_the_host_ends_the_workload() -> None:
    with Played() as keep:
        _give_cat(keep)
        keep.send(STDIN, Kind.DATA, b"here\n")
        assert keep.next(STDOUT).body == b"here\n"
        keep.send(CONTROL, Kind.SIGNAL, bytes((signal.SIGTERM,)))
        assert keep.exit_code() == 143


def test_a_signal_before_the_request_ends_the_keep() -> None:
    with Played() as keep:
        keep.send(CONTROL, Kind.SIGNAL, bytes((signal.SIGINT,)))
        assert keep.exit_code() == 130
        assert keep.ended()[0] == 130


def test_a_signal_that_comes_with_the_request_ends_the_keep() -> None:
    """Both can be read at once: the host sends it as soon as it is told that the keep booted."""
    with Played() as keep:
        frames = (
            Frame(Kind.FILE, File("main.wasm", wat2wasm(_CAT)).to_bytes()),
            Frame(Kind.FILE, File("Enarx.toml", HOST_STDIO).to_bytes()),
            Frame(Kind.REQUEST, REQUEST),
            Frame(Kind.SIGNAL, bytes((signal.SIGINT,))),
        )
        keep.sockets[CONTROL].sendall(b"".join(frame.to_bytes() for frame in frames))
        assert keep.exit_code() == 130
        assert keep.ended()[0] == 130


def test_a_workload_that_fails_tells_why_on_standard_error() -> None:
    with Played() as keep:
        keep.send(CONTROL, Kind.FILE, File("main.wasm", b"no module").to_bytes())
        keep.send(CONTROL, Kind.REQUEST, REQUEST)
        assert b"error: " in keep.stream(STDERR)
        assert keep.exit_code() == 65


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", "not a frame", id="another protocol"),
        pytest.param(bytes(64), "not a frame", id="zeros"),
        pytest.param(Frame(Kind.DATA, b"x").to_bytes(), "takes no such frame", id="data"),
        pytest.param(Frame(Kind.EXIT, b"\0").to_bytes(), "takes no such frame", id="exit code"),
        pytest.param(b"G\1\0\0" + (MAX_REQUEST + 1).to_bytes(4, "little"), "too long", id="large"),
        pytest.param(Frame(Kind.REQUEST, b"{}").to_bytes(), "wrong fields", id="no request"),
        pytest.param(Frame(Kind.SIGNAL, b"\x09").to_bytes(), "no signal", id="another signal"),
        pytest.param(Frame(Kind.FILE, b"nothing").to_bytes(), "has no path", id="no path"),
        pytest.param(2 * Frame(Kind.FILE, b"a\0b").to_bytes(), "comes twice", id="a file twice"),
        pytest.param(
            Frame(Kind.REACHABLE, b"\x90\x1f\0\0").to_bytes(), "nobody asked", id="a port"
        ),
        pytest.param(2 * Frame(Kind.REQUEST, REQUEST).to_bytes(), "comes twice", id="two requests"),
    ],
)
def test_garbage_on_the_channel_of_control_ends_the_keep(sent: bytes, told: str) -> None:
    with Played() as keep:
        keep.sockets[CONTROL].sendall(sent)
        said = keep.stream(STDERR).decode()
        assert "garrison.control" in said or "guest request" in said or "file" in said
        assert told in said
        assert keep.exit_code() == 65
        code, console = keep.ended()
        assert (code, console) == (65, said)


def test_garbage_on_standard_input_ends_a_running_keep() -> None:
    with Played() as keep:
        _give_cat(keep)
        keep.until_phase("ready")
        keep.sockets[STDIN].sendall(b"\xff" * 8)
        assert "channel garrison.stdin: not a frame" in keep.stream(STDERR).decode()
        assert keep.exit_code() == 65


def test_another_request_while_one_runs_ends_the_keep() -> None:
    with Played() as keep:
        _give_cat(keep)
        keep.until_phase("ready")
        keep.send(CONTROL, Kind.REQUEST, REQUEST)
        assert "comes twice or too late" in keep.stream(STDERR).decode()
        assert keep.exit_code() == 65


@pytest.mark.parametrize("channel", [CONTROL, STDIN])
def test_a_host_that_is_gone_ends_the_keep(channel: str) -> None:
    with Played() as keep:
        _give_cat(keep)
        keep.until_phase("ready")
        keep.sockets[channel].close()
        if channel == STDIN:
            assert keep.exit_code() == 69
        code, console = keep.ended()
        assert code == 69
        # All close when the host goes; which is seen first is chance.
        assert ": closed by the other side" in console


def test_a_host_that_is_gone_before_it_asks_ends_the_keep() -> None:
    with Played() as keep:
        keep.until_phase("booted")
        code, console = keep.ended()
        assert code == 69
        assert "channel garrison.control: closed by the other side" in console

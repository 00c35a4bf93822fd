"""`garrison`, and the short way to `garrison run FILE [ARGS]`.

A guest's start should cost little more than the guest. So that one form, without any option,
imports next to nothing; every other goes to `garrison.cli`. What both do is the same, but that
the short way loads the network only when the guest uses it.
"""

import gc
import posix  # the part of `os` that is used here, and no file to load
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from garrison.keep.net.dial import Wait
    from garrison.keep.net.network import Network
    from garrison.keep.vfs.streams import Listener, Stream

# `garrison.formats.enarx_toml`: what a workload without a configuration gets.
_STREAMS = (("stdin", 0), ("stdout", 1), ("stderr", 2))
_ENV = {"FD_COUNT": "3", "FD_NAMES": "stdin:stdout:stderr"}
_MAIN = "main.wasm"
# `garrison.formats.tree`: what a module may have. What is larger, or no file, is not read at once.
_MAX_FILE = 100_000_000


def main() -> int:
    """Run the command line, and return its exit code."""
    try:
        return _main()
    except KeyboardInterrupt as error:
        # Before there is anything else that takes it for its own, as while modules are loaded.
        from garrison.terminal import report

        return report(error)


def _main() -> int:
    args = sys.argv[1:]
    if len(args) < 2 or args[0] != "run" or any(arg.startswith("-") for arg in args):
        return _command_line()
    # Options can be given as variables too.
    if any(name.startswith((b"GARRISON_", b"ENARX_")) for name in posix.environ):
        return _command_line()
    try:
        with open(args[1], "rb") as file:  # noqa: PTH123  (pathlib costs a start 5 ms)
            wasm = file.read() if 0 < posix.fstat(file.fileno()).st_size <= _MAX_FILE else None
    except OSError:
        wasm = None
    if wasm is None:
        # It says what is wrong with the path.
        return _command_line()
    return _run(wasm, args[2:])


def _command_line() -> int:
    if sys.flags.no_site:
        # We were started without, for speed (tools/launcher.py); from here on, be as usual.
        import site

        site.main()
    from garrison.terminal import hear_interrupts

    hear_interrupts()
    from garrison.cli.main import main as command_line

    return command_line()


def _run(wasm: bytes, args: list[str]) -> int:
    network = _LateNetwork()
    try:
        # What is imported here lives to the end: looking for garbage in it is lost time.
        gc.disable()
        from garrison.keep.execute import execute

        gc.freeze()
        gc.enable()
        code = execute(
            wasm,
            args=[_MAIN, *args],
            env=_ENV,
            descriptors=_STREAMS,
            files={_MAIN: wasm},
            network=network,
            cached=True,
            last=True,
        )
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (no traceback to users)
        from garrison.terminal import report

        code = report(error)
    if network.used():
        # Connections may still have their end to announce.
        return code
    # Nothing is left to be written: the guest's output goes around these streams, and `report`
    # writes to standard error, which keeps no line back. The rest of the interpreter's end is
    # memory given back piece by piece, which the kernel does at once.
    posix._exit(code)  # noqa: SLF001  (as `os._exit`)


class _LateNetwork:
    """The network of a workload without configuration and identity, made at its first use."""

    def __init__(self) -> None:
        self._network: Network | None = None

    def used(self) -> bool:
        """Whether the guest used it."""
        return self._network is not None

    def _made(self) -> "Network":
        if self._network is None:
            from garrison.formats.enarx_toml import Config
            from garrison.keep.net.network import Network

            self._network = Network(Config.default(), None, [])
        return self._network

    def connect(self, target: str, wait: "Wait") -> "Stream":
        """Connect to `host[:port]`."""
        return self._made().connect(target, wait)

    def listen(self, target: str) -> "Listener":
        """Listen on `port` or `addr:port`."""
        return self._made().listen(target)

    def listen_all(self) -> "list[Listener]":
        """Listen on all ports that are configured: none."""
        return []

    def check_outgoing(self, target: str) -> None:
        """Refuse what `connect` would refuse before anything is sent."""
        self._made().check_outgoing(target)

    def next_event(self, direction: 'Literal["con", "lis"]') -> "dict[str, Any] | None":
        """Take the next connected or accepted event."""
        return self._made().next_event(direction)


if __name__ == "__main__":
    sys.exit(main())

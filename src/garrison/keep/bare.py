"""A workload that is one module and nothing else: no configuration, no identity, no roots.

It gets what a package without an `Enarx.toml` gets, and runs with next to nothing imported: the
network is loaded when the guest uses it. `garrison.keep.workload` is for all others.
"""

from garrison.keep.execute import execute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Literal

    from garrison.keep.net.datagrams import Datagrams
    from garrison.keep.net.dial import Wait
    from garrison.keep.net.network import Listening, Network
    from garrison.keep.vfs.streams import Listener, Stream

# `garrison.formats.enarx_toml`: what a workload without a configuration gets.
STREAMS = (("stdin", 0), ("stdout", 1), ("stderr", 2))
ENV = {"FD_COUNT": "3", "FD_NAMES": "stdin:stdout:stderr"}
MAIN = "main.wasm"


def run(wasm: bytes, args: "Sequence[str]", network: "LateNetwork", *, cached: bool) -> int:
    """Run a module and return the guest's exit code; this process ends after it.

    Args:
        wasm: the module or component.
        args: its arguments, after the program's name.
        network: its network, for this guest alone.
        cached: use this user's cache of compiled modules.

    Raises:
        GarrisonError: as `execute` does.
    """
    return execute(
        wasm,
        args=[MAIN, *args],
        env=ENV,
        descriptors=STREAMS,
        files={MAIN: wasm},
        network=network,
        cached=cached,
        last=True,
    )


class LateNetwork:
    """The network of a workload without configuration and identity, made at its first use."""

    def __init__(
        self,
        listening: "Listening | None" = None,
        connect_machine: "Callable[[], None] | None" = None,
    ) -> None:
        """Make nothing yet.

        Args:
            listening: told of each port that the workload listens on.
            connect_machine: called before the first use: the machine has no network until then.
        """
        self._listening = listening
        self._connect_machine = connect_machine
        self._network: Network | None = None

    def used(self) -> bool:
        """Whether the guest used it."""
        return self._network is not None

    def _made(self) -> "Network":
        if self._network is None:
            if self._connect_machine is not None:
                self._connect_machine()
            from garrison.formats.enarx_toml import Config
            from garrison.keep.logs import keep_log
            from garrison.keep.net.network import Network

            # Its parts log by themselves, and what peers say: plainly, before the first of it.
            keep_log()
            self._network = Network(Config.default(), None, [], listening=self._listening)
        return self._network

    def connect(self, target: str, wait: "Wait") -> "Stream":
        """Connect to `host[:port]`."""
        return self._made().connect(target, wait)

    def listen(self, target: str) -> "Listener":
        """Listen on `port` or `addr:port`."""
        return self._made().listen(target)

    def listen_within(self, address: str) -> "Listener":
        """Listen on a port of a loopback address, for the workload alone."""
        return self._made().listen_within(address)

    def listen_all(self) -> "list[Listener]":
        """Listen on all ports that are configured: none."""
        return []

    def check_outgoing(self, target: str) -> None:
        """Refuse what `connect` would refuse before anything is sent."""
        self._made().check_outgoing(target)

    def speaks_udp(self) -> bool:
        """Whether any rule is for datagrams: there are none."""
        return False

    def datagrams(self, *, ipv6: bool) -> "Datagrams":
        """Make a socket for datagrams, to which nothing is allowed."""
        return self._made().datagrams(ipv6=ipv6)

    def next_event(self, direction: 'Literal["con", "lis"]') -> "dict[str, Any] | None":
        """Take the next connected or accepted event."""
        return self._made().next_event(direction)

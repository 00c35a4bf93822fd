"""Machines of a network on one machine: network namespaces on a bridge of their own.

Nothing of it touches the machine's own network. It takes root and the `ip` command.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_IMPAIRMENTS = {
    "netem": ("delay", "50ms", "10ms", "loss", "2%"),
    "tbf": ("rate", "1mbit", "burst", "4kb", "latency", "50ms"),
}
_OWNER = re.compile(r"garrison-(\d+)-[0-9a-f]{4}-")


class CannotError(Exception):
    """Namespaces cannot be made here; the text says why."""


class Machine:
    """One machine.

    Attributes:
        address: its IPv4 address.
    """

    def __init__(self, namespace: str, switch: str, port: str, address: str) -> None:
        self._namespace = namespace
        self._switch = switch
        self._port = port
        self.address = address

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs `arguments` there."""
        return ["ip", "netns", "exec", self._namespace, *arguments]

    def take(self, address: str) -> None:
        """Have a further address."""
        _ip("-n", self._namespace, "address", "add", f"{address}/16", "dev", "eth0")

    def drop(self, address: str) -> None:
        """Have it no more."""
        _ip("-n", self._namespace, "address", "del", f"{address}/16", "dev", "eth0")

    def forget_neighbours(self) -> None:
        """Ask anew who has which address."""
        _ip("-n", self._namespace, "neighbour", "flush", "all")

    def cut(self, *, off: bool) -> None:
        """Cut its cable, or mend it."""
        _ip("-n", self._switch, "link", "set", self._port, "down" if off else "up")

    def impair(self) -> str:
        """Have everything that it sends and gets come late, and some of it never.

        Returns:
            How: `netem`, with 50 ms each way and 2 % lost; or, where the kernel has no such
            queue, `tbf`: a narrow line, on which what waits for longer than 50 ms is lost.
        """
        for kind, parameters in _IMPAIRMENTS.items():
            try:
                for namespace, device in self._ends:
                    _tc(namespace, "add", device, kind, *parameters)
            except CannotError:
                continue
            return kind
        raise CannotError("the kernel has neither netem nor tbf")

    def heal(self) -> None:
        """Take it back."""
        for namespace, device in self._ends:
            _tc(namespace, "del", device)

    @property
    def _ends(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self._namespace, "eth0"), (self._switch, self._port)


class Fabric:
    """A switch and the machines on it. Use it as a context manager; end their processes first.

    Raises:
        CannotError: there can be none here.
    """

    def __init__(self) -> None:
        self._name = f"garrison-{os.getpid()}-{secrets.token_hex(2)}"
        self._switch = f"{self._name}-switch"
        self._made: list[str] = []
        self.machines: list[Machine] = []

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise CannotError("network namespaces take root")
        _remove_orphans()
        try:
            self._add(self._switch)
            _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "br0", "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def machine(self, address: str) -> Machine:
        """A further machine, at `address` in 10.99.0.0/16."""
        number = len(self.machines)
        name, port = f"{self._name}-{number}", f"port{number}"
        self._add(name)
        _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0",
            "netns", name)  # fmt: skip
        _ip("-n", self._switch, "link", "set", port, "master", "br0", "up")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        found = Machine(name, self._switch, port, address)
        found.take(address)
        self.machines.append(found)
        return found

    def _add(self, name: str) -> None:
        _ip("netns", "add", name)
        self._made.append(name)

    def _remove(self) -> None:
        while self._made:
            _ip("netns", "del", self._made.pop())


def _remove_orphans() -> None:
    """Remove what processes left that were killed, and so could not."""
    for line in _ip("netns", "list").splitlines():
        name = line.partition(" ")[0]
        owner = _OWNER.match(name)
        if owner is not None and not Path("/proc", owner[1]).exists():
            _ip("netns", "del", name)


def _tc(namespace: str, verb: str, device: str, *queue: str) -> None:
    _run("tc", "-n", namespace, "qdisc", verb, "dev", device, "root", *queue)


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise CannotError(f"there is no `{command[0]}` command (Debian: iproute2)") from None
    except subprocess.CalledProcessError as error:
        raise CannotError(f"{' '.join(command)}: {error.stderr.strip()}") from None

"""Machines of a network on one machine: network namespaces on a bridge of their own.

Nothing of it touches the machine's own network. It takes root and the `ip` command. What names mean
to a machine (`Machine.name`) stands in `/etc/netns`, as `ip netns exec` reads it, until the end.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

from garrison.testing.stack import Process

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A bad line, each way: seconds that a frame takes, seconds more or less, the part that is lost.
DELAY, JITTER, LOSS = 0.050, 0.010, 0.02
_SEED = "7"
_OWNER = re.compile(r"garrison-(\d+)-[0-9a-f]{4}-")
# ip-netns(8): what stands here in place of a file in /etc.
_ETC = Path("/etc/netns")
_SWITCH = "br0"


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
        self._line: Process | None = None
        self.address = address

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs `arguments` there."""
        return ["ip", "netns", "exec", self._namespace, *arguments]

    def cut(self, *, off: bool) -> None:
        """Cut its cable, or mend it."""
        _ip("-n", self._switch, "link", "set", self._port, "down" if off else "up")

    def name(self, name: str, addresses: Sequence[str]) -> None:
        """Have `name` mean these addresses there; programs try them in this order."""
        folder = _ETC / self._namespace
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "hosts").open("a") as file:
            file.writelines(f"{address} {name}\n" for address in addresses)

    def impair(self) -> str:
        """Have everything that it sends and gets come late, and some of it never.

        It takes `DELAY`, `JITTER` and `LOSS`, each way; connections stand as they stood.

        Returns:
            By what: the kernel's `netem`; or, where it has none, `a forwarder`, the program
            `garrison.testing.bad_line` between two TAP devices.

        Raises:
            CannotError: there is neither.
        """
        try:
            parameters = (f"{DELAY}s", f"{JITTER}s", "loss", f"{LOSS:.2%}")
            for namespace, device in self._ends:
                _tc(namespace, "add", device, "netem", "delay", *parameters)
        except CannotError:
            self._forward()
            return "a forwarder"
        return "netem"

    def heal(self) -> dict[str, dict[str, int]]:
        """Take it back.

        Returns:
            By direction, `there` and `back`: how many frames were `carried`, `lost`, and `dropped`
            for want of room. Nothing where the kernel did it.
        """
        if self._line is None:
            for namespace, device in self._ends:
                _tc(namespace, "del", device)
            return {}
        # First the cable, then the way around.
        _ip("-n", self._switch, "link", "set", self._port, "master", _SWITCH)
        told = self.end_line()
        for device in self._devices:
            _ip("-n", self._switch, "link", "del", device)
        return told

    def _forward(self) -> None:
        """Have its cable end in a switch of its own, and a program carry all to the other."""
        switch, inner, outer = self._devices
        if not Path("/dev/net/tun").exists():
            raise CannotError("the kernel has neither netem nor TAP devices")
        _ip("-n", self._switch, "link", "add", switch, "type", "bridge")
        for device, master in ((inner, switch), (outer, _SWITCH)):
            _ip("-n", self._switch, "tuntap", "add", device, "mode", "tap")
            _ip("-n", self._switch, "link", "set", device, "master", master, "up")
        _ip("-n", self._switch, "link", "set", switch, "up")
        command = [
            "ip", "netns", "exec", self._switch, sys.executable, "-P", "-m",
            "garrison.testing.bad_line", inner, outer, str(DELAY), str(JITTER), str(LOSS), _SEED,
        ]  # fmt: skip
        self._line = Process(f"the line of {self.address}", command, os.environ)
        self._line.expect("carrying")
        _ip("-n", self._switch, "link", "set", self._port, "master", switch)

    def end_line(self) -> dict[str, dict[str, int]]:
        """End the program that carries, if there is one; what it tells of the frames."""
        if self._line is None:
            return {}
        line, self._line = self._line, None
        line.stop()
        found: dict[str, dict[str, int]] = json.loads(line.lines[-1])
        return found

    @property
    def _devices(self) -> tuple[str, str, str]:
        """Of the way around: the switch at its end, and the two ends of the line."""
        return f"{self._port}-br", f"{self._port}-in", f"{self._port}-out"

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
            _ip("-n", self._switch, "link", "add", _SWITCH, "type", "bridge")
            _ip("-n", self._switch, "link", "set", _SWITCH, "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def machine(self, address: str) -> Machine:
        """A further machine, at `address` in 10.99.0.0/16."""
        number = len(self.machines)
        name, port = f"{self._name}-{number}", f"port{number}"
        self._add(name)
        _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0",
            "netns", name)  # fmt: skip
        _ip("-n", self._switch, "link", "set", port, "master", _SWITCH, "up")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        found = Machine(name, self._switch, port, address)
        _ip("-n", name, "address", "add", f"{address}/16", "dev", "eth0")
        self.machines.append(found)
        return found

    def _add(self, name: str) -> None:
        _ip("netns", "add", name)
        self._made.append(name)

    def _remove(self) -> None:
        for machine in self.machines:
            machine.end_line()
        while self._made:
            _delete(self._made.pop())


def _remove_orphans() -> None:
    """Remove what processes left that were killed, and so could not."""
    for line in _ip("netns", "list").splitlines():
        name = line.partition(" ")[0]
        owner = _OWNER.match(name)
        if owner is not None and not Path("/proc", owner[1]).exists():
            _delete(name)


def _delete(name: str) -> None:
    _ip("netns", "del", name)
    shutil.rmtree(_ETC / name, ignore_errors=True)


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

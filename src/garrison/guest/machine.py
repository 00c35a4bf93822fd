"""Sets up what a keep finds on its machine: loopback, the network, names, randomness.

The network is QEMU's user-mode one, whose addresses are fixed (QEMU, System Emulation,
"Using the user mode network stack"), so nobody is asked for them. Whatever comes through it is the
host's: TLS decides whom a keep speaks with.

The clock is not set here: the kernel has it from the host (kvm-clock, or the machine's RTC). A host
can lie about the time; see docs/threat-model.md for what that gives it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from garrison.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The host's loopback, as the guest sees it.
HOST = "10.0.2.2"
ADDRESS = "10.0.2.15"
NETMASK = "255.255.255.0"
NAME_SERVER = "10.0.2.3"
INTERFACE = "eth0"
_NETWORK = Path("sys/class/net")
_RUN = Path("run")

# linux/sockios.h
_SIOCADDRT = 0x890B
_SIOCSIFFLAGS = 0x8914
_SIOCSIFADDR = 0x8916
_SIOCSIFNETMASK = 0x891C
# linux/if.h
_IFF_UP = 1
# linux/route.h
_RTF_UP = 1
_RTF_GATEWAY = 2
# struct ifreq: a name of 16 bytes and a union of 24.
_NAME_SIZE = 16
_UNION_SIZE = 24


def prepare(hosts: Mapping[str, str], *, root: Path = Path("/")) -> None:
    """Set the machine up.

    Args:
        hosts: addresses by name, that the host gives.
        root: of the file system that names are written to.

    Raises:
        Unavailable: there is no network.
        OSError: it cannot be set up.
    """
    write_names(hosts, root)
    if not (root / _NETWORK / INTERFACE).exists():
        raise Unavailable("the host gives none", field="network card", expected=INTERFACE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        _up(control, "lo")
        _set(control, _SIOCSIFADDR, INTERFACE, _address(ADDRESS))
        _set(control, _SIOCSIFNETMASK, INTERFACE, _address(NETMASK))
        _up(control, INTERFACE)
        fcntl.ioctl(control, _SIOCADDRT, _default_route(HOST))
    # Waits until the kernel has gathered enough: keys are made next.
    os.getrandom(1)


def write_names(hosts: Mapping[str, str], root: Path = Path("/")) -> None:
    """Write who is where: `localhost` is this machine, where the host gives no other."""
    lines = ["::1 ip6-localhost"]
    lines += [f"{address} {name}" for name, address in {"localhost": "127.0.0.1", **hosts}.items()]
    (root / _RUN / "hosts").write_text("\n".join(lines) + "\n")
    (root / _RUN / "resolv.conf").write_text(f"nameserver {NAME_SERVER}\n")


def _up(control: socket.socket, name: str) -> None:
    _set(control, _SIOCSIFFLAGS, name, struct.pack("<h", _IFF_UP))


def _set(control: socket.socket, request: int, name: str, value: bytes) -> None:
    fcntl.ioctl(
        control, request, name.encode().ljust(_NAME_SIZE, b"\0") + value.ljust(_UNION_SIZE, b"\0")
    )


def _address(text: str) -> bytes:
    """A struct sockaddr_in."""
    return struct.pack("<HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))


def _default_route(gateway: str) -> bytes:
    """A struct rtentry: to anywhere, by `gateway`."""
    nowhere = _address("0.0.0.0")  # noqa: S104  (no address to bind to)
    flags = struct.pack("<H6x", _RTF_UP | _RTF_GATEWAY)
    return struct.pack("<Q", 0) + nowhere + _address(gateway) + nowhere + flags + bytes(56)

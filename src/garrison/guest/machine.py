"""Sets up what a keep finds on its machine: names, randomness, loopback, the network.

The network is QEMU's user-mode one, whose addresses are fixed (QEMU, System Emulation,
"Using the user mode network stack"), so nobody is asked for them. Whatever comes through it is the
host's: TLS decides whom a keep speaks with.

The clock is not set here: the kernel has it from the host (kvm-clock, or the machine's RTC). A host
can lie about the time; see docs/threat-model.md for what that gives it.
"""

from __future__ import annotations

import fcntl
import os
import struct

from garrison.errors import Unavailable
from garrison.image import init

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
else:
    import _socket as socket  # its wrapper makes enumerations, which costs a start 3 ms

#: The host's loopback, as the guest sees it.
HOST = "10.0.2.2"
ADDRESS = "10.0.2.15"
NETMASK = "255.255.255.0"
NAME_SERVER = "10.0.2.3"
INTERFACE = "eth0"
_NETWORK = "sys/class/net"
_SECURITY_MODULE = "/dev/nsm"

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


def is_enclave(device: str = _SECURITY_MODULE) -> bool:
    """Whether this machine is a Nitro enclave."""
    return os.path.exists(device)  # noqa: PTH110  (as below)


def prepare(hosts: Mapping[str, str], *, root: str = "/") -> None:
    """Set up all but the network.

    Args:
        hosts: addresses by name, that the host gives.
        root: of the file system that names are written to.

    Raises:
        OSError: it cannot be set up.
    """
    write_names(hosts, root)
    try:
        # The kernel has enough, of the processor's as a rule: it need not ask the host first.
        os.getrandom(1, os.GRND_NONBLOCK)
    except BlockingIOError:
        init.load_devices()
        # Waits until the kernel has gathered enough: keys are made next.
        os.getrandom(1)


def connect(*, root: str = "/") -> None:
    """Set up loopback and the network, whose driver is there.

    Raises:
        Unavailable: there is no network.
        OSError: it cannot be set up.
    """
    if not os.path.exists(os.path.join(root, _NETWORK, INTERFACE)):  # noqa: PTH110, PTH118  (as below)
        raise Unavailable("the host gives none", field="network card", expected=INTERFACE)
    control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        _up(control, "lo")
        _set(control, _SIOCSIFADDR, INTERFACE, _address(ADDRESS))
        _set(control, _SIOCSIFNETMASK, INTERFACE, _address(NETMASK))
        _up(control, INTERFACE)
        fcntl.ioctl(control, _SIOCADDRT, _default_route(HOST))
    finally:
        control.close()


def write_names(hosts: Mapping[str, str], root: str = "/") -> None:
    """Write who is where: `localhost` is this machine, where the host gives no other."""
    lines = ["::1 ip6-localhost"]
    lines += [f"{address} {name}" for name, address in {"localhost": "127.0.0.1", **hosts}.items()]
    _write(root, "run/hosts", "\n".join(lines) + "\n")
    _write(root, "run/resolv.conf", f"nameserver {NAME_SERVER}\n")


def _write(root: str, path: str, text: str) -> None:
    # pathlib takes an emulated machine 50 ms to import.
    with open(os.path.join(root, path), "w") as file:  # noqa: PTH118, PTH123
        file.write(text)


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

"""The channels to the host: virtio-serial ports, found by their names.

Linux, drivers/char/virtio_console.c: a port `/dev/vportNpM` has its name in
`/sys/class/virtio-ports/vportNpM/name`. The host gives the names; a channel that it does not give,
or gives twice, is an error.
"""

from __future__ import annotations

import os
import time

from garrison.errors import Malformed, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Text: `pathlib` takes an emulated machine a twentieth of a second to import.
_CLASS = "sys/class/virtio-ports"
_DEVICES = "dev"
# The driver makes them one after the other, soon after the machine has started.
_SECONDS = 10.0
_POLL_SECONDS = 0.01
# A host that has more of them than this plays a game.
_MAX_PORTS = 64


def open_ports(
    names: Iterable[str], *, root: str = "/", seconds: float = _SECONDS
) -> dict[str, int]:
    """Open the ports of these names; they do not block.

    Raises:
        Malformed: a name is there twice, or there are too many ports.
        Unavailable: one is not there.
        OSError: one cannot be opened.
    """
    until = time.monotonic() + seconds
    wanted = set(names)
    while True:
        found = _named(root)
        if wanted <= found.keys():
            break
        if time.monotonic() >= until:
            raise Unavailable(
                "the host gives none",
                field=f"channel {min(wanted - found.keys())}",
                found=", ".join(sorted(found))[:200] or "no channel",
            )
        time.sleep(_POLL_SECONDS)
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
    return {name: os.open(f"{root}/{_DEVICES}/{found[name]}", flags) for name in sorted(wanted)}


def _named(root: str) -> dict[str, str]:
    """The ports' devices, by name."""
    try:
        ports = sorted(os.listdir(f"{root}/{_CLASS}"))  # noqa: PTH208  (see `_CLASS`)
    except FileNotFoundError:
        return {}
    if len(ports) > _MAX_PORTS:
        raise Malformed("too many", field="channels", found=len(ports), expected=_MAX_PORTS)
    found: dict[str, str] = {}
    for port in ports:
        try:
            with open(f"{root}/{_CLASS}/{port}/name", errors="replace") as file:  # noqa: PTH123
                name = file.read().strip()
        except FileNotFoundError:
            # It has no name, or not yet.
            continue
        if name in found:
            raise Malformed("is there twice", field=f"channel {name[:64]}")
        found[name] = port
    return found

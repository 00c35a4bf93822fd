"""The host's end of an enclave's network card: passt, a network in user space.

passt(1) does for a stream of Ethernet frames what QEMU does for a machine's user-mode network, and
the addresses here are the same (`garrison.guest.machine`). It takes no privileges, and reaches what
this process reaches. What an enclave listens on is to be reached where it was published, and
nowhere else.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from garrison.errors import Misuse
from garrison.launch.process import die_with_us

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from garrison.launch.monitor import Publication

PASST = "passt"
# As the guest has them: `garrison.guest.machine`, which is not to be imported here.
HOST = "10.0.2.2"
_ADDRESS = "10.0.2.15"
_NETMASK = "255.255.255.0"
_NAME_SERVER = "10.0.2.3"


def passt_command(program: str, stream: int, published: Sequence[Publication]) -> list[str]:
    """The command line of passt.

    Args:
        program: where it is.
        stream: the descriptor of the frames.
        published: where ports of the enclave are to be reached.
    """
    tcp, udp = (
        ",".join(
            f"{each.address}/{each.host}:{each.guest}" for each in published if each.udp is udp
        )
        for udp in (False, True)
    )
    return [
        program,
        "--foreground",
        *("--fd", str(stream)),
        "--ipv4-only",
        *("--address", _ADDRESS),
        *("--netmask", _NETMASK),
        # To the guest it is this host's loopback, too.
        *("--gateway", HOST),
        *("--dns-forward", _NAME_SERVER),
        "--no-dhcp",
        *("--tcp-ports", tcp or "none"),
        *("--udp-ports", udp or "none"),
    ]


@contextmanager
def network_card(
    stream: socket.socket, published: Sequence[Publication]
) -> Iterator[subprocess.Popen[bytes]]:
    """Have passt be the other end of the card behind `stream`, until the end of the block.

    Raises:
        Misuse: it is not installed.
    """
    program = shutil.which(PASST)
    if program is None:
        raise Misuse("is not installed", field=PASST, hint="install the package passt")
    process = subprocess.Popen(
        passt_command(program, stream.fileno(), published),
        pass_fds=[stream.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A terminal's Ctrl-C is for us, who pass it on to the workload.
        start_new_session=True,
        preexec_fn=die_with_us,  # noqa: PLW1509  (one prctl, no locks)
    )
    # From here on the stream is passt's alone.
    stream.close()
    try:
        yield process
    finally:
        process.kill()
        process.wait()

"""What the first process of a keep image runs: see `garrison.image.init`, which calls `main`."""

from __future__ import annotations

from garrison.formats.channel import CHANNELS
from garrison.guest import machine
from garrison.guest.serve import serve
from garrison.image import init
from garrison.virtio_ports import open_ports


def main() -> int:
    """Serve the host's request over the channels of this machine, and return the exit code.

    Raises:
        GarrisonError: the host gives no channels.
    """
    if machine.is_enclave():
        from garrison.guest import enclave  # late: no other machine needs it

        return serve(
            enclave.open_ports(), lambda request: machine.prepare(request.hosts), machine.connect
        )
    return serve(open_ports(CHANNELS), lambda request: machine.prepare(request.hosts), _connect)


def _connect() -> None:
    init.load_devices()
    machine.connect()

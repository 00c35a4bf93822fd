"""What the first process of a keep image runs: see `garrison.image.init`, which calls `main`."""

from __future__ import annotations

from garrison.formats.channel import CHANNELS
from garrison.guest import enclave, machine
from garrison.guest.serve import serve
from garrison.virtio_ports import open_ports


def main() -> int:
    """Serve the host's request over the channels of this machine, and return the exit code.

    Raises:
        GarrisonError: the host gives no channels.
    """
    ports = enclave.open_ports() if enclave.present() else open_ports(CHANNELS)
    return serve(ports, lambda request: machine.prepare(request.hosts))

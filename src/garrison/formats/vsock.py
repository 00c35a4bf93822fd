"""Where host and keep meet in a machine that has neither virtio-serial nor a network: over vsock.

An AWS Nitro enclave has vsock alone. It listens, and its parent connects: once to the port of each
channel (`garrison.formats.channel`), and once to that of the network card. The card's stream is of
Ethernet frames, each behind its length (4 bytes, big-endian), as QEMU's `-netdev stream` and passt
have it. Nothing of it is trusted on either side.
"""

from __future__ import annotations

from garrison.errors import Malformed
from garrison.formats.channel import CHANNELS

#: The port of the first channel; those of the others follow, and then the card's.
FIRST_PORT = 0x6B656570
PORTS = {name: FIRST_PORT + index for index, name in enumerate(CHANNELS)}
CARD_PORT = FIRST_PORT + len(CHANNELS)
CARD = "garrison.network-card"

# IEEE 802.3: two addresses and a type; what a packet of the largest MTU adds to that.
_LEAST_FRAME = 14
MTU = 65520
MAX_FRAME = MTU + _LEAST_FRAME
_LENGTH = 4


def framed(packet: bytes) -> bytes:
    """An Ethernet frame as it is sent."""
    return len(packet).to_bytes(_LENGTH, "big") + packet


class PacketReader:
    """Takes the bytes of a card's stream as they come, and gives its Ethernet frames."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take `data`, and return the frames that are whole now.

        Raises:
            Malformed: a length is that of no frame; the stream is of no use from then on.
        """
        self._buffer += data
        packets = []
        while len(self._buffer) >= _LENGTH:
            size = int.from_bytes(self._buffer[:_LENGTH], "big")
            if not _LEAST_FRAME <= size <= MAX_FRAME:
                raise Malformed(
                    "no Ethernet frame",
                    field=f"channel {CARD}",
                    found=f"{size} bytes",
                    expected=f"{_LEAST_FRAME} to {MAX_FRAME} bytes",
                )
            if len(self._buffer) < _LENGTH + size:
                break
            packets.append(bytes(self._buffer[_LENGTH : _LENGTH + size]))
            del self._buffer[: _LENGTH + size]
        return packets

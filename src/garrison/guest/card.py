"""A network card whose other end is the host: for a machine that has none, as a Nitro enclave.

Linux, Documentation/networking/tuntap.rst: a device of the kernel's, whose frames a process reads
and writes. That process carries them to the host and back (`garrison.formats.vsock`). To the keep
it is the card of any other machine; whatever comes through it is the host's, as there: TLS decides
whom a keep speaks with.

It holds one frame of the kernel's and what the host sent in part: what cannot be sent yet is not
taken, and the kernel drops frames as it does for a card that is too slow. A stream that is not of
frames, or ends, ends the card: the keep's connections fail, and it says why on the console.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import sys
from typing import TYPE_CHECKING

from garrison.formats.vsock import MAX_FRAME, PacketReader, framed
from garrison.guest.machine import INTERFACE
from garrison.terminal import report

if TYPE_CHECKING:
    import socket

_DEVICE = "/dev/net/tun"
# linux/if_tun.h: an Ethernet device, and nothing before each frame.
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_READ = 1 << 16
_REFUSED = (errno.EINVAL, errno.EIO, errno.EAGAIN, errno.ENOBUFS)


def open_card() -> int:
    """Make the card: a descriptor for its frames, which does not block. It goes with that.

    Raises:
        OSError: the kernel makes none.
    """
    descriptor = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    request = struct.pack("16sH22x", INTERFACE.encode(), _IFF_TAP | _IFF_NO_PI)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def start_card(stream: socket.socket) -> None:
    """Make the card, and have a process carry its frames over `stream` from now on.

    Raises:
        OSError: it cannot be made.
    """
    card = open_card()
    for each in (sys.stdout, sys.stderr):
        each.flush()
    if os.fork():
        os.close(card)
        stream.close()
        return
    code = 70
    try:
        carry_frames(card, stream)
        print("the host has closed the network card", file=sys.stderr, flush=True)
    except Exception as error:  # noqa: BLE001  (the last door)
        code = report(error)
    finally:
        os._exit(code)


def carry_frames(card: int, stream: socket.socket) -> None:
    """Carry frames both ways until the host closes the stream.

    Raises:
        Malformed: what the host sends is not frames.
        OSError: the card or the stream fails.
    """
    stream.setblocking(False)  # noqa: FBT003  (socket's own)
    reader = PacketReader()
    pending = b""
    poll = select.poll()
    while True:
        poll.register(stream, select.POLLIN | (select.POLLOUT if pending else 0))
        # What the kernel sends waits there until the host has taken what was sent before.
        poll.register(card, 0 if pending else select.POLLIN)
        events = dict(poll.poll())
        if events.get(stream.fileno(), 0) & ~select.POLLOUT:
            data = stream.recv(_READ)
            if not data:
                return
            for packet in reader.feed(data):
                _give(card, packet)
        if not pending and events.get(card):
            pending = framed(os.read(card, MAX_FRAME))
        if pending:
            try:
                pending = pending[stream.send(pending) :]
            except BlockingIOError:
                continue


def _give(card: int, packet: bytes) -> None:
    """Hand a frame to the kernel, which may refuse it as a card's cable may lose it."""
    try:
        os.write(card, packet)
    except OSError as error:
        # Too many at once, no packet that it understands, or the card is down.
        if error.errno not in _REFUSED:
            raise

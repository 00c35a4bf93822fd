"""Evidence from /dev/tdx_guest, for kernels of TDs before 6.7, which have no configfs-tsm.

Source: Linux, include/uapi/linux/tdx-guest.h: the device gives the report that the processor keys
for itself (TDREPORT). A quoting enclave on the host makes a quote of it: over vsock, in the
messages of Intel's quote generation service (DCAP, QuoteGeneration/quote_wrapper/qgs_msg_lib): a
length (4 bytes, big-endian), then a header and the content (little-endian). The host can refuse,
and cannot forge: the quote is over the report, which is bound to the report data.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from garrison.attesters._evidence import (
    ask,
    check_present,
    check_report_data,
    patiently,
    quote_evidence,
)
from garrison.errors import Unavailable
from garrison.formats.evidence import REPORT_DATA_SIZE, TDX_MEDIA_TYPE, Evidence, Tee

if TYPE_CHECKING:
    from collections.abc import Callable

DEVICE = Path("/dev/tdx_guest")

# _IOWR('T', 1, struct tdx_report_req): the report data, then room for the report.
_GET_REPORT0 = 0xC4405401
_REPORT_SIZE = 1024
# The quote generation service: version 1.0, GET_QUOTE_REQ and GET_QUOTE_RESP.
_PORT = 4050
_VERSION = (1, 0)
_REQUEST, _RESPONSE = 0, 1
_HEADER = "<HHIII"
_HEADER_SIZE = 16
# A quote with its chain has 5 to 8 KiB; the service's own limit is 16.
_MAX_ANSWER = 32 * 1024
_TIMEOUT = 30.0


def quote_over_vsock(message: bytes) -> bytes:
    """Send a message to the host's quote generation service, and return its answer.

    Raises:
        OSError: it does not answer, or more than it may.
    """
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as stream:
        stream.settimeout(_TIMEOUT)
        stream.connect((socket.VMADDR_CID_HOST, _PORT))
        stream.sendall(len(message).to_bytes(4, "big") + message)
        length = int.from_bytes(_exactly(stream, 4), "big")
        if length > _MAX_ANSWER:
            raise OSError(None, f"an answer of {length} bytes")
        return _exactly(stream, length)


def _exactly(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = stream.recv(size - len(data))
        if not more:
            raise OSError(None, "the service closed the connection")
        data += more
    return data


@dataclass(frozen=True, slots=True)
class TdxGuest:
    """Obtains evidence from the device and the host's service.

    Attributes:
        device: where it is.
        ioctl: how it is asked; `fcntl.ioctl`, but for tests.
        exchange: how a message is sent to the service, and its answer received.
    """

    device: Path = DEVICE
    ioctl: Callable[[int, int, bytearray], int] = fcntl.ioctl
    exchange: Callable[[bytes], bytes] = quote_over_vsock
    tee: Literal[Tee.TDX] = Tee.TDX
    curve: Literal["P-256"] = "P-256"

    @classmethod
    def open(cls) -> TdxGuest:
        """Find the device.

        Raises:
            Misuse: it is not there.
        """
        check_present(DEVICE, "the device of a TD")
        return cls()

    def attest(self, report_data: bytes) -> Evidence:
        """See `garrison.attesters.base.Attester.attest`."""
        check_report_data(report_data)
        buffer = bytearray(report_data + bytes(_REPORT_SIZE))
        patiently(str(self.device), lambda: ask(self.device, self.ioctl, _GET_REPORT0, buffer))
        quote = self._quote(bytes(buffer[REPORT_DATA_SIZE:]))
        return quote_evidence(quote, TDX_MEDIA_TYPE, "quote generation service")

    def _quote(self, report: bytes) -> bytes:
        # No list of quoting enclaves: the service takes its own.
        content = struct.pack("<II", len(report), 0) + report
        header = struct.pack(_HEADER, *_VERSION, _REQUEST, _HEADER_SIZE + len(content), 0)
        answer = patiently("quote generation service", lambda: self.exchange(header + content))
        if len(answer) < _HEADER_SIZE + 8:
            raise _wrong(f"{len(answer)} bytes")
        major, _minor, kind, size, error = struct.unpack_from(_HEADER, answer)
        if error:
            raise _wrong(f"error {error:#x}")
        if (major, kind, size) != (_VERSION[0], _RESPONSE, len(answer)):
            raise _wrong(f"version {major}, type {kind}, {size} of {len(answer)} bytes")
        id_size, quote_size = struct.unpack_from("<II", answer, _HEADER_SIZE)
        start = _HEADER_SIZE + 8 + id_size
        if start + quote_size != len(answer):
            raise _wrong(f"{id_size} and {quote_size} of {len(answer)} bytes")
        return answer[start:]


def _wrong(found: str) -> Unavailable:
    return Unavailable(
        "the host makes no quote",
        field="quote generation service",
        found=found,
        expected="a quote",
        hint="the host's operator starts the service (tdx-qgs), and provisions the platform",
    )

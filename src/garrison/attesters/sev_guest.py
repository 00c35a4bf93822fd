"""Evidence from /dev/sev-guest, for kernels of SNP guests before 6.7, which have no configfs-tsm.

Source: Linux, include/uapi/linux/sev-guest.h and Documentation/virt/coco/sev-guest.rst. The
extended report has the certificates of the host; where that fails, the plain report is asked for.
"""

from __future__ import annotations

import ctypes
import fcntl
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from garrison.attesters._evidence import (
    ask,
    check_present,
    check_report_data,
    patiently,
    snp_evidence,
)
from garrison.errors import Unavailable
from garrison.formats.evidence import REPORT_DATA_SIZE, Evidence, Tee
from garrison.formats.snp import REPORT_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

DEVICE = Path("/dev/sev-guest")

# _IOWR('S', number, struct snp_guest_request_ioctl): version, addresses of request and response,
# and what went wrong, 32 bytes.
_GET_REPORT = 0xC0205300
_GET_EXT_REPORT = 0xC0205302
_COMMAND = "<B7xQQQ"
_MESSAGE_VERSION = 1
# struct snp_report_req: report data, privilege level, reserved.
_REQUEST = f"<{REPORT_DATA_SIZE}sI28x"
# struct snp_ext_report_req: that, and address and length of the certificates.
_EXT_REQUEST = _REQUEST + "QI4x"
_RESPONSE_SIZE = 4000
# The response of the firmware (AMD 56860, MSG_REPORT_RSP): status, size, reserved, and the report.
_RESPONSE_HEAD = 32
# SEV_FW_BLOB_MAX_SIZE, the most that the kernel asks a host for.
_MAX_CERTIFICATES = 0x4000


@dataclass(frozen=True, slots=True)
class SevGuest:
    """Obtains evidence from the device.

    Attributes:
        device: where it is.
        ioctl: how it is asked; `fcntl.ioctl`, but for tests.
        vmpl: the privilege level to report.
    """

    device: Path = DEVICE
    ioctl: Callable[[int, int, bytearray], int] = fcntl.ioctl
    vmpl: int = 0
    tee: Literal[Tee.SNP] = Tee.SNP
    curve: Literal["P-384"] = "P-384"

    @classmethod
    def open(cls) -> SevGuest:
        """Find the device.

        Raises:
            Misuse: it is not there.
        """
        check_present(DEVICE, "the device of an SEV-SNP guest")
        return cls()

    def attest(self, report_data: bytes) -> Evidence:
        """See `garrison.attesters.base.Attester.attest`."""
        check_report_data(report_data)
        response = ctypes.create_string_buffer(_RESPONSE_SIZE)
        table = ctypes.create_string_buffer(_MAX_CERTIFICATES)
        request = struct.pack(
            _EXT_REQUEST, report_data, self.vmpl, ctypes.addressof(table), _MAX_CERTIFICATES
        )
        certificates = b""
        try:
            self._issue(_GET_EXT_REPORT, request, response)
            certificates = table.raw
        except Unavailable:
            # Certificates are help and no more: without them the steward has the vendor's own.
            response = ctypes.create_string_buffer(_RESPONSE_SIZE)
            self._issue(_GET_REPORT, struct.pack(_REQUEST, report_data, self.vmpl), response)
        status, size = struct.unpack_from("<II", response.raw)
        if status or size != REPORT_SIZE:
            raise Unavailable(
                "the firmware made no report",
                field=str(self.device),
                found=f"status {status:#x}, {size} bytes",
                expected=f"status 0, {REPORT_SIZE} bytes",
            )
        report = response.raw[_RESPONSE_HEAD : _RESPONSE_HEAD + size]
        return snp_evidence(report, certificates, str(self.device))

    def _issue(self, number: int, request: bytes, response: ctypes.Array[ctypes.c_char]) -> None:
        held = ctypes.create_string_buffer(request, len(request))
        command = bytearray(
            struct.pack(
                _COMMAND,
                _MESSAGE_VERSION,
                ctypes.addressof(held),
                ctypes.addressof(response),
                0,
            )
        )
        patiently(str(self.device), lambda: ask(self.device, self.ioctl, number, command))

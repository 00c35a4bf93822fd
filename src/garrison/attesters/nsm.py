"""Evidence of an AWS Nitro enclave, from its security module.

Source: Linux, include/uapi/linux/nsm.h; aws-nitro-enclaves-nsm-api, docs/attestation_process.md.
A request and a response in CBOR go through one ioctl. The module signs a document with the report
data as its `user_data`.
"""

from __future__ import annotations

import ctypes
import fcntl
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from garrison.attesters._evidence import ask, check_present, check_report_data, patiently
from garrison.errors import Malformed, Unavailable
from garrison.formats._cbor import decode, encode
from garrison.formats.evidence import Evidence, Tee
from garrison.formats.nitro import NITRO_MEDIA_TYPE, NitroDocument

if TYPE_CHECKING:
    from collections.abc import Callable

DEVICE = Path("/dev/nsm")

# _IOWR(0x0A, 0, struct nsm_raw): two vectors, of the request and of the response.
_RAW = 0xC0200A00
_COMMAND = "<QQQQ"
# NSM_RESPONSE_MAX_SIZE.
_MAX_RESPONSE = 0x3000


@dataclass(frozen=True, slots=True)
class Nsm:
    """Obtains evidence from the module.

    Attributes:
        device: where it is.
        ioctl: how it is asked; `fcntl.ioctl`, but for tests.
    """

    device: Path = DEVICE
    ioctl: Callable[[int, int, bytearray], int] = fcntl.ioctl
    tee: Literal[Tee.NITRO] = Tee.NITRO
    curve: Literal["P-384"] = "P-384"

    @classmethod
    def open(cls) -> Nsm:
        """Find the device.

        Raises:
            Misuse: it is not there.
        """
        check_present(DEVICE, "the security module of a Nitro enclave")
        return cls()

    def attest(self, report_data: bytes) -> Evidence:
        """See `garrison.attesters.base.Attester.attest`."""
        check_report_data(report_data)
        request = encode(
            {"Attestation": {"user_data": report_data, "nonce": None, "public_key": None}}
        )
        answer = patiently(str(self.device), lambda: self._exchange(request))
        try:
            match decode(answer, "NSM response", _MAX_RESPONSE, indefinite=True):
                case {"Attestation": {"document": bytes(document)}}:
                    NitroDocument.from_bytes(document)
                    return Evidence(NITRO_MEDIA_TYPE, document)
                case {"Error": str(reason)}:
                    raise self._failed(reason[:80])
                case _:
                    raise self._failed("something else")
        except Malformed as error:
            raise self._failed(str(error)) from error

    def _exchange(self, request: bytes) -> bytes:
        question = ctypes.create_string_buffer(request, len(request))
        answer = ctypes.create_string_buffer(_MAX_RESPONSE)
        command = bytearray(
            struct.pack(
                _COMMAND,
                ctypes.addressof(question),
                len(request),
                ctypes.addressof(answer),
                _MAX_RESPONSE,
            )
        )
        ask(self.device, self.ioctl, _RAW, command)
        length = struct.unpack(_COMMAND, command)[3]
        # The driver says how much it wrote.
        return answer.raw[: min(length, _MAX_RESPONSE)]

    def _failed(self, found: str) -> Unavailable:
        return Unavailable(
            "the security module gives no document",
            field=str(self.device),
            found=found,
            expected="an attestation document",
        )

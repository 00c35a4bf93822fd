"""The virtual TPM of a fake machine on Azure: the commands that an attester sends, and no other.

Written from the other side of the specification (TPM 2.0 Library, Part 3) than the attester, and
strict: a command that a TPM would refuse gets the error that it would give.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from garrison.formats.tpm import PCR_COUNT
from garrison.testing.azure import PCRS, FakeAzure

_HCL_INDEX, _AK_HANDLE = 0x01400001, 0x81000003
_RC_HANDLE, _RC_RETRY, _RC_COMMAND_SIZE, _RC_AUTH_MISSING = 0x18B, 0x922, 0x142, 0x125
_RC_NV_RANGE = 0x146
_PASSWORD_SESSION = bytes.fromhex("00000009" + "40000009" + "0000" + "00" + "0000")
_SELECTION = bytes.fromhex("00000001" + "000b" + "03")


@dataclass
class FakeTpm:
    """A TPM.

    Attributes:
        azure: whose it is.
        paravisor: whether it is a paravisor's, and has its index and its key.
        busy: how often it says to try again.
        unsteady: how many quotes do not fit the registers that are read after them.
        commands: the codes of what it was asked.
    """

    azure: FakeAzure = field(default_factory=FakeAzure)
    paravisor: bool = True
    busy: int = 0
    unsteady: int = 0
    commands: list[int] = field(default_factory=list)

    @cached_property
    def blob(self) -> bytes:
        """The blob, made once, as a paravisor does at boot."""
        return self.azure.blob().to_bytes()

    def exchange(self, command: bytes) -> bytes:
        """Answer a command."""
        tag, size, code = struct.unpack_from(">HII", command)
        self.commands.append(code)
        if size != len(command):
            return _error(_RC_COMMAND_SIZE)
        if self.busy:
            self.busy -= 1
            return _error(_RC_RETRY)
        body = command[10:]
        match tag, code:
            case 0x8001, 0x169:
                return self._read_public(body)
            case 0x8001, 0x17E:
                return self._pcr_read(body)
            case 0x8002, 0x14E:
                return self._nv_read(body)
            case 0x8002, 0x158:
                return self._quote(body)
        return _error(_RC_AUTH_MISSING)

    def _read_public(self, body: bytes) -> bytes:
        if not self.paravisor or body != _HCL_INDEX.to_bytes(4, "big"):
            return _error(_RC_HANDLE)
        size = len(self.blob)
        public = struct.pack(">IHIHH", _HCL_INDEX, 0x000B, 0x62040404, 0, size)
        return _answer(_sized(public) + _sized(b"\x00\x0b" + bytes(32)))

    def _nv_read(self, body: bytes) -> bytes:
        owner, index = struct.unpack_from(">II", body)
        if (owner, index) != (0x40000001, _HCL_INDEX) or body[8:21] != _PASSWORD_SESSION:
            return _error(_RC_HANDLE)
        length, offset = struct.unpack(">HH", body[21:])
        if length > 1024 or offset + length > len(self.blob):
            return _error(_RC_NV_RANGE)
        return _answer(_sized(self.blob[offset : offset + length]), session=True)

    def _pcr_read(self, body: bytes) -> bytes:
        if body[:7] != _SELECTION or len(body) != 10:
            return _error(_RC_COMMAND_SIZE)
        bits = int.from_bytes(body[7:], "little")
        # A TPM gives eight at most, the lowest that were asked for.
        given = [index for index in range(PCR_COUNT) if bits >> index & 1][:8]
        selected = sum(1 << index for index in given).to_bytes(3, "little")
        digests = b"".join(_sized(PCRS[index]) for index in given)
        return _answer(bytes(4) + _SELECTION + selected + len(given).to_bytes(4, "big") + digests)

    def _quote(self, body: bytes) -> bytes:
        if not self.paravisor or body[:4] != _AK_HANDLE.to_bytes(4, "big"):
            return _error(_RC_HANDLE)
        if body[4:17] != _PASSWORD_SESSION:
            return _error(_RC_AUTH_MISSING)
        size = int.from_bytes(body[17:19], "big")
        nonce, rest = body[19 : 19 + size], body[19 + size :]
        if rest != bytes.fromhex("0014000b") + _SELECTION + b"\xff\xff\xff":
            return _error(_RC_COMMAND_SIZE)
        changes: dict[str, Any] = {"digest": bytes(32)} if self.unsteady else {}
        self.unsteady = max(0, self.unsteady - 1)
        evidence = self.azure.evidence(extra_data=nonce, **changes)
        signature = bytes.fromhex("0014000b") + _sized(evidence.signature)
        return _answer(_sized(evidence.message) + signature, session=True)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _error(code: int) -> bytes:
    return struct.pack(">HII", 0x8001, 10, code)


def _answer(parameters: bytes, *, session: bool = False) -> bytes:
    body = parameters
    if session:
        body = len(parameters).to_bytes(4, "big") + parameters + bytes.fromhex("0000010000")
    return struct.pack(">HII", 0x8002 if session else 0x8001, 10 + len(body), 0) + body

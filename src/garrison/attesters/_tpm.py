"""The four commands of a TPM that an attester needs, as bytes through /dev/tpmrm0.

Trusted Computing Group, TPM 2.0 Library, Part 3: Commands: TPM2_NV_ReadPublic (31.6), TPM2_NV_Read
(31.13), TPM2_PCR_Read (22.4) and TPM2_Quote (18.4); all numbers are big-endian. Authorisation is
by the empty password. Answers that are not what was asked for are `Unavailable`.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.attesters._evidence import patiently
from garrison.errors import Misuse, Unavailable
from garrison.formats.tpm import PCR_COUNT, PCR_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_NV_READ_PUBLIC, _NV_READ, _PCR_READ, _QUOTE = 0x169, 0x14E, 0x17E, 0x158
_OWNER, _PASSWORD = 0x40000001, 0x40000009
_RSASSA, _SHA256 = 0x0014, 0x000B
# TPM_RC_YIELDED, TPM_RC_TESTING, TPM_RC_RETRY: ask again.
_BUSY = (0x908, 0x90A, 0x922)
# TPM_RC_HANDLE for the first handle: there is no such index.
_NO_HANDLE = 0x18B
_HEADER_SIZE = 10
# What every TPM gives at once of an index.
_CHUNK = 512
# The driver's buffer.
_MAX_RESPONSE = 4096
# The password session: handle, empty nonce, no attributes, empty password.
_AUTHORISATION = (9).to_bytes(4, "big") + _PASSWORD.to_bytes(4, "big") + bytes(5)


def transmit(device: Path) -> Callable[[bytes], bytes]:
    """How commands go to `device`: one write, one read."""

    def exchange(command: bytes) -> bytes:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.write(descriptor, command)
            return os.read(descriptor, _MAX_RESPONSE)
        finally:
            os.close(descriptor)

    return exchange


@dataclass(frozen=True, slots=True)
class Tpm:
    """A TPM, by the way that commands go to it."""

    exchange: Callable[[bytes], bytes]

    def nv_read(self, index: int) -> bytes:
        """The content of an index.

        Raises:
            Misuse: there is no such index.
            Unavailable: the TPM does not answer.
        """
        answer = self._run(_NV_READ_PUBLIC, _word(index, 4), missing=index)
        # TPM2B_NV_PUBLIC: size, index, algorithm, attributes, policy, and the size of the data.
        public = _Answer(answer)
        public.take(2 + 4 + 2 + 4)
        public.buffer()
        size = public.number(2)
        data = b""
        while len(data) < size:
            length = min(_CHUNK, size - len(data))
            chunk = _Answer(
                self._run(
                    _NV_READ,
                    _word(_OWNER, 4) + _word(index, 4),
                    _word(length, 2) + _word(len(data), 2),
                )
            ).buffer()
            if len(chunk) != length:
                raise _wrong(f"{len(chunk)} bytes of {length}")
            data += chunk
        return data

    def pcrs(self) -> tuple[bytes, ...]:
        """All registers of the SHA-256 bank.

        Raises:
            Unavailable: the TPM does not answer, or has no such bank.
        """
        found: dict[int, bytes] = {}
        while len(found) < PCR_COUNT:
            wanted = [index for index in range(PCR_COUNT) if index not in found]
            answer = _Answer(self._run(_PCR_READ, b"", _selection(wanted)))
            answer.take(4)
            if answer.take(7) != _word(1, 4) + _word(_SHA256, 2) + b"\x03":
                raise _wrong("another bank")
            bits = int.from_bytes(answer.take(3), "little")
            given = [index for index in range(PCR_COUNT) if bits >> index & 1]
            if not given or not set(given) <= set(wanted) or answer.number(4) != len(given):
                raise _wrong(f"registers {given}")
            for index in given:
                found[index] = answer.buffer()
                if len(found[index]) != PCR_SIZE:
                    raise _wrong(f"a register of {len(found[index])} bytes")
        return tuple(found[index] for index in range(PCR_COUNT))

    def quote(self, key: int, nonce: bytes) -> tuple[bytes, bytes]:
        """A quote of all registers by the key at a handle: what is signed, and the signature.

        Raises:
            Misuse: there is no such key.
            Unavailable: the TPM does not answer.
        """
        scheme = _word(_RSASSA, 2) + _word(_SHA256, 2)
        parameters = _word(len(nonce), 2) + nonce + scheme + _selection(list(range(PCR_COUNT)))
        answer = _Answer(self._run(_QUOTE, _word(key, 4), parameters, missing=key, signs=True))
        message = answer.buffer()
        if answer.take(4) != scheme:
            raise _wrong("another kind of signature")
        return message, answer.buffer()

    def _run(
        self,
        code: int,
        handles: bytes,
        parameters: bytes = b"",
        *,
        missing: int | None = None,
        signs: bool = False,
    ) -> bytes:
        """Send a command, and return the parameters of its answer."""
        authorised = signs or code == _NV_READ
        tag = _word(_SESSIONS if authorised else _NO_SESSIONS, 2)
        body = handles + (_AUTHORISATION if authorised else b"") + parameters
        command = tag + _word(_HEADER_SIZE + len(body), 4) + _word(code, 4) + body

        def exchange() -> bytes:
            answer = self.exchange(command)
            if int.from_bytes(answer[6:10], "big") in _BUSY:
                raise OSError(errno.EBUSY, "the TPM is busy")
            return answer

        answer = patiently("TPM", exchange)
        result = _Answer(answer)
        answered, size, error = result.take(2), result.number(4), result.number(4)
        if size != len(answer):
            raise _wrong(f"{len(answer)} bytes of {size}")
        if error == _NO_HANDLE and missing is not None:
            raise Misuse(
                "this machine gives no evidence",
                field="TPM",
                found="nothing",
                expected=f"a handle {missing:#010x}",
            )
        if error:
            raise _wrong(f"error {error:#x}")
        if answered != tag:
            raise _wrong(f"tag {answered.hex()}")
        return result.take(result.number(4)) if authorised else result.rest()


class _Answer:
    """Reads an answer, from its start."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, size: int) -> bytes:
        if len(self._data) < size:
            raise _wrong("an answer that ends too early")
        value, self._data = self._data[:size], self._data[size:]
        return value

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def buffer(self) -> bytes:
        return self.take(self.number(2))

    def rest(self) -> bytes:
        return self._data


def _selection(indexes: list[int]) -> bytes:
    bits = sum(1 << index for index in indexes)
    return _word(1, 4) + _word(_SHA256, 2) + b"\x03" + bits.to_bytes(3, "little")


def _word(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def _wrong(found: str) -> Unavailable:
    return Unavailable("the TPM gives no evidence", field="TPM", found=found)

"""The TPM's commands against an emulator, swtpm, which is a TPM in all but hardware."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from garrison.attesters._tpm import Tpm
from garrison.errors import Misuse
from garrison.formats.tpm import PCR_COUNT, Quote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INDEX, KEY = 0x01400001, 0x81000003
BLOB = bytes(index % 253 for index in range(2000))
SWTPM = os.environ.get("GARRISON_SWTPM") or shutil.which("swtpm")

pytestmark = pytest.mark.skipif(SWTPM is None, reason="needs swtpm")


def _word(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def _sized(data: bytes) -> bytes:
    return _word(len(data), 2) + data


class _Emulator:
    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream

    def exchange(self, command: bytes) -> bytes:
        self._stream.sendall(command)
        answer = b""
        while len(answer) < 10 or len(answer) < int.from_bytes(answer[2:6], "big"):
            answer += self._stream.recv(4096)
        return answer

    def owner(self, code: int, handles: bytes, parameters: bytes) -> bytes:
        """A command with the empty password, which must succeed."""
        body = handles + bytes.fromhex("00000009400000090000000000") + parameters
        answer = self.exchange(_word(0x8002, 2) + _word(10 + len(body), 4) + _word(code, 4) + body)
        assert answer[6:10] == bytes(4), answer.hex()
        return answer


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[Tpm]:
    assert SWTPM is not None
    path = tmp_path / "tpm"
    process = subprocess.Popen(
        [
            *(SWTPM, "socket", "--tpm2", "--tpmstate", f"dir={tmp_path}"),
            *("--server", f"type=unixio,path={path}", "--flags", "not-need-init,startup-clear"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(20)
            # The socket is there a moment before it is listened at.
            while stream.connect_ex(str(path)) != 0:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            emulator = _Emulator(stream)
            owner = _word(0x40000001, 4)
            # A restricted signing key of RSA, as a paravisor has it, and its index.
            public = bytes.fromhex("0001000b00050072000000100014000b0800000000000000")
            made = emulator.owner(
                0x131, owner, _sized(bytes(4)) + _sized(public) + bytes(2) + bytes(4)
            )
            emulator.owner(0x120, owner + made[10:14], _word(KEY, 4))
            index = _word(INDEX, 4) + bytes.fromhex("000b000600060000") + _word(len(BLOB), 2)
            emulator.owner(0x12A, owner, bytes(2) + _sized(index))
            for start in range(0, len(BLOB), 500):
                content = _sized(BLOB[start : start + 500]) + _word(start, 2)
                emulator.owner(0x137, owner + _word(INDEX, 4), content)
            yield Tpm(emulator.exchange)
    finally:
        process.terminate()
        process.wait(10)


def test_an_emulator_understands_every_command(tpm: Tpm) -> None:
    assert tpm.nv_read(INDEX) == BLOB
    message, signature = tpm.quote(KEY, b"n" * 48)
    registers = tpm.pcrs()
    quote = Quote.from_bytes(message)
    assert quote.extra_data == b"n" * 48
    assert quote.selection == tuple(range(PCR_COUNT))
    assert quote.digest == hashlib.sha256(b"".join(registers)).digest()
    assert len(signature) == 256
    with pytest.raises(Misuse, match="expected a handle 0x01400002"):
        tpm.nv_read(INDEX + 1)
    with pytest.raises(Misuse, match="expected a handle 0x81000009"):
        tpm.quote(0x81000009, b"n")

"""A TPM's quote of its platform configuration registers (PCRs).

Trusted Computing Group, TPM 2.0 Library, Part 2: Structures: TPMS_ATTEST (10.12.12) with
TPMS_QUOTE_INFO (10.12.4), big-endian. Only a quote of PCRs of the SHA-256 bank is read.
"""

from __future__ import annotations

from dataclasses import dataclass

from garrison.errors import Malformed
from garrison.formats._cursor import Cursor

# TPM_GENERATED_VALUE: a TPM puts it in front of what it made itself, and signs nothing of others
# that begins so with a restricted key (Part 2, 6.2).
_MAGIC = bytes.fromhex("ff544347")
# TPM_ST_ATTEST_QUOTE (Part 2, 6.9) and TPM_ALG_SHA256 (6.3).
_QUOTE = 0x8018
_SHA256 = 0x000B

PCR_COUNT = 24
PCR_SIZE = 32
# Part 2, 10.4.3, TPM2B_DATA: a hash and its algorithm, of SHA-512 at most.
MAX_EXTRA_DATA = 66
# Part 2, 10.5.3, TPM2B_NAME: the same.
_MAX_NAME = 66
# All of the above, and the fields of fixed size.
MAX_QUOTE = 512


@dataclass(frozen=True, slots=True)
class Quote:
    """What a TPM signed.

    Attributes:
        signer: the qualified name of the key that signed it.
        extra_data: what the caller asked to have in it.
        clock: the TPM's time, in milliseconds.
        reset_count: how often it was reset.
        restart_count: how often it was restarted since.
        safe: whether the clock never went back.
        firmware_version: as the vendor numbers it.
        selection: which PCRs are quoted, in ascending order.
        digest: SHA-256 of their values, one after the other.
    """

    signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    selection: tuple[int, ...]
    digest: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Quote:
        """Read a quote.

        Raises:
            Malformed: it is anything else.
        """
        if len(data) > MAX_QUOTE:
            raise _malformed("size", len(data), f"at most {MAX_QUOTE} bytes")
        cursor = Cursor(data, _WHAT)
        _constant(cursor, 4, "magic", int.from_bytes(_MAGIC, "big"))
        _constant(cursor, 2, "type", _QUOTE)
        signer = _buffer(cursor, "qualifiedSigner", _MAX_NAME)
        extra_data = _buffer(cursor, "extraData", MAX_EXTRA_DATA)
        clock = _integer(cursor, 8, "clock")
        reset_count = _integer(cursor, 4, "resetCount")
        restart_count = _integer(cursor, 4, "restartCount")
        safe = _integer(cursor, 1, "safe")
        if safe > 1:
            raise _malformed("safe", safe, "0 or 1")
        firmware_version = _integer(cursor, 8, "firmwareVersion")
        _constant(cursor, 4, "pcrSelect: count", 1)
        _constant(cursor, 2, "pcrSelect: hash", _SHA256)
        _constant(cursor, 1, "pcrSelect: sizeofSelect", PCR_COUNT // 8)
        bits = int.from_bytes(cursor.take(PCR_COUNT // 8, "pcrSelect"), "little")
        digest = _buffer(cursor, "pcrDigest", PCR_SIZE)
        if len(digest) != PCR_SIZE:
            raise _malformed("pcrDigest", f"{len(digest)} bytes", PCR_SIZE)
        cursor.end()
        return cls(
            signer=signer,
            extra_data=extra_data,
            clock=clock,
            reset_count=reset_count,
            restart_count=restart_count,
            safe=bool(safe),
            firmware_version=firmware_version,
            selection=tuple(index for index in range(PCR_COUNT) if bits >> index & 1),
            digest=digest,
        )

    def to_bytes(self) -> bytes:
        """Write the quote."""
        bits = sum(1 << index for index in self.selection)
        return b"".join(
            (
                _MAGIC,
                _QUOTE.to_bytes(2, "big"),
                _sized(self.signer),
                _sized(self.extra_data),
                self.clock.to_bytes(8, "big"),
                self.reset_count.to_bytes(4, "big"),
                self.restart_count.to_bytes(4, "big"),
                bytes((self.safe,)),
                self.firmware_version.to_bytes(8, "big"),
                (1).to_bytes(4, "big"),
                _SHA256.to_bytes(2, "big"),
                bytes((PCR_COUNT // 8,)),
                bits.to_bytes(PCR_COUNT // 8, "little"),
                _sized(self.digest),
            )
        )


_WHAT = "TPM quote"


def _integer(cursor: Cursor, size: int, field: str) -> int:
    return int.from_bytes(cursor.take(size, field), "big")


def _constant(cursor: Cursor, size: int, field: str, expected: int) -> None:
    found = _integer(cursor, size, field)
    if found != expected:
        raise _malformed(field, hex(found), hex(expected))


def _buffer(cursor: Cursor, field: str, most: int) -> bytes:
    size = _integer(cursor, 2, field)
    if size > most:
        raise _malformed(field, f"{size} bytes", f"at most {most}")
    return cursor.take(size, field)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _malformed(field: str, found: object, expected: object) -> Malformed:
    return Malformed("not a quote", field=f"{_WHAT}: {field}", found=found, expected=expected)

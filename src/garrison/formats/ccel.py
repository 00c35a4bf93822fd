"""The log of what a TD's firmware measured at boot (CCEL), and the registers that it leads to.

TCG, "PC Client Platform Firmware Profile", revision 1.06, section 10 (the crypto agile log), as
Intel document 344991 uses it: registers 1 to 4 of the log are RTMR0 to RTMR3. The log is the
guest's word: what it says is worth as much as a quote whose registers it leads to.

It refuses logs without their first event, events with anything but one SHA-384 digest, registers
beyond the fourth, and events that leave the log.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from garrison.errors import Malformed

RTMRS = 4
_SHA384 = 0x000C
_DIGEST = 48
_NO_ACTION = 3
_SIGNATURE = b"Spec ID Event03\0"
# Firmware gives the log 64 KiB to 1 MiB.
MAX_LOG = 4 << 20


@dataclass(frozen=True, slots=True)
class CcelEvent:
    """Something that was measured: the register (0 to 3; None: none), its kind, its digest."""

    rtmr: int | None
    kind: int
    digest: bytes
    data: bytes


def read_log(log: bytes) -> tuple[CcelEvent, ...]:
    """Read the events after the first; space that was not used follows the last.

    Raises:
        Malformed: it is not such a log.
    """
    if len(log) > MAX_LOG:
        raise _bad("size", f"{len(log)} bytes", f"at most {MAX_LOG}")
    size = _number(log, 28)
    if _number(log, 4) != _NO_ACTION or log[32 : 32 + len(_SIGNATURE)] != _SIGNATURE:
        raise _bad("first event", log[32:48].hex() or "nothing", _SIGNATURE.hex())
    offset = 32 + size
    if offset > len(log):
        raise _bad("first event", f"{size} bytes", f"at most {len(log) - 32}")
    events = []
    while offset + 8 <= len(log) and log[offset : offset + 8] not in (bytes(8), b"\xff" * 8):
        register, kind = _number(log, offset), _number(log, offset + 4)
        if register > RTMRS or (register == 0 and kind != _NO_ACTION):
            raise _bad("register", str(register), f"1 to {RTMRS}")
        # One digest, of SHA-384: a log with more could say two things.
        head = log[offset + 8 : offset + 14]
        if head != (1).to_bytes(4, "little") + _SHA384.to_bytes(2, "little"):
            raise _bad("digests", head.hex(), "one of SHA-384")
        digest = log[offset + 14 : offset + 14 + _DIGEST]
        length = _number(log, offset + 14 + _DIGEST)
        start = offset + 18 + _DIGEST
        data = log[start : start + length]
        if len(data) != length:
            raise _bad("event", f"{len(data)} bytes", f"{length} bytes")
        measured = None if register == 0 or kind == _NO_ACTION else register - 1
        events.append(CcelEvent(measured, kind, digest, data))
        offset = start + length
    return tuple(events)


def replay(events: tuple[CcelEvent, ...]) -> tuple[bytes, ...]:
    """The four registers that the events lead to, from zeros."""
    registers = [bytes(_DIGEST)] * RTMRS
    for event in events:
        if event.rtmr is not None:
            registers[event.rtmr] = extend(registers[event.rtmr], event.digest)
    return tuple(registers)


def extend(register: bytes, digest: bytes) -> bytes:
    """A register after `digest` was folded into it."""
    return hashlib.sha384(register + digest).digest()


def _number(log: bytes, offset: int) -> int:
    value = log[offset : offset + 4]
    if len(value) != 4:
        raise _bad("size", f"{len(log)} bytes", "more")
    return int.from_bytes(value, "little")


def _bad(field: str, found: str, expected: str) -> Malformed:
    return Malformed("cannot be", field=f"event log: {field}", found=found, expected=expected)

"""What was revoked by hand: `revoked.json` in the steward's directory.

    {"revoked": [{"at": "2026-03-01T12:00:00+00:00", "reason": "key-compromise",
                  "serial": "0a0b", "until": "2027-03-01T12:00:00+00:00"}]}

It is written whole or not at all, by `garrison steward revoke`, and read for each answer that
tells of it, so a running steward needs no signal, and replicas share the file. An entry is left
out once the certificate has ended by itself, and dropped with the next one that is added.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from garrison.disk import flush, write_whole
from garrison.errors import Malformed, Misuse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = "revoked.json"
# RFC 5280, 3.3: an entry stays until one list after the certificate's end; lists live for a day.
_AFTER_THE_END = timedelta(days=1)
# RFC 5280, 4.1.2.2: a serial number has at most 20 bytes, and is positive.
_MAX_SERIAL = 1 << 159
# A list of that many entries has 400 KB: more than anybody revokes by hand.
_MAX_ENTRIES = 10_000
_MAX_FILE = 4 << 20


class Reason(StrEnum):
    """Why a certificate is revoked: those of RFC 5280, 5.3.1, that a steward's can have."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key-compromise"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation-of-operation"
    PRIVILEGE_WITHDRAWN = "privilege-withdrawn"


@dataclass(frozen=True, slots=True)
class Revocation:
    """A certificate that is good no longer.

    Attributes:
        serial: its serial number.
        at: since when.
        until: when it would have ended by itself.
        reason: why.
    """

    serial: int
    at: datetime
    until: datetime
    reason: Reason

    def __post_init__(self) -> None:
        if not 0 < self.serial < _MAX_SERIAL:
            raise Malformed("no certificate has it", field="serial", expected="1 to 20 bytes")
        if self.at.tzinfo is None or self.until.tzinfo is None:
            raise Malformed("a time without its offset", field=f"revocation of {self.serial:x}")


def from_bytes(data: bytes, source: str) -> tuple[Revocation, ...]:
    """Read the file.

    Raises:
        Malformed: it is anything else than shown above.
    """
    if len(data) > _MAX_FILE:
        raise Malformed("too long", field=source, expected=f"at most {_MAX_FILE} bytes")
    try:
        document = json.loads(data)
        found = tuple(
            Revocation(
                serial=int(entry.pop("serial"), 16),
                at=datetime.fromisoformat(entry.pop("at")),
                until=datetime.fromisoformat(entry.pop("until")),
                reason=Reason(entry.pop("reason")),
            )
            for entry in document["revoked"]
        )
        same = to_bytes(found) == data
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Malformed("not a list of revocations", field=source) from error
    if not same or len({item.serial for item in found}) != len(found):
        raise Malformed("not as `garrison steward revoke` writes it", field=source)
    return found


def to_bytes(revocations: tuple[Revocation, ...]) -> bytes:
    """Write the file."""
    entries = [
        {
            "at": item.at.isoformat(),
            "reason": item.reason.value,
            "serial": f"{item.serial:x}",
            "until": item.until.isoformat(),
        }
        for item in revocations
    ]
    return json.dumps({"revoked": entries}, indent=1).encode("ascii") + b"\n"


def load(directory: Path, now: datetime) -> tuple[Revocation, ...]:
    """What is revoked in the steward's `directory` at `now`; nothing, if there is no file.

    Raises:
        Misuse: the file cannot be read.
        Malformed: it is damaged.
    """
    return tuple(item for item in _read(directory / FILE) if now <= item.until + _AFTER_THE_END)


def revoke(directory: Path, revocation: Revocation, now: datetime) -> None:
    """Add `revocation`.

    Raises:
        Misuse: it is revoked already, or the file cannot be written.
        Malformed: the file is damaged, or full.
    """
    with _alone(directory):
        before = load(directory, now)
        is_there = any(item.serial == revocation.serial for item in before)
        if not is_there and len(before) >= _MAX_ENTRIES:
            raise Malformed(
                "too many revocations",
                field=str(directory / FILE),
                expected=f"at most {_MAX_ENTRIES}",
                hint="that is a case for `garrison steward rollover`",
            )
        try:
            if not is_there:
                write_whole(directory / FILE, to_bytes((*before, revocation)), 0o644)
            # Who is told that it is there relies on it, and who wrote it may not have waited.
            flush(directory)
        except OSError as error:
            raise Misuse(
                f"cannot be written: {error.strerror}", field=str(directory / FILE)
            ) from error
        if is_there:
            raise Misuse("revoked already", field="serial", found=f"{revocation.serial:x}")


def utc(moment: datetime) -> datetime:
    """`moment` as it is written: whole seconds, UTC."""
    return moment.astimezone(UTC).replace(microsecond=0)


def _read(path: Path) -> tuple[Revocation, ...]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise Misuse(f"cannot be read: {error.strerror}", field=str(path)) from error
    return from_bytes(data, str(path))


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Let no two commands write at once."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Misuse(f"cannot be used: {error.strerror}", field=str(directory)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

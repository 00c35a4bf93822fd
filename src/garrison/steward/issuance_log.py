"""The issuance log: all that a steward ever decided, in a file that shows every change.

One JSON object a line, in its one canonical form (names sorted, no blanks, ASCII), appended and
on the disk before the answer leaves the steward. Each line holds its number, `seq`, and in
`previous` the SHA-256 of the line before it (without its newline; of the first line, 64 zeros).
So a line that was changed, removed, added or moved breaks the chain at a number that `verify`
tells. What a chain alone cannot show is an end cut off, or written anew: whoever wants to see that
too keeps the last hash, which `verify` gives, somewhere else, and has `verify` look for it.

Several processes of one steward share a log: each takes a lock on the file, reads what others have
added, and adds its own line. One flush serves all lines of a process that were written before it
began. A failed write of one ends the issuance of all, and so does a failed flush: the kernel tells
of that once, and what it could not write may have been anybody's.

A start continues the chain, and refuses a file whose chain is broken. A last line without
newline, a write that a loss of power cut short, was never answered: it too is refused, for a
person to look at.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import mmap
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

from garrison.disk import flush
from garrison.errors import Malformed, Misuse, Unavailable, Unverified
from garrison.shared_flushes import SharedFlushes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

_FIRST = "0" * 64
# The bytes of the file on which a process has its lock while it writes, and while it flushes.
_WRITING, _FLUSHING = 0, 1
# A decision has some twenty fields; ten times that is not a line of ours. What a request says, and
# what a policy with many reference values wanted, can be longer: then texts are cut, to the first
# of these lengths that fits. The longest digest has 128 digits.
_MAX_LINE = 64 * 1024
_CUTS = (4096, 1024, 256, 128, 32)
# Of a list; a refusal has some forty reasons at most.
_MAX_ITEMS = 32


@dataclass(frozen=True, slots=True)
class End:
    """How a log ends: number of lines, and SHA-256 of the last in hex (zeros if there is none)."""

    lines: int
    head: str


_START = End(0, _FIRST)


def verify(path: Path, *, expected_head: str | None = None) -> End:
    """Check the chain of the log `path` from its first line to its last.

    Args:
        path: the log.
        expected_head: the head it had at some time; it may have grown since, and no more.

    Raises:
        Misuse: it cannot be read.
        Malformed: a line is none of ours.
        Unverified: the chain is broken, and the error names the line; or no line of it has
            `expected_head`.
    """
    try:
        with path.open("rb") as file:
            lines = iter(lambda: file.readline(_MAX_LINE + 1), b"")
            return _verify(lines, str(path), expected_head)
    except OSError as error:
        raise Misuse(f"cannot be read: {error.strerror}", field=str(path)) from error


class IssuanceLog:
    """The log of one running steward; it holds a lock on the file, so that there is no second.

    Open it before the steward's processes part: they share that lock. Among themselves they take
    another, which the kernel gives back when one is killed.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`, or make it, and check what it holds.

        Raises:
            Misuse: it cannot be opened, or another steward writes to it.
            Malformed: a line is none of ours.
            Unverified: the chain is broken.
        """
        self._path = path
        self._mutex = threading.Lock()
        self._flushed = SharedFlushes(self._flush)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Misuse(f"cannot be opened: {error.strerror}", field=str(path)) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = verify(path)
            self._size = os.fstat(self._file).st_size
            # The name itself must be on the disk before the first line counts.
            flush(path.parent)
        except BlockingIOError as error:
            os.close(self._file)
            raise Misuse(
                "another steward writes to it",
                field=str(path),
                hint="each replica keeps an issuance log of its own",
            ) from error
        except BaseException:
            os.close(self._file)
            raise
        # One byte that all processes see: whether a write failed, in whichever of them.
        self._broken = mmap.mmap(-1, 1)

    def append(self, now: datetime, fields: Mapping[str, object]) -> None:
        """Add one line; when this returns it is on the disk.

        Args:
            now: the time of the decision.
            fields: what there is to know of it: strings, numbers, lists; bytes become hex.

        Raises:
            Unavailable: it could not be written. Nothing is written after that, until a person
                has looked at the file.
        """
        # A POSIX lock is the whole process's: among its threads it takes the mutex.
        with self._mutex, self._locked(_WRITING):
            if self._broken[0]:
                raise self._unavailable("an earlier write failed")
            try:
                self._follow()
                self._add(now, fields)
            except Unavailable:
                self._broken[0] = 1
                raise
        # Meanwhile others write theirs.
        self._flushed(self._file)

    def _flush(self, file: int) -> None:
        with self._locked(_FLUSHING):
            if self._broken[0]:
                raise self._unavailable("an earlier write failed")
            try:
                os.fsync(file)
            except OSError as error:
                self._broken[0] = 1
                raise self._unavailable(error.strerror or str(error)) from error

    @contextmanager
    def _locked(self, byte: int) -> Iterator[None]:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, byte)
        except OSError as error:
            raise self._unavailable(error.strerror or str(error)) from error
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)

    def _follow(self) -> None:
        """Take over the lines that other processes have added."""
        try:
            added = os.fstat(self._file).st_size - self._size
            if added == 0:
                return
            text = os.pread(self._file, added, self._size) if added > 0 else b""
        except OSError as error:
            raise self._unavailable(error.strerror or str(error)) from error
        if added < 0:
            raise self._unavailable("its end was cut off")
        try:
            lines = iter(io.BytesIO(text).readline, b"")
            self._end = _verify(lines, str(self._path), None, self._end)
        except (Malformed, Unverified) as error:
            raise self._unavailable(str(error)) from error
        self._size += len(text)

    def _add(self, now: datetime, fields: Mapping[str, object]) -> None:
        line = _fitting(
            {name: _plain(value) for name, value in fields.items()},
            {
                "seq": self._end.lines,
                "previous": self._end.head,
                "time": now.astimezone(UTC).isoformat(),
            },
        )
        try:
            written = os.write(self._file, line + b"\n")
        except OSError as error:
            raise self._unavailable(error.strerror or str(error)) from error
        if written != len(line) + 1:
            raise self._unavailable("the line was cut short")
        self._end = End(self._end.lines + 1, hashlib.sha256(line).hexdigest())
        self._size += written

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)
        self._broken.close()

    def _unavailable(self, why: str) -> Unavailable:
        return Unavailable(
            f"cannot be written: {why}",
            field="issuance log",
            hint="nothing is issued without a record: mend the log and restart the steward",
        )


def _verify(lines: Iterator[bytes], name: str, expected_head: str | None, end: End = _START) -> End:
    seen = expected_head in (None, end.head)
    for number, line in enumerate(lines, end.lines + 1):
        where = f"{name}:{number}"
        if not line.endswith(b"\n"):
            raise Malformed("cut short, or too long", field=where, expected="a whole line")
        content = line[:-1]
        entry = _decode(content, where)
        if (entry.get("seq"), entry.get("previous")) != (end.lines, end.head):
            raise Unverified(
                "the chain is broken: this line, or the one before it, was changed, moved,"
                " added or removed",
                field=where,
                found=f"seq {entry.get('seq')}, previous {entry.get('previous')}",
                expected=f"seq {end.lines}, previous {end.head}",
            )
        end = End(number, hashlib.sha256(content).hexdigest())
        seen = seen or end.head == expected_head
    if not seen:
        raise Unverified(
            "its end was cut off, or written anew: the head that it had is in no line",
            field=name,
            found=f"{end.lines} lines up to {end.head}",
            expected=expected_head,
        )
    return end


def _decode(content: bytes, where: str) -> dict[str, object]:
    try:
        entry = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON", field=where) from error
    if not isinstance(entry, dict) or _encode(entry) != content:
        raise Malformed("not a line of an issuance log", field=where)
    return entry


def _encode(entry: Mapping[str, object]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _fitting(fields: Mapping[str, object], ours: Mapping[str, object]) -> bytes:
    """The line with these fields, of which texts are cut as far as they must be.

    A line that is too long would never be read again: whoever can have one written, by a request of
    a hundred kilobytes, would keep the steward from ever starting.
    """
    line = _encode({**fields, **ours})
    for limit in _CUTS:
        if len(line) < _MAX_LINE:
            break
        cut = {name: _cut(value, limit) for name, value in fields.items()}
        line = _encode({**cut, **ours})
    return line


def _cut(value: object, limit: int) -> object:
    if isinstance(value, str) and len(value) > limit:
        return f"{value[:limit]}... ({len(value)} characters)"
    if isinstance(value, list):
        more = [f"... ({len(value)} of them)"] if len(value) > _MAX_ITEMS else []
        return [_cut(item, limit) for item in value[:_MAX_ITEMS]] + more
    if isinstance(value, dict):
        return {name: _cut(item, limit) for name, item in value.items()}
    return value


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return (
        {key: _plain(item) for key, item in value.items()}
        if isinstance(value, dict)
        else str(value)
    )

"""A directory of fetched documents: what a steward need not ask its vendors for again.

One file for each document, named by kind and URL, that appears whole or not at all; any number
of processes may share the directory. A file that is damaged counts as absent. Nothing here is
trusted more than the vendor's own server: the verifier judges what comes out.

    <SHA-256 of all that follows, hex> LF
    {"chain": ..., "fetched": ..., "kind": ..., "url": ...} LF      ; JSON, ASCII, sorted keys
    the document

Beside the documents, `pace-*` tells when a vendor may be asked again, and `lock-*` which are
being fetched. It refuses a directory that others may write to.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from garrison.disk import TEMPORARY, flush, write_whole
from garrison.endorsements.resource import MAX_CHAIN, Document, Kind, inspect
from garrison.errors import Malformed, Misuse
from garrison.formats._der import check_size
from garrison.formats.dcap_collateral import MAX_JSON

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from garrison.endorsements.resource import Dates

# A document, its signer's chain escaped as JSON, and names.
MAX_ENTRY = MAX_JSON + 2 * MAX_CHAIN + 4096
# Chips and TCB versions are named by evidence, which anyone may send: this bounds the disk. The
# oldest of a kind gives way, so that chips never drive out revocation lists.
MAX_OF_A_KIND = 4096
_MAX_PACE = 256
# What is kept in memory: documents of some dozens of platforms.
_MAX_KEPT = 256
_MODE = 0o700
_LOCK_POLL = 0.05
# A temporary file this old is of a process that is gone.
_ABANDONED_SECONDS = 3600
# What reading arbitrary JSON as an entry may end with.
_UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
)


# Without slots: its dates are read once.
@dataclass(frozen=True)
class Entry:
    """A document, where it is from, and when it was fetched."""

    url: str
    kind: Kind
    fetched: datetime
    document: Document

    @property
    def name(self) -> str:
        """The name of its file."""
        return entry_name(self.kind, self.url)

    def dates(self) -> Dates:
        """The document's own dates.

        Raises:
            Malformed: the document is not of its kind.
        """
        return self._dates

    @cached_property
    def _dates(self) -> Dates:
        return inspect(self.kind, self.document, self.url)

    @classmethod
    def from_bytes(cls, data: bytes) -> Entry:
        """Read a file of the cache.

        Raises:
            Malformed: it is damaged, or not exactly as `to_bytes` writes it.
        """
        check_size(data, MAX_ENTRY, "cached document")
        _, _, rest = data.partition(b"\n")
        head, _, body = rest.partition(b"\n")
        try:
            values: dict[str, Any] = json.loads(head)
            entry = cls(
                url=str(values["url"]),
                kind=Kind(values["kind"]),
                fetched=datetime.fromisoformat(values["fetched"]).astimezone(UTC),
                document=Document(body, values["chain"].encode("ascii")),
            )
            same = entry.to_bytes() == data
        except _UNREADABLE as error:
            raise Malformed("not a cached document", field="cached document") from error
        if not same or not (entry.url.isascii() and entry.url.isprintable()):
            raise Malformed("damaged", field="cached document", found=repr(entry.url))
        entry.dates()
        return entry

    def to_bytes(self) -> bytes:
        """Write a file of the cache."""
        head = {
            "chain": self.document.issuer_chain.decode("ascii"),
            "fetched": self.fetched.isoformat(),
            "kind": self.kind.value,
            "url": self.url,
        }
        rest = json.dumps(head, sort_keys=True).encode("ascii") + b"\n" + self.document.body
        return hashlib.sha256(rest).hexdigest().encode("ascii") + b"\n" + rest


@lru_cache(_MAX_KEPT)
def entry_name(kind: Kind, url: str) -> str:
    """The name of the file of the document at `url`."""
    return f"{kind}-{hashlib.sha256(url.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Pause:
    """A vendor's server that must be left alone.

    Attributes:
        failures: how often it failed in a row.
        until: when it may be asked again.
    """

    failures: int
    until: datetime


class Cache:
    """The cache in one directory."""

    def __init__(self, directory: Path) -> None:
        """Open it; make it if it is not there.

        Raises:
            Misuse: it cannot be made, or others may write to it.
        """
        self.directory = directory
        self._path = str(directory)
        # What was read last, by name, with what tells that its file is still the same.
        self._kept: dict[str, tuple[tuple[int, int, int], Entry]] = {}
        try:
            directory.mkdir(mode=_MODE, parents=True, exist_ok=True)
            status = directory.stat()
            self._remove_abandoned()
        except OSError as error:
            raise Misuse(
                f"cannot be used as a cache: {error.strerror}", field=str(directory)
            ) from error
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
            raise Misuse(
                "others may write to the cache",
                field=str(directory),
                found=f"owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):o}",
                expected=f"owner {os.geteuid()}, mode {_MODE:o}",
            )

    def read(self, kind: Kind, url: str) -> Entry | None:
        """The document at `url`; None if it is not here, or damaged."""
        name = entry_name(kind, url)
        # Before it is read: a file that is replaced meanwhile is read again the next time.
        state = self._state(name)
        kept, entry = self._kept.get(name), None
        if kept is not None and kept[0] == state:
            entry = kept[1]
        else:
            data = self._read(name, MAX_ENTRY)
            with contextlib.suppress(Malformed):  # damaged: as if it were not there
                entry = None if data is None else Entry.from_bytes(data)
            self._keep(name, state, entry)
        return entry if entry is not None and (entry.kind, entry.url) == (kind, url) else None

    def write(self, entry: Entry) -> None:
        """Keep `entry`.

        Raises:
            OSError: the disk is full, or the like; nothing has changed.
        """
        self._write(entry.name, entry.to_bytes())
        self._evict(entry.kind)

    def entries(self) -> list[Entry]:
        """All documents, by name; damaged ones are left out."""
        found = []
        for kind in Kind:
            for path in self.directory.glob(f"{kind}-*"):
                data = self._read(path.name, MAX_ENTRY)
                with contextlib.suppress(Malformed):  # damaged: as if it were not there
                    if data is not None:
                        found.append(Entry.from_bytes(data))
        return sorted(found, key=lambda entry: entry.name)

    def pause(self, server: str) -> Pause | None:
        """Until when `server` must be left alone, if at all."""
        data = self._read(_pace_name(server), _MAX_PACE)
        try:
            values = json.loads(data or b"")
            return Pause(int(values["failures"]), datetime.fromtimestamp(values["until"], UTC))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, OSError):
            # Damaged counts as absent: the next refusal writes it anew.
            return None

    def set_pause(self, server: str, pause: Pause | None) -> None:
        """Keep until when `server` must be left alone; None: it need not be.

        Raises:
            OSError: the disk is full, or the like.
        """
        name = _pace_name(server)
        if pause is None:
            (self.directory / name).unlink(missing_ok=True)
            return
        values = {"failures": pause.failures, "until": pause.until.timestamp()}
        self._write(name, json.dumps(values).encode("ascii"))

    @contextlib.contextmanager
    def locked(self, kind: Kind, url: str, seconds: float) -> Iterator[bool]:
        """Keep other processes from fetching `url` meanwhile.

        Args:
            kind: what it is.
            url: whose lock.
            seconds: how long to wait for it.

        Yields:
            Whether the lock was had in that time.

        Raises:
            OSError: the lock file cannot be made.
        """
        # A few files for all URLs: two that share one only wait for each other. Chips have files of
        # their own, for anybody may name some: nothing else waits for those.
        digest = entry_name(kind, url).rpartition("-")[2]
        path = self.directory / f"lock-{'chips-' if kind is Kind.VEK else ''}{digest[:2]}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield _lock(descriptor, time.monotonic() + seconds)
        finally:
            os.close(descriptor)

    def _state(self, name: str) -> tuple[int, int, int] | None:
        """What changes with the file: it is only ever replaced; None if it is not there."""
        try:
            # Not through `pathlib`, which costs more than the call: this is done for every request.
            status = os.stat(f"{self._path}/{name}")  # noqa: PTH116 - see above
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _keep(self, name: str, state: tuple[int, int, int] | None, entry: Entry | None) -> None:
        if state is None or entry is None:
            self._kept.pop(name, None)
            return
        self._kept[name] = state, entry
        if len(self._kept) > _MAX_KEPT:
            # Another thread may have been quicker; it is only a memory.
            with contextlib.suppress(StopIteration, KeyError, RuntimeError):
                del self._kept[next(iter(self._kept))]

    def _read(self, name: str, limit: int) -> bytes | None:
        try:
            with (self.directory / name).open("rb") as file:
                data = file.read(limit + 1)
        except OSError:
            # Absent, or not to be read: then the vendor is asked.
            return None
        return data if len(data) <= limit else None

    def _write(self, name: str, data: bytes) -> None:
        write_whole(self.directory / name, data)
        flush(self.directory)

    def _evict(self, kind: Kind) -> None:
        """Remove the oldest of a kind of which there are too many."""
        paths = list(self.directory.glob(f"{kind}-*"))
        excess = len(paths) - MAX_OF_A_KIND
        if excess > 0:
            for path in sorted(paths, key=_modified)[:excess]:
                path.unlink(missing_ok=True)

    def _remove_abandoned(self) -> None:
        for path in self.directory.glob(f"{TEMPORARY}*"):
            if _modified(path) < time.time() - _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)


def _pace_name(server: str) -> str:
    return f"pace-{hashlib.sha256(server.encode()).hexdigest()}"


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        # Another process was quicker.
        return 0.0


def _lock(descriptor: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOCK_POLL)
        else:
            return True

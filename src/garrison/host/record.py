"""A keep on a host's disk: what outlives the agent.

A directory for each keep, below `keeps/`, named by the keep's id:

    spec.json     what the tenant asked for (`garrison.host.spec`)
    owner.json    whose it is, and since when
    state.json    how it is, replaced as a whole by its shim (`garrison.host.shim`)
    log, log.1    what it printed: a line of JSON each, the older half beside it
    control       the shim's socket; it is there as long as the shim is
    shim.log      what the shim itself has to say
    tmp/          what the keep left behind, of its last run

All of it is the agent's user's alone. An id is 128 random bits: it is not a secret, and no name of
a file ever comes from a tenant.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from garrison.disk import flush, make_folder, write_whole
from garrison.errors import Malformed, Rejected, Unavailable
from garrison.host.spec import KeepSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

Phase = Literal["starting", "running", "waiting", "ended"]

_ID = re.compile(r"[0-9a-f]{32}")


class NotFound(Rejected):
    """There is no such keep, or it is another tenant's: HTTP 404."""


@dataclass(frozen=True, slots=True)
class State:
    """How a keep is.

    Attributes:
        phase: `starting`, `running`, `waiting` (to be started again) or `ended`.
        shim: the number of the process that looks after it.
        pid: the number of its process; None if there is none now.
        restarts: how often it was started again.
        exit_code: that of the last time it ended; 128 + n after a signal n.
        stopped: whether somebody asked for its end.
    """

    phase: Phase
    shim: int
    pid: int | None = None
    restarts: int = 0
    exit_code: int | None = None
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """A keep's directory."""

    path: Path

    @property
    def id(self) -> str:
        """What the keep is called."""
        return self.path.name

    @property
    def control(self) -> Path:
        """The shim's socket."""
        return self.path / "control"

    @property
    def log(self) -> Path:
        """The newer part of what it printed."""
        return self.path / "log"

    def spec(self) -> KeepSpec:
        """What was asked for."""
        with self._whole("spec.json") as data:
            return KeepSpec.from_json(data)

    def owner(self) -> tuple[str, str]:
        """The tenant, and when the keep was made (RFC 3339)."""
        with self._whole("owner.json") as data:
            fields = json.loads(data)
            return fields["tenant"], fields["created"]

    def _written(self) -> State:
        try:
            with self._whole("state.json") as data:
                return State(**json.loads(data))
        except FileNotFoundError:
            return State("starting", 0)

    @contextlib.contextmanager
    def _whole(self, name: str) -> Iterator[bytes]:
        """Read one of its files; what is not as we write it is the host's to mend.

        Raises:
            FileNotFoundError: it is not there, or forgotten.
            Unavailable: it is damaged.
        """
        data = (self.path / name).read_bytes()
        try:
            yield data
        except (ValueError, KeyError, TypeError, Malformed) as error:
            raise Unavailable(
                "the host's record of a keep is damaged",
                field=f"keeps/{self.id}/{name}",
                found=f"{len(data)} bytes",
                hint=f"move {self.id} out of keeps/: it is nobody's then, and the others go on",
            ) from error

    def lost(self) -> bool:
        """Whether its shim ended without an end of the keep: the machine did, or was full."""
        state = self._written()
        return state.phase not in {"starting", "ended"} and self.state().phase == "ended"

    def unstarted(self) -> bool:
        """Whether no shim ever looked after it: who made it ended before, and told nobody."""
        return self._written().phase == "starting" and not any(
            _alive(int(path.name), self.path) for path in Path("/proc").glob("[0-9]*")
        )

    def state(self) -> State:
        """How it is; one whose shim is gone has ended, however that came."""
        state = self._written()
        if state.phase not in {"starting", "ended"} and not _alive(state.shim, self.path):
            return State("ended", state.shim, None, state.restarts, state.exit_code, state.stopped)
        return state

    def write_state(self, state: State) -> None:
        """Replace what is known of it."""
        _write(self.path / "state.json", asdict(state))
        flush(self.path)

    def settled(self) -> State:
        """How its shim wrote last that it is, once that is on the disk: to be told to a tenant.

        Raises:
            FileNotFoundError: it is forgotten.
            Unavailable: the host's disk does not take it.
        """
        state = self._written()
        with _on_disk("write down how a keep is"):
            # What can be read may have its name since this moment.
            flush(self.path)
        return state

    def size(self) -> int:
        """What it takes of the disk now, in bytes."""
        total = 0
        for path in (self.path, *self.path.rglob("*")):
            try:
                # stat(2): blocks of 512 bytes, whatever the file system's are.
                total += path.lstat().st_blocks * 512
            except FileNotFoundError:
                # Replaced, or forgotten, meanwhile.
                continue
        return total

    def keeper_said(self) -> str:
        """The last line of what its shim had to say; empty if it said nothing."""
        try:
            lines = (self.path / "shim.log").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return lines[-1] if lines else ""

    def remove(self) -> None:
        """Forget it: at once for whoever looks, also if this process is ended half-way.

        Raises:
            Unavailable: the host's disk does not take it.
        """
        going, is_ours = self.path.with_name(f".{self.id}"), True
        with _on_disk("forget a keep"):
            try:
                self.path.rename(going)
            except FileNotFoundError:
                # Another may have done so this moment.
                is_ours = False
            # Else it is there again, and started, when the machine has lost its power.
            flush(going.parent)
            if is_ours:
                shutil.rmtree(going)


class Records:
    """All keeps of a host."""

    def __init__(self, directory: Path) -> None:
        self._keeps = directory / "keeps"
        make_folder(self._keeps)

    def __iter__(self) -> Iterator[Record]:
        """Every keep, the oldest first; what has no owner is forgotten, or half forgotten."""
        found = []
        for path in self._keeps.iterdir():
            if _ID.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):
                    found.append((Record(path).owner()[1], path.name))
        return iter([Record(self._keeps / name) for _, name in sorted(found)])

    def sweep(self) -> None:
        """Remove what an agent that was ended meanwhile had made, or forgotten, by half.

        Raises:
            OSError: it cannot be removed.
        """
        for path in self._keeps.glob(".*"):
            if _ID.fullmatch(path.name[1:]):
                shutil.rmtree(path)

    def make(self, spec: KeepSpec, tenant: str, created: str) -> Record:
        """Write down a new keep: wholly there, or not at all.

        Raises:
            Unavailable: the host's disk takes no more.
        """
        name = secrets.token_hex(16)
        making, made = self._keeps / f".{name}", self._keeps / name
        try:
            making.mkdir(mode=0o700)
            _write(making / "owner.json", {"tenant": tenant, "created": created})
            _write(making / "spec.json", json.loads(spec.to_json()))
            flush(making)
            making.rename(made)
            flush(self._keeps)
        except OSError as error:
            for path in (making, made):
                shutil.rmtree(path, ignore_errors=True)
            raise Unavailable(
                f"the host cannot write down a keep: {error.strerror}", field="host"
            ) from error
        return Record(made)

    def of(self, name: str, tenant: str) -> Record:
        """The keep `name`, if it is the tenant's.

        Raises:
            Malformed: that is no id.
            NotFound: there is none, or it is another's; which, is not told.
        """
        if _ID.fullmatch(name) is None:
            raise Malformed("not a keep's id", field="keep", found=repr(name[:80]))
        record = Record(self._keeps / name)
        try:
            owner, _ = record.owner()
        except FileNotFoundError:
            owner = None
        if owner != tenant:
            raise NotFound("there is no such keep", field="keep", found=name)
        return record


def _write(path: Path, fields: dict[str, Any]) -> None:
    write_whole(path, json.dumps(fields).encode())


@contextlib.contextmanager
def _on_disk(what: str) -> Iterator[None]:
    """Do `what` on the host's disk, which may be full or broken; what is not there is told as ever.

    Raises:
        FileNotFoundError: as it was raised.
        Unavailable: any other error of the system.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unavailable(f"the host cannot {what}: {error.strerror}", field="host") from error


def _alive(pid: int, directory: Path) -> bool:
    """Whether process `pid` is the shim of that directory, and not another of that number."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123  (a pseudo file)
            return os.fsencode(directory) in file.read().split(b"\0")
    except OSError:
        return False

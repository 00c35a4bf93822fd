"""What an image is made of, to the byte: `inputs.json` beside this file.

Rules: each input has a version, a digest, a size and the reason why a keep needs it. The file is
written by `tools/image_lock.py` and never by hand. Nothing that is not in it goes into an image
but Garrison itself.

It refuses anything unknown, anything missing, and names that are not plain.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from garrison.errors import Malformed

LOCK = Path(__file__).with_name("inputs.json")
FORMAT = 1
#: Some tens of inputs take some ten KiB.
MAX_LOCK = 1 << 20
#: The kernel package, the largest, takes 34 MiB.
MAX_INPUT = 256 << 20

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.:~_-]*")
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.~_%-]*(/[A-Za-z0-9][A-Za-z0-9+.~_%-]*)*")
_SUITE = re.compile(r"[a-z0-9]+")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Input:
    """A package of Debian, or a wheel.

    Attributes:
        name: what its maker calls it.
        version: exactly.
        path: its place below a mirror; of a wheel, its file name.
        sha256: of the file, in hex.
        size: of the file, in bytes.
        why: what a keep needs it for.
    """

    name: str
    version: str
    path: str
    sha256: str
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class Lock:
    """All inputs.

    Attributes:
        suite: Debian's suite that the packages are of.
        source_date_epoch: when the lock was made, which is the time of all that is built from it.
        packages: Debian's.
        wheels: for the Python of that suite.
    """

    suite: str
    source_date_epoch: int
    packages: tuple[Input, ...]
    wheels: tuple[Input, ...]

    @classmethod
    def from_bytes(cls, data: bytes) -> Lock:
        """Read a lock.

        Raises:
            Malformed: it is none.
        """
        if len(data) > MAX_LOCK:
            raise _bad("size", f"{len(data)} bytes", f"at most {MAX_LOCK}")
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _bad("text", error, "JSON") from error
        match document:
            case {
                "format": int(version),
                "suite": str(suite),
                "source_date_epoch": int(epoch),
                "packages": list(packages),
                "wheels": list(wheels),
                **rest,
            } if not rest:
                pass
            case _:
                expected = "an object with format, suite, source_date_epoch, packages, wheels"
                raise _bad("text", type(document).__name__, expected)
        if version != FORMAT:
            raise _bad("format", version, FORMAT)
        if not _SUITE.fullmatch(suite):
            raise _bad("suite", suite, "a suite's name")
        if not 0 <= epoch < 1 << 32:
            raise _bad("source_date_epoch", epoch, "seconds since 1970")
        return cls(suite, epoch, _inputs(packages, "packages"), _inputs(wheels, "wheels"))

    def to_bytes(self) -> bytes:
        """Write the lock, for people to read and to compare."""
        return (json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n").encode()

    @property
    def digest(self) -> str:
        """The SHA-256 of the lock, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def read(path: Path = LOCK) -> Lock:
    """Read the lock of this release, or another.

    Raises:
        Malformed: it is none.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return Lock.from_bytes(file.read(MAX_LOCK + 1))


_FIELDS = {"name": _NAME, "version": _VERSION, "path": _PATH, "sha256": _DIGEST}


def _inputs(items: list[Any], where: str) -> tuple[Input, ...]:
    result = tuple(_input(item, f"{where}[{index}]") for index, item in enumerate(items))
    names = [each.name for each in result]
    if names != sorted(set(names)):
        raise _bad(where, ", ".join(names), "names in order, each once")
    return result


def _input(item: Any, where: str) -> Input:
    if not isinstance(item, dict) or item.keys() != {*_FIELDS, "size", "why"}:
        found = ", ".join(map(str, item)) if isinstance(item, dict) else type(item).__name__
        raise _bad(where, found, f"{', '.join(_FIELDS)}, size, why")
    for field, form in _FIELDS.items():
        if not isinstance(item[field], str) or not form.fullmatch(item[field]):
            raise _bad(f"{where}.{field}", repr(item[field]), form.pattern)
    size, why = item["size"], item["why"]
    if type(size) is not int or not 0 < size <= MAX_INPUT:
        raise _bad(f"{where}.size", size, f"1 to {MAX_INPUT}")
    if not isinstance(why, str) or not why.isprintable() or not why:
        raise _bad(f"{where}.why", repr(why), "a reason")
    return Input(**item)


def _bad(field: str, found: object, expected: object) -> Malformed:
    return Malformed("cannot be", field=f"inputs: {field}", found=found, expected=expected)

"""What fuzzing has found to lead somewhere else: kept with the sources, in one file.

    python fuzz/corpus.py DIRECTORY

puts the inputs of DIRECTORY, as `make fuzz` leaves it, into that file, in place of what it had of
the same targets. Fuzzing begins with them, and the tests read each.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from pathlib import Path

FILE = Path(__file__).parent / "corpus.tar.xz"
# Of one input: what is longer leads nowhere that a shorter one does not.
_MAX_SIZE = 64 * 1024


def kept() -> dict[str, list[bytes]]:
    """The inputs of each target."""
    found: dict[str, list[bytes]] = {}
    with tarfile.open(FILE) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                found.setdefault(member.name.partition("/")[0], []).append(content.read())
    return found


def keep(folder: Path) -> int:
    """Put what is in the directories of `folder`, of which each is a target's, into the file.

    It takes the place of what the file had of these targets; of others that stays.

    Returns:
        How many inputs there are now.
    """
    found = kept() | {
        target.name: [
            path.read_bytes() for path in target.iterdir() if path.stat().st_size <= _MAX_SIZE
        ]
        for target in folder.iterdir()
        if target.is_dir()
    }
    inputs = {
        (target, hashlib.sha256(data).hexdigest()[:16]): data
        for target, contents in found.items()
        for data in contents
    }
    # The same bytes for the same inputs: no times, no owners, one order.
    with tarfile.open(FILE, "w:xz", format=tarfile.USTAR_FORMAT) as archive:
        for (target, digest), data in sorted(inputs.items()):
            member = tarfile.TarInfo(f"{target}/{digest}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return len(inputs)


if __name__ == "__main__":
    print(f"{FILE.name}: {keep(Path(sys.argv[1])):,} inputs")

"""Finds and compiles the Python modules of an image. Run by the image's Python, not by Garrison's.

`python freeze.py` reads from standard input, as JSON: `path`, the folders to look for modules in;
`roots`, the modules to begin with; `without`, those never to follow; `out`, a folder. It writes
each module that an import statement reaches, wherever it stands, compiled, into that folder, and
prints as JSON where each came from.

Rules: the same input gives the same bytes. Modules are compiled in order, by one interpreter whose
hashes are not random, and are never checked against a source.
"""

from __future__ import annotations

import json
import py_compile
import sys
from modulefinder import ModuleFinder
from pathlib import Path

# Where they will lie: what a traceback says.
_PLACE = "/usr/lib/python3.13"


def main() -> None:
    """Do it."""
    sys.dont_write_bytecode = True
    task = json.load(sys.stdin)
    out = Path(task["out"])
    finder = ModuleFinder(task["path"], excludes=task["without"])
    for root in task["roots"]:
        # As a statement would import it: with its parents.
        finder.import_hook(root)
    found = {}
    for name in sorted(finder.modules):
        module = vars(finder.modules[name])
        # Built in and frozen ones have none.
        if module["__file__"] is None:
            continue
        source = Path(module["__file__"])
        path = name.replace(".", "/") + ("/__init__" if module["__path__"] else "")
        if source.suffix == ".py":
            target = f"{path}.pyc"
            py_compile.compile(
                str(source),
                str(out / target),
                f"{_PLACE}/{path}.py",
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        else:
            # The parts of the name that say for which interpreter it is stay.
            target = f"{path.rpartition('/')[0]}/{source.name}".lstrip("/")
            (out / target).parent.mkdir(parents=True, exist_ok=True)
            (out / target).write_bytes(source.read_bytes())
        found[target] = str(source)
    json.dump({"modules": found, "missing": sorted(finder.badmodules)}, sys.stdout)


if __name__ == "__main__":
    main()

"""The modules that the short way to `run` needs, prepared in one file.

To find a module, to see whether what it was compiled to is up to date, and to read that, takes
Python longer than to run it; and a guest's start needs thirty. So `tools/launcher.py` has them put
into one file, in the order in which they run, and the program that it makes loads that. As with
Python's own `.pyc` files, what was compiled counts as long as its source has the time and the size
that it had then; if one has not, all are imported as usual.

Its own code is the beginning of that file, so it imports what is built into Python alone.

    python -IS prepared.py FILE DIRECTORY...
"""

import _frozen_importlib
import _frozen_importlib_external as files
import _imp
import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

    # Name; file, empty for what is built in; the file's time, in nanoseconds, and size; whether
    # it is a package; code, None for a library.
    _Entry = tuple[str, str, int, int, bool, CodeType | None]

# What it has beyond what its stub tells.
machinery: "Any" = _frozen_importlib

# What `garrison run FILE` imports, whatever the guest does; what these import comes with them.
_NEEDED = (
    "garrison.__main__",
    "garrison.keep.bare",
    "garrison.keep.wasi.descriptors",
    "garrison.keep.wasi.process",
)


def load(entries: "tuple[_Entry, ...]") -> bool:
    """Make the modules, or none if a file has changed; say which."""
    for _, path, time, size, _, _ in entries:
        if path and _version(path) != (time, size):
            return False
    for name, path, _, _, package, code in entries:
        if name not in sys.modules:
            _make(name, path, code, package=package)
    return True


def _version(path: str) -> tuple[int, int]:
    try:
        found = posix.stat(path)
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)


def _make(name: str, path: str, code: "CodeType | None", *, package: bool) -> None:
    """Make one module, as importing it does."""
    loader: Any
    module: ModuleType
    if code is not None:
        loader = files.SourceFileLoader(name, path)
        spec = machinery.ModuleSpec(name, loader, origin=path)
        module = type(sys)(name)
    elif path:
        loader = files.ExtensionFileLoader(name, path)
        spec = machinery.ModuleSpec(name, loader, origin=path)
        module = _imp.create_dynamic(spec)
    else:
        loader = machinery.BuiltinImporter
        spec = machinery.ModuleSpec(name, loader, origin="built-in")
        module = _imp.create_builtin(spec)
    parent, _, last = name.rpartition(".")
    module.__spec__ = spec
    module.__loader__ = loader
    module.__package__ = parent
    if path:
        spec.has_location = True
        module.__file__ = path
    if package:
        module.__path__ = spec.submodule_search_locations = [path.rpartition("/")[0]]
        module.__package__ = name
    sys.modules[name] = module
    if code is not None:
        exec(code, module.__dict__)  # noqa: S102  (as importing does)
    elif path:
        _imp.exec_dynamic(module)
    else:
        _imp.exec_builtin(module)
    if parent:
        setattr(sys.modules[parent], last, module)


def write(target: str) -> None:
    """Import what is needed, and write it to `target`; only as the first that a process does."""
    specs: list[Any] = []
    usual = machinery._load_unlocked  # noqa: SLF001  (what every import comes to)

    def noted(spec: "Any") -> "ModuleType":
        module: ModuleType = usual(spec)
        specs.append(spec)
        return module

    machinery._load_unlocked = noted  # noqa: SLF001
    for name in _NEEDED:
        __import__(name)
    machinery._load_unlocked = usual  # noqa: SLF001
    with open(target, "wb") as file:  # noqa: PTH123  (nothing that is not built in)
        file.write(marshal.dumps((_code("garrison.prepared", __file__), tuple(map(_entry, specs)))))


def _entry(spec: "Any") -> "_Entry":
    path = spec.origin if spec.has_location else ""
    code = _code(spec.name, path) if isinstance(spec.loader, files.SourceFileLoader) else None
    return (spec.name, path, *_version(path), spec.submodule_search_locations is not None, code)


def _code(name: str, path: str) -> "CodeType":
    code: CodeType | None = files.SourceFileLoader(name, path).get_code(name)
    assert code is not None  # noqa: S101  (the source is there)
    return code


if __name__ == "__main__":
    sys.path += sys.argv[2:]
    write(sys.argv[1])

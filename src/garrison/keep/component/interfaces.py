"""Which interfaces a keep has, in which versions, and which module serves each package.

Rules: by semantic versioning any release 0.2.x of a WASI interface is as good as another, for what
later ones add is there too; what is not there is refused by `link`, function by function.
"""

from __future__ import annotations

from garrison.errors import Malformed
from garrison.keep.component import types as t
from garrison.keep.component.wit import read_package

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Each package: the module that serves it, and what its versions begin with.
_PACKAGES = {
    "wasi:io": ("streams", "0.2."),
    "wasi:clocks": ("clocks", "0.2."),
    "wasi:random": ("randomness", "0.2."),
    "wasi:cli": ("cli", "0.2."),
    "wasi:filesystem": ("filesystem", "0.2."),
    "wasi:sockets": ("sockets", "0.2."),
    "wasi:http": ("http", "0.2."),
    "garrison:keep": ("keep", "0.1."),
}
# Of what no keep has: the world that would have it, by the package.
_WORLDS = {
    "wasi:keyvalue": "wasi:keyvalue/imports",
    "wasi:config": "wasi:config/imports",
    "wasi:blobstore": "wasi:blobstore/imports",
    "wasi:messaging": "wasi:messaging/imports-request-reply",
    "wasi:nn": "wasi:nn/ml",
    "wasi:tls": "wasi:tls/imports",
    "wasi:logging": "wasi:logging/imports",
}
# What components export, and a keep calls; nobody has it to be imported.
EXPORTED = frozenset(("wasi:cli/run", "wasi:http/incoming-handler"))
_loaded: dict[str, dict[str, t.Interface]] = {}


def find(name: str) -> t.Interface:
    """The interface that an import of that name, with its version, is served by.

    Raises:
        Malformed: no keep has it; the error says which world would.
    """
    # WIT.md: namespace, package and interface, and a version.
    full, _, version = name.partition("@")
    package = full.partition("/")[0]
    known = _PACKAGES.get(package)
    if known is not None and _is_release(version, known[1]):
        interface = _package(package).get(full)
        if interface is not None and full not in EXPORTED:
            return interface
    raise Malformed(
        "the component imports what no keep has",
        field="component",
        found=name,
        expected=", ".join(f"{known}@{start}x" for known, (_, start) in _PACKAGES.items()),
        hint=_hint(full, version, known is not None),
    )


def exported(name: str) -> t.Interface:
    """One of `EXPORTED`, by its name without version."""
    return _package(name.partition("/")[0])[name]


def packages() -> dict[str, str]:
    """The WIT of each package that a keep has, without versions."""
    return {package: _module(package).WIT for package in _PACKAGES}


def known() -> list[t.Interface]:
    """All interfaces that a keep has, each after those whose types it uses."""
    return [interface for package in _PACKAGES for interface in _package(package).values()]


def function(interface: str, name: str) -> Callable[..., Any]:
    """What serves a function of an interface that `find` gave."""
    package, short = interface.split("/")
    kind, bracket, rest = name.rpartition("]")
    if not bracket:
        rest = f"{short}.{rest}"
    elif kind == "[constructor":
        rest += ".new"
    found: Callable[..., Any] = getattr(_module(package), rest.replace("-", "_").replace(".", "_"))
    return found


def _hint(full: str, version: str, known: bool) -> str:
    package = full.partition("/")[0]
    if full in EXPORTED:
        return "components export it; to use another component's, send it requests"
    if version.startswith("0.3."):
        return "WASI 0.3 is not supported: build it for WASI 0.2"
    if known:
        return "build it for a release of WASI 0.2"
    if package in _WORLDS:
        return f"it belongs to the world {_WORLDS[package]}, which a keep does not have"
    return (
        "it belongs to a world of its maker's: build for wasi:cli/command or wasi:http/proxy alone"
    )


def _module(package: str) -> Any:
    name = f"garrison.keep.component.wasi.{_PACKAGES[package][0]}"
    return __import__(name, fromlist=["WIT"])


def _is_release(version: str, start: str) -> bool:
    """Whether a version begins so and has only a number more: no release candidate."""
    number = version.removeprefix(start)
    return number != version and number.isascii() and number.isdigit()


def _package(package: str) -> dict[str, t.Interface]:
    if package in _loaded:
        return _loaded[package]
    found = _loaded[package] = read_package(
        _module(package).WIT, lambda name: _package(name.split("/")[0])[name]
    )
    for interface in found.values():
        for kind in interface.types.values():
            if isinstance(kind, t.Resource):
                kind.drop = _drop
    return found


def _drop(thing: Any) -> None:
    thing.drop()

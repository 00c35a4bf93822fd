"""Which interfaces a keep has, in which versions, and which module serves each package.

Rules: by semantic versioning any release 0.2.x of a WASI interface is as good as another, for what
later ones add is there too; what is not there is refused by `link`, function by function.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from garrison.errors import Malformed
from garrison.keep.component import types as t
from garrison.keep.component.wit import read_package

if TYPE_CHECKING:
    from collections.abc import Callable

# Each package: the module that serves it, and what its versions begin with.
_PACKAGES = {
    "wasi:io": ("streams", "0.2."),
    "wasi:clocks": ("clocks", "0.2."),
    "wasi:random": ("randomness", "0.2."),
    "wasi:cli": ("cli", "0.2."),
    "wasi:filesystem": ("filesystem", "0.2."),
    "wasi:sockets": ("sockets", "0.2."),
    "garrison:keep": ("keep", "0.1."),
}
# Of what no keep has: the world that would have it, by the package.
_WORLDS = {
    "wasi:http": "wasi:http/proxy",
    "wasi:keyvalue": "wasi:keyvalue/imports",
    "wasi:config": "wasi:config/imports",
    "wasi:blobstore": "wasi:blobstore/imports",
    "wasi:messaging": "wasi:messaging/imports-request-reply",
    "wasi:nn": "wasi:nn/ml",
    "wasi:tls": "wasi:tls/imports",
    "wasi:logging": "wasi:logging/imports",
}
# WIT.md: namespace, package and interface, and a version.
_NAME = re.compile(r"([a-z0-9-]+:[a-z0-9-]+)/([a-z0-9-]+)@([0-9]+\.[0-9]+\.[0-9]+[^/]*)")
_RELEASE = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(\+.*)?")


def find(name: str) -> t.Interface:
    """The interface that an import of that name, with its version, is served by.

    Raises:
        Malformed: no keep has it; the error says which world would.
    """
    match = _NAME.fullmatch(name)
    package, short, version = match.groups() if match else (name.partition("/")[0], "", "")
    known = _PACKAGES.get(package)
    if known is not None and version.startswith(known[1]) and _RELEASE.fullmatch(version):
        interface = _package(package).get(f"{package}/{short}")
        if interface is not None:
            return interface
    raise Malformed(
        "the component imports what no keep has",
        field="component",
        found=name,
        expected=", ".join(f"{known}@{start}x" for known, (_, start) in _PACKAGES.items()),
        hint=_hint(package, version, known is not None),
    )


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
    found: Callable[..., Any] = getattr(_module(package), re.sub("[-.]", "_", rest))
    return found


def _hint(package: str, version: str, known: bool) -> str:
    if version.startswith("0.3."):
        return "WASI 0.3 is not supported: build it for WASI 0.2"
    if known:
        return "build it for a release of WASI 0.2"
    if package in _WORLDS:
        return f"it belongs to the world {_WORLDS[package]}, which a keep does not have"
    return "it belongs to a world of its maker's: build for wasi:cli/command alone"


def _module(package: str) -> Any:
    return import_module(f"garrison.keep.component.wasi.{_PACKAGES[package][0]}")


@cache
def _package(package: str) -> dict[str, t.Interface]:
    found = read_package(_module(package).WIT, lambda name: _package(name.split("/")[0])[name])
    for interface in found.values():
        for kind in interface.types.values():
            if isinstance(kind, t.Resource):
                kind.drop = _drop
    return found


def _drop(thing: Any) -> None:
    thing.drop()

"""Kernel modules: those that a keep loads, in an order in which they load.

A module says what it depends on in its section `.modinfo` (Linux, include/linux/module.h): strings
that end with a zero, of the form `depends=a,b`. What depmod would write is not in a package.

It refuses a kernel that lacks a module that is asked for, or one that such a module depends on;
modules that depend on themselves; and those that are not whole or too large.
"""

from __future__ import annotations

import lzma
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from garrison.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from garrison.image.cpio import Entry

_DEPENDS = re.compile(rb"\0depends=([a-z0-9A-Z_,-]*)\0")
_SUFFIX = ".ko.xz"
#: The largest of the cloud kernel takes 3 MiB.
_MAX_MODULE = 32 << 20


def ordered(files: Mapping[str, Entry], wanted: Iterable[str]) -> dict[str, bytes]:
    """Find modules and what they depend on, by name, each after what it depends on.

    Args:
        files: of a kernel package.
        wanted: names of modules, with `_` for `-`.

    Raises:
        Malformed: one is not there.
    """
    packed = {
        PurePosixPath(path).name.removesuffix(_SUFFIX).replace("-", "_"): entry.content
        for path, entry in files.items()
        if path.endswith(_SUFFIX)
    }
    result: dict[str, bytes] = {}
    waiting: list[str] = []

    def add(name: str, needed_by: str) -> None:
        if name in result:
            return
        if name in waiting:
            raise Malformed("kernel modules in a circle", field=needed_by, found=f"needs {name}")
        if name not in packed:
            raise Malformed(
                "the kernel has no such module", field=needed_by, found=f"no {name}{_SUFFIX}"
            )
        try:
            decompressor = lzma.LZMADecompressor()
            content = decompressor.decompress(packed[name], max_length=_MAX_MODULE)
        except lzma.LZMAError as error:
            raise Malformed("a kernel module is no XZ file", field=name, found=error) from error
        if not decompressor.eof:
            raise Malformed(
                "a kernel module has no end",
                field=name,
                found=f"{len(content)} bytes and more",
                expected=f"at most {_MAX_MODULE}",
            )
        found = _DEPENDS.search(content)
        if found is None:
            raise Malformed("a kernel module does not say what it depends on", field=name)
        waiting.append(name)
        for each in filter(None, found[1].decode().split(",")):
            add(each.replace("-", "_"), name)
        waiting.pop()
        result[name] = content

    for name in wanted:
        add(name, "image")
    return result

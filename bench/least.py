"""The least host in Python that does what `programs/hostcalls.c` measures: no other is below it.

Each of its functions reads its parameters, does what it is asked for and writes the result, as the
prototype did that the goals come from, and in the same process as the engine. Nothing is checked:
no bounds, rights, limits or failures. So what a keep takes beyond it is what its checks and its
objects take; the rest is the machine's, the interpreter's and libffi's.
"""

from __future__ import annotations

import os
import time
from struct import Struct
from typing import TYPE_CHECKING, Any

from garrison.formats.limits import Limits
from garrison.keep.engine.c import memory_at
from garrison.keep.engine.runtime import Engine, Instance, Module, memory_of
from garrison.keep.vfs.root import root_directory
from garrison.keep.vfs.streams import Null
from garrison.keep.wasi.host import Host, Table
from garrison.keep.wasi.interrupts import Interrupts

if TYPE_CHECKING:
    from collections.abc import Callable

    Callback = Callable[[None, int, int], int]

# wasmtime/val.h, wasmtime_val_raw_t: 16 bytes each, the value in the first 4 or 8 of them.
_clock = Struct("<I12xQ8xI").unpack_from
_pair = Struct("<I12xI").unpack_from
_vectors = Struct("<I12xI12xI12xI").unpack_from
_open = Struct("<I12xI12xI12xI12xI12xQ8xQ8xI12xI").unpack_from
_VALUES = 16 * 9
_put_u32, _put_u64 = Struct("<I").pack_into, Struct("<Q").pack_into
_vector = Struct("<II").unpack_from
# `fdstat` of a directory with all rights: libraries ask for it before they open what is below.
_put_fdstat = Struct("<BxHxxxxQQ").pack_into
_FOLDER, _ALL = 3, (1 << 30) - 1
_NULL = b"dev/null"


class _Replaced:
    """An instance to which a host provides its functions: those of `callbacks` are not its own."""

    def __init__(self, instance: Instance, callbacks: dict[str, Callback]) -> None:
        self._instance = instance
        self._callbacks = callbacks

    def define(self, module: str, name: str, *types_and_function: Any) -> None:
        """As the instance does."""
        *types, function = types_and_function
        self._instance.define(module, name, *types, self._callbacks.get(name, function))


def microseconds(guest: bytes, args: list[str]) -> dict[str, float]:
    """Run the guest in this process, and return the times that it prints, by what they are of."""
    engine = Engine()
    module = Module.compile(engine, guest)
    instance = Instance(engine, module, memory=1 << 26, table_elements=1 << 10)
    output = bytearray()
    with Interrupts(engine.interrupt) as interrupts:
        table = Table(8)
        for _ in range(3):
            table.insert(Null())
        root = root_directory({}, None, table, Limits(), interrupts.wait)
        root_descriptor = root.open(read=True, write=False)
        root_descriptor.preopened = "/"
        table.insert(root_descriptor)
        host = Host(args, {}, table, interrupts)
        host.provide(_Replaced(instance, _callbacks(output)), module)  # type: ignore[arg-type]
        instance.link()
        instance.call("_start")
    instance.close()
    module.close()
    engine.close()
    lines = (line.rpartition(" ") for line in output.decode().splitlines())
    return {name: int(nanoseconds) / 1000 for name, _, nanoseconds in lines}


def _callbacks(output: bytearray) -> dict[str, Callback]:  # noqa: PLR0915  (seven short ones)
    memory = memoryview(b"")
    views: dict[int, memoryview] = {}
    files: dict[bytes, bytearray | None] = {_NULL: None}
    # The content of each open file, and how much of it was read.
    opened: dict[int, list[Any]] = {1: [output, 0]}
    now, urandom = time.monotonic_ns, os.urandom

    def seen(values: int) -> memoryview:
        view = views[values] = memory_at(values, _VALUES).cast("I")
        return view

    def clock_time_get(_environment: None, _caller: int, values: int) -> int:
        view = views.get(values) or seen(values)
        _, _, result = _clock(view)
        _put_u64(memory, result, now())
        view[0] = 0
        return 0

    def random_get(_environment: None, _caller: int, values: int) -> int:
        view = views.get(values) or seen(values)
        buffer, size = _pair(view)
        memory[buffer : buffer + size] = urandom(size)
        view[0] = 0
        return 0

    def fd_write(_environment: None, _caller: int, values: int) -> int:
        view = views.get(values) or seen(values)
        fd, vectors, count, result = _vectors(view)
        content = opened[fd][0]
        if count == 1 and content is None:
            start, total = _vector(memory, vectors)
        else:
            total = 0
            for at in range(vectors, vectors + 8 * count, 8):
                start, size = _vector(memory, at)
                content += memory[start : start + size]
                total += size
        _put_u32(memory, result, total)
        view[0] = 0
        return 0

    def fd_fdstat_get(_environment: None, caller: int, values: int) -> int:
        nonlocal memory
        # What the guest calls first of these.
        memory = memory or memory_at(*memory_of(caller))
        view = views.get(values) or seen(values)
        _, result = _pair(view)
        _put_fdstat(memory, result, _FOLDER, 0, _ALL, _ALL)
        view[0] = 0
        return 0

    def path_open(_environment: None, _caller: int, values: int) -> int:
        view = views.get(values) or seen(values)
        _, _, path, size, create, _, _, _, result = _open(view)
        name = bytes(memory[path : path + size])
        if create:
            files[name] = bytearray()
        number = len(opened) + 3
        opened[number] = [files[name], 0]
        _put_u32(memory, result, number)
        view[0] = 0
        return 0

    def fd_read(_environment: None, _caller: int, values: int) -> int:
        view = views.get(values) or seen(values)
        fd, vectors, _, result = _vectors(view)
        start, size = _vector(memory, vectors)
        file = opened[fd]
        found = memoryview(file[0])[file[1] : file[1] + size]
        size = len(found)
        memory[start : start + size] = found
        file[1] += size
        _put_u32(memory, result, size)
        view[0] = 0
        return 0

    def fd_close(_environment: None, _caller: int, values: int) -> int:
        view = views.get(values) or seen(values)
        del opened[view[0]]
        view[0] = 0
        return 0

    timed = (clock_time_get, random_get, fd_write, fd_fdstat_get, path_open, fd_read, fd_close)
    return {function.__name__: function for function in timed}

"""Arguments, environment, clocks, random bytes, and the end."""

import posix  # the part of `os` that is used here, and no file to load
import time
from posix import urandom

from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno
from garrison.keep.wasi import abi
from garrison.keep.wasi.host import CLOCKS, Exit
from garrison.keep.wasi.memory import U32, U64, put_u64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.wasi.host import Host

# How much a call of the kernel's generator gives at a time, so that a signal is not kept waiting.
_RANDOM_STEP = 1 << 20


def args_sizes_get(host: "Host", count: int, size: int) -> None:
    """Tell how many arguments there are, and how long they are in all."""
    _sizes(host, host.args, count, size)


def args_get(host: "Host", pointers: int, data: int) -> None:
    """Give the arguments."""
    _strings(host, host.args, pointers, data)


def environ_sizes_get(host: "Host", count: int, size: int) -> None:
    """Tell how many variables there are, and how long they are in all."""
    _sizes(host, host.env, count, size)


def environ_get(host: "Host", pointers: int, data: int) -> None:
    """Give the environment."""
    _strings(host, host.env, pointers, data)


def _sizes(host: "Host", strings: list[bytes], count: int, size: int) -> None:
    first, second = host.memory.view(count, 4), host.memory.view(size, 4)
    U32.pack_into(first, 0, len(strings))
    U32.pack_into(second, 0, sum(map(len, strings)))


def _strings(host: "Host", strings: list[bytes], pointers: int, data: int) -> None:
    table = host.memory.view(pointers, 4 * len(strings))
    host.memory.view(data, sum(map(len, strings)))[:] = b"".join(strings)
    for index, string in enumerate(strings):
        U32.pack_into(table, 4 * index, data)
        data += len(string)


def clock_res_get(host: "Host", clock: int, result: int) -> None:
    """Tell how fine a clock is."""
    host.memory.expect(result, 8)
    if clock not in abi.CLOCKS:
        raise Errno(errno.INVAL)
    U64.pack_into(host.memory.all, result, max(1, round(time.clock_getres(clock) * 1e9)))


def clock_time_get(host: "Host", clock: int, _precision: int, result: int) -> None:
    """Tell the time."""
    memory = host.memory
    if result + 8 > memory.size:
        memory.expect(result, 8)
    try:
        time = CLOCKS[clock]()
    except IndexError:
        raise Errno(errno.INVAL) from None
    put_u64(memory.all, result, time)


def random_get(host: "Host", buffer: int, size: int) -> None:
    """Give random bytes, from the kernel."""
    memory = host.memory
    end = buffer + size
    if end > memory.size:
        memory.expect(buffer, size)
    if size <= _RANDOM_STEP:
        memory.all[buffer:end] = urandom(size)
        return
    view = memory.all[buffer:end]
    for start in range(0, size, _RANDOM_STEP):
        part = view[start : start + _RANDOM_STEP]
        part[:] = posix.urandom(len(part))
        host.interrupts.check()


def sched_yield(_host: "Host") -> None:
    """Let others run."""
    posix.sched_yield()


def proc_exit(_host: "Host", code: int) -> None:
    """End; as for a process, the exit code has eight bits."""
    raise Exit(code & 0xFF)


def proc_raise(_host: "Host", signal: int) -> None:
    """Refuse: there are no signals inside a keep; a guest can end itself with `proc_exit`."""
    raise Errno(errno.NOTSUP if signal <= 31 else errno.INVAL)

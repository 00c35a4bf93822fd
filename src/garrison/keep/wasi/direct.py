"""The way of their own of the calls that a server makes for each message.

Most of them move one buffer, by what takes a part of the memory as it is. All that is asked and
called beside that takes a twentieth of a short message over TLS.
"""

from _struct import Struct  # see `memory`

from garrison.keep.vfs.streams import Socket
from garrison.keep.wasi.descriptors import write_all
from garrison.keep.wasi.memory import get_vector, put_u16, put_u32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.wasi.host import Callback, Function, Host

# The descriptor, where its vectors are, how many, and where the result goes: 16 bytes each.
_get_four = Struct("<I12xI12xI12xI12x").unpack_from
# What the calls of sockets have beside these: flags before the result, and other flags after it.
_GET_OF_SOCKET = {
    "sock_recv": Struct("<I12xI12xI12xI12xI12xI12x").unpack_from,
    "sock_send": Struct("<I12xI12xI12xI12xI12x").unpack_from,
}
_WRITES = ("fd_write", "sock_send")


def direct(
    host: "Host", name: str, function: "Function", known: dict[int, memoryview], general: "Callback"
) -> "Callback":
    """Make what the engine calls for one of `abi.DIRECT`.

    Args:
        host: of the guest.
        name: the function's.
        function: makes the call in every case.
        known: where the engine put its parameters, as far as `general` has seen.
        general: calls `function`, wherever they are.
    """
    memory, table, failed = host.memory, host.descriptors, host.failed
    writes = name in _WRITES
    moves = table.writers if writes else table.readers

    def moved(fd: int, vectors: int, count: int, result: int) -> bool:
        """Make the call, if it is one of these, and else do nothing."""
        move, last = moves.get(fd), memory.last
        if move is None or count != 1 or vectors > last or result > last:
            return False
        start, length = get_vector(memory.all, vectors)
        end = start + length
        if not start < end <= memory.size:
            return False
        try:
            size = move(memory, start, end)
        except BlockingIOError:
            # Nothing was moved.
            host.wait_for(table[fd], write=writes)
            return False
        if writes and size < length:
            size = write_all(host, table[fd], [memory.all[start + size : end]], size)
        put_u32(memory.all, result, size)
        return True

    def of_any(environment: None, caller: int, values: int) -> int:
        view = known.get(values)
        if view is None:
            return general(environment, caller, values)
        try:
            fd, vectors, count, result = _get_four(view)
            if not moved(fd, vectors, count, result):
                memory.caller = caller
                function(host, fd, vectors, count, result)
            view[0] = 0
        except BaseException as error:  # noqa: BLE001  (nothing may enter the engine)
            return failed(view, error)
        return 0

    get = _GET_OF_SOCKET.get(name)
    if get is None:
        return of_any

    def of_socket(environment: None, caller: int, values: int) -> int:
        view = known.get(values)
        if view is None:
            return general(environment, caller, values)
        try:
            fd, vectors, count, flags, result, *out = get(view)
            if (
                flags
                or (out and out[0] > memory.last)
                or table.get(fd).__class__ is not Socket
                or not moved(fd, vectors, count, result)
            ):
                memory.caller = caller
                function(host, fd, vectors, count, flags, result, *out)
            elif out:
                put_u16(memory.all, out[0], 0)
            view[0] = 0
        except BaseException as error:  # noqa: BLE001  (likewise)
            return failed(view, error)
        return 0

    return of_socket

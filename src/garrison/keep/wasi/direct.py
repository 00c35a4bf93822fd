"""The way of their own of the calls that a server makes for each message.

Most of them move one buffer, by what takes a part of the memory as it is. All that is asked and
called beside that takes a twentieth of a short message over TLS.
"""

from _struct import Struct  # see `memory`

from garrison.keep.vfs.streams import Socket
from garrison.keep.wasi.descriptors import fd_read, fd_write, write_all
from garrison.keep.wasi.memory import get_vector, put_u16, put_u32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.wasi.host import Callback, Host

# Each of a call's values has 16 bytes: the descriptor, where its vectors are, how many, and where
# the result goes. Those of sockets have flags before the result.
_get_values = Struct("<I12xI12xI12xI12x").unpack_from
_get_values_of_socket = Struct("<I12xI12xI12x16xI12x").unpack_from
# Where these flags are, in numbers of 4 bytes, and of receiving the place for other flags.
_FLAGS, _OUT_FLAGS = 12, 20


def direct(
    host: "Host", name: str, known: dict[int, memoryview], general: "Callback"
) -> "Callback":
    """Make what the engine calls for one of `abi.DIRECT`.

    Args:
        host: of the guest.
        name: the function's.
        known: where the engine put its values, as far as `general` has seen.
        general: makes the call in every case.
    """
    memory, table, failed = host.memory, host.descriptors, host.failed
    writes, receives = name in {"fd_write", "sock_send"}, name == "sock_recv"
    of_socket = name.startswith("sock_")
    get_values = _get_values_of_socket if of_socket else _get_values
    moves = table.writers if writes else table.readers
    function = fd_write if writes else fd_read

    def callback(environment: None, caller: int, values: int) -> int:
        view = known.get(values)
        if view is None:
            return general(environment, caller, values)
        try:
            fd, vectors, count, result = get_values(view)
            move, last = moves.get(fd), memory.last
            if (
                move is not None
                and count == 1
                and vectors <= last
                and result <= last
                and (
                    not of_socket
                    or (
                        not view[_FLAGS]
                        and table[fd].__class__ is Socket
                        and (not receives or view[_OUT_FLAGS] <= last)
                    )
                )
            ):
                start, length = get_vector(memory.all, vectors)
                end = start + length
                if start < end <= memory.size:
                    try:
                        size = move(memory, start, end)
                    except BlockingIOError:
                        # Nothing was moved.
                        host.wait_for(table[fd], write=writes)
                    else:
                        if writes and size < length:
                            rest = [memory.all[start + size : end]]
                            size = write_all(host, table[fd], rest, size)
                        put_u32(memory.all, result, size)
                        if receives:
                            put_u16(memory.all, view[_OUT_FLAGS], 0)
                        view[0] = 0
                        return 0
            if of_socket:
                return general(environment, caller, values)
            memory.caller = caller
            function(host, fd, vectors, count, result)
            view[0] = 0
        except BaseException as error:  # noqa: BLE001  (nothing may enter the engine)
            return failed(view, error)
        return 0

    return callback

"""The `sock_` functions. Sockets are opened by path (`vfs.network`) or are there from the start."""

from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.streams import ListeningSocket, Socket
from garrison.keep.wasi import abi
from garrison.keep.wasi.descriptors import fd_read, fd_write, read_some
from garrison.keep.wasi.memory import put_u16, put_u32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.vfs.descriptor import Descriptor
    from garrison.keep.wasi.host import Host

# `riflags`
_PEEK = 1
_WAIT_ALL = 2
# `sdflags`, to what shutdown(2) calls them.
_HOW = {1: 0, 2: 1, 3: 2}


def sock_accept(host: "Host", fd: int, flags: int, result: int) -> None:
    """Take the next connection."""
    host.memory.expect(result, 4)
    listener = host.descriptors.having(fd)
    if not isinstance(listener, ListeningSocket):
        raise Errno(errno.INVAL) if isinstance(listener, Socket) else _no_socket(listener)
    host.descriptors.having(fd, d.SOCK_ACCEPT)
    if flags & ~abi.NONBLOCK:
        raise Errno(errno.INVAL)
    # As Linux: for somebody who can have no more, connections stay where they wait.
    host.descriptors.expect_room()
    accepted = None
    while accepted is None:
        try:
            accepted = listener.accept()
        except BlockingIOError:
            host.wait_for(listener, write=False)
    accepted.flags = flags
    put_u32(host.memory.all, result, host.descriptors.insert(accepted))


def sock_recv(
    host: "Host", fd: int, vectors: int, count: int, flags: int, result: int, out_flags: int
) -> None:
    """Receive."""
    memory = host.memory
    memory.expect(result, 4)
    memory.expect(out_flags, 2)
    socket = _socket(host, fd, d.FD_READ)
    if flags & ~(_PEEK | _WAIT_ALL):
        raise Errno(errno.INVAL)
    if not flags:
        fd_read(host, fd, vectors, count, result)
    else:
        buffers = memory.vectors(vectors, count)
        if flags & _PEEK:
            total = _peeked(host, socket, buffers)
        elif total := read_some(host, socket, buffers):
            total = _rest(host, socket, buffers, total)
        put_u32(memory.all, result, total)
    put_u16(memory.all, out_flags, 0)


def _peeked(host: "Host", socket: Socket, buffers: list[memoryview]) -> int:
    """Fill the first of `buffers` that is any with what comes next, which stays to be read."""
    buffer = next(filter(None, buffers), None)
    while buffer is not None:
        try:
            return socket.stream.peek_into(buffer)
        except BlockingIOError:
            host.wait_for(socket, write=False)
    return 0


def _rest(host: "Host", socket: Socket, buffers: list[memoryview], total: int) -> int:
    """Read on until `buffers`, which hold `total` bytes, are full or the stream ends."""
    wanted = sum(map(len, buffers))
    while total < wanted:
        # A peer that always has more to say would hold the call up to the last of gigabytes.
        host.interrupts.check()
        left, skip = [], total
        for buffer in buffers:
            left.append(buffer[min(skip, len(buffer)) :])
            skip -= min(skip, len(buffer))
        try:
            size = read_some(host, socket, left)
        except (Errno, OSError):
            break
        if not size:
            break
        total += size
    return total


def sock_send(host: "Host", fd: int, vectors: int, count: int, flags: int, result: int) -> None:
    """Send."""
    _socket(host, fd, d.FD_WRITE)
    if flags:
        raise Errno(errno.INVAL)
    fd_write(host, fd, vectors, count, result)


def sock_shutdown(host: "Host", fd: int, how: int) -> None:
    """End one direction or both."""
    socket = _socket(host, fd, d.SOCK_SHUTDOWN)
    if how not in _HOW:
        raise Errno(errno.INVAL)
    socket.stream.shutdown(_HOW[how])


def _socket(host: "Host", fd: int, right: int) -> Socket:
    socket = host.descriptors.having(fd)
    if not isinstance(socket, Socket):
        raise _no_socket(socket)
    host.descriptors.having(fd, right)
    return socket


def _no_socket(descriptor: "Descriptor") -> Errno:
    # A directory is for paths: no bytes go in or out, and so it is no descriptor here, as to
    # `fd_seek`.
    return Errno(errno.BADF if descriptor.filetype == d.FOLDER else errno.NOTSOCK)

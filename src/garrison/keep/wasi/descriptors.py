"""The `fd_` functions: reading, writing and asking about what is open."""

import time
from _struct import Struct  # see `memory`

from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno
from garrison.keep.wasi import abi
from garrison.keep.wasi.memory import U32, U64, get_vector, put_u32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.vfs.descriptor import Descriptor, Stat
    from garrison.keep.wasi.host import Host

# `fdstat`: type at 0, flags at 2, rights at 8, inherited rights at 16; 24 bytes.
_put_fdstat = Struct("<BxHxxxxQQ").pack_into
# `filestat`: device at 0, number at 8, type at 16, links at 24, size at 32, three times.
_FILESTAT = Struct("<QQB7xQQQQQ")
# `prestat`: tag at 0, the name's length at 4.
_PRESTAT = Struct("<BxxxI")
# `dirent`: the next cookie at 0, number at 8, the name's length at 16, type at 20.
_DIRENT = Struct("<QQIBxxx")

# The one tag that preview 1 has; libraries skip others, and stop at an error.
_PREOPENED_DIRECTORY = 0
_PREOPENED_SOCKET = 1

# What every reading and writing asks, found without looking for it in a module.
_FD_READ, _FD_WRITE = d.FD_READ, d.FD_WRITE

# The files' offsets are signed on every host.
_MAX_OFFSET = (1 << 63) - 1


def fd_read(host: "Host", fd: int, vectors: int, count: int, result: int) -> None:
    """Read from its place on: what there is; wait only if there is nothing at all."""
    memory = host.memory
    seen = memory.size
    if result + 4 > seen:
        memory.expect(result, 4)
    descriptor = host.descriptors.get(fd)
    if descriptor is None or not descriptor.rights & _FD_READ:
        descriptor = _open_for(host, fd, d.FD_READ)
    if count == 1:
        # As nearly all guests do: without the calls of the general case, which `Memory.vectors` is.
        if vectors + 8 > seen:
            memory.expect(vectors, 8)
        start, length = get_vector(memory.all, vectors)
        end = start + length
        if end > seen and length:
            memory.expect(start, length)
        try:
            size = descriptor.read(memory.all[start:end]) if length else 0
        except BlockingIOError:
            host.wait_for(descriptor, write=False)
            size = read_some(host, descriptor, [memory.all[start:end]])
    else:
        size = read_some(host, descriptor, memory.vectors(vectors, count))
    put_u32(memory.all, result, size)


def read_some(host: "Host", descriptor: "Descriptor", buffers: list[memoryview]) -> int:
    """Fill `buffers` as `fd_read` does.

    Raises:
        Errno: it cannot be read.
        OSError: the host's reason.
    """
    total = 0
    for buffer in buffers:
        room = len(buffer)
        if not room:
            continue
        while True:
            try:
                size = descriptor.read(buffer)
            except BlockingIOError:
                if total:
                    return total
                host.wait_for(descriptor, write=False)
                continue
            total += size
            if size < room:
                return total
            break
    return total


def fd_write(host: "Host", fd: int, vectors: int, count: int, result: int) -> None:
    """Write from its place on: all, or as much as goes if the guest does not want to wait."""
    memory = host.memory
    seen = memory.size
    if result + 4 > seen:
        memory.expect(result, 4)
    descriptor = host.descriptors.get(fd)
    if descriptor is None or not descriptor.rights & _FD_WRITE:
        descriptor = _open_for(host, fd, d.FD_WRITE)
    if count == 1:
        # As `fd_read`.
        if vectors + 8 > seen:
            memory.expect(vectors, 8)
        start, length = get_vector(memory.all, vectors)
        end = start + length
        if end > seen and length:
            memory.expect(start, length)
        try:
            size = descriptor.write(memory.all[start:end]) if length else 0
        except BlockingIOError:
            host.wait_for(descriptor, write=True)
            size = 0
        if size < length:
            size = write_all(host, descriptor, [memory.all[start + size : end]], size)
    else:
        size = write_all(host, descriptor, memory.vectors(vectors, count))
    put_u32(memory.all, result, size)


def write_all(
    host: "Host", descriptor: "Descriptor", buffers: list[memoryview], total: int = 0
) -> int:
    """Write `buffers`, after `total` bytes that were written already.

    Raises:
        Errno: nothing could be written.
        OSError: likewise, for the host's reason.
    """
    try:
        for buffer in buffers:
            left = len(buffer)
            while left:
                try:
                    size = descriptor.write(buffer)
                except BlockingIOError:
                    host.wait_for(descriptor, write=True)
                    continue
                total += size
                left -= size
                if left:
                    buffer = buffer[size:]  # noqa: PLW2901  (what is left of it)
    except (Errno, OSError):
        if not total:
            raise
    return total


def fd_pread(host: "Host", fd: int, vectors: int, count: int, offset: int, result: int) -> None:
    """Read at a place."""
    host.memory.expect(result, 4)
    descriptor = _open_for(host, fd, d.FD_READ)
    host.descriptors.allowed(fd, d.FD_SEEK)
    total = 0
    for buffer in host.memory.vectors(vectors, count):
        size = descriptor.pread(buffer, _checked(offset + total))
        total += size
        if size < len(buffer):
            break
    U32.pack_into(host.memory.all, result, total)


def fd_pwrite(host: "Host", fd: int, vectors: int, count: int, offset: int, result: int) -> None:
    """Write at a place."""
    host.memory.expect(result, 4)
    descriptor = _open_for(host, fd, d.FD_WRITE)
    host.descriptors.allowed(fd, d.FD_SEEK)
    total = 0
    try:
        for buffer in host.memory.vectors(vectors, count):
            total += descriptor.pwrite(buffer, _checked(offset + total))
    except (Errno, OSError):
        # As `write_all`: what was written is told.
        if not total:
            raise
    U32.pack_into(host.memory.all, result, total)


def fd_seek(host: "Host", fd: int, offset: int, whence: int, result: int) -> None:
    """Change the place."""
    host.memory.expect(result, 8)
    moves = offset or whence != 1
    descriptor = _with_places(host, fd, d.FD_SEEK if moves else d.FD_SEEK | d.FD_TELL)
    U64.pack_into(host.memory.all, result, descriptor.seek(offset, whence))


def fd_tell(host: "Host", fd: int, result: int) -> None:
    """Tell the place."""
    host.memory.expect(result, 8)
    # Who may seek may tell.
    descriptor = _with_places(host, fd, d.FD_SEEK | d.FD_TELL)
    U64.pack_into(host.memory.all, result, descriptor.seek(0, 1))


def _with_places(host: "Host", fd: int, rights: int) -> "Descriptor":
    """What has one of the `rights`, or no places to seek at all: that says so by itself."""
    descriptor = host.descriptors.having(fd)
    if descriptor.possible & d.FD_SEEK and not descriptor.rights & rights:
        raise Errno(errno.NOTCAPABLE)
    return descriptor


def fd_close(host: "Host", fd: int) -> None:
    """Close it."""
    taken = host.descriptors.take(fd)
    taken.close()
    if host.listings:
        host.closed(taken)


def fd_renumber(host: "Host", fd: int, to: int) -> None:
    """Give it another number, which what has it now loses."""
    table = host.descriptors
    table.having(to)
    if fd == to:
        return
    moved, replaced = table.take(fd), table[to]
    table.put(to, moved)
    replaced.close()
    host.closed(replaced)


def fd_sync(host: "Host", fd: int) -> None:
    """Do nothing: memory needs no disk."""
    host.descriptors.allowed(fd, d.FD_SYNC)


def fd_datasync(host: "Host", fd: int) -> None:
    """Do nothing: likewise."""
    host.descriptors.allowed(fd, d.FD_DATASYNC)


def fd_advise(host: "Host", fd: int, _offset: int, _length: int, advice: int) -> None:
    """Take note of nothing: memory is as fast in any order."""
    if host.descriptors.allowed(fd, d.FD_ADVISE).filetype != d.REGULAR:
        raise Errno(errno.BADF if fd > 2 else errno.SPIPE)
    if advice > 5:
        raise Errno(errno.INVAL)


def fd_allocate(host: "Host", fd: int, offset: int, length: int) -> None:
    """Make sure that there is room."""
    descriptor = host.descriptors.having(fd, d.FD_ALLOCATE)
    if not length:
        raise Errno(errno.INVAL)
    _checked(offset + length)
    descriptor.allocate(offset, length)


def fd_fdstat_get(host: "Host", fd: int, result: int) -> None:
    """Tell its type, flags and rights."""
    memory = host.memory
    if result + 24 > memory.size:
        memory.expect(result, 24)
    found = host.descriptors.get(fd)
    if found is None:
        raise Errno(errno.BADF)
    _put_fdstat(memory.all, result, found.filetype, found.flags, found.rights, found.inheriting)


def fd_fdstat_set_flags(host: "Host", fd: int, flags: int) -> None:
    """Set its flags."""
    descriptor = host.descriptors.allowed(fd, d.FD_FDSTAT_SET_FLAGS)
    if flags & ~abi.FDFLAGS:
        raise Errno(errno.INVAL)
    descriptor.flags = flags


def fd_fdstat_set_rights(host: "Host", fd: int, rights: int, inheriting: int) -> None:
    """Give rights up; none can be had back."""
    descriptor = host.descriptors.having(fd)
    if rights & ~descriptor.rights or inheriting & ~descriptor.inheriting:
        raise Errno(errno.NOTCAPABLE)
    descriptor.rights, descriptor.inheriting = rights, inheriting
    host.descriptors.put(fd, descriptor)


def fd_filestat_get(host: "Host", fd: int, result: int) -> None:
    """Tell all about it."""
    out = host.memory.view(result, _FILESTAT.size)
    put_stat(out, host.descriptors.allowed(fd, d.FD_FILESTAT_GET).stat())


def put_stat(out: memoryview, found: "Stat") -> None:
    """Write a `filestat`."""
    _FILESTAT.pack_into(
        out,
        0,
        found.dev,
        found.ino,
        found.filetype,
        found.links,
        found.size,
        found.atim,
        found.mtim,
        found.ctim,
    )


def fd_filestat_set_size(host: "Host", fd: int, size: int) -> None:
    """Cut it or fill it with zeros."""
    _open_for(host, fd, d.FD_FILESTAT_SET_SIZE).set_size(_checked(size))


def fd_filestat_set_times(host: "Host", fd: int, atim: int, mtim: int, flags: int) -> None:
    """Set its times."""
    host.descriptors.having(fd, d.FD_FILESTAT_SET_TIMES).set_times(*chosen_times(atim, mtim, flags))


def chosen_times(atim: int, mtim: int, flags: int) -> tuple[int | None, int | None]:
    """What `fstflags` choose: the time given, the time now, or none.

    Raises:
        Errno: they choose two at once.
    """

    def chosen(value: int, given: int, at_once: int) -> int | None:
        if flags & given and flags & at_once:
            raise Errno(errno.INVAL)
        if flags & at_once:
            return time.time_ns()
        return value if flags & given else None

    if flags & ~0xF:
        raise Errno(errno.INVAL)
    return chosen(atim, abi.ATIM, abi.ATIM_NOW), chosen(mtim, abi.MTIM, abi.MTIM_NOW)


def fd_prestat_get(host: "Host", fd: int, result: int) -> None:
    """Tell that it is there from the start."""
    out = host.memory.view(result, _PRESTAT.size)
    found, name = _preopened(host, fd)
    tag = _PREOPENED_DIRECTORY if found.filetype == d.FOLDER else _PREOPENED_SOCKET
    _PRESTAT.pack_into(out, 0, tag, len(name))


def fd_prestat_dir_name(host: "Host", fd: int, buffer: int, size: int) -> None:
    """Give its name."""
    _, name = _preopened(host, fd)
    if size < len(name):
        raise Errno(errno.NAMETOOLONG)
    host.memory.view(buffer, len(name))[:] = name


def _preopened(host: "Host", fd: int) -> "tuple[Descriptor, bytes]":
    found = host.descriptors.having(fd)
    if found.preopened is None:
        raise Errno(errno.BADF)
    return found, found.preopened.encode()


def fd_readdir(host: "Host", fd: int, buffer: int, size: int, cookie: int, result: int) -> None:
    """Give names, from a place among them on; the last may be cut where the buffer ends."""
    host.memory.expect(result, 4)
    view = host.memory.view(buffer, size)
    folder = host.descriptors.having(fd)
    names = folder.names(again=not cookie)
    host.listed(folder, len(names))
    host.descriptors.having(fd, d.FD_READDIR)
    used = 0
    for index in range(cookie, len(names)):
        name, ino, filetype = names[index]
        encoded = name.encode()
        entry = _DIRENT.pack(index + 1, ino, len(encoded), filetype) + encoded
        part = entry[: size - used]
        view[used : used + len(part)] = part
        used += len(part)
        if used == size:
            break
    U32.pack_into(host.memory.all, result, used)


def _open_for(host: "Host", fd: int, right: int) -> "Descriptor":
    """As POSIX: reading what is only written is a bad descriptor, not a missing right."""
    descriptor = host.descriptors.get(fd)
    if descriptor is None:
        raise Errno(errno.BADF)
    if not descriptor.rights & right:
        # A directory, a listener: they know better why not.
        if right == d.FD_READ and not descriptor.possible & right:
            descriptor.read(memoryview(b""))
        raise Errno(errno.BADF if right != d.FD_FILESTAT_SET_SIZE else errno.INVAL)
    return descriptor


def _checked(offset: int) -> int:
    if offset > _MAX_OFFSET:
        raise Errno(errno.INVAL)
    return offset

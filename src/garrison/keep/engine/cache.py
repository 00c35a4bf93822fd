"""Compiled modules, kept between runs.

An entry is machine code that we run, so it is only ever what this user wrote: the directory and
each file belong to the user alone, and every entry carries a MAC over its key and content, made
with a key that the user alone can read. The bytes that are checked are a private copy, and that
same copy is what runs: changing the file meanwhile changes nothing. What does not check out is
compiled again and replaced; a cache that cannot be used is done without, with one warning.

An entry's name is a digest of the module, the engine's version and its configuration. The file
is MAC (32 bytes), then the engine's own format, which names the processor it needs.
"""

import posix  # the part of `os` that is used here, and no file to load
import sys

# Not hashlib: that loads OpenSSL, which takes longer than the whole start of a guest.
from _blake2 import blake2b
from _operator import _compare_digest as compare_digest

from garrison.errors import Unavailable
from garrison.keep.engine.library import VERSION
from garrison.keep.engine.runtime import CONFIGURATION, Engine, Module

_MAC_SIZE = 32
_KEY_SIZE = 32
_KEY_NAME = "key"
_DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC
# sys/stat.h: what of a mode is its type, and that of a file.
_TYPE = 0o170000
_FILE = 0o100000
# Compiled code is a few times its module's size; more than this is no entry of ours.
MAX_ENTRY = 1 << 30


class _Unusable(Exception):
    """The cache cannot be used; the text says why."""


def compiled_module(engine: Engine, wasm: bytes) -> Module:
    """The module of `wasm`: from the cache if it is there, else compiled, and kept.

    Raises:
        Malformed: `wasm` is not a valid module.
    """
    try:
        directory = _open_directory()
    except (_Unusable, OSError) as error:
        _warn(error)
        return Module.compile(engine, wasm)
    try:
        return _from_directory(engine, wasm, directory)
    finally:
        posix.close(directory)


def _from_directory(engine: Engine, wasm: bytes, directory: int) -> Module:
    entry = blake2b(
        wasm, digest_size=32, person=b"garrison module", key=f"{VERSION}; {CONFIGURATION}".encode()
    ).hexdigest()
    try:
        secret = _secret(directory)
        data = _read(directory, entry, MAX_ENTRY)
    except (_Unusable, OSError) as error:
        _warn(error)
        return Module.compile(engine, wasm)
    if data is not None and compare_digest(data[:_MAC_SIZE], _mac(secret, entry, data[_MAC_SIZE:])):
        try:
            return Module.load(engine, data[_MAC_SIZE:])
        except Unavailable:
            # Ours, but of another processor: a home directory can be on several machines.
            pass
    module = Module.compile(engine, wasm)
    content = module.compiled()
    try:
        _write(directory, entry, (_mac(secret, entry, content), content))
    except OSError as error:
        _warn(error)
    return module


def _open_directory() -> int:
    """Open the directory of entries, made if need be.

    Raises:
        _Unusable: there is no place for it, or it is not ours alone.
        OSError: it cannot be made or opened.
    """
    home = _variable(b"HOME")
    # XDG Base Directory 0.8: a relative path is to be ignored.
    base = _variable(b"XDG_CACHE_HOME")
    base = base if base.startswith("/") else home and f"{home}/.cache"
    if not base.startswith("/"):
        raise _Unusable("neither XDG_CACHE_HOME nor HOME names a directory")
    try:
        outer = posix.open(base, _DIRECTORY)
    except FileNotFoundError:
        import os  # late: this happens once

        os.makedirs(base, 0o700, exist_ok=True)  # noqa: PTH103  (as the rest here)
        outer = posix.open(base, _DIRECTORY)
    try:
        own = _open_own(outer, "garrison")
    finally:
        posix.close(outer)
    try:
        return _open_own(own, "modules")
    finally:
        posix.close(own)


def _variable(name: bytes) -> str:
    # `os.environ` decodes them all at the start; as it does, with surrogates for odd bytes.
    return posix.environ.get(name, b"").decode(errors="surrogateescape")


def _open_own(parent: int, name: str) -> int:
    try:
        descriptor = posix.open(name, _DIRECTORY | posix.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        try:  # noqa: SIM105  (contextlib costs a start 1 ms)
            posix.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            pass  # another start was faster
        descriptor = posix.open(name, _DIRECTORY | posix.O_NOFOLLOW, dir_fd=parent)
    found = posix.fstat(descriptor)
    if found.st_uid != posix.geteuid() or found.st_mode & 0o022:
        posix.close(descriptor)
        raise _Unusable(
            f"{name} is not ours alone: owner {found.st_uid}, mode {found.st_mode & ~_TYPE:o}"
        )
    return descriptor


def _secret(directory: int) -> bytes:
    """The key of the MACs, made at the first time.

    Raises:
        _Unusable: it is not a key that we made.
        OSError: it cannot be made or read.
    """
    for _ in range(2):
        secret = _read(directory, _KEY_NAME, _KEY_SIZE)
        if secret is not None:
            if len(secret) != _KEY_SIZE:
                raise _Unusable(f"its key has {len(secret)} bytes, expected {_KEY_SIZE}")
            return secret
        _write(directory, _KEY_NAME, (posix.urandom(_KEY_SIZE),), replace=False)
    raise _Unusable("its key is not ours alone")


def _read(directory: int, name: str, limit: int) -> bytes | None:
    """Read a file that is ours alone; None if there is no such file.

    Raises:
        OSError: it cannot be read.
    """
    try:
        flags = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC
        descriptor = posix.open(name, flags, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        import errno  # late: it takes a start some time

        if error.errno == errno.ELOOP:
            return None
        raise
    try:
        found = posix.fstat(descriptor)
        if (
            found.st_mode & _TYPE != _FILE
            or found.st_uid != posix.geteuid()
            or found.st_mode & 0o077
            or found.st_nlink != 1
            or found.st_size > limit
        ):
            return None
        parts = []
        while part := posix.read(descriptor, found.st_size + 1):
            parts.append(part)
            if sum(map(len, parts)) > limit:
                return None
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        posix.close(descriptor)


def _write(directory: int, name: str, parts: tuple[bytes, ...], *, replace: bool = True) -> None:
    """Make the file `name` of `parts`: whole or not at all, whoever else does the same.

    Raises:
        OSError: the disk is full or may not be written.
    """
    temporary = f".{name}.{posix.getpid()}.{posix.urandom(4).hex()}"
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
    descriptor = posix.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[posix.write(descriptor, view) :]
            posix.fsync(descriptor)
        finally:
            posix.close(descriptor)
        if replace:
            posix.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            return
    except BaseException:
        posix.unlink(temporary, dir_fd=directory)
        raise
    try:
        posix.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except FileExistsError:
        pass  # another start was faster, and its file stands
    finally:
        posix.unlink(temporary, dir_fd=directory)


def _mac(secret: bytes, entry: str, content: bytes) -> bytes:
    mac = blake2b(key=secret, digest_size=_MAC_SIZE, person=b"garrison entry")
    mac.update(entry.encode())
    mac.update(content)
    return mac.digest()


def _warn(error: Exception) -> None:
    print(f"warning: the module cache is not used: {error}", file=sys.stderr)

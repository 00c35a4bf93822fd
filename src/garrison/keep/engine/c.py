"""The part of `ctypes` that the binding uses, taken from the C module that `ctypes` stands on.

Importing `ctypes` takes 3 ms, for types and platforms that nothing here needs; a guest's whole
start should take few times that. The names used here are those that `ctypes` itself uses, alike in
all Python versions that are supported.
"""

from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_PYTHONAPI,
    CFuncPtr,
    Structure,
    _SimpleCData,
    addressof,
    byref,
    dlopen,
    sizeof,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    _Simple = _SimpleCData[Any]
else:
    _Simple = _SimpleCData

__all__ = ["Structure", "addressof", "byref", "sizeof"]

# dlfcn.h: what `ctypes.CDLL` uses.
_RTLD_NOW = 2
# asm-generic/resource.h, the same number on all machines that the engine is there for.
_RLIMIT_STACK = 3


# The letters are those of the module `struct`; on Linux a C long has the machine's width.
# Few, for to make one takes as long as to call twenty functions.
class Pointer(_Simple):
    """`void *`, as an integer; to a function also `const char *`, as bytes."""

    _type_ = "P"


class Size(_Simple):
    """`size_t`, `uint64_t` and, modulo 2^64, `int64_t`."""

    _type_ = "L"


class Byte(_Simple):
    """`uint8_t`, `char`, and `bool`, which has a byte of 0 or 1."""

    _type_ = "B"


class Int(_Simple):
    """`int`."""

    _type_ = "i"


class _Object(_Simple):
    _type_ = "O"


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL


class _PythonFunction(CFuncPtr):
    # Called with the interpreter's lock held.
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI


class Callback(CFuncPtr):
    """wasmtime/func.h, wasmtime_func_unchecked_callback_t.

    (environment, which is none, caller, values), to a trap or 0, as integers. How many values there
    are comes fourth, and is known: it stays in the register that the calling conventions (x86-64
    psABI, AAPCS64) put it in. To make four integers takes a tenth of a call longer.
    """

    _flags_ = FUNCFLAG_CDECL
    _restype_ = Size
    _argtypes_ = (Pointer, Size, Size)


class DeadlineCallback(CFuncPtr):
    """wasmtime/store.h, the function of wasmtime_store_epoch_deadline_callback.

    (context, data, the next deadline, what to do), to an error or 0, all as integers.
    """

    _flags_ = FUNCFLAG_CDECL
    _restype_ = Size
    _argtypes_ = (Size, Size, Size, Size)


class SharedLibrary:
    """A loaded library.

    Args:
        path: where it is; None for what the process has loaded already.

    Raises:
        OSError: it cannot be loaded.
    """

    def __init__(self, path: str | None) -> None:
        # CFuncPtr finds the handle by this name.
        self._handle = dlopen(path, _RTLD_NOW)  # type: ignore[arg-type]  # None: dlopen(3)

    def function(self, name: str, result: "Any", parameters: "tuple[Any, ...]") -> "Any":
        """A function of it, declared.

        Raises:
            AttributeError: there is none of that name.
        """
        found = _Function((name, self))  # type: ignore[arg-type]  # any object with the handle will do
        found.restype = result
        found.argtypes = parameters
        return found


_process = SharedLibrary(None)
# Not an array type made for each size, which costs more than all else that the view is used for.
_view = _PythonFunction(("PyMemoryView_FromMemory", _process))  # type: ignore[arg-type]  # see above
_view.restype = _Object
_view.argtypes = (Pointer, Size, Int)
# object.h, PyBUF_WRITE
_WRITABLE = 0x200


def memory_at(address: int, size: int) -> memoryview:
    """A view of memory that somebody else owns, true as long as they keep it."""
    if not size:
        return memoryview(b"")
    view: memoryview = _view(address, size, _WRITABLE)
    return view


def bytes_at(address: int, size: int) -> bytes:
    """A copy of memory that somebody else owns."""
    return bytes(memory_at(address, size))


def stack_limit() -> int:
    """How many bytes the stack may have by getrlimit(2); 2^64 - 1 stands for no limit.

    The module `resource` is one file more to load, for this alone.

    Raises:
        OSError: the kernel does not tell.
    """
    limits = (Size * 2)()
    get = _process.function("getrlimit", Int, (Int, Pointer))
    if get(_RLIMIT_STACK, addressof(limits)):
        raise OSError("getrlimit fails")
    return int(limits[0])

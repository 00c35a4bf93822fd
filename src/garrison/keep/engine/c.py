"""The part of `ctypes` that the binding uses, taken from the C module that `ctypes` stands on.

Importing `ctypes` takes 3 ms, for types and platforms that nothing here needs; a guest's whole
start should take few times that. The names used here are those that `ctypes` itself uses, alike in
all Python versions that are supported.
"""

from _ctypes import (
    FUNCFLAG_CDECL,
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


# The letters are those of the module `struct`; on Linux a C long has the machine's width.
class Pointer(_Simple):
    """`void *`, as an integer."""

    _type_ = "P"


class String(_Simple):
    """`const char *`, with or without a zero at its end."""

    _type_ = "z"


class Size(_Simple):
    """`size_t` and `uint64_t`."""

    _type_ = "L"


class Long(_Simple):
    """`int64_t`."""

    _type_ = "l"


class Byte(_Simple):
    """`uint8_t`."""

    _type_ = "B"


class Char(_Simple):
    """`char`, of which arrays are made to see memory."""

    _type_ = "c"


class Bool(_Simple):
    """`bool`."""

    _type_ = "?"


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL


class Callback(CFuncPtr):
    """wasmtime/func.h, wasmtime_func_unchecked_callback_t, all as integers.

    (environment, caller, values, how many), to a trap or 0.
    """

    _flags_ = FUNCFLAG_CDECL
    _restype_ = Size
    _argtypes_ = (Size, Size, Size, Size)


class SharedLibrary:
    """A loaded library.

    Args:
        path: where it is.

    Raises:
        OSError: it cannot be loaded.
    """

    def __init__(self, path: str) -> None:
        # CFuncPtr finds the handle by this name.
        self._handle = dlopen(path, _RTLD_NOW)

    def function(self, name: str, result: "Any", parameters: "tuple[Any, ...]") -> "Any":
        """A function of it, declared.

        Raises:
            AttributeError: there is none of that name.
        """
        found = _Function((name, self))  # type: ignore[arg-type]  # any object with the handle will do
        found.restype = result
        found.argtypes = parameters
        return found


def memory_at(address: int, size: int) -> memoryview:
    """A view of memory that somebody else owns, true as long as they keep it."""
    return memoryview((Char * size).from_address(address)).cast("B")


def bytes_at(address: int, size: int) -> bytes:
    """A copy of memory that somebody else owns."""
    return bytes(memory_at(address, size)) if size else b""

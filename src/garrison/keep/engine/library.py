"""The C library of the `wasmtime` package, without the package.

`import wasmtime` costs 36 ms; a guest's whole run should cost less. So the few C functions that
are needed are declared here, by hand, for one version of the library. Another version is
refused: a wrong declaration is undefined behaviour, not an exception.

The declarations follow wasm.h and wasmtime.h of that version. Pointers are plain integers here;
who owns what they point to is said where they are used.
"""

import posix  # the part of `os` that is used here, and no file to load
import sys

from garrison.errors import GarrisonError, Malformed, Misuse, Unavailable
from garrison.keep.engine import c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "50.0.1"

_NAME = "_libwasmtime.so"

_P = c.Pointer
_N = c.Size
_S = c.Pointer
_B = c.Byte
_I64 = c.Size

# Name: result, parameters.
_SIGNATURES: "dict[str, tuple[Any, tuple[Any, ...]]]" = {
    # wasm.h
    "wasm_byte_vec_delete": (None, (_P,)),
    "wasm_config_new": (_P, ()),
    "wasm_engine_delete": (None, (_P,)),
    "wasm_engine_new_with_config": (_P, (_P,)),
    "wasm_externtype_kind": (c.Byte, (_P,)),
    "wasm_functype_delete": (None, (_P,)),
    "wasm_functype_new": (_P, (_P, _P)),
    "wasm_functype_params": (_P, (_P,)),
    "wasm_functype_results": (_P, (_P,)),
    "wasm_importtype_module": (_P, (_P,)),
    "wasm_importtype_name": (_P, (_P,)),
    "wasm_importtype_type": (_P, (_P,)),
    "wasm_importtype_vec_delete": (None, (_P,)),
    "wasm_trap_delete": (None, (_P,)),
    "wasm_trap_message": (None, (_P, _P)),
    "wasm_valtype_kind": (c.Byte, (_P,)),
    "wasm_valtype_new": (_P, (c.Byte,)),
    "wasm_valtype_vec_new": (None, (_P, _N, _P)),
    # wasmtime/config.h
    "wasmtime_config_async_stack_size_set": (None, (_P, _N)),
    "wasmtime_config_epoch_interruption_set": (None, (_P, _B)),
    "wasmtime_config_max_wasm_stack_set": (None, (_P, _N)),
    "wasmtime_config_memory_may_move_set": (None, (_P, _B)),
    "wasmtime_config_shared_memory_set": (None, (_P, _B)),
    "wasmtime_config_wasm_memory64_set": (None, (_P, _B)),
    "wasmtime_config_wasm_threads_set": (None, (_P, _B)),
    "wasmtime_engine_increment_epoch": (None, (_P,)),
    # wasmtime/error.h, trap.h, wat.h
    "wasmtime_error_delete": (None, (_P,)),
    "wasmtime_error_message": (None, (_P, _P)),
    "wasmtime_error_new": (_P, (_S,)),
    "wasmtime_trap_code": (_B, (_P, _P)),
    "wasmtime_trap_new": (_P, (_S, _N)),
    "wasmtime_wat2wasm": (_P, (_S, _N, _P)),
    # wasmtime/module.h
    "wasmtime_module_delete": (None, (_P,)),
    "wasmtime_module_deserialize": (_P, (_P, _S, _N, _P)),
    "wasmtime_module_imports": (None, (_P, _P)),
    "wasmtime_module_new": (_P, (_P, _S, _N, _P)),
    "wasmtime_module_serialize": (_P, (_P, _P)),
    # wasmtime/linker.h, store.h, instance.h, memory.h, func.h
    "wasmtime_caller_context": (_P, (_P,)),
    "wasmtime_caller_export_get": (_B, (_P, _S, _N, _P)),
    "wasmtime_context_set_epoch_deadline": (None, (_P, _N)),
    "wasmtime_extern_delete": (None, (_P,)),
    "wasmtime_func_call": (_P, (_P, _P, _P, _N, _P, _N, _P)),
    "wasmtime_func_call_unchecked": (_P, (_P, _P, _P, _N, _P)),
    "wasmtime_func_new_unchecked": (None, (_P, _P, c.Callback, _P, _P, _P)),
    "wasmtime_func_type": (_P, (_P, _P)),
    "wasmtime_instance_export_get": (_B, (_P, _P, _S, _N, _P)),
    "wasmtime_instance_new": (_P, (_P, _P, _P, _N, _P, _P)),
    "wasmtime_linker_define_func_unchecked": (_P, (_P, _S, _N, _S, _N, _P, c.Callback, _P, _P)),
    "wasmtime_linker_delete": (None, (_P,)),
    "wasmtime_linker_instantiate": (_P, (_P, _P, _P, _P, _P)),
    "wasmtime_linker_new": (_P, (_P,)),
    "wasmtime_memory_data": (_P, (_P, _P)),
    "wasmtime_memory_data_size": (_N, (_P, _P)),
    "wasmtime_store_context": (_P, (_P,)),
    "wasmtime_store_delete": (None, (_P,)),
    "wasmtime_store_epoch_deadline_callback": (None, (_P, c.DeadlineCallback, _P, _P)),
    "wasmtime_store_limiter": (None, (_P, _I64, _I64, _I64, _I64, _I64)),
    "wasmtime_store_new": (_P, (_P, _P, _P)),
}


class _Library:
    """The library's functions, each declared when it is first asked for."""

    def __init__(self, path: str) -> None:
        try:
            self._shared = c.SharedLibrary(path)
        except OSError as error:
            raise Unavailable(
                "the WebAssembly engine cannot be loaded", field="wasmtime", found=error
            ) from error

    def __getattr__(self, name: str) -> "Any":
        function = self._shared.function(name, *_SIGNATURES[name])
        setattr(self, name, function)
        return function


def _find() -> str:
    """The path of the library in the installed package.

    Raises:
        Unavailable: it is not installed for this machine.
        Misuse: it is another version than this code was written for.
    """
    folder = f"wasmtime/linux-{posix.uname().machine}"
    for place in sys.path:
        path = f"{place}/{folder}/{_NAME}"
        if not _exists(path):
            continue
        if not _exists(f"{place}/wasmtime-{VERSION}.dist-info/"):
            raise Misuse(
                "the engine's version is not the one this code was written for",
                field="wasmtime",
                found=_installed(place),
                expected=VERSION,
                hint=f"install wasmtime=={VERSION}",
            )
        return path
    raise Unavailable(
        "the WebAssembly engine is not installed for this machine",
        field="wasmtime",
        expected=f"{folder}/{_NAME}",
        hint=f"install wasmtime=={VERSION} on a Linux that it supports (x86_64, aarch64)",
    )


def _exists(path: str) -> bool:
    try:
        posix.stat(path)
    except (OSError, ValueError):  # as `os.path.exists`
        return False
    return True


def _installed(place: str) -> str:
    names = [name for name in posix.listdir(place) if name.startswith("wasmtime-")]
    versions = [name[9:-10] for name in names if name.endswith(".dist-info")]
    return ", ".join(versions) or "no version"


_loaded: list[_Library] = []


def library() -> _Library:
    """The library, loaded at the first call.

    Raises:
        Unavailable: it is not installed for this machine.
        Misuse: it is another version than this code was written for.
    """
    if not _loaded:
        _loaded.append(_Library(_find()))
    return _loaded[0]


class Bytes(c.Structure):
    """wasm.h, wasm_byte_vec_t: bytes that the library allocated."""

    _fields_ = (("size", c.Size), ("data", c.Pointer))

    def take(self) -> bytes:
        """Copy the bytes out, and give the library's back."""
        data = c.bytes_at(self.data, self.size)
        library().wasm_byte_vec_delete(c.byref(self))
        return data


def name_at(vector: int) -> str:
    """The text of a wasm_name_t that something else owns."""
    found = Bytes.from_address(vector)
    return c.bytes_at(found.data, found.size).decode(errors="replace")


def message_of(error: int) -> str:
    """The text of a wasmtime_error_t, which is deleted."""
    text = Bytes()
    library().wasmtime_error_message(error, c.byref(text))
    library().wasmtime_error_delete(error)
    return text.take().decode(errors="replace").rstrip("\0")


def check(error: int | None, family: type[GarrisonError], what: str) -> None:
    """Raise `family` with the library's words if `error` is one.

    Raises:
        GarrisonError: of the family that was asked for.
    """
    if error:
        raise family(f"{what}: {message_of(error)}")


def wat2wasm(text: str) -> bytes:
    """Assemble the text form of a module.

    Raises:
        Malformed: it is not WebAssembly text.
    """
    data = text.encode()
    wasm = Bytes()
    error = library().wasmtime_wat2wasm(data, len(data), c.byref(wasm))
    check(error, Malformed, "not WebAssembly text")
    return wasm.take()

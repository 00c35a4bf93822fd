"""Engine, module and instance: as much of WebAssembly as running one guest takes.

An engine has one configuration, which the module cache knows by `CONFIGURATION`. Memories
never move (so that a view of one stays true while the guest grows it), and are 32-bit and
unshared; a guest can be stopped from outside at any time by `Engine.interrupt`.
"""

import posix  # the part of `os` that is used here, and no file to load

from garrison.errors import Malformed, Unavailable
from garrison.keep.engine import c
from garrison.keep.engine.failures import Trap
from garrison.keep.engine.library import Bytes, check, library, message_of, name_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# How much of the thread's stack is not the guest's: the host functions that it calls need it.
_OWN_STACK = 2 << 20
# One instance is what a program is. Modules have one memory and rarely more than one table.
_MAX_INSTANCES = 1
_MAX_MEMORIES = 1
_MAX_TABLES = 8
# Changes whenever compiled code of one configuration cannot run under another. The stack is a
# number that the code compares with when it runs, and so no part of it.
CONFIGURATION = "epochs, fixed memory, atomics"

# wasm.h, wasm_externkind_t, and wasmtime/extern.h, wasmtime_extern_kind_t: the same number.
_FUNCTION = 0
_MEMORY = 3
# wasm.h, wasm_valkind_t, by the letter that `struct` has for it.
_KINDS = {"i": 0, "I": 0, "q": 1, "Q": 1}

_MAGIC = b"\0asm"
_THREADS_HINT = "keeps have no threads (ADR 14): build for wasm32-wasip1, without them"
_TEXT_HINT = "make its binary form of WebAssembly text, with wat2wasm or wasm-tools parse"
# The binary format's `layer` field: 0 for a module, 1 for a component.
_COMPONENT_LAYER = b"\1\0"

# wasmtime/extern.h, wasmtime_extern_t: 32 bytes, a kind and, at 8, a function or a memory.
_Extern = c.Size * 4
_EXTERN_VALUE = 8
# wasmtime/instance.h, wasmtime_instance_t: 16 bytes.
_InstanceValue = c.Size * 2
# Parameters' types, of which no host function has more. One for all: to make an array type takes
# as long as to make the function.
_Types = c.Pointer * 16


def is_component(wasm: bytes) -> bool:
    """Whether `wasm` says of itself that it is a component."""
    return wasm[:4] == _MAGIC and wasm[6:8] == _COMPONENT_LAYER


class Engine:
    """One engine; everything that is made with it ends before it does.

    Args:
        stack: how many bytes of the thread's stack the guest's calls may take. What else a guest
            calls its stack is in its linear memory.

    Raises:
        Unavailable: the thread has no such stack, or the engine does not start.
    """

    def __init__(self, stack: int = 1 << 20) -> None:
        _check_stack(stack)
        lib = library()
        config = lib.wasm_config_new()
        lib.wasmtime_config_epoch_interruption_set(config, True)  # noqa: FBT003  (C)
        lib.wasmtime_config_memory_may_move_set(config, False)  # noqa: FBT003  (C)
        # Compilers may use atomic instructions where no thread is: on a memory that is not shared
        # they are as others, and to wait there is a trap. Without shared memories no threads.
        lib.wasmtime_config_wasm_threads_set(config, True)  # noqa: FBT003  (C)
        lib.wasmtime_config_shared_memory_set(config, False)  # noqa: FBT003  (C)
        lib.wasmtime_config_wasm_memory64_set(config, False)  # noqa: FBT003  (C)
        lib.wasmtime_config_max_wasm_stack_set(config, stack)
        # Stacks for asynchronous calls, of which there are none: yet they may not be smaller.
        lib.wasmtime_config_async_stack_size_set(config, stack + _OWN_STACK)
        self.handle: int = lib.wasm_engine_new_with_config(config)
        if not self.handle:
            raise Unavailable("the WebAssembly engine does not start", field="wasmtime")

    def interrupt(self) -> None:
        """End the guest that runs; from any thread."""
        library().wasmtime_engine_increment_epoch(self.handle)

    def close(self) -> None:
        """Give the engine back."""
        library().wasm_engine_delete(self.handle)


class Module:
    """Compiled code.

    Attributes:
        imports: module, name and whether it is a function, of each import.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.imports = _imports(handle)

    @classmethod
    def compile(cls, engine: Engine, wasm: bytes) -> "Module":
        """Compile a module's binary form.

        Raises:
            Malformed: it is not a module, or not a valid one.
        """
        if wasm[:4] != _MAGIC:
            raise Malformed(
                "not WebAssembly",
                field="module",
                found=f"{len(wasm)} bytes that begin with {wasm[:4].hex() or 'nothing'}",
                expected=_MAGIC.hex(),
                hint=_TEXT_HINT if wasm.lstrip()[:1] in (b"(", b";") else None,
            )
        handle = c.Pointer()
        error = library().wasmtime_module_new(engine.handle, wasm, len(wasm), c.byref(handle))
        if error:
            text = message_of(error)
            raise Malformed(f"not a valid WebAssembly module: {text}")
        return cls(handle.value or 0)

    @classmethod
    def load(cls, engine: Engine, compiled: bytes) -> "Module":
        """Take what `compiled` made, of this version and configuration.

        The caller answers for the bytes: they are machine code, and run.

        Raises:
            Unavailable: they are for another version, configuration or processor.
        """
        handle = c.Pointer()
        error = library().wasmtime_module_deserialize(
            engine.handle, compiled, len(compiled), c.byref(handle)
        )
        check(error, Unavailable, "compiled code cannot be used")
        return cls(handle.value or 0)

    def compiled(self) -> bytes:
        """The machine code, for `load`.

        Raises:
            Unavailable: the engine cannot tell.
        """
        data = Bytes()
        error = library().wasmtime_module_serialize(self.handle, c.byref(data))
        check(error, Unavailable, "compiled code cannot be had")
        return data.take()

    def close(self) -> None:
        """Give the module back."""
        library().wasmtime_module_delete(self.handle)


def _imports(module: int) -> list[tuple[str, str, bool]]:
    lib = library()
    found = Bytes()  # a wasm_importtype_vec_t has the same shape
    lib.wasmtime_module_imports(module, c.byref(found))
    items = c.memory_at(found.data or 0, found.size * c.sizeof(c.Pointer)).cast("Q")
    imports = [
        (
            name_at(lib.wasm_importtype_module(item)),
            name_at(lib.wasm_importtype_name(item)),
            lib.wasm_externtype_kind(lib.wasm_importtype_type(item)) == _FUNCTION,
        )
        for item in items
    ]
    lib.wasm_importtype_vec_delete(c.byref(found))
    return imports


class Instance:
    """A module with its own memory, and the host functions it was linked with.

    Attributes:
        context: what the library calls the store from inside.
    """

    def __init__(self, engine: Engine, module: Module, *, memory: int, table_elements: int) -> None:
        """Prepare; nothing runs yet.

        Args:
            engine: the engine that compiled `module`.
            module: what to run.
            memory: how many bytes of linear memory it may have.
            table_elements: how many elements each of its tables may have.
        """
        lib = library()
        self._module = module
        self._store: int = lib.wasmtime_store_new(engine.handle, None, None)
        self.context: int = lib.wasmtime_store_context(self._store)
        lib.wasmtime_store_limiter(
            self._store, memory, table_elements, _MAX_INSTANCES, _MAX_TABLES, _MAX_MEMORIES
        )
        # One tick of `Engine.interrupt` ends it.
        lib.wasmtime_context_set_epoch_deadline(self.context, 1)
        self._linker: int = lib.wasmtime_linker_new(engine.handle)
        self._callbacks: list[object] = []
        # Of functions, by the letters of parameters and result.
        self._types: dict[tuple[str, str], int] = {}
        self._value = _InstanceValue()
        self._linked = False

    def define(
        self,
        module: str,
        name: str,
        parameters: str,
        result: str,
        function: "Callable[[None, int, int], int]",
    ) -> None:
        """Provide a host function.

        Args:
            module: the import's module.
            name: the import's name.
            parameters: a `struct` letter for each.
            result: likewise, or empty.
            function: called with (None, caller, address of the values); returns a new trap or 0,
                and never raises.

        Raises:
            Malformed: the import is defined already.
        """
        callback = c.Callback(function)
        self._callbacks.append(callback)
        lib = library()
        kind = self._types.get((parameters, result))
        if kind is None:
            taken, given = _kinds(parameters), _kinds(result)
            kind = lib.wasm_functype_new(c.byref(taken), c.byref(given))
            self._types[parameters, result] = kind
        encoded, encoded_name = module.encode(), name.encode()
        error = lib.wasmtime_linker_define_func_unchecked(
            self._linker,
            encoded,
            len(encoded),
            encoded_name,
            len(encoded_name),
            kind,
            callback,
            None,
            None,
        )
        check(error, Malformed, f"{module} {name} cannot be provided")

    def link(self) -> None:
        """Make the instance; this runs the module's own start function, if it has one.

        Raises:
            Malformed: its imports have other types than what was defined; it has a shared memory.
            Trap: its start function trapped.
            Unavailable: it wants more memory or tables than it may have.
        """
        trap = c.Pointer()
        error = library().wasmtime_linker_instantiate(
            self._linker,
            self.context,
            self._module.handle,
            c.byref(self._value),
            c.byref(trap),
        )
        if trap.value:
            raise trapped(trap.value)
        if error:
            text = message_of(error)
            if "shared memory" in text:
                raise Malformed(
                    "the module wants threads",
                    field="module",
                    found="a shared memory",
                    expected="none",
                    hint=_THREADS_HINT,
                )
            if "incompatible import type" in text:
                raise Malformed(f"the module does not fit its host: {text}", field="module")
            raise Unavailable(
                f"the module cannot be started: {text}",
                field="module",
                hint="what it may have stands in [limits] of Enarx.toml: memory, table_elements",
            )

        self._linked = True

    def call(self, name: str) -> None:
        """Call an exported function without parameters or results.

        Raises:
            Malformed: there is no such function.
            Trap: the guest trapped.
        """
        lib = library()
        encoded = name.encode()
        found = _Extern()
        there = lib.wasmtime_instance_export_get(
            self.context, c.byref(self._value), encoded, len(encoded), c.byref(found)
        )
        function = c.addressof(found) + _EXTERN_VALUE
        if not there or found[0] & 0xFF != _FUNCTION or not _is_plain(self.context, function):
            raise Malformed(
                "not a program",
                field="module",
                found=f"no exported function {name} without parameters and results",
                expected=f"a command, which exports {name}",
                hint="link it as an executable, not as a library (reactor)",
            )
        trap = c.Pointer()
        error = lib.wasmtime_func_call(self.context, function, None, 0, None, 0, c.byref(trap))
        if trap.value:
            raise trapped(trap.value)
        # A trap that a host function made is told as an error.
        check(error, Trap, "the guest failed")

    def memory_size(self) -> int:
        """How many bytes of memory it has; 0 if it exports none, or was not made."""
        lib = library()
        found = _Extern()
        there = self._linked and lib.wasmtime_instance_export_get(
            self.context, c.byref(self._value), b"memory", 6, c.byref(found)
        )
        if not there or found[0] & 0xFF != _MEMORY:
            return 0
        memory = c.addressof(found) + _EXTERN_VALUE
        return int(lib.wasmtime_memory_data_size(self.context, memory))

    def close(self) -> None:
        """Give the instance and its memory back."""
        lib = library()
        for kind in self._types.values():
            lib.wasm_functype_delete(kind)
        lib.wasmtime_linker_delete(self._linker)
        lib.wasmtime_store_delete(self._store)
        self._callbacks.clear()


def _check_stack(stack: int) -> None:
    """Refuse what the thread does not have: beyond its end lies somebody else's memory.

    Raises:
        Unavailable: it is so.
    """
    there = c.stack_limit()
    if there < stack + _OWN_STACK:
        raise Unavailable(
            "the thread's stack is too small for the guest's",
            field="limits.stack",
            found=f"{there} bytes in all",
            expected=f"{stack + _OWN_STACK}",
            hint="raise it (ulimit -s), or lower limits.stack",
        )


def memory_of(caller: int) -> tuple[int, int]:
    """The address and size of the memory of a host function's caller; (0, 0) if it has none."""
    lib = library()
    found = _Extern()
    if not lib.wasmtime_caller_export_get(caller, b"memory", 6, c.byref(found)):
        return 0, 0
    if found[0] & 0xFF != _MEMORY:
        lib.wasmtime_extern_delete(c.byref(found))
        return 0, 0
    context = lib.wasmtime_caller_context(caller)
    memory = c.addressof(found) + _EXTERN_VALUE
    return (
        lib.wasmtime_memory_data(context, memory) or 0,
        lib.wasmtime_memory_data_size(context, memory),
    )


def new_trap(message: bytes) -> int:
    """Make a trap for a host function to return, which gives it away."""
    return int(library().wasmtime_trap_new(message, len(message)))


def last_trap(message: bytes) -> int:
    """`new_trap`, for a host function that has failed, or the end of this process.

    `ctypes` returns what happens to be in memory for a callback that raises, and the engine would
    take that for the address of a trap.
    """
    try:
        return new_trap(message)
    except BaseException:  # noqa: BLE001  (no memory is left, most likely)
        posix._exit(70)  # noqa: SLF001  (as `os._exit`)


def _is_plain(context: int, function: int) -> bool:
    """Whether a function has neither parameters nor results."""
    lib = library()
    kind = lib.wasmtime_func_type(context, function)
    # A wasm_valtype_vec_t begins with its length.
    plain = not any(
        c.Size.from_address(vector).value
        for vector in (lib.wasm_functype_params(kind), lib.wasm_functype_results(kind))
    )
    lib.wasm_functype_delete(kind)
    return plain


def _kinds(letters: str) -> Bytes:
    lib = library()
    types = _Types(*[lib.wasm_valtype_new(_KINDS[letter]) for letter in letters])
    vector = Bytes()  # a wasm_valtype_vec_t has the same shape; the function type takes it over
    lib.wasm_valtype_vec_new(c.byref(vector), len(letters), c.byref(types))
    return vector


def trapped(handle: int) -> Trap:
    """The failure that a wasm_trap_t tells of, which is deleted."""
    lib = library()
    text = Bytes()
    lib.wasm_trap_message(handle, c.byref(text))
    lib.wasm_trap_delete(handle)
    message = text.take().decode(errors="replace").rstrip("\0")
    # The engine tells the trace first, with a note on its own settings, and the cause last.
    trace, _, cause = message.partition("\n\nCaused by:\n")
    trace = trace.partition("\nnote: ")[0]
    return Trap(f"the guest trapped: {' '.join(cause.split()) or message}\n{trace}".rstrip())

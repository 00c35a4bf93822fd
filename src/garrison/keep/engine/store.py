"""Several core instances in one store, which use each other's exports and host functions.

This is what running a component takes; a core module alone is `runtime.Instance`. Whoever calls
a function answers for its signature: the engine does not check it (`signature` tells).
"""

from __future__ import annotations

from _struct import Struct  # `struct` is no more than this, and one file more to load

from garrison.errors import Malformed, Unavailable
from garrison.keep.engine import c
from garrison.keep.engine.failures import Trap
from garrison.keep.engine.library import Bytes, check, library, message_of
from garrison.keep.engine.runtime import trapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from garrison.keep.engine.runtime import Engine, Module

# wasmtime/extern.h, wasmtime_extern_t: 32 bytes, a kind and, at 8, what it is.
_Words = c.Size * 4
_EXTERN_VALUE = 8
# wasmtime/extern.h, wasmtime_extern_kind_t.
KINDS = {0: "func", 1: "global", 2: "table", 3: "memory"}
_FUNCTION = 0
# wasmtime/store.h, WASMTIME_UPDATE_DEADLINE_CONTINUE.
_CONTINUE = 0
# wasmtime/instance.h, wasmtime_instance_t: 16 bytes.
_InstanceWords = c.Size * 2
# wasmtime/val.h, wasmtime_val_raw_t: 16 bytes, the value at 0.
VALUE_SIZE = 16
# wasm.h, wasm_valkind_t, by the letter that `struct` has for it.
_VALUE_KINDS = "IQfd"
_PADDED = {"I": "I12x", "Q": "Q8x", "f": "f12x", "d": "d8x"}


def values(letters: str) -> Struct:
    """How core values of the types `letters` (as of `struct`) lie one after the other."""
    return Struct("<" + "".join(map(_PADDED.__getitem__, letters)))


class Extern:
    """Something that an instance imports or exports.

    Attributes:
        kind: "func", "global", "table" or "memory"; empty for anything else.
    """

    __slots__ = ("kind", "words")

    def __init__(self, words: Any) -> None:
        self.words = words
        self.kind = KINDS.get(words[0] & 0xFF, "")

    @property
    def address(self) -> int:
        """Where the engine's value is."""
        return c.addressof(self.words) + _EXTERN_VALUE


class HostFunction:
    """A function of the host's, for any number of stores.

    Args:
        parameters: a `struct` letter for each.
        result: likewise, or empty.
        function: called with (environment, caller, address of the values, how many); returns a
            new trap or 0, and never raises.
    """

    def __init__(
        self, parameters: str, result: str, function: Callable[[int, int, int, int], int]
    ) -> None:
        self.callback = c.Callback(function)
        taken, given = _types(parameters), _types(result)
        self.kind: int = library().wasm_functype_new(c.byref(taken), c.byref(given))

    def close(self) -> None:
        """Give it back; no store that has it may be used any more."""
        library().wasm_functype_delete(self.kind)


def deadline(late: Callable[[], bool]) -> Any:
    """What a store asks when the engine is interrupted: whether what runs is to end."""

    def interrupted(_context: int, _data: int, delta: int, kind: int) -> int:
        try:
            if late():
                return int(library().wasmtime_error_new(b"its time is over"))
            # wasmtime/store.h: go on, and ask again at the next tick.
            c.Size.from_address(delta).value = 1
            c.Byte.from_address(kind).value = _CONTINUE
        except BaseException:  # noqa: BLE001  (nothing may enter the engine)
            return int(library().wasmtime_error_new(b"the host failed"))
        return 0

    return c.Callback(interrupted)


class Store:
    """Instances that live and end together.

    Args:
        engine: what compiled their modules.
        memory: how many bytes of linear memory they may have. There is one memory: what shares
            it imports it.
        table_elements: how many elements each table may have.
        deadline: what is asked when the engine is interrupted (`deadline`); None if what runs is
            to end then.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        memory: int,
        table_elements: int,
        deadline: Any = None,
    ) -> None:
        lib = library()
        self._store: int = lib.wasmtime_store_new(engine.handle, None, None)
        self._context: int = lib.wasmtime_store_context(self._store)
        lib.wasmtime_store_limiter(self._store, memory, table_elements, -1, -1, 1)
        # One tick of `Engine.interrupt` ends it.
        lib.wasmtime_context_set_epoch_deadline(self._context, 1)
        if deadline is not None:
            lib.wasmtime_store_epoch_deadline_callback(self._store, deadline, None, None)

    def function(self, function: HostFunction) -> Extern:
        """Have a host function, which has to outlive the store."""
        words = _Words()
        library().wasmtime_func_new_unchecked(
            self._context,
            function.kind,
            function.callback,
            None,
            None,
            c.addressof(words) + _EXTERN_VALUE,
        )
        return Extern(words)

    def instantiate(self, module: Module, imports: Sequence[Extern]) -> Any:
        """Make an instance; this runs the module's own start function, if it has one.

        Raises:
            Malformed: `imports` have other types than the module's.
            Trap: its start function trapped.
            Unavailable: it wants more memory than it may have.
        """
        externs = (c.Size * (4 * len(imports)))()
        for index, extern in enumerate(imports):
            externs[4 * index : 4 * index + 4] = extern.words[:]
        instance = _InstanceWords()
        trap = c.Pointer()
        error = library().wasmtime_instance_new(
            self._context,
            module.handle,
            c.byref(externs),
            len(imports),
            c.byref(instance),
            c.byref(trap),
        )
        if trap.value:
            raise trapped(trap.value)
        if error:
            text = message_of(error)
            if "incompatible import type" in text:
                raise Malformed(f"a core module does not fit: {text}", field="component")
            raise Unavailable(f"the component cannot be started: {text}", field="component")
        return instance

    def export(self, instance: Any, name: str) -> Extern | None:
        """What an instance exports under a name; None if nothing."""
        encoded = name.encode()
        words = _Words()
        there = library().wasmtime_instance_export_get(
            self._context, c.byref(instance), encoded, len(encoded), c.byref(words)
        )
        return Extern(words) if there else None

    def memory(self, memory: Extern) -> tuple[int, int]:
        """The address and size of a memory."""
        lib = library()
        return (
            lib.wasmtime_memory_data(self._context, memory.address) or 0,
            lib.wasmtime_memory_data_size(self._context, memory.address),
        )

    def signature(self, function: Extern) -> tuple[str, str]:
        """The types of a function's parameters and results, a letter each; `?` for others."""
        lib = library()
        kind = lib.wasmtime_func_type(self._context, function.address)
        parameters, results = (
            "".join(map(_letter, _items(vector)))
            for vector in (lib.wasm_functype_params(kind), lib.wasm_functype_results(kind))
        )
        lib.wasm_functype_delete(kind)
        return parameters, results

    def caller(
        self, function: Extern, parameters: Struct, results: Struct
    ) -> Callable[..., tuple[Any, ...]]:
        """Make what calls a function whose signature was checked; not while it is called.

        Args:
            function: what to call.
            parameters: how its parameters lie, by `values`.
            results: likewise its results.

        Returns:
            What takes the parameters, and returns the results or raises a `Trap`.
        """
        size = max(parameters.size, results.size, VALUE_SIZE)
        memory = bytearray(size)
        raw = (c.Byte * size).from_buffer(memory)
        at, count = c.addressof(raw), size // VALUE_SIZE
        trap = c.Pointer()
        by_reference = c.byref(trap)
        invoke = library().wasmtime_func_call_unchecked
        context, address = self._context, function.address
        pack, unpack = parameters.pack_into, results.unpack_from

        def call(*given: Any) -> tuple[Any, ...]:
            # `raw` owns the export of `memory` that `at` points to.
            pack(raw, 0, *given)
            error = invoke(context, address, at, count, by_reference)
            if trap.value:
                handle, trap.value = trap.value, None
                raise trapped(handle)
            # A trap that a host function made is told as an error.
            check(error, Trap, "the guest failed")
            return unpack(raw)

        return call

    def call(
        self, function: Extern, parameters: Struct, given: Sequence[Any], results: Struct
    ) -> tuple[Any, ...]:
        """Call a function whose signature was checked, once.

        Raises:
            Trap: the guest trapped.
        """
        return self.caller(function, parameters, results)(*given)

    def close(self) -> None:
        """Give the instances and their memory back."""
        library().wasmtime_store_delete(self._store)


def _types(letters: str) -> Bytes:
    lib = library()
    types = (c.Pointer * len(letters))(
        *(lib.wasm_valtype_new(_VALUE_KINDS.index(letter)) for letter in letters)
    )
    vector = Bytes()  # a wasm_valtype_vec_t has the same shape; the function type takes it over
    lib.wasm_valtype_vec_new(c.byref(vector), len(letters), c.byref(types))
    return vector


def _items(vector: int) -> Any:
    found = Bytes.from_address(vector)
    return (c.Pointer * found.size).from_address(found.data) if found.size else ()


def _letter(kind: int) -> str:
    number = library().wasm_valtype_kind(kind)
    return _VALUE_KINDS[number] if number < len(_VALUE_KINDS) else "?"

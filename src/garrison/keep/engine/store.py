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
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from garrison.keep.engine.runtime import Engine, Module

# wasmtime/extern.h, wasmtime_extern_t: 32 bytes, a kind and, at 8, what it is.
_Words = c.Size * 4
_EXTERN_VALUE = 8
_EXTERN_SIZE = 32
# wasmtime/extern.h, wasmtime_extern_kind_t.
KINDS = {0: "func", 1: "global", 2: "table", 3: "memory"}
_FUNCTION = 0
# wasmtime/store.h, WASMTIME_UPDATE_DEADLINE_CONTINUE.
_CONTINUE = 0
# Of one component: what toolchains make has some tens of core instances, and as many tables. Each
# instance costs what its module's globals take, each table what its elements do.
_MAX_INSTANCES = 256
_MAX_TABLES = 64
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
    """Something that an instance imports or exports; in one store after the other, if need be.

    Args:
        words: where the engine's `wasmtime_extern_t` is to be, if that is not new memory.

    Attributes:
        kind: "func", "global", "table" or "memory"; empty for anything else, and before there is
            something.
        words: the memory.
        at: its address.
        address: where in it the engine's value is.
    """

    __slots__ = ("address", "at", "kind", "words")

    def __init__(self, words: Any = None) -> None:
        self.words = _Words() if words is None else words
        self.at: int = c.addressof(self.words)
        self.address = self.at + _EXTERN_VALUE
        self.kind = ""


class Imports:
    """What a module is given, one after the other, for any number of its instances.

    What stays in place is written there by the engine itself; `more` is copied each time.

    Args:
        count: how many there are.
    """

    def __init__(self, count: int) -> None:
        self._words = (c.Size * (4 * count))()
        self._more: list[tuple[slice, Extern]] = []
        self.count = count
        self.at: int = c.addressof(self._words)

    def extern(self, index: int) -> Extern:
        """What is to be at a place, of which nothing is known yet."""
        return Extern(_Words.from_buffer(self._words, index * _EXTERN_SIZE))

    def more(self, index: int, extern: Extern) -> None:
        """Have what is elsewhere be at a place."""
        self._more.append((slice(4 * index, 4 * index + 4), extern))

    def gather(self) -> None:
        """Copy what is elsewhere."""
        for place, extern in self._more:
            self._words[place] = extern.words[:]


class HostFunction:
    """A function of the host's, for any number of stores.

    Args:
        parameters: a `struct` letter for each.
        result: likewise, or empty.
        function: called with (None, caller, address of the values); returns a new trap or 0, and
            never raises.
    """

    def __init__(
        self, parameters: str, result: str, function: Callable[[None, int, int], int]
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

    return c.DeadlineCallback(interrupted)


class Store:
    """Instances that live and end together.

    Attributes:
        context: the engine's own name for it.

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
        self.context: int = lib.wasmtime_store_context(self._store)
        lib.wasmtime_store_limiter(
            self._store, memory, table_elements, _MAX_INSTANCES, _MAX_TABLES, 1
        )
        # One tick of `Engine.interrupt` ends it.
        lib.wasmtime_context_set_epoch_deadline(self.context, 1)
        if deadline is not None:
            lib.wasmtime_store_epoch_deadline_callback(self._store, deadline, None, None)

    def functions(self, made: Iterable[tuple[HostFunction, Extern]]) -> None:
        """Have each `extern` be a host function, which has to outlive the store."""
        new, context = library().wasmtime_func_new_unchecked, self.context
        for function, extern in made:
            new(context, function.kind, function.callback, None, None, extern.address)

    def instantiate(self, module: Module, imports: Imports, instance: Any) -> None:
        """Make an instance; this runs the module's own start function, if it has one.

        Args:
            module: of which.
            imports: what it is given.
            instance: new memory for it, by `instance_words`.

        Raises:
            Malformed: `imports` have other types than the module's.
            Trap: its start function trapped.
            Unavailable: it wants more memory than it may have.
        """
        imports.gather()
        trap = c.Pointer()
        error = library().wasmtime_instance_new(
            self.context, module.handle, imports.at, imports.count, instance, c.byref(trap)
        )
        if trap.value:
            raise trapped(trap.value)
        if error:
            text = message_of(error)
            if "incompatible import type" in text:
                raise Malformed(f"a core module does not fit: {text}", field="component")
            if "shared memory" in text:
                raise Malformed(f"a core module wants threads: {text}", field="component")
            raise Unavailable(f"the component cannot be started: {text}", field="component")

    def export(self, instance: Any, name: bytes, extern: Extern) -> bool:
        """Have `extern` be what an instance exports under a name; whether there is such."""
        return bool(
            library().wasmtime_instance_export_get(
                self.context, instance, name, len(name), extern.at
            )
        )

    def memory(self, memory: Extern) -> tuple[int, int]:
        """The address and size of a memory."""
        lib = library()
        return (
            lib.wasmtime_memory_data(self.context, memory.address) or 0,
            lib.wasmtime_memory_data_size(self.context, memory.address),
        )

    def signature(self, function: Extern) -> tuple[str, str]:
        """The types of a function's parameters and results, a letter each; `?` for others."""
        lib = library()
        kind = lib.wasmtime_func_type(self.context, function.address)
        parameters, results = (
            "".join(map(_letter, _items(vector)))
            for vector in (lib.wasm_functype_params(kind), lib.wasm_functype_results(kind))
        )
        lib.wasm_functype_delete(kind)
        return parameters, results

    def call(
        self, function: Extern, parameters: Struct, given: Sequence[Any], results: Struct
    ) -> tuple[Any, ...]:
        """Call a function whose signature was checked, once.

        Raises:
            Trap: the guest trapped.
        """
        return caller(function, parameters, results)(self.context, *given)

    def close(self) -> None:
        """Give the instances and their memory back."""
        library().wasmtime_store_delete(self._store)


def instance_words() -> Any:
    """Memory for the engine's `wasmtime_instance_t`, as a function takes it."""
    return c.byref(_InstanceWords())


def kind_of(extern: Extern) -> str:
    """What an export is, as `Extern.kind`."""
    return KINDS.get(extern.words[0] & 0xFF, "")


def caller(function: Extern, parameters: Struct, results: Struct) -> Callable[..., tuple[Any, ...]]:
    """Make what calls a function whose signature was checked; not while it is called.

    Args:
        function: what to call, in any store that it is of then.
        parameters: how its parameters lie, by `values`.
        results: likewise its results.

    Returns:
        What takes `Store.context` and the parameters, and returns the results or raises a `Trap`.
    """
    size = max(parameters.size, results.size, VALUE_SIZE)
    memory = bytearray(size)
    raw = (c.Byte * size).from_buffer(memory)
    at, count = c.addressof(raw), size // VALUE_SIZE
    trap = c.Pointer()
    by_reference = c.byref(trap)
    invoke = library().wasmtime_func_call_unchecked
    address = function.address
    pack, unpack = parameters.pack_into, results.unpack_from

    def call(context: int, *given: Any) -> tuple[Any, ...]:
        # `raw` owns the export of `memory` that `at` points to.
        pack(raw, 0, *given)
        error = invoke(context, address, at, count, by_reference)
        if trap.value:
            handle, trap.value = trap.value, None
            raise trapped(handle)
        if error:
            # A trap that a host function made is told as an error.
            check(error, Trap, "the guest failed")
        return unpack(raw)

    return call


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

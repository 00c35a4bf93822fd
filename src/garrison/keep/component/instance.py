"""A linked component at work: its core instances in a store, its handles, and the calls.

Rules: every core function that is called has the type that the component says, for the engine
would not look; what a call out of it failed with (`callbacks`) is raised again outside; after a
trap nothing of it runs again.
"""

from __future__ import annotations

from garrison.errors import GarrisonError, Malformed
from garrison.keep.component.abi import codec, fields
from garrison.keep.component.boundary import Boundary, LinearMemory
from garrison.keep.component.callbacks import (
    MAX_FLAT_PARAMETERS,
    MAX_FLAT_RESULTS,
    State,
    handle_function,
    lowered,
)
from garrison.keep.component.handles import Handles
from garrison.keep.component.link import CoreExport, HandleFunction, Lowered
from garrison.keep.engine.store import Extern, HostFunction, Store, deadline, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from garrison.formats.limits import Limits
    from garrison.keep.component.callbacks import Body
    from garrison.keep.component.link import CoreRef, Lifted, Program
    from garrison.keep.engine.runtime import Engine


class Ended(BaseException):
    """The component ended itself.

    Args:
        code: its exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Call:
    """How a function of a component's is called, found out once.

    Attributes:
        boundary: where its values cross.
        parameters: how they do.
        result: likewise, None if there is none.
        flat: the core types that it takes.
        returned: the core types that it returns.
    """

    def __init__(self, function: Lifted, boundary: Boundary) -> None:
        self.boundary = boundary
        kind = function.kind
        self.parameters = fields([part for _, part in kind.parameters])
        self.result = None if kind.result is None else codec(kind.result)
        flat = self.parameters.flat
        self.flat = flat if len(flat) <= MAX_FLAT_PARAMETERS else "I"
        self.returned = "" if self.result is None else self.result.flat
        if len(self.returned) > MAX_FLAT_RESULTS:
            self.returned = "I"


class Instance:
    """One instance of a component; after `close` it can be started anew, as another one.

    What the engine calls us by is made once, so that a new start costs little. All starts are for
    one thread.

    Args:
        engine: what compiled its modules.
        program: the component.
        body: gives the function of ours that serves an import; called with the interface's name
            and the function's.
        limits: how much linear memory it may have, and how large its tables may be.
        late: whether it is to end, asked when the engine is interrupted; None if it then is.

    Attributes:
        handles: what it holds.
        state: what its calls out share: what ended it from inside a function, if that was it.
    """

    def __init__(
        self,
        engine: Engine,
        program: Program,
        body: Callable[[str, str], Body],
        limits: Limits,
        late: Callable[[], bool] | None = None,
    ) -> None:
        self._engine = engine
        self._program = program
        self._body = body
        self._most = {"memory": limits.memory, "table_elements": limits.table_elements}
        self._deadline = None if late is None else deadline(late)
        self._store: Store | None = None
        self._instances: list[Any] = []
        self._externs: dict[CoreRef, Extern] = {}
        self._memories: dict[CoreRef, LinearMemory] = {}
        self._allocators: dict[CoreRef, Callable[..., tuple[Any, ...]]] = {}
        # Of all starts: what the engine calls, and what was found to have its type.
        self._functions: dict[CoreRef, HostFunction] = {}
        self._typed_refs: set[tuple[CoreRef, str, str]] = set()
        self._calls: dict[Lifted, _Call] = {}
        self.handles = Handles()
        self.state = State()

    def start(self, host: object) -> None:
        """Make the core instances; this runs what they run at their start.

        Args:
            host: handed to each function of ours as its first argument.

        Raises:
            GarrisonError: it cannot be made, or it failed.
        """
        self.state.begin(host)
        self._store = Store(self._engine, **self._most, deadline=self._deadline)
        with _Failures(self):
            for step in self._program.steps:
                imports = [self._extern(ref) for ref in step.imports]
                self._instances.append(self._store.instantiate(step.module, imports))

    def close(self) -> None:
        """Give all that it has back."""
        try:
            self.handles.close()
        finally:
            for memory in self._memories.values():
                memory.bind(None, None)
            self._allocators.clear()
            self._externs.clear()
            self._instances.clear()
            self.state.host = None
            if self._store is not None:
                self._store.close()
                self._store = None

    def end(self) -> None:
        """Give back what a new start would need too."""
        self.close()
        while self._functions:
            self._functions.popitem()[1].close()

    @property
    def _running(self) -> Store:
        if self._store is None:
            raise RuntimeError("a component that was not started is used")
        return self._store

    def call(self, function: Lifted, *arguments: Any) -> Any:
        """Call a function of the component's.

        Raises:
            Ended: it ended itself.
            Malformed: the core function has another type than it is said to have.
            GarrisonError: it failed.
        """
        with _Failures(self):
            return self._call(function, arguments)

    def _call(self, function: Lifted, arguments: tuple[Any, ...]) -> Any:
        known = self._calls.get(function)
        if known is None:
            boundary = self._boundary(function.memory, function.realloc)
            known = self._calls[function] = _Call(function, boundary)
        boundary, parameters, result = known.boundary, known.parameters, known.result
        flat, returned = known.flat, known.returned
        self._bind(function.memory, function.realloc)
        store, state = self._running, self.state
        core = self._typed(function.core, flat, returned)
        post = function.post_return and self._typed(function.post_return, returned, "")
        boundary.begin()
        state.may_leave = False
        if flat is parameters.flat:
            given = parameters.lower(boundary, arguments)
        else:
            address, view = boundary.room(parameters.size, parameters.align)
            parameters.store(boundary, arguments, view, 0)
            given = [address]
        state.may_leave = True
        found = store.call(core, values(flat), given, values(returned))
        value = None
        if result is not None:
            state.may_leave = False
            if len(result.flat) <= MAX_FLAT_RESULTS:
                value = result.lift(boundary, found, 0)
            else:
                view = boundary.at(found[0], result.size, result.align)
                value = _kept(result.load(boundary, view, 0))
            state.may_leave = True
        if post:
            state.may_leave = False
            store.call(post, values(returned), found, values(""))
            state.may_leave = True
        return value

    def _extern(self, ref: CoreRef) -> Extern:
        found = self._externs.get(ref)
        if found is None:
            found = self._externs[ref] = self._made(ref)
        return found

    def _made(self, ref: CoreRef) -> Extern:
        if isinstance(ref, CoreExport):
            found = self._running.export(self._instances[ref.instance], ref.name)
            if found is None or (ref.sort or found.kind) != found.kind:
                raise Malformed(
                    "a core module does not export what the component says",
                    field="component",
                    found=None if found is None else found.kind,
                    expected=f"{ref.sort or 'something'} {ref.name}",
                )
            return found
        function = self._functions.get(ref)
        if function is None:
            function = self._functions[ref] = self._host_function(ref)
        if isinstance(ref, Lowered):
            self._bind(ref.memory, ref.realloc)
        elif ref.destructor is not None:
            self._typed(ref.destructor, "I", "")
        return self._running.function(function)

    def _host_function(self, ref: Lowered | HandleFunction) -> HostFunction:
        """What the engine calls for a function that is ours."""
        if isinstance(ref, Lowered):
            function = ref.function
            boundary = self._boundary(ref.memory, ref.realloc)
            body = self._body(function.interface, function.name)
            return lowered(self.state, boundary, function.kind, body)

        def destroy(thing: int) -> None:
            if ref.destructor is not None:
                destructor = self._typed(ref.destructor, "I", "")
                self._running.call(destructor, values("I"), (thing,), values(""))

        return handle_function(self.state, self.handles, ref, destroy)

    def _typed(self, ref: CoreRef, parameters: str, results: str) -> Extern:
        """A core function that has these types: the engine would not look."""
        found = self._extern(ref)
        # What a module exports has the same type in each instance of it.
        if (ref, parameters, results) in self._typed_refs:
            return found
        if found.kind != "func" or self._running.signature(found) != (parameters, results):
            raise Malformed(
                "a core function has another type than the component says",
                field="component",
                found=found.kind if found.kind != "func" else self._running.signature(found),
                expected=(parameters, results),
            )
        self._typed_refs.add((ref, parameters, results))
        return found

    def _bind(self, memory: CoreRef | None, realloc: CoreRef | None) -> None:
        """Have a memory and an allocator be those of this start."""
        if memory is not None:
            extern = self._extern(memory)
            if extern.kind != "memory":
                raise Malformed("not a memory", field="component", found=extern.kind)
            self._memories[memory].bind(self._running, extern)
        if realloc is not None:
            self._typed(realloc, "IIII", "I")

    def _boundary(self, memory: CoreRef | None, realloc: CoreRef | None) -> Boundary:
        view = None
        if memory is not None:
            view = self._memories.setdefault(memory, LinearMemory())
        allocate = None
        if realloc is not None:

            def allocate(size: int, align: int) -> int:
                call = self._allocators.get(realloc)
                if call is None:
                    extern = self._typed(realloc, "IIII", "I")
                    call = self._running.caller(extern, values("IIII"), values("I"))
                    self._allocators[realloc] = call
                # Lowering holds `may_leave`: the allocator may not call us back.
                return int(call(0, 0, align, size)[0])

        return Boundary(view, self.handles, allocate)


class _Failures:
    """While a component runs: what a function of ours failed with comes out as itself."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def __enter__(self) -> None:
        if self._instance.state.failure is not None:
            raise RuntimeError("a component that failed is called again")

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        failure = self._instance.state.failure
        if failure is None:
            self._instance.state.failure = error
        elif isinstance(error, GarrisonError):
            raise failure from None


def _kept(value: Any) -> Any:
    """A value of a component's, without views of its memory."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, tuple):
        return tuple(map(_kept, value))
    return [_kept(part) for part in value] if isinstance(value, list) else value

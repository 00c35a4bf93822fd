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
from garrison.keep.engine.failures import Trap
from garrison.keep.engine.store import (
    Extern,
    HostFunction,
    Imports,
    Store,
    caller,
    deadline,
    instance_words,
    kind_of,
    values,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from garrison.formats.limits import Limits
    from garrison.keep.component.callbacks import Body
    from garrison.keep.component.link import CoreRef, Lifted, Program
    from garrison.keep.engine.runtime import Engine

    # An export to ask for, by the instance and its name.
    _Asked = tuple[CoreRef, Extern, Any, bytes]

# A destructor may drop what has one, and that again. Each is a few calls of ours, of which there
# are a thousand at most, and at the last one nobody could tell the engine of an error any more.
_MAX_DESTROYING = 64


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
        core: calls the core function, and `post` what is called after it, if there is such.
    """

    core: Callable[..., tuple[Any, ...]]
    post: Callable[..., tuple[Any, ...]] | None = None

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

    What the engine calls us by is made once, and so is what to ask it for in which order, so that
    a new start costs little. All starts are for one thread.

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
        self._memories: dict[CoreRef, LinearMemory] = {}
        # Of all starts: where the engine puts what it makes, and what of that is asked for once so
        # many core instances are there; what the engine calls, and what was found to have its type.
        self._stage = 0
        self._instances = [instance_words() for _ in program.steps]
        self._imports: dict[int, Imports] = {}
        self._externs: dict[CoreRef, Extern] = {}
        stages = range(len(program.steps) + 1)
        # Exports of the component's instances, and functions of ours.
        self._asked: list[list[_Asked]] = [[] for _ in stages]
        self._ours: list[list[tuple[HostFunction, Extern]]] = [[] for _ in stages]
        self._allocators: dict[CoreRef, Callable[..., tuple[Any, ...]]] = {}
        self._functions: dict[CoreRef, HostFunction] = {}
        self._typed_refs: set[tuple[CoreRef, str, str]] = set()
        self._calls: dict[Lifted, _Call] = {}
        self._destroying = 0
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
        store = self._store = Store(self._engine, **self._most, deadline=self._deadline)
        with _Failures(self):
            for stage, step in enumerate(self._program.steps):
                self._ask_again(stage)
                imports = self._imports.get(stage) or self._gathered(stage)
                store.instantiate(step.module, imports, self._instances[stage])
            self._ask_again(len(self._program.steps))

    def _ask_again(self, stage: int) -> None:
        """Ask a new store for what an earlier one was asked for when it was as far."""
        store = self._running
        self._stage = stage
        store.functions(self._ours[stage])
        for ref, extern, instance, name in self._asked[stage]:
            if not store.export(instance, name, extern):
                raise RuntimeError("two instances of a module export different things")
            if extern.kind == "memory" and ref in self._memories:
                self._memories[ref].bind(store, extern)

    def _gathered(self, stage: int) -> Imports:
        """Where the imports of a step are put, and these there."""
        refs = self._program.steps[stage].imports
        imports = Imports(len(refs))
        for index, ref in enumerate(refs):
            found = self._externs.get(ref)
            if found is None:
                self._made(ref, imports.extern(index))
            else:
                imports.more(index, found)
        self._imports[stage] = imports
        return imports

    def close(self) -> None:
        """Give all that it has back."""
        try:
            self.handles.close()
        finally:
            for memory in self._memories.values():
                memory.bind(None, None)
            self.state.host = None
            if self._store is not None:
                self._store.close()
                self._store = None

    def end(self) -> None:
        """Give back what a new start would need too."""
        self.close()
        # No start can come after it.
        self._ours.clear()
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
        known = self._calls.get(function) or self._known(function)
        boundary, parameters, result = known.boundary, known.parameters, known.result
        context, state = self._running.context, self.state
        boundary.begin()
        state.may_leave = False
        if known.flat is parameters.flat:
            given = parameters.lower(boundary, arguments)
        else:
            address, view = boundary.room(parameters.size, parameters.align)
            parameters.store(boundary, arguments, view, 0)
            given = [address]
        state.may_leave = True
        found = known.core(context, *given)
        value = None
        if result is not None:
            state.may_leave = False
            if len(result.flat) <= MAX_FLAT_RESULTS:
                value = result.lift(boundary, found, 0)
            else:
                view = boundary.at(found[0], result.size, result.align)
                value = _kept(result.load(boundary, view, 0))
            state.may_leave = True
        if known.post is not None:
            state.may_leave = False
            known.post(context, *found)
            state.may_leave = True
        return value

    def _known(self, function: Lifted) -> _Call:
        """How a function is called; all of it is there and has its type."""
        known = _Call(function, self._boundary(function.memory, function.realloc))
        self._bind(function.memory, function.realloc)
        core = self._typed(function.core, known.flat, known.returned)
        known.core = caller(core, values(known.flat), values(known.returned))
        if function.post_return is not None:
            post = self._typed(function.post_return, known.returned, "")
            known.post = caller(post, values(known.returned), values(""))
        self._calls[function] = known
        return known

    def _extern(self, ref: CoreRef) -> Extern:
        return self._externs.get(ref) or self._made(ref, Extern())

    def _made(self, ref: CoreRef, extern: Extern) -> Extern:
        """Ask for something for the first time, and have each later start ask for it too."""
        if isinstance(ref, CoreExport):
            if ref.instance >= self._stage:
                raise RuntimeError("an export of an instance that is not there is used")
            instance, name = self._instances[ref.instance], ref.name.encode()
            if self._running.export(instance, name, extern):
                extern.kind = kind_of(extern)
            if not extern.kind or (ref.sort or extern.kind) != extern.kind:
                raise Malformed(
                    "a core module does not export what the component says",
                    field="component",
                    found=extern.kind or None,
                    expected=f"{ref.sort or 'something'} {ref.name}",
                )
            self._asked[self._stage].append((ref, extern, instance, name))
        else:
            made = (self._function(ref), extern)
            self._running.functions([made])
            extern.kind = "func"
            self._ours[self._stage].append(made)
        self._externs[ref] = extern
        return extern

    def _function(self, ref: Lowered | HandleFunction) -> HostFunction:
        """What the engine calls for a function of ours; all that it uses is there."""
        function = self._functions.get(ref)
        if function is None:
            function = self._functions[ref] = self._host_function(ref)
        if isinstance(ref, Lowered):
            self._bind(ref.memory, ref.realloc)
        elif ref.destructor is not None:
            self._typed(ref.destructor, "I", "")
        return function

    def _host_function(self, ref: Lowered | HandleFunction) -> HostFunction:
        """What the engine calls for a function that is ours."""
        if isinstance(ref, Lowered):
            function = ref.function
            boundary = self._boundary(ref.memory, ref.realloc)
            body = self._body(function.interface, function.name)
            return lowered(self.state, boundary, function.kind, body)

        def destroy(thing: int) -> None:
            if ref.destructor is None:
                return
            if self._destroying >= _MAX_DESTROYING:
                raise Trap("the guest failed: a destructor in a destructor, and so on, too deep")
            self._destroying += 1
            try:
                destructor = self._typed(ref.destructor, "I", "")
                self._running.call(destructor, values("I"), (thing,), values(""))
            finally:
                self._destroying -= 1

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
                    call = self._allocators[realloc] = caller(extern, values("IIII"), values("I"))
                store = self._store or self._running
                # Lowering holds `may_leave`: the allocator may not call us back.
                address: int = call(store.context, 0, 0, align, size)[0]
                return address

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

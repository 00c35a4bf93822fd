"""A linked component at work: its core instances in a store, its handles, and the calls.

Rules: no exception ever enters the engine (what a function of ours fails with is the component's
where the function's type says so, everything else ends it by a trap and is raised again
outside); a component calls nothing while its own allocator runs for us; after a trap nothing of
it runs again.
"""

from __future__ import annotations

from garrison.errors import GarrisonError, Malformed
from garrison.keep.component import types as t
from garrison.keep.component.abi import codec, fields
from garrison.keep.component.boundary import Boundary
from garrison.keep.component.handles import Handles
from garrison.keep.component.link import CoreExport, HandleFunction, Lowered
from garrison.keep.engine import c
from garrison.keep.engine.failures import Trap
from garrison.keep.engine.runtime import new_trap
from garrison.keep.engine.store import VALUE_SIZE, Extern, HostFunction, Store, deadline, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from struct import Struct
    from typing import Any

    from garrison.keep.component.abi import Codec
    from garrison.keep.component.link import CoreRef, Lifted, Program
    from garrison.keep.engine.runtime import Engine

    Body = Callable[..., Any]
    Run = Callable[[tuple[Any, ...], memoryview], None]

# CanonicalABI.md, MAX_FLAT_PARAMS and MAX_FLAT_RESULTS.
MAX_FLAT_PARAMETERS = 16
MAX_FLAT_RESULTS = 1
# A component that calls at ever other depths of its stack shall not fill our memory.
_MAX_KNOWN = 64


def lowered_signature(kind: t.Function) -> tuple[str, str]:
    """The core types of a function's parameters and result, as a component imports it."""
    flat = fields([part for _, part in kind.parameters]).flat
    flat = flat if len(flat) <= MAX_FLAT_PARAMETERS else "I"
    returned = "" if kind.result is None else codec(kind.result).flat
    return (flat + "I", "") if len(returned) > MAX_FLAT_RESULTS else (flat, returned)


class Failed(Exception):
    """A function of ours fails with a value of its error type.

    Args:
        value: the value.
    """

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self.value = value


class Ended(BaseException):
    """The component ended itself.

    Args:
        code: its exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class LinearMemory:
    """The memory of a component.

    The engine never moves it, so one view of it all is kept, and made again only when a component
    points beyond it: it may have grown.
    """

    def __init__(self) -> None:
        self._store: Store | None = None
        self._memory: Extern | None = None
        self._size = 0
        self._all = memoryview(b"")

    def bind(self, store: Store | None, memory: Extern | None) -> None:
        """Be the memory of another instance, or of none."""
        self._store, self._memory = store, memory
        self._size = 0
        self._all = memoryview(b"")

    def view(self, address: int, size: int) -> memoryview:
        """The `size` bytes at `address`. The view must not outlive the call.

        Raises:
            Trap: the memory does not reach that far.
        """
        end = address + size
        if end > self._size and self._store is not None and self._memory is not None:
            start, self._size = self._store.memory(self._memory)
            self._all = c.memory_at(start, self._size)
        if end > self._size:
            raise Trap(
                f"the guest failed: {size} bytes at {address:#x} are not all in its memory,"
                f" which has {self._size:#x}"
            )
        return self._all[address:end]


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
        memory: how many bytes of linear memory it may have.
        table_elements: how many elements each of its tables may have.
        late: whether it is to end, asked when the engine is interrupted; None if it then is.

    Attributes:
        handles: what it holds.
        failure: what ended it from inside a function, if that was it.
    """

    def __init__(
        self,
        engine: Engine,
        program: Program,
        body: Callable[[str, str], Body],
        *,
        memory: int,
        table_elements: int,
        late: Callable[[], bool] | None = None,
    ) -> None:
        self._engine = engine
        self._program = program
        self._body = body
        self._host: object = None
        self._most = {"memory": memory, "table_elements": table_elements}
        self._deadline = None if late is None else deadline(late)
        self._store: Store | None = None
        self._instances: list[Any] = []
        self._externs: dict[CoreRef, Extern] = {}
        self._memories: dict[CoreRef, LinearMemory] = {}
        self._allocators: dict[CoreRef, Callable[..., tuple[Any, ...]]] = {}
        # Of all starts: what the engine calls, and what was found to have its type.
        self._functions: dict[CoreRef, tuple[HostFunction, Boundary | None]] = {}
        self._typed_refs: set[tuple[CoreRef, str, str]] = set()
        self._calls: dict[Lifted, _Call] = {}
        # CanonicalABI.md, `may_leave`.
        self._may_leave = True
        self.handles = Handles()
        self.failure: BaseException | None = None

    def start(self, host: object) -> None:
        """Make the core instances; this runs what they run at their start.

        Args:
            host: handed to each function of ours as its first argument.

        Raises:
            GarrisonError: it cannot be made, or it failed.
        """
        self._host = host
        self.failure = None
        self._may_leave = True
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
            self._host = None
            if self._store is not None:
                self._store.close()
                self._store = None

    def end(self) -> None:
        """Give back what a new start would need too."""
        self.close()
        while self._functions:
            self._functions.popitem()[1][0].close()

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
        store = self._running
        core = self._typed(function.core, flat, returned)
        post = function.post_return and self._typed(function.post_return, returned, "")
        boundary.begin()
        self._may_leave = False
        if flat is parameters.flat:
            given = parameters.lower(boundary, arguments)
        else:
            address, view = boundary.room(parameters.size, parameters.align)
            parameters.store(boundary, arguments, view, 0)
            given = [address]
        self._may_leave = True
        found = store.call(core, values(flat), given, values(returned))
        value = None
        if result is not None:
            self._may_leave = False
            if len(result.flat) <= MAX_FLAT_RESULTS:
                value = result.lift(boundary, found, 0)
            else:
                view = boundary.at(found[0], result.size, result.align)
                value = _kept(result.load(boundary, view, 0))
            self._may_leave = True
        if post:
            self._may_leave = False
            store.call(post, values(returned), found, values(""))
            self._may_leave = True
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
            made = self._lowered(ref) if isinstance(ref, Lowered) else self._handle_function(ref)
            function = self._functions[ref] = made
        if isinstance(ref, Lowered):
            self._bind(ref.memory, ref.realloc)
        elif ref.destructor is not None:
            self._typed(ref.destructor, "I", "")
        return self._running.function(function[0])

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
                # Lowering holds `_may_leave`: the allocator may not call us back.
                return int(call(0, 0, align, size)[0])

        return Boundary(view, self.handles, allocate)

    def _lowered(self, ref: Lowered) -> tuple[HostFunction, Boundary | None]:
        """Make what the engine calls for an import."""
        kind = ref.function.kind
        boundary = self._boundary(ref.memory, ref.realloc)
        body = self._body(ref.function.interface, ref.function.name)
        parameters = fields([part for _, part in kind.parameters])
        flat, returned = lowered_signature(kind)
        run = self._run(boundary, body, parameters, kind, flat, returned)
        if any(isinstance(part, t.Own) for _, part in kind.parameters):
            run = _noting(boundary, run)
        layout = values(flat)
        return HostFunction(flat, returned, self._callback(run, layout)), boundary

    def _run(
        self,
        boundary: Boundary,
        body: Body,
        parameters: Codec,
        kind: t.Function,
        flat: str,
        returned: str,
    ) -> Run:
        """Make what lifts the parameters, calls the `body` and lowers the result."""
        result = None if kind.result is None else codec(kind.result)
        spilled = len(parameters.flat) > MAX_FLAT_PARAMETERS
        by_address = result is not None and not returned
        fails = isinstance(kind.result, t.Result)
        pack = values(returned).pack_into

        def run(flat_values: tuple[Any, ...], view: memoryview) -> None:
            out = None
            if by_address and result is not None:
                # Before anything is done.
                out = boundary.at(flat_values[len(flat) - 1], result.size, result.align)
            boundary.begin()
            if spilled:
                inside = boundary.at(flat_values[0], parameters.size, parameters.align)
                arguments = parameters.load(boundary, inside, 0)
            else:
                arguments = parameters.lift(boundary, flat_values, 0)
            try:
                value = body(self._host, *arguments)
            except Failed as error:
                if not fails:
                    raise
                value = ("err", error.value)
            else:
                if fails:
                    value = ("ok", value)
            if result is None:
                return
            self._may_leave = False
            if out is not None:
                result.store(boundary, value, out, 0)
            else:
                pack(view, 0, *result.lower(boundary, value))
            self._may_leave = True

        return run

    def _handle_function(self, ref: HandleFunction) -> tuple[HostFunction, None]:
        resource, handles = ref.resource, self.handles
        destructor = ref.destructor
        one, none = values("I"), values("")

        def new(flat: tuple[Any, ...], view: memoryview) -> None:
            one.pack_into(view, 0, handles.add(resource, flat[0]))

        def rep(flat: tuple[Any, ...], view: memoryview) -> None:
            one.pack_into(view, 0, handles.get(flat[0], resource).thing)

        def drop(flat: tuple[Any, ...], _view: memoryview) -> None:
            thing = handles.take(flat[0], resource)
            if destructor is not None:
                destroy = self._typed(destructor, "I", "")
                self._running.call(destroy, one, (thing,), none)
            elif resource.drop is not None:
                resource.drop(thing)

        run = {"new": new, "rep": rep, "drop": drop}[ref.kind]
        returned = "" if ref.kind == "drop" else "I"
        return HostFunction("I", returned, self._callback(run, one)), None

    def _callback(
        self,
        run: Run,
        layout: Struct,
    ) -> Callable[[int, int, int, int], int]:
        # The values are on the engine's stack, at one of few addresses.
        known: dict[int, memoryview] = {}
        unpack, size = layout.unpack_from, max(layout.size, VALUE_SIZE)

        def callback(_environment: int, _caller: int, at: int, _count: int) -> int:
            try:
                view = known.get(at)
                if view is None:
                    if len(known) >= _MAX_KNOWN:
                        known.clear()
                    view = known[at] = c.memory_at(at, size)
                self._check_may_leave()
                run(unpack(view), view)
            except MemoryError:
                self.failure = Trap("the guest failed: there is no memory left for what it asks")
                return new_trap(b"ended by the host")
            except BaseException as error:  # noqa: BLE001  (nothing may enter the engine)
                # The first one counts: it is what the others come of.
                self.failure = self.failure or error
                return new_trap(b"ended by the host")
            return 0

        return callback

    def _check_may_leave(self) -> None:
        if not self._may_leave:
            raise Trap("the guest failed: it calls out while its allocator runs")


def _noting(boundary: Boundary, run: Run) -> Run:
    """Note what a call borrows, so that it does not give the same away."""

    def noting(flat_values: tuple[Any, ...], view: memoryview) -> None:
        boundary.lent = []
        try:
            run(flat_values, view)
        finally:
            for handle in boundary.lent:
                handle.lent -= 1

    return noting


class _Failures:
    """While a component runs: what a function of ours failed with comes out as itself."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def __enter__(self) -> None:
        if self._instance.failure is not None:
            raise RuntimeError("a component that failed is called again")

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        failure = self._instance.failure
        if failure is None:
            self._instance.failure = error
        elif isinstance(error, GarrisonError):
            raise failure from None


def _kept(value: Any) -> Any:
    """A value of a component's, without views of its memory."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, tuple):
        return tuple(map(_kept, value))
    return [_kept(part) for part in value] if isinstance(value, list) else value

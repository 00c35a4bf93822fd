"""What the indices in a component mean: its imports matched with ours, its core modules in order.

Rules: every import must be an interface that the keep has, and every type and function of it
must be built as ours is; so nothing that runs is of a type that a component alone decides. A
component inside another may rename what it is given, as toolchains make it for exports, and
nothing else. What comes out can be instantiated many times (`instance`).
"""

from __future__ import annotations

from garrison.errors import Malformed
from garrison.formats.record import Record
from garrison.keep.component import definitions as d
from garrison.keep.component import types as t
from garrison.keep.component.binary import unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    from garrison.keep.engine.runtime import Module

    T = TypeVar("T")


class CoreExport(Record, eq=False):
    """What the core instance number `instance` exports."""

    instance: int
    name: str
    sort: str | None


class HostFunction(Record, eq=False):
    """A function of ours."""

    interface: str
    name: str
    kind: t.Function


class Lowered(Record, eq=False):
    """A function of ours as a core function."""

    function: HostFunction
    memory: CoreRef | None
    realloc: CoreRef | None


class HandleFunction(Record, eq=False):
    """A core function for handles; `destructor` is the component's own."""

    kind: str
    resource: t.Resource
    destructor: CoreRef | None


CoreRef = CoreExport | Lowered | HandleFunction


class Lifted(Record, eq=False):
    """A core function as a function of the component's."""

    core: CoreRef
    kind: t.Function
    memory: CoreRef | None
    realloc: CoreRef | None
    post_return: CoreRef | None


class Step(Record):
    """A core instance to be made, of `module`, with its imports."""

    module: Module
    imports: tuple[CoreRef, ...]


class Program(Record):
    """A component whose imports are all there.

    Attributes:
        steps: the core instances to make, in order.
        exports: its functions, by interface (without version) and name.
    """

    steps: tuple[Step, ...]
    exports: dict[str, dict[str, Lifted]]


class _ScopeType(Record):
    declarations: tuple[d.Definition, ...]
    scope: _Scope


class _Scope:
    """The index spaces of a component, or of a type that is one."""

    def __init__(self, outer: _Scope | None) -> None:
        self.outer = outer
        self.modules: list[bytes] = []
        self.core: dict[str, list[CoreRef]] = {"func": [], "table": [], "memory": [], "global": []}
        self.core_instances: list[int | dict[str, tuple[str, CoreRef]]] = []
        self.types: list[Any] = []
        self.functions: list[HostFunction | Lifted] = []
        self.instances: list[dict[str, Any]] = []
        self.components: list[tuple[d.Component, _Scope]] = []
        self.exports: dict[str, tuple[d.Sort, Any]] = {}

    def space(self, sort: d.Sort) -> list[Any]:
        """The index space of a sort."""
        if sort == "core module":
            raise unsupported("a core module that is given or taken", _COMPOSED)
        return {
            "func": self.functions,
            "type": self.types,
            "instance": self.instances,
            "component": self.components,
        }[sort]


# Components inside can be instantiated again and again, and each time they are gone through with
# all that their definitions list; toolchains make some thousands in all.
MAX_EVALUATED = 1 << 18

_COMPOSED = "run components that are not composed of others"


def link(
    component: d.Component,
    find: Callable[[str], t.Interface],
    module: Callable[[bytes], Module],
) -> Program:
    """Match a component with what the keep has.

    Args:
        component: what to link.
        find: gives the interface of an import's name, with version.
        module: compiles a core module.

    Raises:
        Malformed: an index, type or name is wrong, or `find` or `module` say so.
    """
    linker = _Linker(find, module)
    scope = _Scope(None)
    linker.evaluate(component, scope, None)
    exports: dict[str, dict[str, Lifted]] = {}
    for name, (_, item) in scope.exports.items():
        if isinstance(item, dict):
            found = {key: value for key, value in item.items() if isinstance(value, Lifted)}
            exports[name.partition("@")[0]] = found
    return Program(tuple(linker.steps), exports)


def _wrong(what: str, found: object = None, expected: object = None) -> Malformed:
    return Malformed(what, field="component", found=found, expected=expected)


def _at(space: Sequence[T], index: int, what: str) -> T:
    if index >= len(space):
        raise _wrong(f"there is no such {what}", index, f"less than {len(space)}")
    return space[index]


class _Linker:
    def __init__(
        self, find: Callable[[str], t.Interface], module: Callable[[bytes], Module]
    ) -> None:
        self._find = find
        self._module = module
        self._compiled: dict[int, Module] = {}
        self._destructors: dict[t.Resource, CoreRef] = {}
        self._left = MAX_EVALUATED
        self.steps: list[Step] = []

    def evaluate(
        self, component: d.Component, scope: _Scope, given: dict[str, tuple[d.Sort, Any]] | None
    ) -> None:
        """Go through a component's definitions; `given` are the imports of one inside."""
        for definition in component.definitions:
            self._spend(1 + d.listed(definition))
            self._definition(definition, scope, given)

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise _wrong("too many definitions", expected=f"at most {MAX_EVALUATED}")

    def _definition(
        self,
        definition: d.Definition,
        scope: _Scope,
        given: dict[str, tuple[d.Sort, Any]] | None,
    ) -> None:
        match definition:
            case d.TypeSection(inner):
                scope.types.append(self._type(inner, scope))
            case d.Import(name, external):
                if given is None:
                    self._import(name, external, scope)
                else:
                    self._given(name, external, scope, given)
            case d.Export(name, sort, index, _):
                item = _at(scope.space(sort), index, sort)
                scope.space(sort).append(item)
                if name in scope.exports:
                    raise _wrong("exported twice", name)
                scope.exports[name] = (sort, item)
            case d.Nested(component):
                scope.components.append((component, scope))
            case d.Instantiation(number, arguments):
                scope.instances.append(self._instantiate(number, arguments, scope))
            case d.Bundle(exports):
                scope.instances.append(
                    {name: _at(scope.space(sort), index, sort) for name, sort, index in exports}
                )
            case d.Alias(sort, number, name):
                item = _member(_at(scope.instances, number, "instance"), name)
                _check_sort(item, sort, name)
                scope.space(sort).append(item)
            case d.OuterAlias(sort, depth, index):
                scope.space(sort).append(_outer(scope, sort, depth, index))
            case _ if given is not None:
                raise unsupported("a component composed of several", _COMPOSED)
            case _:
                self._core(definition, scope)

    def _core(self, definition: d.Definition, scope: _Scope) -> None:
        """A definition that has to do with core modules, which only the outermost may have."""
        match definition:
            case d.CoreModule(wasm):
                scope.modules.append(wasm)
            case d.CoreInstantiation(number, arguments):
                self._core_instantiate(number, arguments, scope)
            case d.CoreBundle(exports):
                scope.core_instances.append(
                    {name: (sort, _at(scope.core[sort], i, sort)) for name, sort, i in exports}
                )
            case d.CoreAlias(sort, number, name):
                scope.core[sort].append(_core_member(scope, number, name, sort))
            case d.Lower(index, options):
                function = _at(scope.functions, index, "function")
                if not isinstance(function, HostFunction):
                    raise unsupported("a component that imports its own exports", _COMPOSED)
                memory, realloc, _ = _options(options, scope)
                scope.core["func"].append(Lowered(function, memory, realloc))
            case d.Lift(index, options, kind):
                core = _at(scope.core["func"], index, "core function")
                function_type = _function_type(scope, kind)
                scope.functions.append(Lifted(core, function_type, *_options(options, scope)))
            case d.ResourceFunction(kind, index):
                resource = _at(scope.types, index, "type")
                if not isinstance(resource, t.Resource):
                    raise _wrong("not a resource type", index)
                destructor = self._destructors.get(resource)
                if kind != "drop" and resource.drop is not _OWN:
                    raise _wrong(
                        "makes or looks into a handle of another's resource", resource.name
                    )
                scope.core["func"].append(HandleFunction(kind, resource, destructor))
            case d.CoreTypes():
                pass
            case _:
                raise _wrong("a declaration outside of a type")

    def _type(self, definition: object, scope: _Scope) -> Any:
        match definition:
            case d.ValueDefinition():
                return _value_type(definition, scope)
            case d.FunctionDefinition(names, parameters, result):
                kinds = tuple(_value(scope, part) for part in parameters)
                returned = None if result is None else _value(scope, result)
                return t.Function(tuple(zip(names, kinds, strict=True)), returned)
            case d.ResourceDefinition(destructor):
                resource = t.Resource("a resource of its own")
                resource.drop = _OWN
                if destructor is not None:
                    function = _at(scope.core["func"], destructor, "core function")
                    self._destructors[resource] = function
                return resource
            case d.ScopeDefinition(declarations):
                return _ScopeType(declarations, scope)
        raise _wrong("an unknown type")

    def _import(self, name: str, external: d.External, scope: _Scope) -> None:
        if external.sort != "instance":
            raise Malformed(
                "the component imports what no keep has",
                field="component",
                found=f"{external.sort} {name}",
                expected="interfaces of WASI 0.2 only",
            )
        kind = _at(scope.types, external.index or 0, "type")
        if not isinstance(kind, _ScopeType):
            raise _wrong("not an instance type", external.index)
        scope.instances.append(self._imported(name, self._find(name), kind))

    def _imported(self, name: str, interface: t.Interface, kind: _ScopeType) -> dict[str, Any]:
        """Compare an instance type with an interface of ours, and give it our resources."""
        self._spend(len(kind.declarations))
        inner = _Scope(kind.scope)
        found: dict[str, Any] = {}
        for declaration in kind.declarations:
            match declaration:
                case d.TypeSection(d.ValueDefinition() | d.FunctionDefinition() as definition):
                    inner.types.append(self._type(definition, inner))
                case d.OuterAlias("type", depth, index):
                    inner.types.append(_outer(inner, "type", depth, index))
                case d.Declaration(item, d.External("type", index)):
                    ours = interface.types.get(item)
                    theirs = ours if index is None else _at(inner.types, index, "type")
                    if ours is None or (index is None and not isinstance(ours, t.Resource)):
                        raise _missing(name, f"type {item}")
                    if theirs != ours:
                        raise _other(name, f"type {item}")
                    inner.types.append(ours)
                    found[item] = ours
                case d.Declaration(item, d.External("func", index)):
                    function = interface.functions.get(item)
                    if function is None:
                        raise _missing(name, item)
                    if _at(inner.types, index or 0, "type") != function:
                        raise _other(name, item)
                    found[item] = HostFunction(interface.name, item, function)
                case _:
                    raise unsupported(f"what {name} is imported as", _COMPOSED)
        return found

    def _given(
        self,
        name: str,
        external: d.External,
        scope: _Scope,
        given: dict[str, tuple[d.Sort, Any]],
    ) -> None:
        if name not in given:
            raise _wrong("a component inside is not given what it imports", name)
        sort, item = given[name]
        if sort != external.sort:
            raise _wrong(
                f"a component inside imports {name} as something else", sort, external.sort
            )
        scope.space(sort).append(item)

    def _instantiate(
        self, number: int, arguments: tuple[tuple[str, d.Sort, int], ...], scope: _Scope
    ) -> dict[str, Any]:
        component, outer = _at(scope.components, number, "component")
        given: dict[str, tuple[d.Sort, Any]] = {
            name: (sort, _at(scope.space(sort), index, sort)) for name, sort, index in arguments
        }
        inner = _Scope(outer)
        self.evaluate(component, inner, given)
        return {name: item for name, (_, item) in inner.exports.items()}

    def _core_instantiate(
        self, number: int, arguments: tuple[tuple[str, int], ...], scope: _Scope
    ) -> None:
        wasm = _at(scope.modules, number, "core module")
        module = self._compiled.get(number)
        if module is None:
            module = self._compiled[number] = self._module(wasm)
        instances = dict(arguments)
        imports = []
        for source, name, _ in module.imports:
            if source not in instances:
                raise _wrong("a core module is not given what it imports", f"{source} {name}")
            imports.append(_core_member(scope, instances[source], name, None))
        scope.core_instances.append(len(self.steps))
        self.steps.append(Step(module, tuple(imports)))


def _own_handle_is_a_number(_thing: object) -> None:
    """What a handle of the component's own resource stands for is a number of its own."""


_OWN = _own_handle_is_a_number


def _missing(interface: str, what: str) -> Malformed:
    return Malformed(
        "the component imports what no keep has",
        field="component",
        found=f"{what} of {interface}",
        hint="build it for a release of WASI 0.2, without unstable features",
    )


def _other(interface: str, what: str) -> Malformed:
    return Malformed(
        "the component imports something under another type than it has",
        field="component",
        found=f"{what} of {interface}",
        expected="the type that WASI 0.2 gives it",
    )


def _member(instance: dict[str, Any], name: str) -> Any:
    if name not in instance:
        raise _wrong("an instance has no such export", name)
    return instance[name]


def _check_sort(item: object, sort: d.Sort, name: str) -> None:
    found = {
        "func": isinstance(item, HostFunction | Lifted),
        "instance": isinstance(item, dict),
        "component": isinstance(item, tuple),
    }
    if not found.get(sort, not any(found.values())):
        raise _wrong(f"an export is no {sort}", name)


def _core_member(scope: _Scope, number: int, name: str, sort: str | None) -> CoreRef:
    instance = _at(scope.core_instances, number, "core instance")
    if isinstance(instance, int):
        return CoreExport(instance, name, sort)
    if name not in instance or sort not in (None, instance[name][0]):
        raise _wrong(f"a core instance has no such {sort or 'export'}", name)
    return instance[name][1]


def _outer(scope: _Scope, sort: d.Sort, depth: int, index: int) -> Any:
    """What an enclosing scope has; only types, for the rest would be composition."""
    if sort != "type":
        raise unsupported(f"a {sort} from outside", _COMPOSED)
    found: _Scope | None = scope
    for _ in range(min(depth, 1 << 8)):
        found = found and found.outer
    if found is None:
        raise _wrong("there are not as many scopes", depth)
    return _at(found.types, index, "type")


def _options(
    options: d.Options, scope: _Scope
) -> tuple[CoreRef | None, CoreRef | None, CoreRef | None]:
    def found(sort: str, index: int | None) -> CoreRef | None:
        return None if index is None else _at(scope.core[sort], index, f"core {sort}")

    return (
        found("memory", options.memory),
        found("func", options.realloc),
        found("func", options.post_return),
    )


def _function_type(scope: _Scope, index: int) -> t.Function:
    found = _at(scope.types, index, "type")
    if not isinstance(found, t.Function):
        raise _wrong("not a function type", index)
    return found


def _value(scope: _Scope, ref: d.ValueRef) -> t.Type:
    if isinstance(ref, str):
        return t.Primitive(ref)
    found: t.Type | t.Resource | t.Function | _ScopeType = _at(scope.types, ref, "type")
    if isinstance(found, t.Resource | t.Function | _ScopeType):
        raise _wrong("not a value type", ref)
    return found


def _value_type(definition: d.ValueDefinition, scope: _Scope) -> t.Type:
    kind, labels = definition.kind, definition.labels
    if kind in ("own", "borrow"):
        index = definition.parts[0]
        resource = _at(scope.types, index if isinstance(index, int) else 0, "type")
        if not isinstance(resource, t.Resource):
            raise _wrong("not a resource type", index)
        return t.Own(resource) if kind == "own" else t.Borrow(resource)
    parts = tuple(None if part is None else _value(scope, part) for part in definition.parts)
    there = tuple(part for part in parts if part is not None)
    match kind:
        case "record":
            return t.Record(tuple(zip(labels, there, strict=True)))
        case "variant":
            return t.Variant(tuple(zip(labels, parts, strict=True)))
        case "enum":
            return t.Enum(labels)
        case "flags":
            return t.Flags(labels)
        case "tuple":
            return t.Tuple(there)
        case "list":
            return t.Listed(there[0])
        case "option":
            return t.Option(there[0])
        case "result":
            return t.Result(*parts)
    return there[0]

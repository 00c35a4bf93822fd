"""What a component is made of: its definitions, which name each other by index.

Source: the component model repository, design/mvp/Binary.md. `binary` reads them, `link` checks
what the indices mean. There is no way back to bytes: components come from toolchains.
"""

from __future__ import annotations

from garrison.formats.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    # Binary.md, `core:sort` and `sort`.
    CoreSort = Literal["func", "table", "memory", "global"]
    Sort = Literal["core module", "func", "type", "component", "instance"]


# A type in a definition: a primitive's name, or an index.
ValueRef = str | int


class ValueDefinition(Record):
    """A value type: its constructor, labels, and parts in order (None where there is none)."""

    kind: str
    labels: tuple[str, ...] = ()
    parts: tuple[ValueRef | None, ...] = ()


class FunctionDefinition(Record):
    """A function type."""

    names: tuple[str, ...]
    parameters: tuple[ValueRef, ...]
    result: ValueRef | None


class ResourceDefinition(Record):
    """A resource type of the component's own, with its destructor's index."""

    destructor: int | None


class ScopeDefinition(Record):
    """An instance type or, with imports, a component type."""

    declarations: tuple[Definition, ...]


class TypeSection(Record):
    """One more type."""

    definition: ValueDefinition | FunctionDefinition | ResourceDefinition | ScopeDefinition


class External(Record):
    """What an import or export is: its sort, and the index of its type.

    A type is equal to the type `index`, or a resource of its own where that is None.
    """

    sort: Sort
    index: int | None


class Import(Record):
    """Something that is given."""

    name: str
    external: External


class Export(Record):
    """Something that is given away, and that has a new index as such."""

    name: str
    sort: Sort
    index: int
    external: External | None


class Declaration(Record):
    """An export in an instance type or component type."""

    name: str
    external: External


class CoreTypes(Record):
    """Core types, which nothing that is supported refers to; only their number counts."""

    count: int


class CoreModule(Record):
    """A core module, whole."""

    wasm: bytes


class CoreInstantiation(Record):
    """An instance of the core module `module`, with instances by name."""

    module: int
    arguments: tuple[tuple[str, int], ...]


class CoreBundle(Record):
    """A core instance put together from what is there."""

    exports: tuple[tuple[str, CoreSort, int], ...]


class Nested(Record):
    """A component inside."""

    component: Component


class Instantiation(Record):
    """An instance of the component `component`."""

    component: int
    arguments: tuple[tuple[str, Sort, int], ...]


class Bundle(Record):
    """An instance put together from what is there."""

    exports: tuple[tuple[str, Sort, int], ...]


class CoreAlias(Record):
    """An export of a core instance."""

    sort: CoreSort
    instance: int
    name: str


class Alias(Record):
    """An export of an instance."""

    sort: Sort
    instance: int
    name: str


class OuterAlias(Record):
    """What an enclosing component or type has, `depth` scopes out."""

    sort: Sort
    depth: int
    index: int


class Options(Record):
    """How a function meets a core module: its memory, and two functions of it."""

    memory: int | None = None
    realloc: int | None = None
    post_return: int | None = None


class Lift(Record):
    """A core function as a function of type `type`."""

    function: int
    options: Options
    type: int


class Lower(Record):
    """A function as a core function."""

    function: int
    options: Options


class ResourceFunction(Record):
    """A core function that makes, drops or looks into a handle of the resource type `type`."""

    kind: Literal["new", "drop", "rep"]
    type: int


Definition = (
    TypeSection
    | Import
    | Export
    | Declaration
    | CoreTypes
    | CoreModule
    | CoreInstantiation
    | CoreBundle
    | Nested
    | Instantiation
    | Bundle
    | CoreAlias
    | Alias
    | OuterAlias
    | Lift
    | Lower
    | ResourceFunction
)


class Component(Record):
    """A component: its definitions, in order."""

    definitions: tuple[Definition, ...]


def listed(definition: Definition) -> int:
    """How many things a definition lists, each of which takes time and memory."""
    match definition:
        case TypeSection(ValueDefinition(_, labels, parts)):
            return len(labels) + len(parts)
        case TypeSection(FunctionDefinition(names)):
            return len(names)
        case Bundle(items) | CoreBundle(items):
            return len(items)
        case Instantiation(_, items) | CoreInstantiation(_, items):
            return len(items)
    return 0

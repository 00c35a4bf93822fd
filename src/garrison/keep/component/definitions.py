"""What a component is made of: its definitions, which name each other by index.

Source: the component model repository, design/mvp/Binary.md. `binary` reads them, `link` checks
what the indices mean. There is no way back to bytes: components come from toolchains.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass
    from typing import Literal

    # Binary.md, `core:sort` and `sort`.
    CoreSort = Literal["func", "table", "memory", "global"]
    Sort = Literal["core module", "func", "type", "component", "instance"]
else:
    from garrison.keep.component.record import dataclass


# A type in a definition: a primitive's name, or an index.
ValueRef = str | int


@dataclass(frozen=True, slots=True)
class ValueDefinition:
    """A value type: its constructor, labels, and parts in order (None where there is none)."""

    kind: str
    labels: tuple[str, ...] = ()
    parts: tuple[ValueRef | None, ...] = ()


@dataclass(frozen=True, slots=True)
class FunctionDefinition:
    """A function type."""

    names: tuple[str, ...]
    parameters: tuple[ValueRef, ...]
    result: ValueRef | None


@dataclass(frozen=True, slots=True)
class ResourceDefinition:
    """A resource type of the component's own, with its destructor's index."""

    destructor: int | None


@dataclass(frozen=True, slots=True)
class ScopeDefinition:
    """An instance type or, with imports, a component type."""

    declarations: tuple[Definition, ...]


@dataclass(frozen=True, slots=True)
class TypeSection:
    """One more type."""

    definition: ValueDefinition | FunctionDefinition | ResourceDefinition | ScopeDefinition


@dataclass(frozen=True, slots=True)
class External:
    """What an import or export is: its sort, and the index of its type.

    A type is equal to the type `index`, or a resource of its own where that is None.
    """

    sort: Sort
    index: int | None


@dataclass(frozen=True, slots=True)
class Import:
    """Something that is given."""

    name: str
    external: External


@dataclass(frozen=True, slots=True)
class Export:
    """Something that is given away, and that has a new index as such."""

    name: str
    sort: Sort
    index: int
    external: External | None


@dataclass(frozen=True, slots=True)
class Declaration:
    """An export in an instance type or component type."""

    name: str
    external: External


@dataclass(frozen=True, slots=True)
class CoreTypes:
    """Core types, which nothing that is supported refers to; only their number counts."""

    count: int


@dataclass(frozen=True, slots=True)
class CoreModule:
    """A core module, whole."""

    wasm: bytes


@dataclass(frozen=True, slots=True)
class CoreInstantiation:
    """An instance of the core module `module`, with instances by name."""

    module: int
    arguments: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class CoreBundle:
    """A core instance put together from what is there."""

    exports: tuple[tuple[str, CoreSort, int], ...]


@dataclass(frozen=True, slots=True)
class Nested:
    """A component inside."""

    component: Component


@dataclass(frozen=True, slots=True)
class Instantiation:
    """An instance of the component `component`."""

    component: int
    arguments: tuple[tuple[str, Sort, int], ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """An instance put together from what is there."""

    exports: tuple[tuple[str, Sort, int], ...]


@dataclass(frozen=True, slots=True)
class CoreAlias:
    """An export of a core instance."""

    sort: CoreSort
    instance: int
    name: str


@dataclass(frozen=True, slots=True)
class Alias:
    """An export of an instance."""

    sort: Sort
    instance: int
    name: str


@dataclass(frozen=True, slots=True)
class OuterAlias:
    """What an enclosing component or type has, `depth` scopes out."""

    sort: Sort
    depth: int
    index: int


@dataclass(frozen=True, slots=True)
class Options:
    """How a function meets a core module: its memory, and two functions of it."""

    memory: int | None = None
    realloc: int | None = None
    post_return: int | None = None


@dataclass(frozen=True, slots=True)
class Lift:
    """A core function as a function of type `type`."""

    function: int
    options: Options
    type: int


@dataclass(frozen=True, slots=True)
class Lower:
    """A function as a core function."""

    function: int
    options: Options


@dataclass(frozen=True, slots=True)
class ResourceFunction:
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


@dataclass(frozen=True, slots=True)
class Component:
    """A component: its definitions, in order."""

    definitions: tuple[Definition, ...]

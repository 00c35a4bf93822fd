"""Run a component, from its bytes to its exit code: a command, or what answers HTTP requests."""

from __future__ import annotations

from garrison.errors import Malformed
from garrison.keep.component import interfaces
from garrison.keep.component.binary import parse
from garrison.keep.component.given import Given
from garrison.keep.component.host import Host
from garrison.keep.component.instance import Ended, Instance
from garrison.keep.component.link import link
from garrison.keep.engine.failures import Trap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from garrison.keep.component.http.proxy import Proxy
    from garrison.keep.component.link import Lifted, Program
    from garrison.keep.engine.runtime import Engine, Module

_RUN = "wasi:cli/run"
_HANDLER = "wasi:http/incoming-handler"


class Component:
    """A component, ready to run, of the world `wasi:cli/command` or `wasi:http/proxy`.

    Args:
        wasm: the component.
        engine: what runs it.
        compiled: compiles a core module.

    Raises:
        Malformed: it is no component that a keep runs.
    """

    def __init__(self, wasm: bytes, engine: Engine, compiled: Callable[[bytes], Module]) -> None:
        self._engine = engine
        self._modules: list[Module] = []

        def kept(module: bytes) -> Module:
            self._modules.append(compiled(module))
            return self._modules[-1]

        try:
            self._program = link(parse(wasm), interfaces.find, kept)
            self._world = self._world_of(self._program)
        except BaseException:
            self.close()
            raise

    def _world_of(self, program: Program) -> Command | Proxy:
        """What it is to be.

        Raises:
            Malformed: it is of no world that a keep runs.
        """
        # Some toolchains give a server a `run` too, which only says that it is none.
        handle = _main(program, _HANDLER, "handle")
        if handle is not None:
            from garrison.keep.component.http.proxy import Proxy  # late: a command needs none of it

            return Proxy(self._engine, program, handle)
        main = _main(program, _RUN, "run")
        if main is not None:
            return Command(self._engine, program, main)
        raise Malformed(
            "not a program",
            field="component",
            found=f"exports {', '.join(sorted(program.exports)) or 'no interface'}",
            expected=f"{_RUN}, of the world wasi:cli/command, or {_HANDLER}, of wasi:http/proxy",
        )

    def close(self) -> None:
        """Give its modules back."""
        while self._modules:
            self._modules.pop().close()

    def run(self, **given: Any) -> int:
        """Run it until it ends.

        Args:
            given: the fields of `Given`.

        Returns:
            Its exit code: 0 or 1 as it says, or the one that it ended itself with.

        Raises:
            Malformed: a core module is not as the component says.
            Misuse: it serves, and has no port, or one where something else is spoken.
            Trap: it did what WebAssembly or the canonical ABI forbid.
            Interrupted: SIGINT or SIGTERM came.
            OutOfTime: it ran for longer than it may.
            Unavailable: it wants more memory than it may have.
        """
        return self._world.run(Given(**given))


def _main(program: Program, interface: str, name: str) -> Lifted | None:
    """The function that a component of a world begins with, None if it has none.

    Raises:
        Malformed: it has another type than it should.
    """
    found = program.exports.get(interface, {}).get(name)
    if found is not None and found.kind != interfaces.exported(interface).functions[name]:
        raise Malformed("has another type than it should", field=f"{interface} {name}")
    return found


class Command:
    """A component of the world `wasi:cli/command`.

    Args:
        engine: what runs it.
        program: the component.
        main: the function that it begins with.
    """

    def __init__(self, engine: Engine, program: Program, main: Lifted) -> None:
        self._engine = engine
        self._program = program
        self._main = main

    def run(self, given: Given) -> int:
        """Run it until it ends, as `Component.run` does."""
        host = Host(
            given.args,
            given.env,
            given.streams(),
            given.directories(),
            given.network,
            given.interrupts,
            given.limits.descriptors,
            given.listeners(),
        )
        instance = Instance(self._engine, self._program, interfaces.function, given.limits)
        try:
            # What came before the instance knew of its deadline.
            given.interrupts.check()
            given.interrupts.start_clock()
            instance.start(host)
            result, _ = instance.call(self._main)
        except Ended as ended:
            return ended.code
        except Trap:
            given.interrupts.check()
            raise
        finally:
            instance.end()
        return 0 if result == "ok" else 1

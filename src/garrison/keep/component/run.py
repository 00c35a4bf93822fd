"""Run a component, from its bytes to its exit code: a command, or what answers HTTP requests."""

from __future__ import annotations

from garrison.errors import Malformed
from garrison.keep.component import interfaces
from garrison.keep.component.binary import parse
from garrison.keep.component.host import Host
from garrison.keep.component.instance import Ended, Instance
from garrison.keep.component.link import link
from garrison.keep.engine.failures import Trap
from garrison.keep.vfs.descriptor import FOLDER
from garrison.keep.vfs.streams import ListeningSocket, Null

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from garrison.formats.limits import Limits
    from garrison.keep.component.http.proxy import Proxy
    from garrison.keep.component.link import Lifted, Program
    from garrison.keep.engine.runtime import Engine, Module
    from garrison.keep.vfs.descriptor import Descriptor
    from garrison.keep.vfs.network import Network, Wait
    from garrison.keep.wasi.interrupts import Interrupts

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
        main = program.exports.get(_RUN, {}).get("run")
        if main is not None:
            return Command(self._engine, program, main)
        handle = program.exports.get(_HANDLER, {}).get("handle")
        if handle is not None:
            from garrison.keep.component.http.proxy import Proxy  # late: a command needs none of it

            return Proxy(self._engine, program, handle)
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

    def run(
        self,
        *,
        descriptors: Mapping[int, Descriptor],
        args: Sequence[str],
        env: Mapping[str, str],
        network: Network | None,
        limits: Limits,
        interrupts: Interrupts,
        root: Callable[[Wait], Descriptor],
    ) -> int:
        """Run it until it ends.

        Args:
            descriptors: what a core module would have open from the start, by number: the first
                three are the standard streams, and the directories and listeners among them its
                own.
            args: its arguments, the program's name first.
            env: its environment.
            network: what it can reach; None if nothing.
            limits: how much it may take.
            interrupts: what ends it from outside; they are watched already.
            root: makes a root directory of its own for each instance that answers requests, of
                what waits there.

        Returns:
            Its exit code: 0 or 1 as it says, or the one that it ended itself with.

        Raises:
            Malformed: a core module is not as the component says.
            Trap: it did what WebAssembly or the canonical ABI forbid.
            Interrupted: SIGINT or SIGTERM came.
            OutOfTime: it ran for longer than it may.
            Unavailable: it wants more memory than it may have.
        """
        return self._world.run(
            descriptors=descriptors,
            args=args,
            env=env,
            network=network,
            limits=limits,
            interrupts=interrupts,
            root=root,
        )


class Command:
    """A component of the world `wasi:cli/command`.

    Args:
        engine: what runs it.
        program: the component.
        main: the function that it begins with.

    Raises:
        Malformed: that has another type than it should.
    """

    def __init__(self, engine: Engine, program: Program, main: Lifted) -> None:
        wanted = interfaces.exported(_RUN).functions["run"]
        if main.kind != wanted:
            raise Malformed("has another type than it should", field=f"{_RUN} run")
        self._engine = engine
        self._program = program
        self._main = main

    def run(
        self,
        *,
        descriptors: Mapping[int, Descriptor],
        args: Sequence[str],
        env: Mapping[str, str],
        network: Network | None,
        limits: Limits,
        interrupts: Interrupts,
        root: Callable[[Wait], Descriptor],  # noqa: ARG002  (it is among the descriptors)
    ) -> int:
        """Run it until it ends, as `Component.run` does."""
        streams = [descriptors.get(number) or Null() for number in range(3)]
        directories = [
            (found.preopened, found)
            for found in descriptors.values()
            if found.filetype == FOLDER and found.preopened is not None
        ]
        listeners = [found for found in descriptors.values() if isinstance(found, ListeningSocket)]
        host = Host(
            args, env, streams, directories, network, interrupts, limits.descriptors, listeners
        )
        instance = Instance(
            self._engine,
            self._program,
            interfaces.function,
            memory=limits.memory,
            table_elements=limits.table_elements,
        )
        try:
            # What came before the instance knew of its deadline.
            interrupts.check()
            interrupts.start_clock()
            instance.start(host)
            result, _ = instance.call(self._main)
        except Ended as ended:
            return ended.code
        except Trap:
            interrupts.check()
            raise
        finally:
            instance.end()
        return 0 if result == "ok" else 1

"""Run one guest, from its bytes to its exit code.

The guest sees what it is given here and nothing else: no environment, file or descriptor of the
host goes to it by itself.
"""

import posix  # the part of `os` that is used here, and no file to load

from garrison.errors import GarrisonError, Rejected
from garrison.formats.limits import Limits
from garrison.keep.engine.cache import compiled_module
from garrison.keep.engine.failures import Ended, Trap
from garrison.keep.engine.runtime import Engine, Instance, Module, is_component
from garrison.keep.vfs.descriptor import Late
from garrison.keep.vfs.streams import HostStream, ListeningSocket, Null, Socket, is_stream
from garrison.keep.wasi.host import Exit, Host, Table
from garrison.keep.wasi.interrupts import Interrupts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from garrison.keep.component.run import Component
    from garrison.keep.vfs.descriptor import Descriptor
    from garrison.keep.vfs.keys import Bearer
    from garrison.keep.vfs.network import Network, Wait
    from garrison.keep.vfs.streams import Listener, Stream


def execute(
    wasm: bytes,
    *,
    args: "Sequence[str]",
    env: "Mapping[str, str]",
    descriptors: "Sequence[tuple[str, int | Stream | Listener | None]]",
    files: "Mapping[str, bytes]",
    network: "Network | None",
    limits: Limits | None = None,
    directories: "Mapping[str, Descriptor] | None" = None,
    bearer: "Bearer | None" = None,
    cached: bool = False,
    last: bool = False,
) -> int:
    """Run a module or component until it ends.

    Args:
        wasm: the module or component.
        args: its arguments, the program's name first.
        env: its environment.
        descriptors: what it has open from the start, from descriptor 0 on, before the root
            directory: a name, and a stream of the host by its number, None for nothing, or a
            connection or listener.
        files: the package's files, by path.
        network: what it can reach; without it there is no `/net`.
        limits: how much it may take.
        directories: more of them, each under the name that the guest finds it by; `/` takes the
            place of the root directory.
        bearer: whose keep it is, for `/key/identity` and `/attest`; without it they are not there.
        cached: use this user's cache of compiled modules. Only for development: in a TEE what
            is stored outside is the host's, and compiled code is run as it is.
        last: the process ends after it, so that the engine's memory is left to the kernel, which
            takes it back at once and not piece by piece. What others see is ended all the same.

    Returns:
        Its exit code.

    Raises:
        Malformed: it is neither a module for WASI preview 1 nor a component for WASI 0.2.
        Trap: it did what WebAssembly forbids.
        Interrupted: SIGINT or SIGTERM came.
        OutOfTime: it ran for longer than it may.
        Rejected: it has more files, or more open, from the start than it may ever have.
        Unavailable: the engine is missing, or the guest wants more memory than it may have.
    """
    limits = limits or Limits()
    _check_limits(limits, files, len(descriptors) + len({"/", *(directories or ())}))
    engine = Engine(limits.stack)
    running = False

    def stop() -> None:
        if running:
            engine.interrupt()
        else:
            # The compiler cannot be interrupted, and takes half a minute for a large module.
            _end(interrupts)

    interrupts = Interrupts(stop, limits.run_seconds)
    table = Table(limits.descriptors)
    for name, opened in descriptors:
        if opened is None or isinstance(opened, int):
            table.insert(_standard(opened))
        else:
            table.insert(_socket(name, opened))

    def root(wait: "Wait") -> "Descriptor":
        from garrison.keep.vfs.root import root_directory  # late: see `Late`

        made = root_directory(files, network, table, limits, wait, bearer)
        return made.open(read=True, write=False)

    if not directories or "/" not in directories:
        table.insert(Late("/", lambda: root(interrupts.wait)))
    for name, directory in (directories or {}).items():
        directory.preopened = name
        table.insert(directory)

    def compiled(wasm: bytes) -> Module:
        return compiled_module(engine, wasm) if cached else Module.compile(engine, wasm)

    try:
        with interrupts:
            program = _program(wasm, engine, compiled)
            try:
                running = True
                return program.run(
                    descriptors=table,
                    args=args,
                    env=env,
                    network=network,
                    limits=limits,
                    interrupts=interrupts,
                    root=root,
                )
            finally:
                if not last:
                    program.close()
    finally:
        if not last:
            engine.close()
        table.close()


def _program(
    wasm: bytes, engine: Engine, compiled: "Callable[[bytes], Module]"
) -> "_Program | Component":
    if is_component(wasm):
        from garrison.keep import logs
        from garrison.keep.component import run  # late: see `engine`

        logs.set_up()  # its parts log by themselves
        return run.Component(wasm, engine, compiled)
    return _Program(wasm, engine, compiled)


class _Program:
    """A core module, ready to run; `component.run.Component` is the same for a component."""

    def __init__(self, wasm: bytes, engine: Engine, compiled: "Callable[[bytes], Module]") -> None:
        self._engine = engine
        self._module = compiled(wasm)
        self._instance: Instance | None = None

    def close(self) -> None:
        if self._instance is not None:
            self._instance.close()
        self._module.close()

    def run(
        self,
        *,
        descriptors: Table,
        args: "Sequence[str]",
        env: "Mapping[str, str]",
        network: "Network | None",  # noqa: ARG002  (a module has it by its files)
        limits: Limits,
        interrupts: Interrupts,
        root: "Callable[[Wait], Descriptor]",  # noqa: ARG002  (it is among the descriptors)
    ) -> int:
        host = Host(list(args), dict(env), descriptors, interrupts)
        instance = self._instance = Instance(
            self._engine, self._module, memory=limits.memory, table_elements=limits.table_elements
        )
        try:
            # What came before the instance knew of its deadline.
            interrupts.check()
            interrupts.start_clock()
            code = _run(instance, self._module, host)
            if code:
                _note_memory(instance, limits.memory)
        except Trap:
            _note_memory(instance, limits.memory)
            raise
        else:
            return code


def _check_limits(limits: Limits, files: "Mapping[str, bytes]", opened: int) -> None:
    """Refuse what could only fail later.

    Raises:
        Rejected: the package, or what is open from the start, is more than may ever be.
    """
    size = sum(map(len, files.values()))
    for name, found, most in (
        ("files", size, limits.files),
        ("descriptors", opened, limits.descriptors),
    ):
        if found > most:
            raise Rejected(
                "the workload starts with more than it may ever have",
                field=f"limits.{name}",
                found=found,
                expected=f"at most {most}",
            )


def _end(interrupts: Interrupts) -> None:
    """End the process, from any thread, as the error would that waits to be raised."""
    try:
        interrupts.check()
    except Ended as error:
        posix.write(2, f"error: {error}\n".encode())
        posix._exit(error.exit_code)  # noqa: SLF001  (as `os._exit`)


def _note_memory(instance: Instance, most: int) -> None:
    """Log how much memory a guest had that failed, if that may be why.

    The engine does not tell that it refused more. Allocators ask for more than they are asked
    for, so that with half of it taken a guest can be at its end.
    """
    taken = instance.memory_size()
    if taken * 2 >= most:
        from garrison.keep.logs import keep_log  # late: it has nothing to say

        keep_log().warning(
            "the workload failed with %d bytes of memory; limits.memory is %d", taken, most
        )


def _standard(number: int | None) -> "Descriptor":
    if number is None:
        return Null()
    try:
        return HostStream(number)
    except OSError:
        # We were started without that stream.
        return Null()


def _socket(name: str, opened: "Stream | Listener") -> "Descriptor":
    descriptor: Socket | ListeningSocket
    descriptor = Socket(opened) if is_stream(opened) else ListeningSocket(opened)
    descriptor.preopened = name
    return descriptor


def _run(instance: Instance, module: Module, host: Host) -> int:
    host.provide(instance, module)
    try:
        instance.link()
        instance.call("_start")
    except GarrisonError:
        if isinstance(host.failure, Exit):
            return host.failure.code
        if host.failure is not None:
            raise host.failure from None
        host.interrupts.check()
        raise
    return 0

"""Run one guest, from its bytes to its exit code.

The guest sees what it is given here and nothing else: no environment, file or descriptor of the
host goes to it by itself.
"""

from garrison.errors import GarrisonError
from garrison.keep.engine.cache import compiled_module
from garrison.keep.engine.runtime import Engine, Instance, Module, is_component
from garrison.keep.vfs.descriptor import Late
from garrison.keep.vfs.streams import HostStream, ListeningSocket, Null, Socket, is_stream
from garrison.keep.wasi.host import Exit, Host, Table
from garrison.keep.wasi.interrupts import Interrupts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from garrison.keep.vfs.descriptor import Descriptor
    from garrison.keep.vfs.network import Network
    from garrison.keep.vfs.streams import Listener, Stream


class Limits:
    """How much of the keep a guest may take.

    Args:
        memory: bytes of its linear memory; by default all that 32 bits can name.
        files: bytes of the files that it makes.
        descriptors: how many it may have open.
    """

    __slots__ = ("descriptors", "files", "memory")

    def __init__(
        self, *, memory: int = 1 << 32, files: int = 1 << 28, descriptors: int = 4096
    ) -> None:
        self.memory = memory
        self.files = files
        self.descriptors = descriptors


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
    cached: bool = False,
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
        cached: use this user's cache of compiled modules. Only for development: in a TEE what
            is stored outside is the host's, and compiled code is run as it is.

    Returns:
        Its exit code.

    Raises:
        Malformed: it is neither a module for WASI preview 1 nor a component for WASI 0.2.
        Trap: it did what WebAssembly forbids.
        Interrupted: SIGINT or SIGTERM came.
        Unavailable: the engine is missing, or the guest wants more memory than it may have.
    """
    limits = limits or Limits()
    table = Table(limits.descriptors)
    for name, opened in descriptors:
        if opened is None or isinstance(opened, int):
            table.insert(_standard(opened))
        else:
            table.insert(_socket(name, opened))

    def root() -> "Descriptor":
        from garrison.keep.vfs.root import root_directory  # late: see `Late`

        return root_directory(files, network, table, limits.files).open(read=True, write=False)

    if not directories or "/" not in directories:
        table.insert(Late("/", root))
    for name, directory in (directories or {}).items():
        directory.preopened = name
        table.insert(directory)
    engine = Engine()

    def compiled(wasm: bytes) -> Module:
        return compiled_module(engine, wasm) if cached else Module.compile(engine, wasm)

    try:
        if is_component(wasm):
            from garrison.keep.component.run import Command  # late: see `engine`

            command = Command(wasm, engine, compiled)
            try:
                with Interrupts(engine.interrupt) as interrupts:
                    return command.run(
                        descriptors=table,
                        args=args,
                        env=env,
                        network=network,
                        limits=limits,
                        interrupts=interrupts,
                    )
            finally:
                command.close()
        module = compiled(wasm)
        try:
            with Interrupts(engine.interrupt) as interrupts:
                host = Host(list(args), dict(env), table, interrupts)
                instance = Instance(engine, module, memory_limit=limits.memory)
                try:
                    return _run(instance, module, host)
                finally:
                    instance.close()
        finally:
            module.close()
    finally:
        engine.close()
        table.close()


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

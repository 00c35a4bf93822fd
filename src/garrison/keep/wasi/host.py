"""The host of one guest: its descriptors, its memory, and the functions that it imports.

Rules: no exception ever enters the engine (an `Errno` is the guest's, everything else ends the
guest by a trap and is raised again outside); no function runs twice for one call; what a
function writes its result to is checked before it does anything.
"""

import time
from _struct import Struct  # `struct` is no more than this, and one file more to load

from garrison.errors import Malformed
from garrison.keep.engine.c import memory_at
from garrison.keep.engine.runtime import last_trap
from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.ceiling import Ceiling
from garrison.keep.vfs.errno import Errno, of_host
from garrison.keep.wasi import abi
from garrison.keep.wasi.memory import Memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.keep.engine.runtime import Instance, Module
    from garrison.keep.vfs.descriptor import Descriptor, Move
    from garrison.keep.vfs.nodes import Directory, File
    from garrison.keep.vfs.paths import Place
    from garrison.keep.wasi.interrupts import Interrupts
    from garrison.keep.wasi.poll import Poll

    Function = Callable[..., None]
    Callback = Callable[[None, int, int], int]

# wasmtime/val.h, wasmtime_val_raw_t: 16 bytes, the value at 0.
_VALUE_SIZE = 16
# A guest that calls at ever other depths of its stack shall not fill our memory.
_MAX_KNOWN = 64
# How many names of directories are held: 128 MiB (`vfs.descriptor.NAME_COST`).
_MAX_LISTED = 1 << 20
_PADDING = {"I": "12x", "Q": "8x", "q": "8x"}


class Exit(BaseException):
    """The guest ended itself.

    Args:
        code: its exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Table(dict[int, "Descriptor"]):
    """The guest's descriptors by number.

    Args:
        limit: how many there may be.

    Attributes:
        changes: how often a number was given to another, or what it may be used for changed.
        readers: the `read_at` of those that have one and the right to read, by number.
        writers: likewise to write.
    """

    # A dictionary's attributes are found faster in slots than in a dictionary of their own.
    __slots__ = ("_ceiling", "_lowest", "_most", "changes", "readers", "writers")

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.changes = 0
        self.readers: dict[int, Move] = {}
        self.writers: dict[int, Move] = {}
        self._most = limit
        self._ceiling = Ceiling("descriptors", limit)
        # No number below this one is free.
        self._lowest = 0

    def expect_room(self) -> None:
        """Make sure that one more has room, before what it is opened for changes anything.

        Raises:
            Errno: there are too many.
        """
        if len(self) >= self._most:
            self._ceiling.reached()
            raise Errno(errno.MFILE)

    def insert(self, descriptor: "Descriptor") -> int:
        """Give `descriptor` the lowest free number.

        Raises:
            Errno: there are too many; it is closed.
        """
        if len(self) >= self._most:
            self._ceiling.reached()
            descriptor.close()
            raise Errno(errno.MFILE)
        number = self._lowest
        while number in self:
            number += 1
        self[number] = descriptor
        self.changes += 1
        self._lowest = number + 1
        # A file, which is opened and closed more often than anything else, has neither.
        if descriptor.read_at is not None or descriptor.write_at is not None:
            self._note(number, descriptor)
        return number

    def put(self, number: int, descriptor: "Descriptor") -> None:
        """Give `descriptor` a number, whoever had it; or note that it has other rights."""
        self[number] = descriptor
        self.changes += 1
        self._note(number, descriptor)

    def _note(self, number: int, descriptor: "Descriptor | None") -> None:
        """Note what moves data for a number from now on."""
        self.readers.pop(number, None)
        self.writers.pop(number, None)
        if descriptor is not None:
            if (read_at := descriptor.read_at) is not None and descriptor.rights & d.FD_READ:
                self.readers[number] = read_at
            if (write_at := descriptor.write_at) is not None and descriptor.rights & d.FD_WRITE:
                self.writers[number] = write_at

    def take(self, number: int) -> "Descriptor":
        """Take a descriptor away, not closed.

        Raises:
            Errno: there is none.
        """
        descriptor = self.pop(number, None)
        if descriptor is None:
            raise Errno(errno.BADF)
        self.changes += 1
        if number in self.readers or number in self.writers:
            self._note(number, None)
        if number < self._lowest:  # noqa: PLR1730  (to call `min` costs thrice as much)
            self._lowest = number
        return descriptor

    def having(self, number: int, rights: int = 0) -> "Descriptor":
        """The descriptor with a number, if it has the `rights` to what shall be done.

        Raises:
            Errno: there is none, or it has not.
        """
        try:
            descriptor = self[number]
        except KeyError:
            raise Errno(errno.BADF) from None
        if rights & ~descriptor.rights:
            raise Errno(errno.NOTCAPABLE)
        return descriptor

    def allowed(self, number: int, right: int) -> "Descriptor":
        """The descriptor with a number, unless it could have the `right` and has not.

        What could never have it says by itself why not.

        Raises:
            Errno: there is none, or it has not.
        """
        descriptor = self.get(number)
        if descriptor is None:
            raise Errno(errno.BADF)
        if right & descriptor.possible & ~descriptor.rights:
            raise Errno(errno.NOTCAPABLE)
        return descriptor

    def close(self) -> None:
        """Close all."""
        while self:
            self.take(next(reversed(self))).close()


class Host:
    """What one guest runs on.

    Args:
        args: the arguments, the program's name first.
        env: the environment.
        descriptors: those that it starts with.
        interrupts: what ends a wait.

    Attributes:
        polled: what the guest last waited for.
        places: where paths led, as long as no name is taken away.
        openings: likewise what opening a file came to: the file, and the rights to it.
        failure: what ended the guest from inside a function, if that was it.
        listings: open directories whose names are held, with how many; who was read last is last.
    """

    def __init__(
        self, args: list[str], env: dict[str, str], descriptors: Table, interrupts: "Interrupts"
    ) -> None:
        # A surrogate stands for a byte of a command line that is not UTF-8.
        self.args = [_zero_ended(arg) for arg in args]
        self.env = [_zero_ended(f"{name}={value}") for name, value in env.items()]
        self.descriptors = descriptors
        self.interrupts = interrupts
        self.memory = Memory()
        self.polled: Poll | None = None
        self.places: dict[tuple[Directory, bytes, int], Place] = {}
        self.openings: dict[tuple[Directory, bytes, int, int, int, int], tuple[File, int]] = {}
        self.failure: BaseException | None = None
        self.listings: dict[Descriptor, int] = {}
        self._listed = 0

    def provide(self, instance: "Instance", module: "Module") -> None:
        """Define what `module` imports.

        Raises:
            Malformed: it imports something that no keep has.
        """
        for source, name, is_function in dict.fromkeys(module.imports):
            parameters = abi.SIGNATURES.get(name)
            if source != abi.MODULE or parameters is None or not is_function:
                raise Malformed(
                    "the module imports what no keep has",
                    field="module",
                    found=f"{source} {name}",
                    expected=f"functions of {abi.MODULE} only",
                    hint="build for wasm32-wasip1, without JavaScript glue or threads",
                )
            result = "" if name in abi.NO_RESULT else "I"
            callback = self._callback(name, _function(name), parameters)
            instance.define(source, name, parameters, result, callback)

    def forget_places(self) -> None:
        """Forget where paths led, for a name is taken away."""
        self.places.clear()
        self.openings.clear()

    def listed(self, folder: "Descriptor", count: int) -> None:
        """Note that the names in a directory are held; the oldest make room where they are many.

        A guest could have the names of one large directory held once for each of its descriptors.
        """
        self._listed += count - self.listings.pop(folder, 0)
        self.listings[folder] = count
        while self._listed > _MAX_LISTED and len(self.listings) > 1:
            oldest = next(iter(self.listings))
            self._listed -= self.listings.pop(oldest)
            oldest.forget_names()

    def closed(self, descriptor: "Descriptor") -> None:
        """Note that a descriptor was closed, which may be a directory whose names were held."""
        self._listed -= self.listings.pop(descriptor, 0)

    def wait_for(self, descriptor: "Descriptor", *, write: bool) -> None:
        """Wait until reading or writing may do something.

        Raises:
            Errno: the guest does not want to wait.
            Interrupted: a signal came.
        """
        if descriptor.flags & abi.NONBLOCK:
            raise Errno(errno.AGAIN)
        if not descriptor.ready(write=write):
            events = descriptor.events(write=write)
            self.interrupts.wait([events] if events else [], descriptor.timeout())

    def _callback(self, name: str, function: "Function", parameters: str) -> "Callback":
        """Make what the engine calls: it reads the parameters, and writes the errno."""
        body = function.__get__(self)
        unpack = Struct("<" + "".join(c + _PADDING[c] for c in parameters)).unpack_from
        size = max(len(parameters), 1) * _VALUE_SIZE
        memory = self.memory
        # The values are on the engine's stack, at one of few addresses.
        known: dict[int, memoryview] = {}

        def callback(_environment: None, caller: int, values: int) -> int:
            view = None
            try:
                try:
                    view = known[values]
                except KeyError:
                    if len(known) >= _MAX_KNOWN:
                        known.clear()
                    view = known[values] = memory_at(values, size).cast("I")
                memory.caller = caller
                body(*unpack(view))
                view[0] = 0
            except BaseException as error:  # noqa: BLE001  (nothing may enter the engine)
                return self.failed(view, error)
            return 0

        if name in abi.DIRECT:
            from garrison.keep.wasi.direct import direct  # late: not all guests call these

            return direct(self, name, known, callback)
        return callback

    def failed(self, view: memoryview | None, error: BaseException) -> int:
        """Tell the guest the errno that `error` stands for, or end it.

        Args:
            view: where the errno goes, None if that is not known.
            error: what a function raised.

        Returns:
            What the engine is to be told: 0, or a trap.
        """
        try:
            if view is not None and (number := _errno_of(error)) is not None:
                view[0] = number
                return 0
        except BaseException as worse:  # noqa: BLE001  (nothing may enter the engine)
            error = worse
        self.failure = error
        return last_trap(b"ended by the host")


def _errno_of(error: BaseException) -> int | None:
    if isinstance(error, Errno):
        return error.number
    if isinstance(error, MemoryError):
        return errno.NOMEM
    return of_host(error) if isinstance(error, OSError) else None


def _function(name: str) -> "Function":
    """The function that serves an import, from the module of its group."""
    group = abi.GROUPS[name.partition("_")[0]]
    module = __import__(f"garrison.keep.wasi.{group}", fromlist=[name])
    function: Function = getattr(module, name)
    return function


def _zero_ended(text: str) -> bytes:
    return text.encode(errors="surrogateescape") + b"\0"


# WASI's numbers of clocks are Linux's, and each has a function of its own, faster than the general.
CLOCKS = (time.time_ns, time.monotonic_ns, time.process_time_ns, time.thread_time_ns)


def now(clock: int) -> int:
    """The time of a clock, in nanoseconds.

    Raises:
        Errno: there is no such clock.
    """
    try:
        return CLOCKS[clock]()
    except IndexError:
        raise Errno(errno.INVAL) from None

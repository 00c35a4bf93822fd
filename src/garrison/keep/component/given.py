"""What a run of a component is given, whatever its world."""

from __future__ import annotations

from garrison.formats.record import Record
from garrison.keep.vfs.descriptor import FOLDER
from garrison.keep.vfs.streams import ListeningSocket, Null

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from garrison.formats.limits import Limits
    from garrison.keep.vfs.descriptor import Descriptor
    from garrison.keep.vfs.network import Network, Wait
    from garrison.keep.wasi.interrupts import Interrupts


class Given(Record, eq=False):
    """All that a run is given.

    Attributes:
        descriptors: what a core module would have open from the start, by number: the first three
            are the standard streams, and the directories and listeners among them its own.
        args: its arguments, the program's name first.
        env: its environment.
        network: what it can reach; None if nothing.
        limits: how much it may take.
        interrupts: what ends it from outside; they are watched already.
        root: makes a root directory of its own for each instance that answers requests, of what
            waits there; that of a command is among the descriptors.
    """

    descriptors: Mapping[int, Descriptor]
    args: Sequence[str]
    env: Mapping[str, str]
    network: Network | None
    limits: Limits
    interrupts: Interrupts
    root: Callable[[Wait], Descriptor]

    def streams(self) -> list[Descriptor]:
        """Standard input, output and error."""
        return [self.descriptors.get(number) or Null() for number in range(3)]

    def directories(self) -> list[tuple[str, Descriptor]]:
        """Those that it has from the start, by name."""
        return [
            (found.preopened, found)
            for found in self.descriptors.values()
            if found.filetype == FOLDER and found.preopened is not None
        ]

    def listeners(self) -> list[ListeningSocket]:
        """Those that it has from the start."""
        return [found for found in self.descriptors.values() if isinstance(found, ListeningSocket)]

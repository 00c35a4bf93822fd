"""The root directory: what a guest finds in a keep."""

from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs.nodes import Directory, File, Node, Quota
from garrison.keep.vfs.streams import Null, Random, Zero

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from garrison.keep.vfs.descriptor import Descriptor
    from garrison.keep.vfs.network import Network


class _Device(Node):
    filetype = d.CHARACTER

    def __init__(self, opener: "Callable[[], Descriptor]") -> None:
        super().__init__(None)
        self._opener = opener

    def open(self, *, read: bool, write: bool) -> "Descriptor":  # noqa: ARG002  (both always can)
        """Open the device."""
        return self._opener()


def root_directory(
    files: "Mapping[str, bytes]",
    network: "Network | None",
    descriptors: "Mapping[int, Descriptor]",
    room: int,
) -> Directory:
    """Make `/`.

    Args:
        files: the package's, by path; they are under `/pkg`, read-only.
        network: what `/net` reaches; without it there is no `/net`.
        descriptors: those of the guest, for `/net/peer/fd`.
        room: how many bytes `/tmp` may hold.
    """
    devices = [("null", _Device(Null)), ("zero", _Device(Zero)), ("urandom", _Device(Random))]
    entries: list[tuple[str, Node]] = [
        ("dev", Directory(None, devices)),
        ("pkg", _package(files)),
        ("tmp", Directory(Quota(room))),
    ]
    if network is not None:
        from garrison.keep.vfs.network import network_directory  # late: it needs logging

        entries.append(("net", network_directory(network, descriptors)))
    return Directory(None, entries)


def _package(files: "Mapping[str, bytes]") -> Directory:
    below: dict[str, dict[str, bytes]] = {}
    entries: list[tuple[str, Node]] = []
    for path, data in sorted(files.items()):
        name, slash, rest = path.partition("/")
        if slash:
            below.setdefault(name, {})[rest] = data
        else:
            entries.append((name, File(None, data)))
    entries += [(name, _package(inner)) for name, inner in below.items()]
    return Directory(None, entries)

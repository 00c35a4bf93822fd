"""The root directory: what a guest finds in a keep."""

from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs.ceiling import Ceiling
from garrison.keep.vfs.dynamic import Opened
from garrison.keep.vfs.keys import attest_directory, key_directory
from garrison.keep.vfs.nodes import Directory, File, Node, Quota
from garrison.keep.vfs.streams import Null, Random, Zero

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.formats.limits import Limits
    from garrison.keep.vfs.descriptor import Descriptor
    from garrison.keep.vfs.keys import Bearer
    from garrison.keep.vfs.network import Network, Wait


def root_directory(
    files: "Mapping[str, bytes]",
    network: "Network | None",
    descriptors: "Mapping[int, Descriptor]",
    limits: "Limits",
    wait: "Wait",
    bearer: "Bearer | None" = None,
) -> Directory:
    """Make `/`.

    Args:
        files: the package's, by path; they are under `/pkg`, read-only.
        network: what `/net` reaches; without it there is no `/net`.
        descriptors: those of the guest, for `/net/peer/fd`.
        limits: how much `/tmp` may hold, and that with the package.
        wait: waits for what the host has to do, and not for longer than the guest may live.
        bearer: whose keep it is, for `/key` and `/attest`; None if it has no identity.
    """
    devices: list[tuple[str, Node]] = [
        (name, Opened(d.CHARACTER, device))
        for name, device in (("null", Null), ("zero", Zero), ("urandom", Random))
    ]
    entries: list[tuple[str, Node]] = [
        ("dev", Directory(None, devices)),
        ("pkg", _package(files)),
        ("tmp", Directory(_room(files, limits))),
    ]
    entries.append(("key", key_directory(bearer, limits.keys)))
    if bearer is not None:
        entries.append(("attest", attest_directory(bearer)))
    if network is not None:
        from garrison.keep.vfs.network import network_directory  # late: it needs logging

        entries.append(("net", network_directory(network, descriptors, wait)))
    return Directory(None, entries)


def _room(files: "Mapping[str, bytes]", limits: "Limits") -> Quota:
    left = limits.files - sum(map(len, files.values()))
    if left < limits.tmp:
        return Quota(left, Ceiling("files", limits.files))
    return Quota(limits.tmp)


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

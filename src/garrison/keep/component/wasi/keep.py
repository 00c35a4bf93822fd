"""garrison:keep: who a peer is, and evidence of the keep. Published as `wit/keep.wit`."""

from __future__ import annotations

from garrison.keep.component.callbacks import Failed
from garrison.keep.component.host import CHUNK
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.paths import resolve
from garrison.keep.vfs.streams import Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from garrison.keep.component.host import Host
    from garrison.keep.component.wasi.opened import Opened
    from garrison.keep.component.wasi.sockets import TcpSocket

WIT = """
package garrison:keep;
interface peer {
    use wasi:sockets/tcp.{tcp-socket};
    use wasi:filesystem/types.{descriptor};
    enum kind { anonymous, local, keep }
    record peer {
        kind: kind,
        workload: option<string>,
        digest: option<string>,
        policy: option<string>,
        tee: option<string>,
        measurement: option<string>,
        tcb-status: option<string>,
        spiffe-id: option<string>,
        serial: option<string>,
        expires: option<string>,
    }
    of-socket: func(socket: borrow<tcp-socket>) -> option<peer>;
    of-descriptor: func(descriptor: borrow<descriptor>) -> option<peer>;
}
interface attestation {
    enum error-code { unavailable, too-long, failed }
    report: func(data: list<u8>) -> result<list<u8>, error-code>;
}
"""

# The record's fields after the kind, by the names that `/net/peer` has for them.
_FIELDS = (
    "workload", "digest", "policy", "tee", "measurement", "tcb_status", "spiffe_id", "serial",
    "expires",
)  # fmt: skip
# As much as the report data of a TEE.
_MAX_DATA = 64
# Evidence with its certificates has some kilobytes.
_MAX_REPORT = 1 << 20


def peer_of_socket(_host: Host, sock: TcpSocket) -> tuple[Any, ...] | None:
    """Tell who is at the other end of a socket."""
    return _peer(sock.connection)


def peer_of_descriptor(_host: Host, opened: Opened) -> tuple[Any, ...] | None:
    """Tell who is at the other end of what was opened under `/net/con`."""
    return _peer(opened.descriptor)


def _peer(connection: object) -> tuple[Any, ...] | None:
    if not isinstance(connection, Socket):
        return None
    peer = connection.stream.peer
    return (peer["kind"], *(peer.get(field) for field in _FIELDS))


def attestation_report(host: Host, data: memoryview) -> bytes:
    """Give evidence that is bound to the data, by the file system's `/attest/report`."""
    if len(data) > _MAX_DATA:
        raise Failed("too-long")
    root = next((found for name, found in host.directories if name == "/"), None)
    if root is None:
        raise Failed("unavailable")
    try:
        node = resolve(root.node(), "attest/report", follow=False).existing()
        report = node.open(read=True, write=True)
    except Errno:
        raise Failed("unavailable") from None
    try:
        # A copy: the data is the component's, and true during the call only.
        report.write(memoryview(bytes(data)))
        found = bytearray()
        view = memoryview(bytearray(CHUNK))
        while (count := report.read(view)) and len(found) <= _MAX_REPORT:
            found += view[:count]
    except (Errno, OSError):
        raise Failed("failed") from None
    finally:
        report.close()
    return bytes(found)

"""The frames on the channels between a host and the keep in its virtual machine.

Each channel is a virtio-serial port with a name: a stream of bytes, and nothing about it is
trusted on either side. A frame is

    offset 0  1 byte   0x47, "G"
    offset 1  1 byte   kind
    offset 2  2 bytes  zero
    offset 4  4 bytes  length of the body, little-endian
    offset 8           body

A channel takes certain kinds of frames only, each up to a size; the length is refused before
anything of that length is kept. What cannot be read is `Malformed`, and the channel is of no use
from then on.
"""

from __future__ import annotations

from enum import IntEnum

from garrison.errors import Malformed
from garrison.formats.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_MAGIC = 0x47
HEADER_SIZE = 8
# A phase is a word and a number.
MAX_PHASE = 64
# As `garrison.formats.evidence` has it, which stands on no start's way: it loads OpenSSL.
REPORT_DATA_SIZE = 64


class Kind(IntEnum):
    """What a frame is."""

    #: Host to keep, first and once: what to run (`garrison.formats.guest_request`).
    REQUEST = 1
    #: Host to keep: a file of a local workload, before the request: see `File`.
    FILE = 2
    #: Host to keep: the number of a signal that asks the workload to end, one byte.
    SIGNAL = 3
    #: A stream's next bytes; none at its end.
    DATA = 4
    #: Keep to host: how far the start is, and the seconds since the machine started, as text.
    PHASE = 5
    #: Keep to host, last: the exit code, one byte.
    EXIT = 6
    #: Keep to host, insecure simulation: report data.
    INSECURE_ASK = 7
    #: Host to keep, insecure simulation: evidence.
    INSECURE_EVIDENCE = 8
    #: Keep to host: the number of a TCP port that it listens on, two bytes: may it be reached?
    LISTENING = 9
    #: Host to keep: the same number, and zero or an errno, two bytes.
    REACHABLE = 10
    #: Keep to host: likewise the number of a UDP port; what comes back is the same.
    LISTENING_UDP = 11


#: The names of the channels.
CONTROL = "garrison.control"
STDIN = "garrison.stdin"
STDOUT = "garrison.stdout"
STDERR = "garrison.stderr"
INSECURE_SIMULATED = "garrison.insecure-simulated"
#: Those that every keep has.
CHANNELS = (CONTROL, STDIN, STDOUT, STDERR)

# The roots and the policy of a launch request (1 MiB in all), and what JSON adds.
MAX_REQUEST = 2 << 20
# A module of a local workload and its path; the machine has to hold it several times.
MAX_FILE = 128 << 20
#: What one frame of a stream carries at most: as much as is read at once.
MAX_DATA = 1 << 16
# An SNP report and a chain of three certificates are below 8 KiB.
MAX_EVIDENCE = 1 << 16

#: What a keep takes on the channel of control, and up to which size.
TO_KEEP: Mapping[Kind, int] = {
    Kind.REQUEST: MAX_REQUEST,
    Kind.FILE: MAX_FILE,
    Kind.SIGNAL: 1,
    Kind.REACHABLE: 4,
}
#: What a host takes there.
TO_HOST: Mapping[Kind, int] = {
    Kind.PHASE: MAX_PHASE,
    Kind.EXIT: 1,
    Kind.LISTENING: 2,
    Kind.LISTENING_UDP: 2,
}
#: What either takes on a stream.
STREAM: Mapping[Kind, int] = {Kind.DATA: MAX_DATA}
#: What a host takes from a keep whose evidence it simulates, and the keep from the host.
INSECURE_TO_HOST: Mapping[Kind, int] = {Kind.INSECURE_ASK: REPORT_DATA_SIZE}
INSECURE_TO_KEEP: Mapping[Kind, int] = {Kind.INSECURE_EVIDENCE: MAX_EVIDENCE}


class Frame(Record):
    """One frame."""

    kind: Kind
    body: bytes

    def to_bytes(self) -> bytes:
        """The frame as it is sent."""
        size = len(self.body).to_bytes(4, "little")
        return bytes((_MAGIC, self.kind, 0, 0)) + size + self.body


class FrameReader:
    """Takes the bytes of a channel as they come, and gives its frames.

    Args:
        channel: its name, for errors.
        limits: the kinds that it takes, and the size of each at most.
    """

    __slots__ = ("_buffer", "_channel", "_limits")

    def __init__(self, channel: str, limits: Mapping[Kind, int]) -> None:
        self._channel = channel
        self._limits = limits
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take `data`, and return the frames that are whole now.

        Raises:
            Malformed: it is not a frame, not of a kind that the channel takes, or too long.
        """
        self._buffer += data
        frames = []
        while len(self._buffer) >= HEADER_SIZE:
            kind, size = self._header()
            if len(self._buffer) < HEADER_SIZE + size:
                break
            frames.append(Frame(kind, bytes(self._buffer[HEADER_SIZE : HEADER_SIZE + size])))
            del self._buffer[: HEADER_SIZE + size]
        return frames

    def end(self) -> None:
        """Say that no more comes.

        Raises:
            Malformed: it ends within a frame.
        """
        if self._buffer:
            raise self._bad("ends within a frame", f"{len(self._buffer)} bytes", "a whole frame")

    def _header(self) -> tuple[Kind, int]:
        header = bytes(self._buffer[:HEADER_SIZE])
        if header[0] != _MAGIC or header[2:4] != b"\0\0":
            raise self._bad("not a frame", header.hex(), f"{_MAGIC:02x} kind 00 00 length")
        if header[1] not in self._limits:
            takes = ", ".join(kind.name.lower() for kind in self._limits)
            raise self._bad("takes no such frame", f"kind {header[1]}", takes)
        kind = Kind(header[1])
        size = int.from_bytes(header[4:], "little")
        if size > self._limits[kind]:
            raise self._bad(
                f"too long a frame ({kind.name.lower()})",
                f"{size} bytes",
                f"at most {self._limits[kind]}",
            )
        return kind, size

    def _bad(self, message: str, found: str, expected: str) -> Malformed:
        return Malformed(message, field=f"channel {self._channel}", found=found, expected=expected)


class Phase(Record):
    """How far a keep's start is.

    Attributes:
        name: of what is done.
        seconds: by the machine's clock, since it started.
    """

    name: str
    seconds: float

    @classmethod
    def from_bytes(cls, body: bytes) -> Phase:
        """Read it.

        Raises:
            Malformed: it is not a word and a number.
        """
        try:
            name, seconds = body.decode("ascii").split(" ")
            value = float(seconds)
        except ValueError:
            name, value = "", 0.0
        if not (name.isalpha() and 0 <= value < 1e9):
            raise Malformed("not a word and a number", field="phase", found=repr(body[:MAX_PHASE]))
        return cls(name, value)

    def to_bytes(self) -> bytes:
        """Write it."""
        return f"{self.name} {self.seconds:.3f}".encode("ascii")


class File(Record):
    """A file of a local workload: its path within the package, a zero byte, its content."""

    path: str
    content: bytes

    @classmethod
    def from_bytes(cls, body: bytes) -> File:
        """Read it.

        Raises:
            Malformed: it has no path.
        """
        path, separator, content = body.partition(b"\0")
        try:
            name = path.decode()
        except UnicodeDecodeError:
            name = ""
        if not separator or not name:
            raise Malformed("has no path", field="file", expected="a path in UTF-8 and a zero byte")
        return cls(name, content)

    def to_bytes(self) -> bytes:
        """Write it."""
        return self.path.encode() + b"\0" + self.content


class Reachable(Record):
    """What becomes of a port that a keep listens on: zero, or the errno for which it cannot be."""

    port: int
    error: int = 0

    @classmethod
    def from_bytes(cls, body: bytes) -> Reachable:
        """Read it.

        Raises:
            Malformed: it is not two numbers.
        """
        if len(body) != 4:
            raise Malformed("not two numbers", field="reachable", found=f"{len(body)} bytes")
        return cls(int.from_bytes(body[:2], "little"), int.from_bytes(body[2:], "little"))

    def to_bytes(self) -> bytes:
        """Write it."""
        return self.port.to_bytes(2, "little") + self.error.to_bytes(2, "little")

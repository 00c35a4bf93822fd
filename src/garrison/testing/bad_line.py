"""A bad line between two TAP devices: frames come late, and some of them never.

For kernels without `netem`. The program opens two TAP devices that exist already, and carries each
frame from one to the other until SIGTERM, when it says on standard output, as JSON, what became of
them all:

    python -m garrison.testing.bad_line DEVICE DEVICE DELAY JITTER LOSS SEED

`DELAY` and `JITTER` are in seconds, `LOSS` from 0 to 1, all for each way; as with `netem`, jitter
may have one frame overtake another. What is lost and how late each comes is drawn from `SEED`.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import random
import select
import signal
import struct
import sys
import time
from dataclasses import asdict, dataclass, field

# linux/if_tun.h: attach to a device by its name; frames, without a header of the driver's own.
_TUNSETIFF = 0x400454CA
_IFF_TAP_NO_PI = 0x0002 | 0x1000
_NAME_SIZE = 16
# A frame of a device with an MTU of 1500, a VLAN tag among it.
_MAX_FRAME = 1522
#: Frames on their way at a time, in one direction: `netem`'s own default.
LIMIT = 1000


@dataclass(slots=True)
class Line:
    """One direction: which frame arrives when. It keeps no clock and moves nothing.

    Attributes:
        delay: seconds that a frame takes.
        jitter: seconds that it may take more or less, evenly spread.
        loss: the part of all frames that never arrives.
        chance: where what happens is drawn from.
        carried: frames that arrived, or will.
        lost: those that never will.
        dropped: those for which there was no room.
    """

    delay: float
    jitter: float
    loss: float
    chance: random.Random
    carried: int = 0
    lost: int = 0
    dropped: int = 0
    _on_their_way: list[tuple[float, int, bytes]] = field(default_factory=list)

    def take(self, frame: bytes, now: float) -> None:
        """Take a frame that was sent `now`."""
        # Drawn for each frame alike, so that one seed gives one course of things.
        late = self.delay + self.chance.uniform(-self.jitter, self.jitter)
        if self.chance.random() < self.loss:
            self.lost += 1
        elif len(self._on_their_way) >= LIMIT:
            self.dropped += 1
        else:
            self.carried += 1
            heapq.heappush(self._on_their_way, (now + max(0.0, late), self.carried, frame))

    def arrived(self, now: float) -> list[bytes]:
        """The frames that arrive by `now`, in their order; each is given once."""
        found = []
        while self._on_their_way and self._on_their_way[0][0] <= now:
            found.append(heapq.heappop(self._on_their_way)[2])
        return found

    def next(self) -> float | None:
        """When the next one arrives; None if there is none."""
        return self._on_their_way[0][0] if self._on_their_way else None

    def told(self) -> dict[str, int]:
        """What became of the frames."""
        counted = asdict(self)
        return {name: counted[name] for name in ("carried", "lost", "dropped")}


def attach(name: str) -> int:
    """A descriptor that reads and writes the frames of the TAP device `name`.

    Raises:
        OSError: there is no such device, or no leave to use it.
    """
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = struct.pack(f"{_NAME_SIZE}sH22x", name.encode(), _IFF_TAP_NO_PI)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def carry(ways: dict[int, tuple[int, Line]], stop: int) -> None:
    """Carry frames until `stop` can be read.

    Args:
        ways: by descriptor to read from: the one to write to, and the line between.
        stop: a descriptor.
    """
    while True:
        times = [at for _, line in ways.values() if (at := line.next()) is not None]
        wait = max(0.0, min(times) - time.monotonic()) if times else None
        readable, _, _ = select.select([*ways, stop], [], [], wait)
        if stop in readable:
            return
        for descriptor in readable:
            _take_all(descriptor, ways[descriptor][1])
        for to, line in ways.values():
            for frame in line.arrived(time.monotonic()):
                try:
                    os.write(to, frame)
                except BlockingIOError:
                    # The device's queue is full: a line that is too narrow loses frames.
                    line.carried -= 1
                    line.dropped += 1


def _take_all(descriptor: int, line: Line) -> None:
    now = time.monotonic()
    for _ in range(LIMIT):
        try:
            line.take(os.read(descriptor, _MAX_FRAME), now)
        except BlockingIOError:
            return


def main() -> int:
    """Be the line that the command line describes."""
    first, second, *numbers, seed = sys.argv[1:]
    delay, jitter, loss = map(float, numbers)
    chance = random.Random(seed)  # noqa: S311  (it has to be the same each time)
    ends = attach(first), attach(second)
    lines = [Line(delay, jitter, loss, chance) for _ in ends]
    # A pipe that the signal writes to, so that none comes too early or too late.
    stop, stopping = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(stopping)
    signal.signal(signal.SIGTERM, lambda *_: None)
    print("carrying", flush=True)
    carry({ends[0]: (ends[1], lines[0]), ends[1]: (ends[0], lines[1])}, stop)
    print(json.dumps({"there": lines[0].told(), "back": lines[1].told()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

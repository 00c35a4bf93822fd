"""Evidence that the host simulates for the keep in its virtual machine, over a channel.

INSECURE by nature: the host says what it likes. It exists so that the whole way from an image to a
certificate runs on any machine, with the measurement that was predicted for that very image. A
steward believes such evidence only where its policy names the simulated root, so a host that has a
keep use this gains nothing: it gets evidence that nobody admits.

The channel (`garrison.formats.channel`) carries report data to the host and evidence back, one
after the other.
"""

from __future__ import annotations

import logging
import os
import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from garrison.attesters._evidence import check_report_data
from garrison.errors import Misuse, Unavailable
from garrison.formats.channel import (
    INSECURE_SIMULATED,
    INSECURE_TO_KEEP,
    MAX_DATA,
    Frame,
    FrameReader,
    Kind,
)
from garrison.formats.evidence import SGX_MEDIA_TYPE, SNP_MEDIA_TYPE, TDX_MEDIA_TYPE, Evidence, Tee
from garrison.formats.nitro import NITRO_MEDIA_TYPE
from garrison.virtio_ports import open_ports

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("garrison")

#: What evidence of each TEE is, and which curve is as strong.
_KINDS: Mapping[str, tuple[str, Literal["P-256", "P-384"]]] = {
    Tee.SNP: (SNP_MEDIA_TYPE, "P-384"),
    Tee.TDX: (TDX_MEDIA_TYPE, "P-256"),
    Tee.SGX: (SGX_MEDIA_TYPE, "P-256"),
    Tee.NITRO: (NITRO_MEDIA_TYPE, "P-384"),
}
# A simulator answers at once; a host may be busy with the machine itself.
_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class HostSimulatedInsecure:
    """Asks the host for evidence.

    Attributes:
        tee: which TEE the host simulates.
        port: the channel, open.
        seconds: how long the host may take.
    """

    tee: Tee
    port: int
    seconds: float = _SECONDS

    @classmethod
    def open(cls, tee: str) -> HostSimulatedInsecure:
        """Find the channel, and warn.

        Raises:
            Misuse: no such TEE is simulated.
            Unavailable: the host gives no channel.
        """
        if tee not in _KINDS:
            raise Misuse(
                "is not simulated", field="attester: tee", found=tee, expected=" | ".join(_KINDS)
            )
        port = open_ports([INSECURE_SIMULATED])[INSECURE_SIMULATED]
        log.warning("INSECURE: evidence is simulated by the host, and proves nothing")
        return cls(Tee(tee), port)

    @property
    def curve(self) -> Literal["P-256", "P-384"]:
        """The curve for keys."""
        return _KINDS[self.tee][1]

    def attest(self, report_data: bytes) -> Evidence:
        """Ask the host for evidence that is bound to `report_data`.

        Raises:
            Misuse: `report_data` does not have 64 bytes.
            Malformed: the host answers something else.
            Unavailable: it does not answer.
        """
        check_report_data(report_data)
        deadline = time.monotonic() + self.seconds
        left = Frame(Kind.INSECURE_ASK, report_data).to_bytes()
        while left:
            self._wait(select.POLLOUT, deadline)
            left = left[os.write(self.port, left) :]
        reader = FrameReader(INSECURE_SIMULATED, INSECURE_TO_KEEP)
        while True:
            self._wait(select.POLLIN, deadline)
            data = os.read(self.port, MAX_DATA)
            if not data:
                raise _silent("closed by the host")
            for frame in reader.feed(data):
                return Evidence(_KINDS[self.tee][0], frame.body)

    def _wait(self, events: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self.port, events)
        happened = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not happened:
            raise _silent(f"nothing in {self.seconds:.0f} s")
        if not happened[0][1] & events:
            raise _silent("closed by the host")


def _silent(found: str) -> Unavailable:
    return Unavailable(
        "the simulated TEE does not answer", field=f"channel {INSECURE_SIMULATED}", found=found
    )

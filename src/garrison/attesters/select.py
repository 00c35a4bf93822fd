"""Which attester a keep uses, as its launch request says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from garrison.attesters.nil import NilAttester
from garrison.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.attesters.base import Attester


def select(spec: Mapping[str, str]) -> Attester:
    """Make the attester that `spec` describes.

    Args:
        spec: `{"kind": "nil"}`, or
            `{"kind": "simulated-snp-insecure", "directory": <what create_insecure made>}`.

    Raises:
        Misuse: it is neither, or the simulator's directory cannot be used.
    """
    match dict(spec):
        case {"kind": "nil", **rest} if not rest:
            return NilAttester()
        case {"kind": "simulated-snp-insecure", "directory": directory, **rest} if not rest:
            # Only a keep that simulates pays for what the simulator needs.
            from garrison.attesters.simulated_snp_insecure import SimulatedSnpInsecure

            return SimulatedSnpInsecure.open(Path(directory))
    raise Misuse(
        "unknown attester",
        field="attester",
        found=" ".join(f"{key}={value}" for key, value in spec.items())[:200] or "nothing",
        expected="kind=nil | kind=simulated-snp-insecure directory=DIR",
    )

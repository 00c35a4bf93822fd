"""Which attester a keep uses, as its launch request says."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from garrison.attesters.detect import OPENERS, detect
from garrison.attesters.nil import NilAttester
from garrison.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.attesters.base import Attester

# How the kinds of all simulators end.
_INSECURE = "-insecure"


def select(spec: Mapping[str, str]) -> Attester:
    """Make the attester that `spec` describes.

    Args:
        spec: `{"kind": "nil"}`, `{"kind": "detect"}`, one of the kinds in
            `garrison.attesters.detect.ORDER`, or
            `{"kind": "simulated-TEE-insecure", "directory": <what create_insecure made>}`, see
            `garrison.attesters.simulated_insecure`, or, in a virtual machine,
            `{"kind": "host-simulated-insecure", "tee": <which>}`.

    Raises:
        Misuse: it is none of these, this machine has no such TEE, or the simulator's directory
            cannot be used.
        Unavailable: the TEE does not answer.
    """
    match dict(spec):
        case {"kind": "nil", **rest} if not rest:
            return NilAttester()
        case {"kind": "detect", **rest} if not rest:
            return detect()
        case {"kind": kind, **rest} if kind in OPENERS and not rest:
            return OPENERS[kind]()
        case {"kind": kind, "directory": directory, **rest} if (
            kind.endswith(_INSECURE) and not rest
        ):
            # Only a keep that simulates pays for what the simulator needs; so with each. A keep
            # image has no simulators.
            with suppress(ModuleNotFoundError):
                from garrison.attesters.simulated_insecure import KINDS, open_insecure

                if kind in KINDS:
                    return open_insecure(KINDS[kind], Path(directory))
        case {"kind": "host-simulated-insecure", "tee": tee, **rest} if not rest:
            from garrison.attesters.host_simulated_insecure import HostSimulatedInsecure

            return HostSimulatedInsecure.open(tee)
    raise Misuse(
        "unknown attester",
        field="attester",
        found=" ".join(f"{key}={value}" for key, value in spec.items())[:200] or "nothing",
        expected=" | ".join(f"kind={kind}" for kind in ("nil", "detect", *OPENERS))
        + " | kind=simulated-TEE-insecure directory=DIR | kind=host-simulated-insecure tee=TEE",
    )

"""What a TEE will report of an image, and how it is told: in hex, as JSON, as a policy.

A register that cannot be known from the image is named with the reason, and is never guessed: in a
policy it stands as a comment, so that the policy refuses until somebody fills it in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from garrison.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.formats.evidence import Tee


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a TEE will report.

    Attributes:
        tee: which.
        registers: each register that is known, by the name that the TEE gives it.
        policy: a section of a steward's policy that admits it.
        unknown: each register that cannot be known from the image, and why.
        details: more to know, for people and programs.
    """

    tee: Tee
    registers: Mapping[str, bytes]
    policy: str
    unknown: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)

    def as_hex(self) -> str:
        """The one register, or each with its name, a line each."""
        if len(self.registers) == 1 and not self.unknown:
            return next(iter(self.registers.values())).hex()
        return "\n".join(f"{name} {value.hex()}" for name, value in self.registers.items())

    def as_json(self) -> dict[str, Any]:
        """All of it, as a JSON document."""
        return {
            "tee": str(self.tee),
            "registers": {name: value.hex() for name, value in self.registers.items()},
            "unknown": dict(self.unknown),
            "details": dict(self.details),
        }


# What a policy on an Intel TEE must say of Intel's evaluations, which no image tells.
EVALUATION = 'minimum_tcb_evaluation = "any"  # better: the number of the latest that you know'


def toml_list(value: bytes) -> str:
    """A list of one digest, as policies have it."""
    return f'["{value.hex()}"]'


def command_line(text: str) -> bytes:
    """The bytes of a kernel's command line, without the zero byte that ends it.

    Raises:
        Misuse: it has a zero byte itself, or is not UTF-8.
    """
    try:
        line = text.encode()
    except UnicodeEncodeError:  # from an argument that is not UTF-8
        line = b"\0"
    if b"\0" in line:
        raise Misuse(
            "no command line", field="--append", found=ascii(text[:40]), expected="UTF-8, no zero"
        )
    return line

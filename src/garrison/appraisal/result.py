"""The attestation result: every check of a policy, with what was found and what was wanted.

Verification stops at the first failure; appraisal collects all, so that whoever is refused can
mend everything at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.formats.evidence import Tee


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: what was looked at.
        found: what it was.
        wanted: what the policy admits.
        passed: whether it admits what was found.
        remedy: what to do if it does not.
    """

    name: str
    found: str
    wanted: str
    passed: bool
    remedy: str | None = None

    def as_json(self) -> dict[str, str | None]:
        """The check as services answer it."""
        return {
            "check": self.name,
            "found": self.found,
            "expected": self.wanted,
            "remedy": self.remedy,
        }


class AppraisalRejected(Rejected):
    """The evidence is genuine, and the policy does not admit what it shows.

    Attributes:
        checks: those that failed: `check`, `found`, `expected` and `remedy`.
    """

    def __init__(self, failed: list[Check]) -> None:
        first, *others = failed
        count = f" (and {len(others)} more)" if others else ""
        super().__init__(
            f"the policy does not admit it{count}",
            field=first.name,
            found=first.found,
            expected=first.wanted,
            hint=first.remedy,
        )
        self.checks: list[dict[str, str | None]] = [check.as_json() for check in failed]


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """What genuine evidence shows, and what a policy makes of it.

    Attributes:
        tee: the kind of TEE whose hardware signed; of Azure's evidence the one beneath.
        measurement: what was measured at the keep's launch.
        tcb_status: `UpToDate` if the policy demands a minimum TCB version and the platform has
            it, `OutOfDate` if it has not, `Unchecked` if the policy demands none.
        simulated: whether a simulated root vouches for it: then it proves nothing.
        checks: every check, passed or not.
        claims: what else the evidence shows, for records.
    """

    tee: Tee
    measurement: bytes
    tcb_status: str
    simulated: bool
    checks: tuple[Check, ...]
    claims: Mapping[str, str]

    def require(self) -> None:
        """Refuse unless all checks passed.

        Raises:
            AppraisalRejected: one did not; it carries all that did not.
        """
        failed = [check for check in self.checks if not check.passed]
        if failed:
            raise AppraisalRejected(failed)

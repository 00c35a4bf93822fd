"""What the policies of SGX and TDX have in common: what is admitted of the platform.

    tcb_statuses = ["UpToDate", "SWHardeningNeeded"]    # of Intel's statuses, or "any"
    advisories = ["INTEL-SA-00615"]                     # that may apply; [] for none, or "any"
    minimum_tcb_evaluation = 17                         # of the collateral, or "any"

    # Trusts a simulated vendor: whoever has its keys can claim anything.
    [insecure_simulated_roots.<name>]
    key_sha256 = "<64 hex digits>"
    endorsements = "simulator"      # its directory; absent: collateral comes from the cache, too

The first three keys must be there. A status is the whole platform's, quoting enclave and TDX module
included. An advisory list alone says nothing: a platform can be out of date without one. And a
status is by a certain evaluation of Intel's, who serves several at a time (PCS API, "update"): by
an earlier one a platform is still up to date that by a later one is not. The least that a policy
admits is a `tcbEvaluationDataNumber`, which TCB info and QE identity must both have reached.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.appraisal.reference import ANY, read_list, read_simulated_roots, word_of
from garrison.appraisal.result import Check
from garrison.errors import Malformed
from garrison.formats.dcap_collateral import MAX_EVALUATION, TcbStatus
from garrison.verification.roots import Roots

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from garrison.formats.strict_toml import Table
    from garrison.verification.dcap import DcapPlatform

_ADVISORY = re.compile(r"INTEL-[A-Z]{2}-[0-9]{5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DcapPolicy:
    """What is admitted of an Intel platform; None stands for "any".

    Attributes:
        tcb_statuses: statuses of the whole platform.
        advisories: advisories that may apply to it.
        minimum_evaluation: the number of the earliest of Intel's evaluations that may be used.
        qe_identity_required: whether Intel's word on the quoting enclave must be there.
        simulated_roots: simulated roots that are trusted: name, and SHA-256 of the key in hex.
        simulated_endorsements: the directories of those that have one, by name.
    """

    tcb_statuses: tuple[TcbStatus, ...] | None
    advisories: tuple[str, ...] | None
    minimum_evaluation: int | None
    simulated_roots: Mapping[str, str]
    simulated_endorsements: Mapping[str, Path]
    qe_identity_required: bool = True

    @classmethod
    def from_table(cls, table: Table, base: Path) -> DcapPolicy:
        """Take these keys out of the section of a TEE; paths are relative to `base`.

        Raises:
            Malformed: they are anything else than shown above.
        """
        keys, directories = read_simulated_roots(
            table.table("insecure_simulated_roots"), base, endorsed=False
        )
        return cls(
            tcb_statuses=_statuses(table),
            advisories=_advisories(table),
            minimum_evaluation=_minimum_evaluation(table),
            simulated_roots=keys,
            simulated_endorsements=directories,
        )

    def roots(self) -> Roots:
        """The roots that the policy trusts: Intel's, and the simulated ones that it names.

        Raises:
            Misuse: two names are given to one key.
        """
        return Roots.load(self.simulated_roots)

    def checks(self, platform: DcapPlatform) -> tuple[Check, ...]:
        """Hold `platform` to the policy."""
        status, advisories = platform.tcb.status, platform.tcb.advisories
        admitted, least = self.advisories, self.minimum_evaluation
        others = () if admitted is None else [one for one in advisories if one not in admitted]
        known = platform.tcb.qe is not None
        return (
            Check(
                name="QE identity",
                found="Intel's" if known else "none, so nothing is known of the QE's version",
                wanted="Intel's" if self.qe_identity_required else ANY,
                passed=known or not self.qe_identity_required,
                remedy="verify with the whole of Intel's collateral",
            ),
            word_of(
                "TCB status",
                status,
                self.tcb_statuses,
                "update the platform's firmware and microcode, and register it again",
            ),
            Check(
                name="advisories",
                found=", ".join(advisories) or "none",
                wanted=ANY if admitted is None else ", ".join(admitted) or "none",
                passed=not others,
                remedy="mend the platform as the advisories say, or list them under advisories",
            ),
            Check(
                name="TCB evaluation",
                found=str(platform.evaluation),
                wanted=ANY if least is None else f"at least {least}",
                passed=least is None or platform.evaluation >= least,
                remedy="fetch Intel's latest collateral, or lower minimum_tcb_evaluation",
            ),
        )


def platform_claims(platform: DcapPlatform, now: datetime) -> dict[str, str]:
    """What a quote shows of its platform, for records."""
    tcb = platform.tcb
    return {
        "root": platform.anchor.name,
        "root_certificate": platform.anchor.certificate_sha256,
        "fmspc": platform.fmspc.hex(),
        "pck_issuer": platform.issuer,
        "platform_status": tcb.platform,
        "qe_status": tcb.qe or "",
        "module_status": tcb.module or "",
        "advisories": " ".join(tcb.advisories),
        "tcb_date": tcb.date.isoformat(),
        "tcb_evaluation": str(platform.evaluation),
        "valid_until": platform.valid_until.isoformat(),
        "appraised": now.isoformat(),
    }


def _statuses(table: Table) -> tuple[TcbStatus, ...] | None:
    expected = f'a list of {", ".join(TcbStatus)}, or "any"'
    listed = read_list(table, "tcb_statuses", expected)
    if listed is None:
        return None
    statuses = tuple(status for status in TcbStatus if status in listed)
    if len(statuses) != len(listed):
        raise table.malformed("tcb_statuses", "unknown status, or one twice", expected=expected)
    return statuses


def _advisories(table: Table) -> tuple[str, ...] | None:
    expected = 'a list such as ["INTEL-SA-00615"], [] for none, or "any"'
    # Unlike other lists, an empty one says something: that none may apply.
    listed = [] if table.value("advisories") == [] else read_list(table, "advisories", expected)
    if listed is None:
        return None
    found = tuple(one for one in listed if isinstance(one, str) and _ADVISORY.fullmatch(one))
    if len(found) != len(listed):
        raise table.malformed("advisories", "wrong entry", expected=expected)
    return found


def _minimum_evaluation(table: Table) -> int | None:
    key, expected = "minimum_tcb_evaluation", 'a tcbEvaluationDataNumber, or "any"'
    if key not in table:
        raise Malformed(
            "missing",
            field=table.where(key),
            expected=expected,
            hint="Intel's numbers: PCS API, Get TCB Evaluation Data Numbers",
        )
    if table.value(key) == ANY:
        return None
    # Intel counts from 1 on.
    return table.integer(key, low=1, high=MAX_EVALUATION)

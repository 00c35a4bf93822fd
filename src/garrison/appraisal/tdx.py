"""Appraisal of TDX evidence: the `[tdx]` section of a steward's policy, and its checks.

    [tdx]
    mr_td = ["<96 hex digits>"]             # the initial memory: the firmware
    mr_seam = "any"                         # the TDX module; that Intel signed it is verified
    mr_config_id = "any"
    mr_owner = "any"
    mr_owner_config = "any"
    mr_service_td = "any"                   # service TDs; TDX 1.0, which has none, counts as zero

    [tdx.rtmrs]                             # or `others`: see garrison.appraisal.reference
    0 = ["<96 hex digits>"]                 # what the firmware measured: its configuration
    1 = ["<96 hex digits>"]                 # ... kernel
    2 = ["<96 hex digits>"]                 # ... command line and initial file system
    3 = "zero"                              # what was extended at run time

    # And tcb_statuses, advisories, minimum_tcb_evaluation, insecure_simulated_roots: see
    # garrison.appraisal.dcap.

    # All that follows may be left out, and is then the strictest, as shown here.
    [tdx]
    debug = false                           # whether TDs are admitted that the host may debug
    migratable = false                      # ... that may be migrated
    perfmon = false                         # ... whose performance counters the host lends
    sept_ve_disable = true                  # whether page faults must not reach the TD's handlers

Each is a value or the word "any"; nothing is unchecked by omission, and an empty list, which
would admit nothing, is an error. Attributes that no specification names yet are never admitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from garrison.appraisal.dcap import DcapPolicy, platform_claims
from garrison.appraisal.reference import (
    Bytes,
    bound,
    flag,
    one_of,
    read_digests,
    read_registers,
    register_checks,
)
from garrison.appraisal.result import AttestationResult
from garrison.formats.evidence import Tee
from garrison.formats.tdx_report import REGISTER_SIZE, RTMRS, TdAttributes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from garrison.formats.strict_toml import Table
    from garrison.verification.dcap import TdxClaims
    from garrison.verification.verified import Verified

# An integer: how a flag of Python is inverted differs between its versions.
_KNOWN_ATTRIBUTES = int(reduce(or_, TdAttributes))


_REGISTERS = ("mr_td", "mr_seam", "mr_config_id", "mr_owner", "mr_owner_config", "mr_service_td")


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxPolicy:
    """What is admitted of TDX.

    Attributes:
        registers: what each measurement register may hold, by its key; None stands for "any".
        rtmrs: what each run-time register may hold, by its number.
        debug: whether TDs are admitted that the host may debug.
        migratable: whether TDs are admitted that may be migrated.
        perfmon: whether TDs are admitted that use performance counters.
        sept_ve_disable: whether TDs must have SEPT_VE_DISABLE.
        platform: what is admitted of the platform.
    """

    registers: Mapping[str, Bytes]
    rtmrs: Mapping[int, Bytes]
    debug: bool
    migratable: bool
    perfmon: bool
    sept_ve_disable: bool
    platform: DcapPolicy

    @classmethod
    def from_table(cls, table: Table, base: Path) -> TdxPolicy:
        """Read the section; paths are relative to `base`.

        Raises:
            Malformed: it is anything else than shown above.
        """
        policy = cls(
            registers={
                key: read_digests(table, key, REGISTER_SIZE, named=True) for key in _REGISTERS
            },
            rtmrs=read_registers(table.table("rtmrs"), RTMRS, REGISTER_SIZE),
            debug=table.boolean("debug", False),  # noqa: FBT003 - the default
            migratable=table.boolean("migratable", False),  # noqa: FBT003 - the default
            perfmon=table.boolean("perfmon", False),  # noqa: FBT003 - the default
            sept_ve_disable=table.boolean("sept_ve_disable", True),  # noqa: FBT003 - the default
            platform=DcapPolicy.from_table(table, base),
        )
        table.done()
        return policy


def appraise(
    verified: Verified[TdxClaims], policy: TdxPolicy, expected_report_data: bytes, now: datetime
) -> AttestationResult:
    """Hold what was verified to `policy`.

    Args:
        verified: the claims.
        policy: what is admitted.
        expected_report_data: what the report must be bound to, 64 bytes.
        now: the time of the result.

    Returns:
        The result, with every check; `require` refuses it if one failed.
    """
    report, platform = verified.value.report, verified.value.platform
    registers = {key: getattr(report, key) or bytes(REGISTER_SIZE) for key in _REGISTERS}
    checks = (
        bound("report data", report.report_data, expected_report_data),
        *(
            one_of(
                _shown(key), registers[key], policy.registers[key], f"launch a listed {key}", now
            )
            for key in _REGISTERS
        ),
        *register_checks(
            "RTMR", report.rtmrs, policy.rtmrs, "launch a TD that the policy lists under rtmrs", now
        ),
        *(
            flag(
                f"TD attributes: {bit.name}",
                found=bool(report.td_attributes & bit.value),
                wanted=wanted,
                remedy=f"launch with what the policy admits of {bit.name}, or change that",
            )
            for bit, wanted in (
                (TdAttributes.DEBUG, None if policy.debug else False),
                (TdAttributes.MIGRATABLE, None if policy.migratable else False),
                (TdAttributes.PERFMON, None if policy.perfmon else False),
                (TdAttributes.SEPT_VE_DISABLE, policy.sept_ve_disable or None),
            )
        ),
        flag(
            "TD attributes: others",
            found=bool(report.td_attributes & ~_KNOWN_ATTRIBUTES),
            wanted=False,
            remedy="launch without attributes that the verifier does not know",
        ),
        *policy.platform.checks(platform),
    )
    return AttestationResult(
        tee=Tee.TDX,
        measurement=report.mr_td,
        tcb_status=platform.tcb.status,
        simulated=platform.anchor.simulated,
        checks=checks,
        claims={key: value.hex() for key, value in registers.items()}
        | {f"rtmr{index}": value.hex() for index, value in enumerate(report.rtmrs)}
        | {"td_attributes": f"{report.td_attributes:#018x}", "xfam": f"{report.xfam:#018x}"}
        | platform_claims(platform, now),
    )


def _shown(key: str) -> str:
    """A register as Intel's documents name it."""
    return key.replace("_", "").upper()

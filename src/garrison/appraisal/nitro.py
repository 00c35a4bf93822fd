"""Appraisal of AWS Nitro evidence: the `[nitro]` section of a steward's policy, and its checks.

    # Of each register: a list of 96 hex digits each, "zero", or "any". AWS measures the image
    # into 0, kernel and boot into 1, the application into 2, the parent's role into 3, the parent
    # instance into 4, and the image's signing certificate into 8.
    [nitro.pcrs]
    0 = ["<96 hex digits>"]
    3 = "any"
    4 = "any"
    others = "any"

    # What follows may be left out, and is then the strictest, as shown here.
    [nitro]
    debug = false                           # whether enclaves are admitted in debug mode

    # Trusts a simulated vendor: whoever has its keys can claim anything.
    [nitro.insecure_simulated_roots]
    <name> = "<64 hex digits>"              # SHA-256 of the root's key

Every register from 0 to 31 must be spoken for, by its number or by `others`. One that a document
does not have was never extended: it counts as zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.appraisal.reference import (
    Bytes,
    bound,
    flag,
    read_registers,
    read_sha256,
    register_checks,
)
from garrison.appraisal.result import AttestationResult
from garrison.formats.evidence import Tee
from garrison.formats.nitro import MAX_PCRS, PCR_SIZE
from garrison.verification.roots import Roots

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from garrison.formats.strict_toml import Table
    from garrison.verification.nitro import NitroClaims
    from garrison.verification.verified import Verified


@dataclass(frozen=True, slots=True, kw_only=True)
class NitroPolicy:
    """What is admitted of Nitro enclaves.

    Attributes:
        pcrs: the values of each register; None for any.
        debug: whether enclaves are admitted in debug mode, of which nothing is measured.
        simulated_roots: simulated roots that are trusted: name, and SHA-256 of the key in hex.
    """

    pcrs: Mapping[int, Bytes]
    debug: bool
    simulated_roots: Mapping[str, str]

    @classmethod
    def from_table(cls, table: Table) -> NitroPolicy:
        """Read the section.

        Raises:
            Malformed: it is anything else than shown above.
        """
        policy = cls(
            pcrs=read_registers(table.table("pcrs"), MAX_PCRS, PCR_SIZE),
            debug=table.boolean("debug", False),  # noqa: FBT003 - the default
            simulated_roots=_simulated_roots(table.table("insecure_simulated_roots")),
        )
        table.done()
        return policy

    def roots(self) -> Roots:
        """The roots that the policy trusts: AWS's, and the simulated ones that it names.

        Raises:
            Misuse: two names are given to one key.
        """
        return Roots.load(self.simulated_roots)


def appraise(
    verified: Verified[NitroClaims], policy: NitroPolicy, expected_report_data: bytes, now: datetime
) -> AttestationResult:
    """Hold what was verified to `policy`.

    Args:
        verified: the claims.
        policy: what is admitted.
        expected_report_data: what the document's user data must be.
        now: the time of the result.

    Returns:
        The result, with every check; `require` refuses it if one failed.
    """
    claims = verified.value
    document = claims.document
    user_data = document.user_data or b""
    # AWS's modules have 16 registers, or more: what a policy says of the rest holds all the same.
    absent = (bytes(PCR_SIZE),) * (MAX_PCRS - len(document.pcrs))
    checks = (
        bound("user data", user_data, expected_report_data),
        flag(
            "debug mode",
            found=document.debug,
            wanted=None if policy.debug else False,
            remedy="run the enclave without debug mode, or set debug = true",
        ),
        *register_checks(
            "PCR",
            (*document.pcrs, *absent),
            policy.pcrs,
            "run an enclave whose measurements the policy lists under pcrs",
            now,
        ),
    )
    return AttestationResult(
        tee=Tee.NITRO,
        measurement=document.pcrs[0],
        # AWS keeps the platform up to date, and the document does not tell its version.
        tcb_status="Unchecked",
        simulated=claims.anchor.simulated,
        checks=checks,
        claims={
            "root": claims.anchor.name,
            "root_certificate": claims.anchor.certificate_sha256,
            "module_id": document.module_id,
            "timestamp": claims.timestamp.isoformat(),
            "verified_at": claims.verified_at.isoformat(),
            "appraised": now.isoformat(),
        },
    )


def _simulated_roots(table: Table) -> dict[str, str]:
    keys = {name: read_sha256(table, name).hex() for name in list(table.keys())}
    table.done()
    return keys

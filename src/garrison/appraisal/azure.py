"""Appraisal of Azure's confidential VMs: the `[azure]` section of a steward's policy.

    # Of each register (0 to 23): a list of 64 hex digits each, "zero", or "any".
    [azure.pcrs]
    4 = ["<64 hex digits>"]
    others = "any"

    # What the paravisor says of the VM: all that follows may be left out, and is then the
    # strictest, as shown here.
    [azure]
    secure_boot = "required"                # or "any"
    console = "forbidden"                   # whether the host has a console of the guest, or "any"

What the hardware's report shows is appraised by the hardware's own policy (`[snp]`, `[tdx]`):
that is the paravisor, and the registers are what it started. So a result is made of both. On SNP
the paravisor is at VMPL 0, which `vmpl` must admit, whatever else it admits of other guests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from garrison.appraisal.reference import ANY, Bytes, bound, flag, read_registers, register_checks
from garrison.formats.tpm import PCR_COUNT, PCR_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from garrison.appraisal.result import AttestationResult
    from garrison.appraisal.snp import SnpPolicy
    from garrison.formats.strict_toml import Table
    from garrison.verification.azure import AzureClaims
    from garrison.verification.verified import Verified

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AzurePolicy:
    """What is admitted of Azure's confidential VMs, besides what their hardware's policy says.

    Attributes:
        pcrs: the values of each register; None for any.
        secure_boot: whether the guest must boot what is signed alone.
        console: whether guests are admitted of which the host has a console.
    """

    pcrs: Mapping[int, Bytes]
    secure_boot: bool
    console: bool

    @classmethod
    def from_table(cls, table: Table) -> AzurePolicy:
        """Read the section.

        Raises:
            Malformed: it is anything else than shown above.
        """
        policy = cls(
            pcrs=read_registers(table.table("pcrs"), PCR_COUNT, PCR_SIZE),
            secure_boot=table.string("secure_boot", "required", choices=("required", ANY)) != ANY,
            console=table.string("console", "forbidden", choices=("forbidden", ANY)) == ANY,
        )
        table.done()
        return policy


def of_paravisor(policy: SnpPolicy) -> SnpPolicy:
    """`policy`, as a paravisor's report is held to it: asked for at VMPL 0 (56860, table 23).

    Who asks at another level is the guest, and could have the report made over runtime data of its
    own, with the key of a TPM that there is not. A policy that does not admit 0 admits none.
    """
    return replace(policy, vmpl=(0,) if policy.vmpl is None or 0 in policy.vmpl else ())


def appraise(
    verified: Verified[AzureClaims[T]],
    policy: AzurePolicy,
    expected_nonce: bytes,
    appraise_hardware: Callable[[Verified[T], bytes], AttestationResult],
    now: datetime,
) -> AttestationResult:
    """Hold what was verified to `policy`, and the hardware's part to its own.

    Args:
        verified: the claims.
        policy: what is admitted.
        expected_nonce: what the TPM must have quoted: `garrison.formats.azure.quote_nonce` of
            the report data that bind the keep's key and the challenge.
        appraise_hardware: the hardware's appraisal, from its claims and the report data that they
            must have: those that verification held to the runtime data.
        now: the time of the result.

    Returns:
        The hardware's result, with the checks of both; `require` refuses it if one failed.
    """
    claims = verified.value
    hardware = appraise_hardware(claims.hardware, claims.report_data)
    runtime = claims.runtime
    checks = (
        bound("TPM quote's nonce", claims.quote.extra_data, expected_nonce),
        flag(
            "secure boot",
            found=runtime.secure_boot,
            wanted=True if policy.secure_boot else None,
            remedy='create the VM with secure boot, or set secure_boot = "any"',
        ),
        flag(
            "console of the host",
            found=runtime.console,
            wanted=None if policy.console else False,
            remedy='create the VM without a serial console, or set console = "any"',
        ),
        flag(
            "virtual TPM",
            found=runtime.tpm,
            wanted=True,
            remedy="create the VM with a virtual TPM",
        ),
        *register_checks(
            "PCR", claims.pcrs, policy.pcrs, "boot what the policy lists under pcrs", now
        ),
    )
    return replace(
        hardware,
        checks=(*checks, *hardware.checks),
        claims={**hardware.claims, "vm_id": runtime.vm_id},
    )

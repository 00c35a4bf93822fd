"""Appraisal of SGX evidence: the `[sgx]` section of a steward's policy, and its checks.

    [sgx]
    measurements = ["<64 hex digits>"]      # MRENCLAVE, of keeps
    config_ids = "any"                      # CONFIGID, or 128 hex digits each

    # Who may have signed the enclave, or signers = "any". All three keys of an entry must fit.
    [[sgx.signers]]
    mr_signer = "<64 hex digits>"
    isv_prod_id = 0
    minimum_isv_svn = 1

    # And tcb_statuses, advisories, insecure_simulated_roots: see garrison.appraisal.dcap.

    # May be left out, and is then the strictest, as shown here.
    [sgx]
    debug = false                           # whether enclaves are admitted that the host may debug

Each is a value or the word "any"; nothing is unchecked by omission, and an empty list, which
would admit nothing, is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.appraisal.dcap import (
    DcapPolicy,
    platform_claims,
    read_sha256,
    report_data_check,
)
from garrison.appraisal.reference import ANY, Bytes, flag, one_of, read_digests
from garrison.appraisal.result import AttestationResult, Check
from garrison.errors import Malformed
from garrison.formats.evidence import Tee

if TYPE_CHECKING:
    from datetime import datetime

    from garrison.formats.sgx_report import SgxReport
    from garrison.formats.strict_toml import Table
    from garrison.verification.dcap import SgxClaims
    from garrison.verification.verified import Verified

_DIGEST_SIZE = 32
_CONFIG_ID_SIZE = 64


@dataclass(frozen=True, slots=True)
class Signer:
    """A signer of enclaves, one product of its, and the least security version of that."""

    mr_signer: bytes
    isv_prod_id: int
    minimum_isv_svn: int

    def admits(self, report: SgxReport) -> bool:
        """Whether the enclave is that product, and recent enough."""
        return (
            report.mr_signer == self.mr_signer
            and report.isv_prod_id == self.isv_prod_id
            and report.isv_svn >= self.minimum_isv_svn
        )

    def __str__(self) -> str:
        return f"{self.mr_signer.hex()} product {self.isv_prod_id} SVN {self.minimum_isv_svn}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxPolicy:
    """What is admitted of SGX; None stands for "any".

    Attributes:
        measurements: MRENCLAVEs.
        signers: who may have signed the enclave.
        config_ids: what the host may have configured it with.
        debug: whether enclaves are admitted that the host may debug.
        platform: what is admitted of the platform.
    """

    measurements: Bytes
    signers: tuple[Signer, ...] | None
    config_ids: Bytes
    debug: bool
    platform: DcapPolicy

    @classmethod
    def from_table(cls, table: Table) -> SgxPolicy:
        """Read the section.

        Raises:
            Malformed: it is anything else than shown above.
        """
        policy = cls(
            measurements=read_digests(table, "measurements", _DIGEST_SIZE),
            signers=_signers(table),
            config_ids=read_digests(table, "config_ids", _CONFIG_ID_SIZE),
            debug=table.boolean("debug", False),  # noqa: FBT003 - the default
            platform=DcapPolicy.from_table(table),
        )
        table.done()
        return policy


def appraise(
    verified: Verified[SgxClaims], policy: SgxPolicy, expected_report_data: bytes, now: datetime
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
    signers = policy.signers
    checks = (
        report_data_check(report.report_data, expected_report_data),
        one_of(
            "MRENCLAVE",
            report.mr_enclave,
            policy.measurements,
            "run a keep that the policy lists",
        ),
        Check(
            name="signer",
            found=str(Signer(report.mr_signer, report.isv_prod_id, report.isv_svn)),
            wanted=ANY if signers is None else "at least " + ", ".join(map(str, signers)),
            passed=signers is None or any(signer.admits(report) for signer in signers),
            remedy="run an enclave of a signer, product and version that the policy lists",
        ),
        one_of(
            "CONFIGID",
            report.config_id,
            policy.config_ids,
            "launch with a listed CONFIGID",
        ),
        flag(
            "attributes: debugging by the host",
            found=report.debug,
            wanted=None if policy.debug else False,
            remedy="launch the enclave without DEBUG, or set debug = true",
        ),
        *policy.platform.checks(platform),
    )
    return AttestationResult(
        tee=Tee.SGX,
        measurement=report.mr_enclave,
        tcb_status=platform.tcb.status,
        simulated=platform.anchor.simulated,
        checks=checks,
        claims={
            "mr_signer": report.mr_signer.hex(),
            "isv_prod_id": str(report.isv_prod_id),
            "isv_svn": str(report.isv_svn),
            "attributes": report.attributes.hex(),
        }
        | platform_claims(platform, now),
    )


def _signers(table: Table) -> tuple[Signer, ...] | None:
    if table.value("signers") == ANY:
        return None
    found = []
    for signer in table.tables("signers"):
        found.append(
            Signer(
                read_sha256(signer, "mr_signer"),
                signer.integer("isv_prod_id", low=0, high=0xFFFF),
                signer.integer("minimum_isv_svn", low=0, high=0xFFFF),
            )
        )
        signer.done()
    if not found:
        raise Malformed(
            "missing",
            field=table.where("signers"),
            expected="tables with mr_signer, isv_prod_id and minimum_isv_svn",
            hint='write "any" to admit all',
        )
    return tuple(found)

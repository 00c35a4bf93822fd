"""Appraisal of SGX evidence: the `[sgx]` section of a steward's policy, and its checks.

    [sgx]
    measurements = ["<64 hex digits>"]      # MRENCLAVE, of keeps
    config_ids = "any"                      # CONFIGID, or 128 hex digits each

    # Who may have signed the enclave, or signers = "any". All three keys of an entry must fit.
    [[sgx.signers]]
    mr_signer = "<64 hex digits>"           # or "any"
    isv_prod_id = 0                         # or "any"
    minimum_isv_svn = 1

    # And tcb_statuses, advisories, minimum_tcb_evaluation, insecure_simulated_roots: see
    # garrison.appraisal.dcap.

    # May be left out, and is then the strictest, as shown here.
    [sgx]
    debug = false                           # whether enclaves are admitted that the host may debug
    features = ["KSS", "CET"]               # of its attributes: also "ProvisioningKey", "EInitKey";
                                            # or "any"
    misc_select = ["EXINFO"]                # or [], or "any"
    qe_identity = "required"                # or "optional": then the collateral of the original's
                                            # keeps may do, which has none

Each is a value or the word "any"; nothing is unchecked by omission, and an empty list, which
would admit nothing, is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from garrison.appraisal.dcap import (
    DcapPolicy,
    platform_claims,
)
from garrison.appraisal.reference import ANY, Bytes, bound, flag, one_of, read_digests, read_sha256
from garrison.appraisal.result import AttestationResult, Check
from garrison.errors import Malformed
from garrison.formats.evidence import Tee

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from garrison.formats.sgx_report import SgxReport
    from garrison.formats.strict_toml import Table
    from garrison.verification.dcap import SgxClaims
    from garrison.verification.verified import Verified

_DIGEST_SIZE = 32
_CONFIG_ID_SIZE = 64
# SDM volume 3D, 38.7.1: ATTRIBUTES, first word. INIT and MODE64BIT all have; DEBUG is judged alone.
_ALWAYS = 1 << 0 | 1 << 1 | 1 << 2
_FEATURES = {"ProvisioningKey": 1 << 4, "EInitKey": 1 << 5, "CET": 1 << 6, "KSS": 1 << 7}
# SDM volume 3D, 38.7.2: MISCSELECT.
_MISC_SELECT = {"EXINFO": 1 << 0}


@dataclass(frozen=True, slots=True)
class Signer:
    """A signer of enclaves, one product of its, and the least security version of that.

    None stands for any.
    """

    mr_signer: bytes | None
    isv_prod_id: int | None
    minimum_isv_svn: int

    def admits(self, report: SgxReport) -> bool:
        """Whether the enclave is that product, and recent enough."""
        return (
            self.mr_signer in (None, report.mr_signer)
            and self.isv_prod_id in (None, report.isv_prod_id)
            and report.isv_svn >= self.minimum_isv_svn
        )

    def __str__(self) -> str:
        signer = ANY if self.mr_signer is None else self.mr_signer.hex()
        product = ANY if self.isv_prod_id is None else self.isv_prod_id
        return f"{signer} product {product} SVN {self.minimum_isv_svn}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxPolicy:
    """What is admitted of SGX; None stands for "any".

    Attributes:
        measurements: MRENCLAVEs.
        signers: who may have signed the enclave.
        config_ids: what the host may have configured it with.
        debug: whether enclaves are admitted that the host may debug.
        features: the attributes that it may have beside those that all have; None for any.
        misc_select: the extended features that it may save; None for any.
        platform: what is admitted of the platform.
    """

    measurements: Bytes
    signers: tuple[Signer, ...] | None
    config_ids: Bytes
    debug: bool
    features: tuple[str, ...] | None
    misc_select: tuple[str, ...] | None
    platform: DcapPolicy

    @classmethod
    def from_table(cls, table: Table, base: Path) -> SgxPolicy:
        """Read the section; paths are relative to `base`.

        Raises:
            Malformed: it is anything else than shown above.
        """
        policy = cls(
            measurements=read_digests(table, "measurements", _DIGEST_SIZE, named=True),
            signers=_signers(table),
            config_ids=read_digests(table, "config_ids", _CONFIG_ID_SIZE, named=True),
            debug=table.boolean("debug", False),  # noqa: FBT003 - the default
            features=_names(table, "features", _FEATURES, ("KSS", "CET")),
            misc_select=_names(table, "misc_select", _MISC_SELECT, ("EXINFO",)),
            platform=replace(
                DcapPolicy.from_table(table, base),
                qe_identity_required=table.string(
                    "qe_identity", "required", choices=("required", "optional")
                )
                == "required",
            ),
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
        bound("report data", report.report_data, expected_report_data),
        one_of(
            "MRENCLAVE",
            report.mr_enclave,
            policy.measurements,
            "run a keep that the policy lists",
            now,
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
            now,
        ),
        flag(
            "attributes: debugging by the host",
            found=report.debug,
            wanted=None if policy.debug else False,
            remedy="launch the enclave without DEBUG, or set debug = true",
        ),
        _bits(
            "attributes: features",
            int.from_bytes(report.attributes[:8], "little") & ~_ALWAYS,
            _FEATURES,
            policy.features,
        ),
        _bits(
            "MISCSELECT",
            int.from_bytes(report.misc_select, "little"),
            _MISC_SELECT,
            policy.misc_select,
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
                None if signer.value("mr_signer") == ANY else read_sha256(signer, "mr_signer"),
                None
                if signer.value("isv_prod_id") == ANY
                else signer.integer("isv_prod_id", low=0, high=0xFFFF),
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


def _names(
    table: Table, key: str, known: Mapping[str, int], default: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Take a list, perhaps empty, of `known` names, or "any" (None)."""
    if key not in table:
        return default
    if table.value(key) == ANY:
        return None
    names = table.strings(key)
    if not set(names) <= set(known):
        raise table.malformed(key, "unknown name", expected=f'of {", ".join(known)}, or "any"')
    return tuple(names)


def _bits(
    name: str, found: int, known: Mapping[str, int], admitted: tuple[str, ...] | None
) -> Check:
    """Check that no bit is set but those of `admitted`; a bit without a name is none of them."""
    shown = [each for each, bit in known.items() if found & bit]
    rest = found & ~sum(known.values())
    mask = sum(known[each] for each in admitted or ())
    return Check(
        name=name,
        found=", ".join([*shown, *([hex(rest)] if rest else [])]) or "none",
        wanted=ANY if admitted is None else ", ".join(admitted) or "none",
        passed=admitted is None or found & ~mask == 0,
        remedy="sign and launch an enclave without them, or list them in the policy",
    )

"""A fake Intel: its chains, lists, collateral and platforms, genuine or with any defect.

It is that of the simulator (`garrison.attesters.intel_vendor_insecure`), with keys and dates that
tests know. All is made in memory and verified by the true verifier.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from garrison.attesters.intel_vendor_insecure import (
    CA_SERIAL,
    COMPONENTS,
    FMSPC,
    PCE_SVN,
    PCK_SERIAL,
    SIGNER_SERIAL,
    InsecureIntel,
    Json,
    Keys,
    level,
    module,
    platform_level,
    sgx_extension,
)
from garrison.attesters.simulated_dcap_insecure import quote
from garrison.formats.sgx_report import SgxReport
from garrison.formats.tdx_report import TdReport
from garrison.verification.roots import Roots

__all__ = [
    "CA_SERIAL",
    "COMPONENTS",
    "FMSPC",
    "NOW",
    "PCE_SVN",
    "PCK_SERIAL",
    "REPORT_DATA",
    "SIGNER_SERIAL",
    "FakeIntel",
    "FakeQuoter",
    "key",
    "level",
    "module",
    "platform_level",
    "sgx_extension",
    "sgx_report",
    "td_report",
]

# All chains and collateral here are good at this time.
NOW = datetime(2026, 1, 1, tzinfo=UTC)
REPORT_DATA = bytes(range(64))


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:  # noqa: ARG001 - what the cache goes by
    """The P-256 key called `name`, the same in all of the process."""
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeIntel(InsecureIntel):
    """A simulated Intel, and one machine."""

    keys: Keys = key
    organisation: str | None = None
    start: datetime = datetime(2025, 1, 1, tzinfo=UTC)
    end: datetime = datetime(2027, 1, 1, tzinfo=UTC)
    issued: datetime = NOW - timedelta(days=2)
    expires: datetime = NOW + timedelta(days=28)

    def roots(self) -> Roots:
        """The roots of one who trusts this Intel as the simulated root `test`."""
        return Roots.load({"test": self.root_key_sha256})


def sgx_report(**changes: Any) -> SgxReport:
    """The report of an enclave; of the quoting enclave too, with changes."""
    report = SgxReport(
        cpu_svn=bytes(16),
        misc_select=bytes(4),
        isv_ext_prod_id=bytes(16),
        attributes=bytes.fromhex("0500000000000000e700000000000000"),
        mr_enclave=b"\xab" * 32,
        mr_signer=b"\xcd" * 32,
        config_id=bytes(64),
        isv_prod_id=1,
        isv_svn=8,
        config_svn=0,
        isv_family_id=bytes(16),
        report_data=REPORT_DATA,
    )
    return replace(report, **changes)


def td_report(**changes: Any) -> TdReport:
    """The report of a TD of TDX 1.0; of 1.5 with `tee_tcb_svn2` and `mr_service_td`."""
    report = TdReport(
        tee_tcb_svn=bytes((5, 1, 2)).ljust(16, b"\0"),
        mr_seam=b"\x01" * 48,
        mr_signer_seam=bytes(48),
        seam_attributes=bytes(8),
        td_attributes=1 << 28,
        xfam=0x600E7,
        mr_td=b"\xab" * 48,
        mr_config_id=bytes(48),
        mr_owner=bytes(48),
        mr_owner_config=bytes(48),
        rtmrs=tuple(bytes([index]) * 48 for index in range(4)),
        report_data=REPORT_DATA,
    )
    return replace(report, **changes)


@dataclass(frozen=True, slots=True)
class FakeQuoter:
    """The quoting enclave of a fake platform.

    Attributes:
        intel: whose platform.
        qe: what to change in its report: fields of `SgxReport`.
        auth: its authentication data.
    """

    intel: FakeIntel = field(default_factory=FakeIntel)
    qe: Json = field(default_factory=dict)
    auth: bytes = bytes(range(32))

    def quote(
        self, body: SgxReport | TdReport, version: int, pck: bytes | None = None, **changes: Any
    ) -> bytes:
        """A quote of `body`.

        Args:
            body: what it is of.
            version: 3, 4 or 5.
            pck: the PCK chain in place of the right one.
            changes: what to change in `SignatureData`.
        """
        chain = self.intel.pem("pck", "ca", "root") + b"\0" if pck is None else pck
        return quote(
            body,
            version,
            pck_key=key("pck"),
            attestation_key=key("attestation"),
            chain=chain,
            auth=self.auth,
            qe=self.qe,
            changes=changes,
        )

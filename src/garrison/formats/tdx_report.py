"""The report body of a TDX guest (a trust domain, TD): 584 bytes of TDX 1.0, 648 of TDX 1.5.

Intel TDX DCAP Quoting Library API, revision 0.9, appendix A.3.2, tables "TD Quote Body for TDX
1.0" and "for TDX 1.5"; the attributes: Intel TDX Module ABI Specification, section "ATTRIBUTES".

It refuses any other length, so what parses re-encodes to the same bytes. It says nothing of
whether a report is genuine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from garrison.errors import Malformed
from garrison.formats._cursor import Cursor

TD10_REPORT_SIZE = 584
TD15_REPORT_SIZE = 648
# MRTD, RTMRs and the other measurement registers: SHA-384.
REGISTER_SIZE = 48
RTMRS = 4


class TdAttributes(IntFlag):
    """The bits of TD ATTRIBUTES. Those of the lowest byte (TUD) let the host look inside."""

    DEBUG = 1 << 0
    SEPT_VE_DISABLE = 1 << 28
    MIGRATABLE = 1 << 29
    PKS = 1 << 30
    KL = 1 << 31
    PERFMON = 1 << 63


@dataclass(frozen=True, slots=True)
class TdReport:
    """What the TDX module says of a TD; registers are 48 bytes.

    Attributes:
        tee_tcb_svn: security versions of module, its major version, and loader: 16 bytes.
        mr_seam: measurement of the TDX module.
        mr_signer_seam: its signer: zero for Intel's.
        seam_attributes: its attributes, 8 bytes.
        td_attributes: the TD's attributes.
        xfam: the extended CPU features that it may use.
        mr_td: measurement of its initial memory.
        mr_config_id: identifies what is not in that: set by the host.
        mr_owner: identifies the owner: set by the host.
        mr_owner_config: identifies the owner's configuration: set by the host.
        rtmrs: the four registers that the TD extends at run time.
        report_data: what the TD bound to the report, 64 bytes.
        tee_tcb_svn2: what `tee_tcb_svn` would be of the module now loaded (TDX 1.5, else None).
        mr_service_td: measurement of the service TDs bound to it (TDX 1.5, else None).
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: int
    xfam: int
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, ...]
    report_data: bytes
    tee_tcb_svn2: bytes | None = None
    mr_service_td: bytes | None = None

    @property
    def debug(self) -> bool:
        """Whether the host may read and change the TD's memory."""
        return bool(self.td_attributes & TdAttributes.DEBUG)

    @classmethod
    def from_bytes(cls, data: bytes) -> TdReport:
        """Read a report body of either length.

        Raises:
            Malformed: it is neither.
        """
        if len(data) not in {TD10_REPORT_SIZE, TD15_REPORT_SIZE}:
            raise Malformed(
                "wrong length",
                field="TD report",
                found=f"{len(data)} bytes",
                expected=f"{TD10_REPORT_SIZE} or {TD15_REPORT_SIZE}",
            )
        cursor = Cursor(data, "TD report")
        later = len(data) == TD15_REPORT_SIZE
        # The fields stand in this order; arguments are evaluated in it.
        report = cls(
            tee_tcb_svn=cursor.take(16, "TEE_TCB_SVN"),
            mr_seam=cursor.take(REGISTER_SIZE, "MRSEAM"),
            mr_signer_seam=cursor.take(REGISTER_SIZE, "MRSIGNERSEAM"),
            seam_attributes=cursor.take(8, "SEAMATTRIBUTES"),
            td_attributes=cursor.integer(8, "TDATTRIBUTES"),
            xfam=cursor.integer(8, "XFAM"),
            mr_td=cursor.take(REGISTER_SIZE, "MRTD"),
            mr_config_id=cursor.take(REGISTER_SIZE, "MRCONFIGID"),
            mr_owner=cursor.take(REGISTER_SIZE, "MROWNER"),
            mr_owner_config=cursor.take(REGISTER_SIZE, "MROWNERCONFIG"),
            rtmrs=tuple(cursor.take(REGISTER_SIZE, f"RTMR{index}") for index in range(RTMRS)),
            report_data=cursor.take(64, "REPORTDATA"),
            tee_tcb_svn2=cursor.take(16, "TEE_TCB_SVN2") if later else None,
            mr_service_td=cursor.take(REGISTER_SIZE, "MRSERVICETD") if later else None,
        )
        cursor.end()
        return report

    def to_bytes(self) -> bytes:
        """Write the 584 or 648 bytes."""
        return b"".join(
            (
                self.tee_tcb_svn,
                self.mr_seam,
                self.mr_signer_seam,
                self.seam_attributes,
                self.td_attributes.to_bytes(8, "little"),
                self.xfam.to_bytes(8, "little"),
                self.mr_td,
                self.mr_config_id,
                self.mr_owner,
                self.mr_owner_config,
                *self.rtmrs,
                self.report_data,
                self.tee_tcb_svn2 or b"",
                self.mr_service_td or b"",
            )
        )

"""The report body of an SGX enclave: 384 bytes, in quotes and for the quoting enclave itself.

Intel SGX ECDSA Quote Library Reference, DCAP API, appendix A.4, table "Enclave Report Body";
Intel SDM volume 3D, section 38.15 (REPORT).

It refuses any other length and reserved bytes that are not zero, so what parses re-encodes to
the same bytes. It says nothing of whether a report is genuine.
"""

from __future__ import annotations

from dataclasses import dataclass

from garrison.formats._cursor import Cursor

SGX_REPORT_SIZE = 384
# SDM 38.7.1, ATTRIBUTES: bits of the first word.
_DEBUG = 1 << 1


@dataclass(frozen=True, slots=True)
class SgxReport:
    """What the CPU says of an enclave; bytes are in the order of its memory.

    Attributes:
        cpu_svn: the security version of the CPU, opaque.
        misc_select: the extended features of its state save area, 4 bytes.
        isv_ext_prod_id: the extended product identifier, 16 bytes.
        attributes: flags (8 bytes) and XFRM (8 bytes).
        mr_enclave: the enclave's measurement.
        mr_signer: SHA-256 of the signer's key.
        config_id: what the host configured it with, 64 bytes.
        isv_prod_id: the signer's product number.
        isv_svn: the security version the signer gave it.
        config_svn: the security version of the configuration.
        isv_family_id: the product family, 16 bytes.
        report_data: what the enclave bound to the report, 64 bytes.
    """

    cpu_svn: bytes
    misc_select: bytes
    isv_ext_prod_id: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes
    report_data: bytes

    @property
    def debug(self) -> bool:
        """Whether the host may read and change the enclave's memory."""
        return bool(int.from_bytes(self.attributes[:8], "little") & _DEBUG)

    @classmethod
    def from_bytes(cls, data: bytes) -> SgxReport:
        """Read a report body.

        Raises:
            Malformed: it is anything but one.
        """
        cursor = Cursor(data, "SGX report")
        cpu_svn = cursor.take(16, "CPUSVN")
        misc_select = cursor.take(4, "MISCSELECT")
        cursor.zeros(12, "reserved 1")
        isv_ext_prod_id = cursor.take(16, "ISVEXTPRODID")
        attributes = cursor.take(16, "ATTRIBUTES")
        mr_enclave = cursor.take(32, "MRENCLAVE")
        cursor.zeros(32, "reserved 2")
        mr_signer = cursor.take(32, "MRSIGNER")
        cursor.zeros(32, "reserved 3")
        config_id = cursor.take(64, "CONFIGID")
        isv_prod_id = cursor.integer(2, "ISVPRODID")
        isv_svn = cursor.integer(2, "ISVSVN")
        config_svn = cursor.integer(2, "CONFIGSVN")
        cursor.zeros(42, "reserved 4")
        isv_family_id = cursor.take(16, "ISVFAMILYID")
        report_data = cursor.take(64, "REPORTDATA")
        cursor.end()
        return cls(
            cpu_svn=cpu_svn,
            misc_select=misc_select,
            isv_ext_prod_id=isv_ext_prod_id,
            attributes=attributes,
            mr_enclave=mr_enclave,
            mr_signer=mr_signer,
            config_id=config_id,
            isv_prod_id=isv_prod_id,
            isv_svn=isv_svn,
            config_svn=config_svn,
            isv_family_id=isv_family_id,
            report_data=report_data,
        )

    def to_bytes(self) -> bytes:
        """Write the 384 bytes."""
        return b"".join(
            (
                self.cpu_svn,
                self.misc_select,
                bytes(12),
                self.isv_ext_prod_id,
                self.attributes,
                self.mr_enclave,
                bytes(32),
                self.mr_signer,
                bytes(32),
                self.config_id,
                self.isv_prod_id.to_bytes(2, "little"),
                self.isv_svn.to_bytes(2, "little"),
                self.config_svn.to_bytes(2, "little"),
                bytes(42),
                self.isv_family_id,
                self.report_data,
            )
        )

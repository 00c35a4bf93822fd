"""A simulated SEV-SNP: byte-exact reports, signed by a key that lies in a directory.

INSECURE by nature: whoever can read the directory can claim anything. It exists so that the whole
way from a keep to its certificate runs on any machine. A steward believes it only where its
policy names the simulated root.

`create_insecure` makes the directory: `ark.der`, `ask.der`, `crl.der` (a directory of
endorsements for the steward), `vcek.der` and `vcek.key` (what a chip would hold), and
`simulator.json` (for people and policies). The keys of ARK and ASK are thrown away.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.attesters._evidence import check_report_data
from garrison.attesters.simulator_directory_insecure import (
    begin,
    make,
    process_measurement,
    read,
    read_key,
    warn,
    write_key,
)
from garrison.attesters.snp_vendor_insecure import InsecureVendor, generate_ca_key
from garrison.errors import Malformed, Misuse
from garrison.formats.evidence import SNP_MEDIA_TYPE, Evidence, Tee
from garrison.formats.snp import (
    CHIP_ID_SIZE,
    MEASUREMENT_SIZE,
    VERSIONS,
    Cpuid,
    FirmwareVersion,
    GuestPolicy,
    PlatformInfo,
    Product,
    Report,
    SigningKey,
    Tcb,
)
from garrison.formats.snp_certificate import MAX_CERTIFICATE, VekCertificate
from garrison.formats.snp_evidence import SnpEvidence

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

# What platforms with current firmware report.
_TCBS = {
    Product.MILAN: Tcb(bl=4, tee=0, snp=24, ucode=219),
    Product.GENOA: Tcb(bl=10, tee=0, snp=23, ucode=84),
    Product.TURIN: Tcb(bl=3, tee=2, snp=5, ucode=97, fmc=1),
}
_CPUIDS = {
    Product.MILAN: Cpuid(0x19, 0x01, 1),
    Product.GENOA: Cpuid(0x19, 0x11, 1),
    Product.TURIN: Cpuid(0x1A, 0x02, 1),
}
_FIRMWARE = FirmwareVersion(1, 55, 29)
# Bit 17, which must be one, and SINGLE_SOCKET: all else is forbidden.
_POLICY = GuestPolicy(1 << 17 | 1 << 20)
# ECC_EN and ALIAS_CHECK_COMPLETE.
_PLATFORM = PlatformInfo(1 << 2 | 1 << 5)


def create_insecure(
    directory: Path, *, name: str, product: str = "Milan", now: datetime | None = None
) -> None:
    """Make the keys and certificates of a simulated vendor, and of one chip.

    Args:
        directory: where to; it must not exist yet, and appears only when it is whole.
        name: what the vendor is called, in its certificates.
        product: the product line to simulate.
        now: when its certificates become valid; None for the time by the clock.

    Raises:
        Misuse: `directory` exists or cannot be made, or there is no such product.
    """
    if product not in set(Product):
        raise Misuse(
            "unknown product", field="product", found=product, expected=" | ".join(Product)
        )
    _, start = begin(directory, name, now)
    vendor = InsecureVendor(name, Product(product), generate_ca_key(), generate_ca_key(), start)
    chip_key = ec.generate_private_key(ec.SECP384R1())
    hwid = secrets.token_bytes(8 if vendor.product is Product.TURIN else CHIP_ID_SIZE)
    vcek = vendor.vek(chip_key.public_key(), _TCBS[vendor.product], hwid=hwid)
    files = {
        "ark.der": vendor.ark().public_bytes(Encoding.DER),
        "ask.der": vendor.ask().public_bytes(Encoding.DER),
        "crl.der": vendor.crl().public_bytes(Encoding.DER),
        "vcek.der": vcek.public_bytes(Encoding.DER),
        "vcek.key": write_key(chip_key),
    }
    root_key = vendor.ark_key.public_key()
    make(directory, files, tee=Tee.SNP, name=name, root_key=root_key, product=product)


@dataclass(frozen=True, slots=True)
class SimulatedSnpInsecure:
    """Makes reports as SNP firmware would, of whatever it is told.

    Attributes:
        key: the simulated chip's key.
        certificates: its certificate's chain, DER, leaf first.
        measurement: what it reports as the launch measurement.
        version: the version of its reports.
    """

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificates: tuple[bytes, ...]
    measurement: bytes
    version: int = 2
    tee: Tee = field(default=Tee.SNP, init=False)
    curve: Literal["P-384"] = field(default="P-384", init=False)

    @classmethod
    def open(
        cls, directory: Path, *, measurement: bytes | None = None, version: int = 2
    ) -> SimulatedSnpInsecure:
        """Use the directory that `create_insecure` made, and warn.

        Args:
            directory: the directory.
            measurement: what to report as the launch measurement; None for that of this code.
            version: the version of the reports.

        Raises:
            Misuse: the directory cannot be read, or `measurement` or `version` cannot be.
            Malformed: it holds something else.
        """
        if measurement is not None and len(measurement) != MEASUREMENT_SIZE:
            raise Misuse(
                "wrong length",
                field="measurement",
                found=f"{len(measurement)} bytes",
                expected=f"{MEASUREMENT_SIZE} bytes",
            )
        if version not in VERSIONS:
            raise Misuse("no such version of reports", field="version", found=version)
        key = read_key(directory / "vcek.key", ec.SECP384R1)
        names = ("vcek.der", "ask.der", "ark.der")
        certificates = tuple(read(directory / name, MAX_CERTIFICATE) for name in names)
        vek = VekCertificate.from_bytes(certificates[0])
        if vek.key != key.public_key():
            raise Malformed("not the certificate of vcek.key", field=str(directory / "vcek.der"))
        warn(directory)
        return cls(key, certificates, measurement or process_measurement(), version)

    def attest(self, report_data: bytes) -> Evidence:
        """Make a report that is bound to `report_data`, and sign it.

        Raises:
            Misuse: `report_data` does not have 64 bytes.
        """
        check_report_data(report_data)
        vek = VekCertificate.from_bytes(self.certificates[0])
        tcb = vek.tcb.to_bytes()
        report = Report(
            version=self.version,
            guest_svn=0,
            policy=_POLICY,
            family_id=bytes(16),
            image_id=bytes(16),
            vmpl=0,
            current_tcb=tcb,
            platform_info=_PLATFORM,
            author_key_en=False,
            mask_chip_key=False,
            signing_key=SigningKey.VCEK,
            report_data=report_data,
            measurement=self.measurement,
            host_data=bytes(32),
            id_key_digest=bytes(48),
            author_key_digest=bytes(48),
            report_id=secrets.token_bytes(32),
            report_id_ma=b"\xff" * 32,
            reported_tcb=tcb,
            cpuid=None if self.version < 3 else _CPUIDS[vek.product],
            chip_id=(vek.hwid or b"").ljust(CHIP_ID_SIZE, b"\0"),
            committed_tcb=tcb,
            current_version=_FIRMWARE,
            committed_version=_FIRMWARE,
            launch_tcb=tcb,
            launch_mit_vector=0,
            current_mit_vector=0,
            r=0,
            s=0,
        )
        signed = sign_report(report, self.key).to_bytes()
        return Evidence(SNP_MEDIA_TYPE, SnpEvidence(signed, self.certificates).to_bytes())


def sign_report(report: Report, key: ec.EllipticCurvePrivateKey) -> Report:
    """The same report, signed with `key` in place of any signature that it had."""
    signature = key.sign(report.signed_bytes(), ec.ECDSA(hashes.SHA384()))
    r, s = decode_dss_signature(signature)
    return replace(report, r=r, s=s)

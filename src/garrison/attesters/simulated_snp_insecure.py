"""A simulated SEV-SNP: byte-exact reports, signed by a key that lies in a directory.

INSECURE by nature: whoever can read the directory can claim anything. It exists so that the whole
way from a keep to its certificate runs on any machine. A steward believes it only where its
policy names the simulated root.

`create_insecure` makes the directory: `ark.der`, `ask.der`, `crl.der` (a directory of
endorsements for the steward), `vcek.der` and `vcek.key` (what a chip would hold), and
`simulator.json` (for people and policies). The keys of ARK and ASK are thrown away.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

import garrison
from garrison.attesters.snp_vendor_insecure import InsecureVendor, generate_ca_key
from garrison.errors import Malformed, Misuse
from garrison.formats.evidence import REPORT_DATA_SIZE, SNP_MEDIA_TYPE, Evidence, Tee
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

log = logging.getLogger("garrison")

SIMULATOR_JSON = "simulator.json"
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
# Clocks of a steward and a simulator may differ.
_BACKDATE = timedelta(hours=1)
_MAX_KEY = 4096


def process_measurement() -> bytes:
    """The measurement (48 bytes) that the simulator reports: of Garrison's own code.

    It is the SHA-384 over path and content of every Python file of the installed package, in the
    order of their paths, each with its length before it: a stand-in for the image that real
    hardware would measure.
    """
    package = Path(garrison.__file__).parent
    digest = hashlib.sha384()
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    for name in sorted(files):
        for part in (name.encode(), files[name].read_bytes()):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.digest()


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
    if not name or len(name) > 32 or not name.isprintable():
        raise Misuse("wrong name", field="name", expected="1 to 32 printable characters")
    if directory.exists():
        raise Misuse(
            "exists already", field=str(directory), hint="choose another, or remove it first"
        )
    start = (now or datetime.now(UTC)).replace(microsecond=0) - _BACKDATE
    vendor = InsecureVendor(name, Product(product), generate_ca_key(), generate_ca_key(), start)
    chip_key = ec.generate_private_key(ec.SECP384R1())
    hwid = secrets.token_bytes(8 if vendor.product is Product.TURIN else CHIP_ID_SIZE)
    vcek = vendor.vek(chip_key.public_key(), _TCBS[vendor.product], hwid=hwid)
    spki = vendor.ark_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    about = {
        "warning": "INSECURE: evidence under these keys proves nothing",
        "tee": "snp",
        "name": name,
        "product": product,
        "ark_key_sha256": hashlib.sha256(spki).hexdigest(),
    }
    files = {
        "ark.der": vendor.ark().public_bytes(Encoding.DER),
        "ask.der": vendor.ask().public_bytes(Encoding.DER),
        "crl.der": vendor.crl().public_bytes(Encoding.DER),
        "vcek.der": vcek.public_bytes(Encoding.DER),
        "vcek.key": chip_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        SIMULATOR_JSON: json.dumps(about, indent=2).encode() + b"\n",
    }
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        whole = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            for file_name, data in files.items():
                _write(whole / file_name, data, 0o600 if file_name.endswith(".key") else 0o644)
            whole.rename(directory)
        except OSError:
            shutil.rmtree(whole)
            raise
    except OSError as error:
        raise Misuse(f"cannot be made: {error.strerror}", field=str(directory)) from error


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


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
        key = _load_key(_read(directory / "vcek.key", _MAX_KEY))
        names = ("vcek.der", "ask.der", "ark.der")
        certificates = tuple(_read(directory / name, MAX_CERTIFICATE) for name in names)
        vek = VekCertificate.from_bytes(certificates[0])
        if vek.key != key.public_key():
            raise Malformed("not the certificate of vcek.key", field=str(directory / "vcek.der"))
        log.warning(
            "INSECURE: evidence is simulated, and proves nothing; its keys are in %s", directory
        )
        return cls(key, certificates, measurement or process_measurement(), version)

    def attest(self, report_data: bytes) -> Evidence:
        """Make a report that is bound to `report_data`, and sign it.

        Raises:
            Misuse: `report_data` does not have 64 bytes.
        """
        if len(report_data) != REPORT_DATA_SIZE:
            raise Misuse(
                "wrong length",
                field="report data",
                found=f"{len(report_data)} bytes",
                expected=f"{REPORT_DATA_SIZE} bytes",
            )
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


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Misuse(
            f"cannot be read: {error.strerror}",
            field=str(path),
            hint="make a simulator with garrison platform insecure-simulator",
        ) from error
    if len(data) > limit:
        raise Malformed("too long", field=str(path), expected=f"at most {limit} bytes")
    return data


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise Malformed("not a private key", field="vcek.key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise Malformed("wrong kind of key", field="vcek.key", expected="P-384")
    return key

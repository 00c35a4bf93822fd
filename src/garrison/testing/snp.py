"""Fake SNP platforms: a vendor's chain, a chip and its reports, genuine or with any defect.

All is made in memory and verified by the true verifier. The RSA keys take seconds to make, so
they are made once in a process and shared.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from garrison.attesters.simulated_snp_insecure import sign_report
from garrison.attesters.snp_vendor_insecure import InsecureVendor, generate_ca_key
from garrison.formats.snp import (
    CHIP_ID_SIZE,
    Cpuid,
    FirmwareVersion,
    GuestPolicy,
    PlatformInfo,
    Product,
    Report,
    SigningKey,
    Tcb,
)
from garrison.formats.snp_evidence import SnpEndorsements, SnpEvidence
from garrison.verification.roots import Roots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

# All chains here are valid at this time.
NOW = datetime(2026, 1, 1, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
MEASUREMENT = b"\xab" * 48

_CPUIDS = {
    Product.MILAN: Cpuid(0x19, 0x01, 1),
    Product.GENOA: Cpuid(0x19, 0xA0, 2),
    Product.TURIN: Cpuid(0x1A, 0x02, 1),
}


@cache
def ca_key(index: int) -> RSAPrivateKey:  # noqa: ARG001 - what the cache goes by
    """The RSA key number `index`, the same in all of the process."""
    return generate_ca_key()


@cache
def chip_key(index: int) -> ec.EllipticCurvePrivateKey:  # noqa: ARG001 - see above
    """The P-384 key number `index`, the same in all of the process."""
    return ec.generate_private_key(ec.SECP384R1())


@dataclass(frozen=True, slots=True)
class FakePlatform:
    """A simulated vendor and one machine with its chip.

    Attributes:
        product: the product line.
        kind: whose key signs the reports.
        tcb: the TCB version of the machine.
        hwid: the chip's identifier.
        ark: which `ca_key` is the root's.
        ask: which `ca_key` is the intermediates'.
        start: when the certificates become valid.
        lifetime: how long they are.
    """

    product: Product = Product.MILAN
    kind: SigningKey = SigningKey.VCEK
    tcb: Tcb = field(default_factory=lambda: Tcb(bl=4, tee=0, snp=24, ucode=219))
    hwid: bytes = b"\x5a" * CHIP_ID_SIZE
    ark: int = 0
    ask: int = 1
    start: datetime = datetime(2025, 1, 1, tzinfo=UTC)
    lifetime: timedelta = timedelta(days=730)

    @classmethod
    def turin(cls, kind: SigningKey = SigningKey.VCEK) -> FakePlatform:
        """A Turin machine: another layout of the TCB version, and a short identifier."""
        tcb = Tcb(bl=3, tee=2, snp=5, ucode=97, fmc=1)
        return cls(Product.TURIN, kind, tcb, b"\x5a" * 8)

    @property
    def vendor(self) -> InsecureVendor:
        """The vendor."""
        keys = ca_key(self.ark), ca_key(self.ask)
        return InsecureVendor("test", self.product, *keys, self.start, self.lifetime)

    @property
    def root_key_sha256(self) -> str:
        """SHA-256 of the root's key, as a policy names it."""
        spki = (
            ca_key(self.ark)
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
        return hashlib.sha256(spki).hexdigest()

    def roots(self) -> Roots:
        """The roots of one who trusts this vendor as the simulated root `test`."""
        return Roots.load({"test": self.root_key_sha256})

    def endorsements(
        self, *, revoked: Sequence[int] = (), crl: bool = True, **vek: Any
    ) -> SnpEndorsements:
        """The chain.

        Args:
            revoked: serial numbers in the revocation list.
            crl: whether there is one.
            vek: what to change in the leaf: arguments of `InsecureVendor.vek`.
        """
        arguments: dict[str, Any] = {"tcb": self.tcb, "kind": self.kind, "hwid": self.hwid} | vek
        vendor = self.vendor
        return SnpEndorsements(
            leaf=vendor.vek(chip_key(0).public_key(), **arguments).public_bytes(Encoding.DER),
            issuer=vendor.ask(arguments["kind"]).public_bytes(Encoding.DER),
            root=vendor.ark().public_bytes(Encoding.DER),
            crl=vendor.crl(revoked).public_bytes(Encoding.DER) if crl else None,
        )

    def report(self, *, key: int = 0, **changes: Any) -> bytes:
        """A report, signed.

        Args:
            key: which `chip_key` signs it.
            changes: what to change in it: fields of `Report`.
        """
        version = changes.get("version", 3)
        tcb = self.tcb.to_bytes()
        chip = b"" if self.kind is SigningKey.VLEK else self.hwid
        firmware = FirmwareVersion(1, 55, 29)
        report = Report(
            version=version,
            guest_svn=0,
            policy=GuestPolicy(1 << 17 | 1 << 20),
            family_id=bytes(16),
            image_id=bytes(16),
            vmpl=0,
            current_tcb=tcb,
            platform_info=PlatformInfo(0x24),
            author_key_en=False,
            mask_chip_key=False,
            signing_key=self.kind,
            report_data=REPORT_DATA,
            measurement=MEASUREMENT,
            host_data=b"\x01" * 32,
            id_key_digest=b"\x02" * 48,
            author_key_digest=b"\x03" * 48,
            report_id=b"\x04" * 32,
            report_id_ma=b"\xff" * 32,
            reported_tcb=tcb,
            cpuid=None if version < 3 else _CPUIDS[self.product],
            chip_id=chip.ljust(CHIP_ID_SIZE, b"\0"),
            committed_tcb=tcb,
            current_version=firmware,
            committed_version=firmware,
            launch_tcb=tcb,
            launch_mit_vector=0,
            current_mit_vector=0,
            r=0,
            s=0,
        )
        return sign_report(replace(report, **changes), chip_key(key)).to_bytes()

    def evidence(self, **changes: Any) -> SnpEvidence:
        """A report as `report` makes it, with the chain as a host sends it."""
        chain = self.endorsements()
        return SnpEvidence(self.report(**changes), (chain.leaf, chain.issuer, chain.root))

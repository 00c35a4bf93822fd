"""The attestation report of AMD SEV-SNP: bytes to values and back.

AMD document 56860, "SEV Secure Nested Paging Firmware ABI Specification", revision 1.58,
table 23 (the report), table 10 (guest policy), and section "TCB Version". Versions 2 to 5
are read. Version 3 added the CPUID fields, version 5 the mitigation vectors; before, their
bytes were reserved. Version 4, which firmware 1.55.31 makes and no published revision describes,
is read as version 3: one that has anything but zeros where that has reserved bytes is refused.

It refuses every other version, reserved bits and bytes that are not zero, and any other length,
so what parses re-encodes to the same bytes. One exception: the platform information is what the
firmware says of the machine, newer firmware sets bits of it that no table names yet, and all 64
are kept. It says nothing of whether a report is genuine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from garrison.errors import Malformed
from garrison.formats._cursor import Cursor

REPORT_SIZE = 0x4A0
# The signature covers the bytes before it.
SIGNED_SIZE = 0x2A0
VERSIONS = (2, 3, 4, 5)
MEASUREMENT_SIZE = 48
CHIP_ID_SIZE = 64
# Table 23, SIGNATURE_ALGO: ECDSA P-384 with SHA-384, the only one there is.
_ECDSA_P384_SHA384 = 1
# Chapter "Signature Formats": r and s stand little-endian in 72 bytes, P-384 fills 48 of them.
_SCALAR_FIELD = 72
_SCALAR = 48

# Table 10: bits of the guest policy.
_POLICY_SMT = 1 << 16
_POLICY_ONE = 1 << 17
_POLICY_MIGRATE_MA = 1 << 18
_POLICY_DEBUG = 1 << 19
_POLICY_SINGLE_SOCKET = 1 << 20
# Up to bit 25 (PAGE_SWAP_DISABLE). A bit beyond could permit what nobody here knows of.
_POLICY_KNOWN = (1 << 26) - 1

# Table 23, PLATFORM_INFO.
_PLATFORM_SMT = 1 << 0
_PLATFORM_TSME = 1 << 1
_PLATFORM_ECC = 1 << 2

# Table 23, the word at 48h: AUTHOR_KEY_EN, MASK_CHIP_KEY, and SIGNING_KEY in bits 4 to 2.
_FLAG_AUTHOR_KEY = 1 << 0
_FLAG_MASK_CHIP_KEY = 1 << 1
_FLAGS_KNOWN = (1 << 5) - 1


class Product(StrEnum):
    """A product line of AMD: each has a root of its own. Bergamo and Siena belong to Genoa."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"


class SigningKey(IntEnum):
    """Which key signed a report: one of the chip, one of a cloud provider's, or none."""

    VCEK = 0
    VLEK = 1
    NONE = 7


@dataclass(frozen=True, slots=True)
class Tcb:
    """The security version numbers of a platform's firmware.

    Attributes:
        bl: the boot loader's.
        tee: the secure operating system's.
        snp: the SNP firmware's.
        ucode: the microcode's patch level.
        fmc: the FMC firmware's; None before Turin, which has none.
    """

    bl: int
    tee: int
    snp: int
    ucode: int
    fmc: int | None = None

    @classmethod
    def from_bytes(cls, data: bytes, product: Product) -> Tcb:
        """Read the 8 bytes of a TCB version as `product` lays them out.

        Raises:
            Malformed: there are not 8, or a reserved one is not zero.
        """
        cursor = Cursor(data, "TCB version")
        if product is Product.TURIN:
            fmc, bl, tee, snp = (cursor.integer(1, name) for name in ("fmc", "bl", "tee", "snp"))
            cursor.zeros(3, "reserved")
            tcb = cls(bl, tee, snp, cursor.integer(1, "ucode"), fmc)
        else:
            bl, tee = cursor.integer(1, "bl"), cursor.integer(1, "tee")
            cursor.zeros(4, "reserved")
            tcb = cls(bl, tee, cursor.integer(1, "snp"), cursor.integer(1, "ucode"))
        cursor.end()
        return tcb

    def to_bytes(self) -> bytes:
        """Write the 8 bytes; with `fmc` as Turin lays them out, without it as its predecessors."""
        if self.fmc is None:
            return bytes((self.bl, self.tee, 0, 0, 0, 0, self.snp, self.ucode))
        return bytes((self.fmc, self.bl, self.tee, self.snp, 0, 0, 0, self.ucode))

    def at_least(self, minimum: Tcb) -> bool:
        """Whether no component is below that of `minimum`; of one layout with another, never."""
        return (
            (self.fmc is None) == (minimum.fmc is None)
            and (self.fmc or 0) >= (minimum.fmc or 0)
            and self.bl >= minimum.bl
            and self.tee >= minimum.tee
            and self.snp >= minimum.snp
            and self.ucode >= minimum.ucode
        )

    def __str__(self) -> str:
        fmc = "" if self.fmc is None else f"fmc={self.fmc} "
        return f"{fmc}bl={self.bl} tee={self.tee} snp={self.snp} ucode={self.ucode}"


@dataclass(frozen=True, slots=True)
class GuestPolicy:
    """What the guest's owner permits the host, 64 bits as table 10 names them."""

    bits: int

    @classmethod
    def from_bits(cls, bits: int, field: str) -> GuestPolicy:
        """Read it; errors call it `field`.

        Raises:
            Malformed: the bit that must be one is not, or one is set that no table names.
        """
        # Of a negative number all high bits are set, so it is refused too.
        if not bits & _POLICY_ONE or bits & ~_POLICY_KNOWN:
            raise Malformed(
                "wrong value",
                field=field,
                found=f"{bits:#x}",
                expected="bit 17 set, and none above bit 25",
            )
        return cls(bits)

    @property
    def abi(self) -> tuple[int, int]:
        """The least version (major, minor) of the firmware ABI that may run the guest."""
        return self.bits >> 8 & 0xFF, self.bits & 0xFF

    @property
    def smt(self) -> bool:
        """Whether simultaneous multithreading may be on."""
        return bool(self.bits & _POLICY_SMT)

    @property
    def migrate_ma(self) -> bool:
        """Whether a migration agent may be associated."""
        return bool(self.bits & _POLICY_MIGRATE_MA)

    @property
    def debug(self) -> bool:
        """Whether the host may read and write the guest's memory."""
        return bool(self.bits & _POLICY_DEBUG)

    @property
    def single_socket(self) -> bool:
        """Whether the guest may run on one socket only."""
        return bool(self.bits & _POLICY_SINGLE_SOCKET)


@dataclass(frozen=True, slots=True)
class PlatformInfo:
    """What the firmware says of the machine, 64 bits."""

    bits: int

    @property
    def smt(self) -> bool:
        """Whether simultaneous multithreading is on."""
        return bool(self.bits & _PLATFORM_SMT)

    @property
    def tsme(self) -> bool:
        """Whether all memory is encrypted with a key of the machine."""
        return bool(self.bits & _PLATFORM_TSME)

    @property
    def ecc(self) -> bool:
        """Whether the memory has error correction."""
        return bool(self.bits & _PLATFORM_ECC)


@dataclass(frozen=True, slots=True)
class Cpuid:
    """Which processor it is."""

    family: int
    model: int
    stepping: int

    @property
    def product(self) -> Product | None:
        """Its product line, None if it is none that is known here."""
        if self.family == 0x19:
            if self.model <= 0x0F:
                return Product.MILAN
            if 0x10 <= self.model <= 0x1F or 0xA0 <= self.model <= 0xAF:
                return Product.GENOA
        if self.family == 0x1A and self.model <= 0x11:
            return Product.TURIN
        return None

    def __str__(self) -> str:
        return f"family {self.family:#x} model {self.model:#x}"


@dataclass(frozen=True, slots=True)
class FirmwareVersion:
    """A version of the firmware: of its ABI (major, minor), and of the build."""

    major: int
    minor: int
    build: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An attestation report, field by field as table 23 has them.

    TCB versions are 8 bytes: `Tcb.from_bytes` reads them, for a product. `cpuid` is None in
    version 2; the mitigation vectors are 0 before version 5.
    """

    version: int
    guest_svn: int
    policy: GuestPolicy
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: PlatformInfo
    author_key_en: bool
    mask_chip_key: bool
    signing_key: SigningKey
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: Cpuid | None
    chip_id: bytes
    committed_tcb: bytes
    current_version: FirmwareVersion
    committed_version: FirmwareVersion
    launch_tcb: bytes
    launch_mit_vector: int
    current_mit_vector: int
    r: int
    s: int

    @classmethod
    def from_bytes(cls, data: bytes) -> Report:
        """Read a report.

        Raises:
            Malformed: `data` is anything else than a report of a version in `VERSIONS`.
        """
        if len(data) != REPORT_SIZE:
            raise Malformed(
                "wrong length",
                field="SNP report",
                found=f"{len(data)} bytes",
                expected=f"{REPORT_SIZE} bytes",
            )
        cursor = Cursor(data, "SNP report")
        version = cursor.integer(4, "VERSION")
        if version not in VERSIONS:
            raise _malformed("VERSION", version, " | ".join(map(str, VERSIONS)))
        guest_svn = cursor.integer(4, "GUEST_SVN")
        policy = GuestPolicy.from_bits(cursor.integer(8, "POLICY"), "SNP report: POLICY")
        family_id = cursor.take(16, "FAMILY_ID")
        image_id = cursor.take(16, "IMAGE_ID")
        vmpl = cursor.integer(4, "VMPL")
        algorithm = cursor.integer(4, "SIGNATURE_ALGO")
        if algorithm != _ECDSA_P384_SHA384:
            raise _malformed("SIGNATURE_ALGO", algorithm, "1 (ECDSA P-384 with SHA-384)")
        current_tcb = cursor.take(8, "CURRENT_TCB")
        platform_info = PlatformInfo(cursor.integer(8, "PLATFORM_INFO"))
        flags = cursor.integer(4, "key flags")
        signing_key = _signing_key(flags)
        cursor.zeros(4, "reserved")
        report = cls(
            version=version,
            guest_svn=guest_svn,
            policy=policy,
            family_id=family_id,
            image_id=image_id,
            vmpl=vmpl,
            current_tcb=current_tcb,
            platform_info=platform_info,
            author_key_en=bool(flags & _FLAG_AUTHOR_KEY),
            mask_chip_key=bool(flags & _FLAG_MASK_CHIP_KEY),
            signing_key=signing_key,
            # Keyword arguments are evaluated in the order they are written.
            report_data=cursor.take(64, "REPORT_DATA"),
            measurement=cursor.take(MEASUREMENT_SIZE, "MEASUREMENT"),
            host_data=cursor.take(32, "HOST_DATA"),
            id_key_digest=cursor.take(48, "ID_KEY_DIGEST"),
            author_key_digest=cursor.take(48, "AUTHOR_KEY_DIGEST"),
            report_id=cursor.take(32, "REPORT_ID"),
            report_id_ma=cursor.take(32, "REPORT_ID_MA"),
            reported_tcb=cursor.take(8, "REPORTED_TCB"),
            cpuid=_cpuid(cursor, version),
            chip_id=cursor.take(CHIP_ID_SIZE, "CHIP_ID"),
            committed_tcb=cursor.take(8, "COMMITTED_TCB"),
            current_version=_firmware_version(cursor, "CURRENT"),
            committed_version=_firmware_version(cursor, "COMMITTED"),
            launch_tcb=cursor.take(8, "LAUNCH_TCB"),
            launch_mit_vector=_mit_vector(cursor, version, "LAUNCH_MIT_VECTOR"),
            current_mit_vector=_mit_vector(cursor, version, "CURRENT_MIT_VECTOR"),
            r=_scalar(cursor, "R", before=152),
            s=_scalar(cursor, "S", before=0),
        )
        cursor.zeros(REPORT_SIZE - SIGNED_SIZE - 2 * _SCALAR_FIELD, "reserved")
        cursor.end()
        return report

    def to_bytes(self) -> bytes:
        """Write the report, with its signature."""
        return self.signed_bytes() + b"".join(
            (
                self.r.to_bytes(_SCALAR_FIELD, "little"),
                self.s.to_bytes(_SCALAR_FIELD, "little"),
                bytes(REPORT_SIZE - SIGNED_SIZE - 2 * _SCALAR_FIELD),
            )
        )

    def signed_bytes(self) -> bytes:
        """Write what the signature covers, for those who make reports."""
        flags = self.author_key_en | self.mask_chip_key << 1 | self.signing_key << 2
        cpuid = self.cpuid or Cpuid(0, 0, 0)
        parts = (
            _u(4, self.version, self.guest_svn),
            _u(8, self.policy.bits),
            self.family_id,
            self.image_id,
            _u(4, self.vmpl, _ECDSA_P384_SHA384),
            self.current_tcb,
            _u(8, self.platform_info.bits),
            _u(4, flags, 0),
            self.report_data,
            self.measurement,
            self.host_data,
            self.id_key_digest,
            self.author_key_digest,
            self.report_id,
            self.report_id_ma,
            self.reported_tcb,
            bytes((cpuid.family, cpuid.model, cpuid.stepping)),
            bytes(21),
            self.chip_id,
            self.committed_tcb,
            *(
                bytes((version.build, version.minor, version.major, 0))
                for version in (self.current_version, self.committed_version)
            ),
            self.launch_tcb,
            _u(8, self.launch_mit_vector, self.current_mit_vector),
        )
        return b"".join(parts).ljust(SIGNED_SIZE, b"\0")


def _u(size: int, *values: int) -> bytes:
    return b"".join(value.to_bytes(size, "little") for value in values)


def _malformed(field: str, found: object, expected: str) -> Malformed:
    return Malformed("wrong value", field=f"SNP report: {field}", found=found, expected=expected)


_SIGNING_KEYS = frozenset(SigningKey)


def _signing_key(flags: int) -> SigningKey:
    kind = flags >> 2 & 7
    if flags & ~_FLAGS_KNOWN or kind not in _SIGNING_KEYS:
        raise _malformed("key flags", f"{flags:#x}", "SIGNING_KEY 0, 1 or 7, reserved bits 0")
    return SigningKey(kind)


def _cpuid(cursor: Cursor, version: int) -> Cpuid | None:
    if version < 3:
        cursor.zeros(24, "reserved")
        return None
    cpuid = Cpuid(*cursor.take(3, "CPUID"))
    cursor.zeros(21, "reserved")
    return cpuid


def _firmware_version(cursor: Cursor, name: str) -> FirmwareVersion:
    build, minor, major = cursor.take(3, f"{name} version")
    cursor.zeros(1, "reserved")
    return FirmwareVersion(major, minor, build)


def _mit_vector(cursor: Cursor, version: int, name: str) -> int:
    if version < 5:
        cursor.zeros(8, f"{name}, reserved before version 5")
        return 0
    return cursor.integer(8, name)


def _scalar(cursor: Cursor, name: str, *, before: int) -> int:
    """Read a scalar of the signature, after `before` reserved bytes."""
    cursor.zeros(before, "reserved")
    value = cursor.integer(_SCALAR, f"SIGNATURE.{name}")
    cursor.zeros(_SCALAR_FIELD - _SCALAR, f"SIGNATURE.{name}, above 384 bits")
    return value

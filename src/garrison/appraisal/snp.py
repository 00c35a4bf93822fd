"""Appraisal of SEV-SNP evidence: the `[snp]` section of a steward's policy, and its checks.

    [snp]
    measurements = ["<96 hex digits>"]      # of keep images
    products = ["Milan", "Genoa"]
    id_key_digests = "any"                  # or 96 hex digits each
    author_key_digests = "any"              # or 96 hex digits each
    host_data = "any"                       # or 64 hex digits each
    chip_ids = "any"                        # or 128 hex digits each (Turin: 16)
    endorsements = ["amd/milan"]            # directories, see garrison.endorsements.store

    # The least TCB version for each product, or minimum_tcb = "any".
    [snp.minimum_tcb]
    Milan = { bl = 4, tee = 0, snp = 24, ucode = 219 }
    Genoa = { bl = 10, tee = 0, snp = 23, ucode = 84 }

    # All that follows may be left out, and is then the strictest, as shown here.
    [snp]
    vmpl = [0]                              # privilege levels that may have asked, or "any"
    abi_minimum = "1.51"                    # of the committed firmware, or "any"
    debug = false                           # whether guests are admitted that the host may debug
    migration = false                       # ... that a migration agent may move
    smt = false                             # ... that may run with multithreading
    single_socket = true                    # whether guests must be bound to one socket
    crl = "required"                        # or "optional"
    guest_abi = "any"                       # what the guest's policy asks of the firmware: a range
                                            # like ">=1.51, <2"
    platform_info = "any"                   # or the very values of PLATFORM_INFO: [1, 0x25]

    # Trusts a simulated vendor: whoever has its keys can claim anything.
    [snp.insecure_simulated_roots.<name>]
    key_sha256 = "<64 hex digits>"
    endorsements = "simulator"

Each is a value or the word "any"; nothing is unchecked by omission, and an empty list, which
would admit nothing, is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.appraisal.reference import (
    ANY,
    Bytes,
    bound,
    flag,
    one_of,
    read_digests,
    read_list,
    read_simulated_roots,
    word_of,
)
from garrison.appraisal.result import AttestationResult, Check
from garrison.errors import Malformed
from garrison.formats.evidence import Tee
from garrison.formats.snp import CHIP_ID_SIZE, MEASUREMENT_SIZE, Product, Tcb
from garrison.formats.version_range import VersionRange
from garrison.verification.roots import Roots

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from garrison.formats.strict_toml import Table
    from garrison.verification.snp import SnpClaims
    from garrison.verification.verified import Verified

# The ABI revision that AMD first released SNP firmware for production with (Milan, 1.51).
_ABI_MINIMUM = "1.51"
_KEY_DIGEST_SIZE = 48
_HOST_DATA_SIZE = 32
# Turin's chips have identifiers of 8 bytes.
_CHIP_ID_SIZES = (8, CHIP_ID_SIZE)
_VMPLS = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpPolicy:
    """What is admitted of SEV-SNP; None stands for "any".

    Attributes:
        measurements: launch measurements.
        products: product lines.
        minimum_tcb: the least reported TCB version of each product that is admitted.
        id_key_digests: digests of the keys that sign identity blocks.
        author_key_digests: digests of the keys that sign those keys.
        host_data: what the host bound to the guest at its launch.
        chip_ids: the chips.
        vmpl: the privilege levels that may have asked for the report.
        abi_minimum: the least version of the committed firmware's ABI.
        debug: whether guests are admitted that the host may debug.
        migration: whether guests are admitted that a migration agent may move.
        smt: whether guests are admitted that may run with multithreading on.
        single_socket: whether guests must be bound to one socket.
        crl_required: whether the vendor's revocation list must have been checked.
        guest_abi: the versions of the firmware's ABI that the guest's policy may ask for.
        platform_info: what the firmware may say of the machine.
        endorsements: directories of endorsements, the simulated roots' too.
        simulated_roots: simulated roots that are trusted: name, and SHA-256 of the key in hex.
    """

    measurements: Bytes
    products: tuple[Product, ...] | None
    minimum_tcb: Mapping[Product, Tcb] | None
    id_key_digests: Bytes
    author_key_digests: Bytes
    host_data: Bytes
    chip_ids: Bytes
    vmpl: tuple[int, ...] | None
    abi_minimum: tuple[int, int] | None
    debug: bool
    migration: bool
    smt: bool
    single_socket: bool
    crl_required: bool
    guest_abi: VersionRange | None
    platform_info: tuple[int, ...] | None
    endorsements: tuple[Path, ...]
    simulated_roots: Mapping[str, str]

    @classmethod
    def from_table(cls, table: Table, base: Path) -> SnpPolicy:
        """Read the section; directories that it names are relative to `base`.

        Raises:
            Malformed: it is anything else than shown above.
        """
        products = _products(table)
        simulated, directories = read_simulated_roots(
            table.table("insecure_simulated_roots"), base, endorsed=True
        )
        policy = cls(
            measurements=read_digests(table, "measurements", MEASUREMENT_SIZE, named=True),
            products=products,
            minimum_tcb=_minimum_tcb(table, products or tuple(Product)),
            id_key_digests=read_digests(table, "id_key_digests", _KEY_DIGEST_SIZE, named=True),
            author_key_digests=read_digests(
                table, "author_key_digests", _KEY_DIGEST_SIZE, named=True
            ),
            host_data=read_digests(table, "host_data", _HOST_DATA_SIZE, named=True),
            chip_ids=read_digests(table, "chip_ids", *_CHIP_ID_SIZES),
            vmpl=_vmpl(table),
            abi_minimum=_abi(table),
            debug=table.boolean("debug", False),  # noqa: FBT003 - the default
            migration=table.boolean("migration", False),  # noqa: FBT003 - the default
            smt=table.boolean("smt", False),  # noqa: FBT003 - the default
            single_socket=table.boolean("single_socket", True),  # noqa: FBT003 - the default
            crl_required=table.string("crl", "required", choices=("required", "optional"))
            == "required",
            guest_abi=_guest_abi(table),
            platform_info=_platform_info(table),
            endorsements=(
                *(base / name for name in table.strings("endorsements")),
                *directories.values(),
            ),
            simulated_roots=simulated,
        )
        table.done()
        return policy

    def roots(self) -> Roots:
        """The roots that the policy trusts: AMD's, and the simulated ones that it names.

        Raises:
            Misuse: two names are given to one key.
        """
        return Roots.load(self.simulated_roots)


def appraise(
    verified: Verified[SnpClaims], policy: SnpPolicy, expected_report_data: bytes, now: datetime
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
    claims = verified.value
    report, guest = claims.report, claims.report.policy
    minimum = None if policy.minimum_tcb is None else policy.minimum_tcb.get(claims.product)
    checks = (
        bound("report data", report.report_data, expected_report_data),
        one_of(
            "launch measurement",
            report.measurement,
            policy.measurements,
            "run a keep image whose measurement the policy lists under measurements",
            now,
        ),
        word_of(
            "product",
            claims.product.value,
            policy.products,
            "run on a product that the policy lists under products",
        ),
        Check(
            name="reported TCB version",
            found=str(claims.tcb),
            wanted=ANY if policy.minimum_tcb is None else f"at least {minimum}",
            passed=policy.minimum_tcb is None
            or (minimum is not None and claims.tcb.at_least(minimum)),
            remedy="update the platform's firmware and microcode",
        ),
        one_of(
            "identity key digest",
            report.id_key_digest,
            policy.id_key_digests,
            "launch with an identity block of a key that the policy lists",
            now,
        ),
        one_of(
            "author key digest",
            report.author_key_digest,
            policy.author_key_digests,
            "launch with an identity block of an author that the policy lists",
            now,
        ),
        one_of(
            "host data", report.host_data, policy.host_data, "launch with the listed host data", now
        ),
        Check(
            name="VMPL",
            found=str(report.vmpl),
            wanted=ANY if policy.vmpl is None else ", ".join(map(str, policy.vmpl)) or "none",
            passed=policy.vmpl is None or report.vmpl in policy.vmpl,
            remedy="ask for the report at a level that the policy lists under vmpl",
        ),
        _abi_check(claims, policy),
        Check(
            name="guest policy: ABI",
            found=f"{guest.abi[0]}.{guest.abi[1]}",
            wanted=ANY if policy.guest_abi is None else str(policy.guest_abi),
            passed=policy.guest_abi is None or policy.guest_abi.admits(guest.abi),
            remedy="launch with a guest policy that asks for an ABI in the range of guest_abi",
        ),
        Check(
            name="platform info",
            found=hex(report.platform_info.bits),
            wanted=ANY
            if policy.platform_info is None
            else ", ".join(map(hex, policy.platform_info)),
            passed=policy.platform_info is None
            or report.platform_info.bits in policy.platform_info,
            remedy="configure the machine as the policy lists under platform_info",
        ),
        _flag("debugging by the host", found=guest.debug, admitted=policy.debug, key="debug"),
        _flag(
            "migration agent", found=guest.migrate_ma, admitted=policy.migration, key="migration"
        ),
        _flag("multithreading", found=guest.smt, admitted=policy.smt, key="smt"),
        flag(
            "guest policy: single socket only",
            found=guest.single_socket,
            wanted=policy.single_socket or None,
            remedy="launch with SINGLE_SOCKET in the guest policy, or set single_socket = false",
        ),
        Check(
            name="chip",
            found="masked" if claims.chip_id is None else claims.chip_id.hex(),
            wanted=_shown(policy.chip_ids),
            passed=policy.chip_ids is None or claims.chip_id in policy.chip_ids,
            remedy="run on a chip that the policy lists under chip_ids",
        ),
        Check(
            name="revocation list",
            found="checked" if claims.crl_checked else "not there",
            wanted="checked" if policy.crl_required else ANY,
            passed=claims.crl_checked or not policy.crl_required,
            remedy="put the vendor's crl.der into a directory of endorsements",
        ),
    )
    if policy.minimum_tcb is None:
        status = "Unchecked"
    else:
        status = "UpToDate" if minimum and claims.tcb.at_least(minimum) else "OutOfDate"
    return AttestationResult(
        tee=Tee.SNP,
        measurement=report.measurement,
        tcb_status=status,
        simulated=claims.anchor.simulated,
        checks=checks,
        claims={
            "root": claims.anchor.name,
            "root_certificate": claims.anchor.certificate_sha256,
            "product": claims.product.value,
            "tcb": str(claims.tcb),
            "chip_id": "" if claims.chip_id is None else claims.chip_id.hex(),
            "signing_key": report.signing_key.name,
            "csp_id": claims.csp_id or "",
            "report_id": report.report_id.hex(),
            "id_key_digest": report.id_key_digest.hex(),
            "appraised": now.isoformat(),
        },
    )


def _shown(values: Bytes) -> str:
    return ANY if values is None else ", ".join(value.hex() for value in values)


def _flag(name: str, *, found: bool, admitted: bool, key: str) -> Check:
    return Check(
        name=f"guest policy: {name}",
        found="allowed" if found else "not allowed",
        wanted=ANY if admitted else "not allowed",
        passed=admitted or not found,
        remedy=f"launch with a guest policy that does not allow it, or set {key} = true",
    )


def _abi_check(claims: SnpClaims, policy: SnpPolicy) -> Check:
    version = claims.report.committed_version
    minimum = policy.abi_minimum
    return Check(
        name="committed firmware ABI",
        found=f"{version.major}.{version.minor}",
        wanted=ANY if minimum is None else f"at least {minimum[0]}.{minimum[1]}",
        passed=minimum is None or (version.major, version.minor) >= minimum,
        remedy="update the platform's SNP firmware, and commit it",
    )


def _products(table: Table) -> tuple[Product, ...] | None:
    expected = f'a list of {", ".join(Product)}, or "any"'
    values = read_list(table, "products", expected)
    if values is None:
        return None
    products = tuple(product for product in Product if product in values)
    if len(products) != len(values):
        raise table.malformed("products", "unknown product, or one twice", expected=expected)
    return products


def _minimum_tcb(table: Table, products: tuple[Product, ...]) -> dict[Product, Tcb] | None:
    if table.value("minimum_tcb") == ANY:
        return None
    if "minimum_tcb" not in table:
        raise Malformed(
            "missing",
            field=table.where("minimum_tcb"),
            expected="a table with bl, tee, snp and ucode for each product",
            hint='write "any" to admit all',
        )
    minimum = table.table("minimum_tcb")
    found = {}
    for product in products:
        if product not in minimum:
            raise Malformed(
                "missing",
                field=minimum.where(product),
                expected="a table with bl, tee, snp and ucode: the policy admits this product",
            )
        svns = minimum.table(product)
        found[product] = Tcb(
            bl=svns.integer("bl", low=0, high=255),
            tee=svns.integer("tee", low=0, high=255),
            snp=svns.integer("snp", low=0, high=255),
            ucode=svns.integer("ucode", low=0, high=255),
            fmc=svns.integer("fmc", low=0, high=255) if product is Product.TURIN else None,
        )
        svns.done()
    minimum.done()
    return found


def _vmpl(table: Table) -> tuple[int, ...] | None:
    if "vmpl" not in table:
        return (0,)
    expected = 'a list of 0 to 3, or "any"'
    values = read_list(table, "vmpl", expected)
    if values is None:
        return None
    # True is an integer in Python and not in TOML.
    levels = tuple(value for value in values if type(value) is int and value in _VMPLS)
    if len(levels) != len(values):
        raise table.malformed("vmpl", "wrong entry", expected=expected)
    return levels


def _abi(table: Table) -> tuple[int, int] | None:
    text = table.string("abi_minimum", _ABI_MINIMUM)
    if text == ANY:
        return None
    match = re.fullmatch(r"(\d{1,3})\.(\d{1,3})", text, re.ASCII)
    if match is None:
        raise table.malformed(
            "abi_minimum", "not a version", expected='"<major>.<minor>", or "any"'
        )
    return int(match[1]), int(match[2])


def _guest_abi(table: Table) -> VersionRange | None:
    text = table.string("guest_abi", ANY)
    try:
        return None if text == ANY else VersionRange.parse(text)
    except Malformed as error:
        raise table.malformed("guest_abi", error.message, expected=error.expected or "") from error


def _platform_info(table: Table) -> tuple[int, ...] | None:
    expected = 'a list of numbers, or "any"'
    values = read_list(table, "platform_info", expected) if "platform_info" in table else None
    if values is None:
        return None
    # True is an integer in Python and not in TOML.
    numbers = tuple(value for value in values if type(value) is int and 0 <= value < 1 << 64)
    if len(numbers) != len(values):
        raise table.malformed("platform_info", "wrong entry", expected=expected)
    return numbers

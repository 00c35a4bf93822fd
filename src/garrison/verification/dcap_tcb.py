"""The TCB status of an Intel platform: which levels match, and what they say together.

Intel, "SGX and TDX Provisioning Certification Service API", version 4, Get TCB Info, section
"Enhanced TCB level evaluation", and Get (TDX) Enclave Identity.

Platform, quoting enclave and TDX module each have a status. A status is a set of shortcomings;
the whole has all that any part has, so it is never better than a part, and advisories unite:

    status                               shortcomings
    UpToDate                             none
    SWHardeningNeeded                    software
    ConfigurationNeeded                  configuration
    ConfigurationAndSWHardeningNeeded    configuration, software
    OutOfDate                            outdated
    OutOfDateConfigurationNeeded         outdated, configuration
    Revoked                              revoked

Read backwards, revoked outdoes all, and outdated outdoes software: ConfigurationNeeded with an
outdated quoting enclave is OutOfDateConfigurationNeeded, as Intel's own library has it.

No match is no status: it is refused. Left out: TDRelaunchAdvised, by which Intel's library
softens OutOfDate for a TD that was started before its host's TDX module was updated; here such
a TD stays OutOfDate, the stricter of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto
from typing import TYPE_CHECKING

from garrison.errors import Unverified
from garrison.formats.dcap_collateral import TcbStatus
from garrison.formats.tdx_report import TdReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from garrison.formats.dcap_collateral import (
        EnclaveIdentity,
        SvnLevel,
        TcbInfo,
        TcbLevel,
        TdxModule,
    )
    from garrison.formats.sgx_certificate import PckCertificate
    from garrison.formats.sgx_report import SgxReport


# Intel's signer of quoting enclaves and its product, as every QE identity that Intel signed has
# them (PCS API, Get Quoting Enclave Identity): for collateral without one.
_QE_SIGNER = bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff")
_QE_PRODUCT = 1


class _Short(Flag):
    """The shortcomings that a status stands for."""

    SOFTWARE = auto()
    CONFIGURATION = auto()
    OUTDATED = auto()
    REVOKED = auto()


_SHORTCOMINGS = {
    TcbStatus.UP_TO_DATE: _Short(0),
    TcbStatus.SW_HARDENING: _Short.SOFTWARE,
    TcbStatus.CONFIGURATION: _Short.CONFIGURATION,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING: _Short.CONFIGURATION | _Short.SOFTWARE,
    TcbStatus.OUT_OF_DATE: _Short.OUTDATED,
    TcbStatus.OUT_OF_DATE_CONFIGURATION: _Short.OUTDATED | _Short.CONFIGURATION,
    TcbStatus.REVOKED: _Short.REVOKED,
}


@dataclass(frozen=True, slots=True)
class TcbVerdict:
    """What Intel says of a platform, by its collateral.

    Attributes:
        status: that of all parts together.
        platform: that of the platform.
        qe: that of the quoting enclave; None without a QE identity.
        module: that of the TDX module; None for SGX, and where the platform's levels cover it.
        advisories: those of all parts, sorted.
        date: the earliest date of a part's TCB.
    """

    status: TcbStatus
    platform: TcbStatus
    qe: TcbStatus | None
    module: TcbStatus | None
    advisories: tuple[str, ...]
    date: datetime


@dataclass(frozen=True, slots=True)
class TdPlatform:
    """What a TD's report says of the platform beneath: the TDX module, and its versions."""

    tee_tcb_svn: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes


def platform_of(body: SgxReport | TdReport) -> TdPlatform | None:
    """What `body` says of the platform; None if it is an enclave's, which says nothing."""
    if not isinstance(body, TdReport):
        return None
    return TdPlatform(body.tee_tcb_svn, body.mr_signer_seam, body.seam_attributes)


def merge(statuses: Iterable[TcbStatus]) -> TcbStatus:
    """The status of parts together, by the table above."""
    whole = _Short(0)
    for status in statuses:
        whole |= _SHORTCOMINGS[status]
    if _Short.REVOKED in whole:
        return TcbStatus.REVOKED
    if _Short.OUTDATED in whole:
        whole &= ~_Short.SOFTWARE
    return next(status for status, shortcomings in _SHORTCOMINGS.items() if shortcomings == whole)


def evaluate(
    info: TcbInfo,
    identity: EnclaveIdentity | None,
    pck: PckCertificate,
    qe_report: SgxReport,
    td: TdPlatform | None,
) -> TcbVerdict:
    """Find the levels that match, and what they say together.

    Without `identity` the quoting enclave of SGX must be Intel's, and has no status.

    Raises:
        Unverified: the collateral is another platform's, the quoting enclave or TDX module is
            not Intel's, or no level matches.
    """
    _check_equal("TCB info: id", info.tee, "SGX" if td is None else "TDX")
    _check_equal("TCB info: FMSPC", info.fmspc.hex(), pck.fmspc.hex())
    _check_equal("TCB info: PCE ID", info.pce_id.hex(), pck.pce_id.hex())
    qe = None
    if identity is not None:
        _check_equal("QE identity: id", identity.name, "QE" if td is None else "TD_QE")
        check_qe(identity, qe_report)
        qe = svn_level(identity.levels, qe_report.isv_svn, "quoting enclave: ISVSVN")
    elif td is None:
        _check_intels_qe(qe_report)
    else:
        raise Unverified("missing", field="QE identity", expected="that of TD_QE")
    module = None if td is None else module_level(info, td)
    platform = platform_level(info, pck, None if td is None else td.tee_tcb_svn)
    parts = [part for part in (platform, qe, module) if part is not None]
    return TcbVerdict(
        status=merge(part.status for part in parts),
        platform=platform.status,
        qe=None if qe is None else qe.status,
        module=None if module is None else module.status,
        advisories=tuple(sorted({each for part in parts for each in part.advisories})),
        date=min(part.date for part in parts),
    )


def platform_level(info: TcbInfo, pck: PckCertificate, tee_tcb_svn: bytes | None) -> TcbLevel:
    """The first level, as served, of which no component is above that of the platform.

    Args:
        info: the TCB info.
        pck: the platform's certificate.
        tee_tcb_svn: the TD's TEE_TCB_SVN; None for SGX. Where its second byte, the module's
            major version, is not zero, the first two have levels of their own (`module_level`).

    Raises:
        Unverified: none matches.
    """
    for level in info.levels:
        if not _at_least(pck.components, level.components) or pck.pce_svn < level.pce_svn:
            continue
        if tee_tcb_svn is not None:
            wanted = level.tdx_components
            skip = 2 if tee_tcb_svn[1] else 0
            if wanted is None or not _at_least(tee_tcb_svn[skip:], wanted[skip:]):
                continue
        return level
    tdx = "" if tee_tcb_svn is None else f", TEE_TCB_SVN {tee_tcb_svn.hex()}"
    raise Unverified(
        "no TCB level matches",
        field="platform TCB",
        found=f"components {bytes(pck.components).hex()}, PCESVN {pck.pce_svn}{tdx}",
        expected=f"one of the {len(info.levels)} levels that Intel lists for the platform",
    )


def svn_level(levels: Sequence[SvnLevel], isv_svn: int, field: str) -> SvnLevel:
    """The first level, as served, that is not above `isv_svn`.

    Raises:
        Unverified: none matches.
    """
    for level in levels:
        if isv_svn >= level.isv_svn:
            return level
    raise Unverified(
        "no TCB level matches",
        field=field,
        found=isv_svn,
        expected=f"at least {min((level.isv_svn for level in levels), default='a level')}",
    )


def check_qe(identity: EnclaveIdentity, report: SgxReport) -> None:
    """Refuse an enclave that is not the quoting enclave of `identity`.

    Raises:
        Unverified: it is not.
    """
    _check_masked(
        "quoting enclave: MISCSELECT",
        report.misc_select,
        identity.misc_select,
        identity.misc_select_mask,
    )
    _check_masked(
        "quoting enclave: ATTRIBUTES",
        report.attributes,
        identity.attributes,
        identity.attributes_mask,
    )
    _check_equal("quoting enclave: MRSIGNER", report.mr_signer.hex(), identity.mr_signer.hex())
    _check_equal("quoting enclave: ISVPRODID", report.isv_prod_id, identity.isv_prod_id)


def _check_intels_qe(report: SgxReport) -> None:
    """Refuse an enclave that is not Intel's quoting enclave, of whatever version.

    Raises:
        Unverified: it is not.
    """
    _check_equal("quoting enclave: MRSIGNER", report.mr_signer.hex(), _QE_SIGNER.hex())
    _check_equal("quoting enclave: ISVPRODID", report.isv_prod_id, _QE_PRODUCT)
    _check_equal("quoting enclave: DEBUG", report.debug, False)  # noqa: FBT003 - what it must be


def module_level(info: TcbInfo, report: TdPlatform) -> SvnLevel | None:
    """Refuse a TDX module that is not Intel's, and find its level.

    TEE_TCB_SVN is, in its first two bytes, the module's security version and major version. Of
    major version 0 the platform's levels cover it: None.

    Raises:
        Unverified: it is none that `info` knows.
    """
    svn, major = report.tee_tcb_svn[0], report.tee_tcb_svn[1]
    name = f"TDX_{major:02X}"
    module: TdxModule | None = info.module
    if major:
        module = next((each for each in info.modules if each.name == name), None)
    if module is None:
        raise Unverified(
            "unknown version",
            field="TDX module",
            found=name,
            expected=" | ".join(each.name for each in info.modules) or "none",
        )
    _check_equal("TDX module: MRSIGNERSEAM", report.mr_signer_seam.hex(), module.mr_signer.hex())
    _check_masked(
        "TDX module: SEAMATTRIBUTES",
        report.seam_attributes,
        module.attributes,
        module.attributes_mask,
    )
    return svn_level(module.levels, svn, "TDX module: security version") if major else None


def _at_least(found: Iterable[int], wanted: Iterable[int]) -> bool:
    return all(have >= want for have, want in zip(found, wanted, strict=True))


def _check_equal(field: str, found: object, expected: object) -> None:
    if found != expected:
        raise Unverified("another one", field=field, found=found, expected=expected)


def _check_masked(field: str, found: bytes, expected: bytes, mask: bytes) -> None:
    """Compare the bits in `mask`, byte by byte in the order of memory."""
    masked = bytes(have & bits for have, bits in zip(found, mask, strict=True))
    wanted = bytes(want & bits for want, bits in zip(expected, mask, strict=True))
    if masked != wanted:
        raise Unverified(
            "another one",
            field=field,
            found=found.hex(),
            expected=f"{expected.hex()} in the bits {mask.hex()}",
        )

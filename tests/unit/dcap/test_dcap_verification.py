"""DCAP verification of quotes of a fake Intel's platform, with every defect."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.errors import GarrisonError, Malformed, Unverified
from garrison.formats.dcap_collateral import TcbStatus
from garrison.formats.dcap_quote import CertificationKind, TeeType
from garrison.formats.sgx_report import SgxReport
from garrison.testing.dcap import (
    CA_SERIAL,
    COMPONENTS,
    NOW,
    PCE_SVN,
    PCK_SERIAL,
    SIGNER_SERIAL,
    FakeIntel,
    FakeQuoter,
    level,
    module,
    platform_level,
    sgx_extension,
    sgx_report,
    td_report,
)
from garrison.verification.dcap import DcapPlatform, verify
from garrison.verification.dcap_tcb import merge
from garrison.verification.roots import Roots

if TYPE_CHECKING:
    from garrison.formats.dcap_collateral import DcapCollateral
    from garrison.formats.tdx_report import TdReport

INTEL = FakeIntel()
QUOTER = FakeQuoter()
SGX = sgx_report()
TD10 = td_report()
TD15 = td_report(tee_tcb_svn2=b"\x07" * 16, mr_service_td=bytes(48))


def check(
    body: SgxReport | TdReport = SGX,
    quote: bytes | None = None,
    quoter: FakeQuoter = QUOTER,
    intel: FakeIntel = INTEL,
    collateral: DcapCollateral | None = None,
    **changes: Any,
) -> DcapPlatform:
    """Verify a quote, version 4, with collateral as changed."""
    tee = TeeType.SGX if isinstance(body, SgxReport) else TeeType.TDX
    verified = verify(
        quote or quoter.quote(body, 4),
        collateral or intel.collateral(tee, **changes),
        INTEL.roots(),
        NOW,
    )
    assert verified.value.report == body
    return verified.value.platform


@pytest.mark.parametrize(
    ("body", "version"), [(SGX, 3), (SGX, 4), (SGX, 5), (TD10, 4), (TD10, 5), (TD15, 5)]
)
@pytest.mark.parametrize("ca", ["Platform", "Processor"])
def test_every_version_and_body(body: SgxReport | TdReport, version: int, ca: str) -> None:
    intel = FakeIntel(ca=ca)
    platform = check(body, quote=FakeQuoter(intel).quote(body, version), intel=intel)
    assert platform.tcb.status is TcbStatus.UP_TO_DATE
    assert platform.issuer == f"Intel SGX PCK {ca} CA"
    assert platform.anchor.simulated
    assert (platform.tcb.module is None) == isinstance(body, SgxReport)


@pytest.mark.parametrize("auth", [b"", bytes(32), b"\xff" * 1000])
def test_authentication_data_of_any_length(auth: bytes) -> None:
    check(quoter=FakeQuoter(auth=auth))


@pytest.mark.parametrize(
    "order", [("root", "ca", "pck"), ("pck", "root", "ca"), ("ca", "pck", "root")]
)
def test_chain_in_any_order(order: tuple[str, ...]) -> None:
    check(quote=QUOTER.quote(SGX, 3, pck=INTEL.pem(*order)))


def test_untrusted_roots() -> None:
    quote, collateral = QUOTER.quote(SGX, 3), INTEL.collateral(TeeType.SGX)
    with pytest.raises(Unverified, match="PCK chain: root: not a trusted root"):
        verify(quote, collateral, Roots.load(), NOW)
    with pytest.raises(Unverified, match="PCK chain: root: not a trusted root"):
        verify(quote, collateral, FakeIntel(root="another").roots(), NOW)


def chain(**changes: Any) -> bytes:
    """The PCK chain with a certificate changed: `who` and arguments of `certificate`."""
    who = changes.pop("who")
    parts = {name: INTEL.certificate(name) for name in ("pck", "ca", "root")}
    parts[who] = INTEL.certificate(who, **changes)
    return b"".join(part.public_bytes(Encoding.PEM) for part in parts.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"who": "pck", "end": NOW - timedelta(1)}, "PCK certificate: expired"),
        ({"who": "pck", "signed_by": "root"}, "PCK certificate: the signature is wrong"),
        ({"who": "pck", "issuer": "Intel SGX Root CA"}, "PCK certificate: issued by another"),
        ({"who": "pck", "common": "Someone"}, "leaf: not one certificate of that name"),
        ({"who": "pck", "is_ca": True}, "PCK certificate: not a signer's"),
        ({"who": "ca", "end": NOW - timedelta(1)}, "intermediate: expired"),
        ({"who": "ca", "signed_by": "ca"}, "intermediate: the signature is wrong"),
        ({"who": "ca", "is_ca": False}, "intermediate: not a certificate authority's"),
        ({"who": "ca", "common": "Intel SGX TCB Signing"}, "intermediate: not one certificate"),
        ({"who": "root", "end": NOW - timedelta(1)}, "root: expired"),
        ({"who": "root", "signed_by": "ca"}, "root: the signature is wrong"),
        ({"who": "root", "is_ca": False}, "root: not a certificate authority's"),
        ({"who": "root", "issuer": "Someone"}, "PCK chain: not one root"),
    ],
)
def test_defects_of_the_chain(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Unverified, match=message):
        check(quote=QUOTER.quote(SGX, 4, pck=chain(**changes)))


@pytest.mark.parametrize(
    ("subjects", "message"),
    [
        (("pck", "ca"), "not one root"),
        (("pck", "root"), "intermediate: not one certificate"),
        (("ca", "root"), "leaf: not one certificate"),
        (("pck", "pck", "root"), "intermediate: not one certificate"),
        (("signer", "ca", "root"), "leaf: not one certificate"),
    ],
)
def test_incomplete_chains(subjects: tuple[str, ...], message: str) -> None:
    with pytest.raises(Unverified, match=message):
        check(quote=QUOTER.quote(SGX, 4, pck=INTEL.pem(*subjects)))


@pytest.mark.parametrize("kind", [kind for kind in CertificationKind if kind < 5])
def test_quotes_without_a_chain(kind: CertificationKind) -> None:
    quote = QUOTER.quote(SGX, 3, kind=kind, certification=bytes(404))
    with pytest.raises(Unverified, match="does not carry its PCK certificate chain"):
        check(quote=quote)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signature": bytes(64)}, "quote: the signature is wrong"),
        ({"signature": b"\xff" * 64}, "quote: the signature is wrong"),
        ({"qe_signature": bytes(64)}, "QE report: the signature is wrong"),
        ({"attestation_key": b"\x01" * 64}, "bound to another attestation key"),
        ({"qe_auth_data": b"other"}, "bound to another attestation key"),
    ],
)
def test_defects_of_the_quote(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Unverified, match=message):
        check(quote=QUOTER.quote(SGX, 4, **changes))


def test_report_data_of_the_quoting_enclave_must_end_in_zeros() -> None:
    qe = {"report_data": bytes(32) + b"\x01" * 32}
    with pytest.raises(Unverified, match="bound to another attestation key"):
        check(quoter=FakeQuoter(qe=qe))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root_crl": INTEL.crl("root", [CA_SERIAL])}, "PCK chain: intermediate: revoked"),
        ({"pck_crl": INTEL.crl("ca", [PCK_SERIAL])}, "PCK certificate: revoked"),
        ({"root_crl": INTEL.crl("root", [SIGNER_SERIAL])}, "TCB info: signer: revoked"),
        ({"root_crl": INTEL.crl("ca")}, "root revocation list: issued by another"),
        ({"pck_crl": INTEL.crl("root")}, "PCK revocation list: issued by another"),
        (
            {"pck_crl": FakeIntel(ca="Processor").crl("ca")},
            "PCK revocation list: issued by another",
        ),
        (
            {"root_crl": FakeIntel(root="another").crl("root")},
            "root revocation list: the signature is wrong",
        ),
        (
            {"pck_crl": INTEL.crl("ca", end=NOW - timedelta(hours=1))},
            "PCK revocation list: not current",
        ),
        (
            {"root_crl": INTEL.crl("root", end=NOW - timedelta(hours=1))},
            "root revocation list: not current",
        ),
        ({"tcb_info_chain": INTEL.pem("ca", "root")}, "TCB info: signer: not one certificate"),
        ({"qe_identity_chain": INTEL.pem("pck", "root")}, "QE identity: signer: not one"),
        (
            {"tcb_info_chain": FakeIntel(end=NOW - timedelta(1)).pem("signer")},
            "TCB info: signer: expired",
        ),
        (
            {"tcb_info_chain": FakeIntel(root="another").pem("signer", "root")},
            "TCB info: signer: the signature is wrong",
        ),
        ({"info": {"nextUpdate": "2025-12-31T23:59:59Z"}}, "TCB info: not current"),
        ({"info": {"issueDate": "2026-01-01T00:00:01Z"}}, "TCB info: not current"),
        ({"identity": {"nextUpdate": "2025-12-31T23:59:59Z"}}, "QE identity: not current"),
        ({"info": {"id": "TDX", "tdxModule": module()}}, "TCB info: id: another one"),
        ({"identity": {"id": "TD_QE"}}, "QE identity: id: another one"),
        ({"info": {"fmspc": "00A067110001"}}, "TCB info: FMSPC: another one"),
        ({"info": {"pceId": "0001"}}, "TCB info: PCE ID: another one"),
        ({"identity": {"mrsigner": 64 * "0"}}, "quoting enclave: MRSIGNER"),
        ({"identity": {"isvprodid": 2}}, "quoting enclave: ISVPRODID"),
        ({"identity": {"miscselect": "01000000"}}, "quoting enclave: MISCSELECT"),
        ({"identity": {"attributes": 30 * "0" + "11"}}, "quoting enclave: ATTRIBUTES"),
        ({"identity": {"tcbLevels": [level("UpToDate", isvsvn=9)]}}, "ISVSVN: no TCB level"),
        ({"identity": {"tcbLevels": []}}, "ISVSVN: no TCB level"),
        ({"info": {"tcbLevels": []}}, "platform TCB: no TCB level matches"),
    ],
)
def test_defects_of_the_collateral(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Unverified, match=message):
        check(**changes)


def test_collateral_signed_by_another() -> None:
    right = INTEL.collateral(TeeType.SGX)
    for field, member in (("tcb_info", "tcbInfo"), ("qe_identity", "enclaveIdentity")):
        inner = {"any": "thing"}
        for signer in ("root", "ca", "pck"):
            forged = replace(right, **{field: INTEL.signed(member, inner, signer)})
            with pytest.raises(Unverified, match="the signature is wrong"):
                check(collateral=forged)
        # The signer's own word, but about something else.
        swapped = replace(right, **{field: INTEL.signed("tcbInfo", inner)})
        with pytest.raises(Malformed):
            check(collateral=swapped)


def test_masks_are_of_bytes_in_the_order_of_memory() -> None:
    quoter = FakeQuoter(qe={"misc_select": bytes.fromhex("01000000")})
    check(quoter=quoter, identity={"miscselect": "01000000"})
    check(quoter=quoter, identity={"miscselectMask": "00FFFFFF"})
    with pytest.raises(Unverified, match="MISCSELECT"):
        check(quoter=quoter, identity={"miscselect": "00000001"})
    with pytest.raises(Unverified, match="MISCSELECT"):
        check(quoter=quoter, identity={"miscselectMask": "FFFFFF00"})


def test_a_debug_quoting_enclave() -> None:
    attributes = bytes.fromhex("1700000000000000e700000000000000")
    with pytest.raises(Unverified, match="quoting enclave: ATTRIBUTES"):
        check(quoter=FakeQuoter(qe={"attributes": attributes}))


@pytest.mark.parametrize("index", range(16))
def test_each_component_counts(index: int) -> None:
    wanted = [svn + (place == index) for place, svn in enumerate(COMPONENTS)]
    with pytest.raises(Unverified, match="no TCB level matches"):
        check(info={"tcbLevels": [platform_level("UpToDate", components=wanted)]})


def test_the_provisioning_enclave_counts() -> None:
    with pytest.raises(Unverified, match="no TCB level matches"):
        check(info={"tcbLevels": [platform_level("UpToDate", pce_svn=PCE_SVN + 1)]})


def test_the_first_level_as_served_governs() -> None:
    first = platform_level("SWHardeningNeeded", "INTEL-SA-00001")
    higher = platform_level("UpToDate", components=[99] * 16)
    platform = check(info={"tcbLevels": [higher, first, platform_level("UpToDate")]})
    assert platform.tcb.status == "SWHardeningNeeded"
    assert platform.tcb.advisories == ("INTEL-SA-00001",)


@pytest.mark.parametrize(
    ("platform", "part", "whole"),
    [
        ("UpToDate", "OutOfDate", "OutOfDate"),
        ("SWHardeningNeeded", "OutOfDate", "OutOfDate"),
        ("ConfigurationNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
        ("ConfigurationAndSWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
        ("UpToDate", "Revoked", "Revoked"),
        ("OutOfDate", "UpToDate", "OutOfDate"),
        ("Revoked", "OutOfDate", "Revoked"),
        ("SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"),
    ],
)
def test_the_worse_status_governs(platform: str, part: str, whole: str) -> None:
    info: dict[str, Any] = {"tcbLevels": [platform_level(platform, "INTEL-SA-00002")]}
    levels = [level("UpToDate", isvsvn=9), level(part, "INTEL-SA-00001", isvsvn=5)]
    expected = ("INTEL-SA-00001", "INTEL-SA-00002")
    found = check(info=info, identity={"tcbLevels": levels}).tcb
    assert (found.status, found.platform, found.qe) == (whole, platform, part)
    assert found.advisories == expected
    modules = {"tdxModuleIdentities": [module("TDX_01", level(part, expected[0], isvsvn=4))]}
    found = check(TD10, info=info | modules).tcb
    assert (found.status, found.qe, found.module) == (whole, "UpToDate", part)
    assert found.advisories == expected


def test_merging_is_never_better_than_a_part() -> None:
    order = list(TcbStatus)
    for one in order:
        assert merge([one]) is one
        for other in order:
            whole = merge([one, other])
            assert whole is merge([other, one])
            assert order.index(whole) >= max(order.index(one), order.index(other))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tee_tcb_svn": bytes((3, 1, 2)).ljust(16, b"\0")}, "security version: no TCB level"),
        ({"tee_tcb_svn": bytes((5, 2, 2)).ljust(16, b"\0")}, "TDX module: unknown version"),
        ({"tee_tcb_svn": bytes((5, 1, 1)).ljust(16, b"\0")}, "platform TCB: no TCB level"),
        ({"tee_tcb_svn": bytes((4, 0, 2)).ljust(16, b"\0")}, "platform TCB: no TCB level"),
        ({"mr_signer_seam": b"\x01" * 48}, "MRSIGNERSEAM: another one"),
        ({"seam_attributes": b"\x01" + bytes(7)}, "SEAMATTRIBUTES: another one"),
    ],
)
def test_defects_of_the_module(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Unverified, match=message):
        check(td_report(**changes))


def test_of_major_version_0_the_platform_covers_the_module() -> None:
    platform = check(td_report(tee_tcb_svn=bytes((5, 0, 2)).ljust(16, b"\0")))
    assert platform.tcb.module is None
    # Of others the first two numbers have levels of their own.
    svn = bytes((4, 1, 2)).ljust(16, b"\0")
    assert check(td_report(tee_tcb_svn=svn)).tcb.module == "UpToDate"


def test_collateral_of_the_other_tee() -> None:
    with pytest.raises(Unverified, match="TCB info: id"):
        check(collateral=INTEL.collateral(TeeType.TDX))


@pytest.mark.parametrize(
    "extension",
    [
        b"",
        b"\x30\x00",
        sgx_extension(COMPONENTS[:15], PCE_SVN, INTEL.fmspc),
        sgx_extension(COMPONENTS, PCE_SVN, bytes(5)),
        sgx_extension((*COMPONENTS[:15], 256), PCE_SVN, INTEL.fmspc),
        sgx_extension(COMPONENTS, PCE_SVN, INTEL.fmspc) + b"\0",
    ],
)
def test_malformed_extensions(extension: bytes) -> None:
    with pytest.raises(Malformed, match="PCK certificate"):
        check(quote=QUOTER.quote(SGX, 4, pck=chain(who="pck", extension=extension)))


def test_the_earliest_end_governs() -> None:
    end = NOW + timedelta(minutes=5)
    text = end.strftime("%Y-%m-%dT%H:%M:%SZ")
    for changes in (
        {"info": {"nextUpdate": text}},
        {"identity": {"nextUpdate": text}},
        {"root_crl": INTEL.crl("root", end=end)},
        {"pck_crl": INTEL.crl("ca", end=end)},
    ):
        assert check(**changes).valid_until == end


def test_errors_of_verification_are_of_its_families() -> None:
    for field in ("root_crl", "pck_crl", "tcb_info", "qe_identity", "tcb_info_chain"):
        collateral = replace(INTEL.collateral(TeeType.SGX), **{field: b"\xff"})
        with pytest.raises(GarrisonError) as caught:
            check(collateral=collateral)
        assert type(caught.value) is Malformed
